"""The commands around a fit: fit, then print what came of it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import typer

from larscope._cli.tables import score_table
from larscope._cli.terminal import complaints, console, print_plain, print_verdict


def fit_and_report(
    open_session: Callable[[], Any],
    out: Path,
    settings: dict[str, Any],
    seeds: int = 1,
    how: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Fit with each seed, `how` and where as `fit_to_folder` takes it, and report; unless it was done before."""
    from larscope._compute.processes import LostProcessError, is_first
    from larscope._fit.to_folder import fit_to_folder

    out = out.resolve()  # now: a result that takes the place of the current folder leaves none
    try:
        fit_to_folder(open_session, out, seeds=seeds, progress=True, say=print_plain, **how, **settings)
    except LostProcessError:
        if is_first():
            raise
        raise typer.Exit(2) from None  # the one that ended has said why
    except KeyboardInterrupt:
        if is_first():
            print_plain("Stopped. Give the same command again to go on.", complaints)
        raise typer.Exit(130) from None
    if is_first():
        _report(out)


def fit_traces_and_report(table: Path, out: Path, settings: dict[str, Any]) -> None:
    """Fit the dynamics of traces from files, write the result folder with its report, and report."""
    from larscope._fit.estimator import LatentVAR
    from larscope._movies.traces import read_traces
    from larscope._report.page import write_report
    from larscope._results.folder import require_free
    from larscope._storage import describe_inputs, replacing

    out = out.resolve()
    require_free(out)
    given = read_traces(table)
    model = LatentVAR.from_traces(
        given.traces,
        given.condition,
        given.block,
        given.footprints,
        subject=given.subject,
        names=given.names,
        **settings,
    )
    model.provenance_["inputs"] = describe_inputs(given.files)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as filling:
        model.save(filling)
        write_report(filling)
    _report(out)


def _report(out: Path) -> None:
    from larscope._report.finding import verdict_on
    from larscope._report.sentences import describe
    from larscope._results.folder import read_result

    result = read_result(out)
    print_verdict(verdict_on(result, []))
    simulated = bool(result.dataset.attrs["simulated"])
    console.print(score_table(result.dataset, "Simulated session" if simulated else "Session"))
    for sentence in describe(result):
        print_plain(sentence)
    print_plain(f"The result is in {out}. Open {out / 'report.html'} in any browser.")
