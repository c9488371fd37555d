"""What the benchmarks share: alternating rounds, and tables that are kept and compared with the committed ones."""

import inspect
import json
import statistics
import time
from pathlib import Path


def seconds(function, clock=time.perf_counter):
    start = clock()
    result = function()
    return clock() - start, result


def in_turn(solvers, repeats, clock=time.perf_counter):
    """Times of each solver, round by round, after one round to warm up."""
    times = {name: [] for name in solvers}
    for round_ in range(repeats + 1):
        for name, solve in solvers.items():
            elapsed = seconds(solve, clock)[0]
            if round_:
                times[name].append(elapsed)
    return times


def ratio(times, name, to):
    return statistics.median(a / b for a, b in zip(times[name], times[to], strict=True))


def beside(rows, committed):
    """The rows, with the ratio to the committed time beside every time; a row without its like is left as it is."""
    if len(rows) != len(committed):
        return rows
    return [
        {
            head: f"{value} (x {float(value) / float(before[head]):.2f})"
            if head.endswith("(s)") and head in before and value and float(before[head])
            else value
            for head, value in row.items()
        }
        for row, before in zip(rows, committed, strict=True)
    ]


def markdown(title, results, sections):
    lines = [f"# {title}", "", f"Written by `{results['command']}`. {results['note']}", ""]
    for name, section in sections.items():
        if name not in results:
            continue
        rows = results[name]
        heads = list(dict.fromkeys(head for row in rows for head in row))
        lines += [
            f"## {name}",
            "",
            inspect.getdoc(section),
            "",
            "| " + " | ".join(heads) + " |",
            "|---" * len(heads) + "|",
        ]
        lines += ["| " + " | ".join(str(row.get(head, "")) for head in heads) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def run(title, sections, arguments, path: Path, command, note):
    """Measure the sections that were asked for; write them beside the others, or print them against what is kept.

    With `--compare` nothing is written: each time stands beside its ratio to the committed one.
    """
    kept = json.loads(path.read_text()) if path.exists() else {}
    measured = {}
    for name in arguments.sections:
        measured[name] = sections[name](arguments)
        if not arguments.compare:
            kept[name] = measured[name]
            path.write_text(json.dumps(kept, indent=1))
    if arguments.compare:
        shown = {name: beside(rows, kept.get(name, [])) for name, rows in measured.items()}
        print(markdown(title, {**shown, "command": command, "note": note}, sections))
        return
    kept |= {"command": command, "note": note}
    path.write_text(json.dumps(kept, indent=1))
    table = markdown(title, kept, sections)
    path.with_suffix(".md").write_text(table)
    print(table)
