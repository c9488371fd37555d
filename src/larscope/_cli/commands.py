"""The commands: each parses its options, calls a function and prints the outcome."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import Progress

from larscope._cli.fitting import fit_and_report, fit_traces_and_report
from larscope._cli.options import with_settings
from larscope._cli.tables import print_contrasts, sweep_table
from larscope._cli.terminal import complaints, console, print_plain, print_verdict, reported_errors
from larscope._errors import LarscopeError
from larscope._settings import PRESET, Preset, expand_preset

EXIT_CODES = (
    "Exit codes: 0 done; 1 a fault of larscope itself; 2 something must be changed, see the message; "
    "130 stopped by Ctrl-C."
)

ANALYSE, TRY, SETUP = "Analyse your movies", "Try it on simulated data", "Set up"

app = typer.Typer(
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

OnTruncated = Literal["error", "keep"]
SessionTable = Annotated[
    Path, typer.Argument(help="Session table, a CSV with one row per run; or one movie.", show_default=False)
]
Jobs = Annotated[int, typer.Option(min=1, help="Worker processes on this machine, one thread each.")]
Scheduler = Annotated[
    str | None, typer.Option(help="Share the work by a dask cluster: its scheduler's address or file.")
]
Out = Annotated[Path, typer.Option(help="Result folder: a new or empty one.", show_default=False)]


def _show_version(wanted: bool) -> None:
    if wanted:
        from larscope import __version__

        console.print(f"larscope {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find sparse, interpretable dynamics in cell-imaging video.

    Which cells predict which, does that change between conditions, and where? See it on simulated data in a minute or
    two:

    * `larscope demo`

    For your own movies, correct motion first and list them in a session table, one row per run:

    * `larscope check session.csv`

    * `larscope fit session.csv --out result`

    * `larscope compare result familiar novel`

    Then open `result/report.html` in any browser. `larscope COMMAND --help` is the manual of each command.
    `larscope --install-completion` sets up completion in your shell.
    """


@app.command(rich_help_panel=ANALYSE)
@with_settings()
def fit(
    session: SessionTable,
    out: Out,
    config: Annotated[
        Path | None, typer.Option(help="Settings from an earlier result's `config.toml`. Options you pass override it.")
    ] = None,
    preset: Annotated[Preset, typer.Option(help=PRESET)] = "default",
    seeds: Annotated[
        int, typer.Option(min=1, help="Trainings, from --seed on; the report says how often each edge is found.")
    ] = 1,
    traces: Annotated[
        bool, typer.Option("--traces", help="The table's paths are traces: of suite2p, .npy, .csv or .nwb. No network.")
    ] = False,
    on_truncated: Annotated[
        OnTruncated, typer.Option(help="Movies cut short: refuse them, or keep the whole frames before the cut.")
    ] = "error",
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of prepared frames, shared by your fits. Default: `.larscope-cache` beside --out."),
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="Memory limit, such as 2GiB. A fit beyond it is refused before it starts.")
    ] = None,
    devices: Annotated[
        int, typer.Option(min=1, help="Training processes per machine: one per GPU, or on the CPU.")
    ] = 1,
    num_nodes: Annotated[int, typer.Option(min=1, help="Number of machines; run this command on each.")] = 1,
    strategy: Annotated[str, typer.Option(help="Lightning's strategy for several processes.")] = "ddp",
    jobs: Jobs = 1,
    scheduler: Scheduler = None,
    **settings: Any,
) -> None:
    """Fit a session and write a result folder with a report.

    Writes the folder `--out`, whole or not at all: `report.html` and `figures/`, `results.nc` (latents, forecasts,
    coefficients, maps), the network's weights, your settings in `config.toml`, and the provenance.

    If a fit is interrupted, give the same command again: it goes on. Prepared frames stay in the cache for your next
    fit of the same movies. You can remove the cache at any time.

    `--devices` shares one training. `--jobs` or `--scheduler` share the work before and after it.

    For example:

    * `larscope fit session.csv --out result`

    * `larscope fit movie.tif --out result`

    * `larscope fit traces.csv --out result --traces`

    * `larscope fit session.csv --out sparser --penalty 1.5 --seeds 5`

    * `larscope fit session.csv --out paper --preset paper --crop 768 512 --downscale 4`

    * `larscope fit session.csv --out again --config result/config.toml`

    * `larscope fit session.csv --out shared --devices 2 --batch-size 2`

    * `larscope fit session.csv --out result --jobs 8`
    """
    with reported_errors():
        settings = {"preset": preset, **settings}
        if config is not None:
            from larscope._results.config import read_config

            settings = read_config(config, settings)
        if traces:
            fit_traces_and_report(session, out, settings)
            return
        from larscope._movies.table import read_session
        from larscope._settings import parse_size

        folder = out.resolve().with_name(".larscope-cache") if cache is None else cache.resolve()
        limit = None if max_memory is None else parse_size(max_memory)
        from larscope._compute.workers import open_workers

        how = {"cache": folder, "max_memory": limit, "devices": devices, "num_nodes": num_nodes, "strategy": strategy}
        with open_workers(jobs, scheduler):
            fit_and_report(lambda: read_session(session, on_truncated=on_truncated), out, settings, seeds, how)


@app.command(rich_help_panel=ANALYSE)
@with_settings(as_lists=True)
def sweep(
    session: SessionTable,
    out: Annotated[Path, typer.Option(help="Folder of all results and their table.", show_default=False)],
    config: Annotated[
        Path | None, typer.Option(help="Settings from an earlier result's `config.toml`. Options you pass override it.")
    ] = None,
    preset: Annotated[Preset, typer.Option(help=PRESET)] = "default",
    seeds: Annotated[int, typer.Option(min=1, help="Fits per combination, from --seed on.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Fits at a time, on this machine.")] = 1,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads per fit. Another number may change the last bits of the results.")
    ] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="Fit on a dask cluster: its scheduler's address or file.")
    ] = None,
    on_truncated: Annotated[
        OnTruncated, typer.Option(help="Movies cut short: refuse them, or keep the whole frames before the cut.")
    ] = "error",
    **settings: Any,
) -> None:
    """Fit every combination of settings, and compare their scores.

    Give any setting a list, separated by commas. Writes to the folder `--out`: each result, each log, and the table
    `sweep.csv` with one row per fit. All fits share the prepared frames.

    Give the same command again to go on: finished fits are kept, interrupted ones continue, a longer list adds fits. If
    a worker dies, you lose one epoch at most. The number of workers changes no result.

    For example:

    * `larscope sweep session.csv --out sweep --penalty .5,1,2 --order 3,5 --seeds 3 --jobs 2`

    * `larscope sweep session.csv --out modes --training sequential,end-to-end --threads 4`

    * `larscope sweep session.csv --out paper --preset paper --penalty .005,.01,.02`

    * `larscope sweep session.csv --out sweep --order 3,5 --scheduler tcp://10.0.0.1:8786`
    """
    with reported_errors():
        from larscope._compute.workers import open_workers
        from larscope._fit.sweep import (
            fit_points,
            load_points,
            open_executor,
            plan,
            prepare_sweep,
            summarise,
            tabulate,
        )
        from larscope._movies.table import read_session

        fixed = {"preset": preset, **({"crop": settings.pop("crop")} if "crop" in settings else {})}
        if config is not None:
            from larscope._results.config import read_config

            fixed = read_config(config, fixed)
        fixed = expand_preset(fixed)
        points = plan(fixed, {name: text.split(",") for name, text in settings.items()}, seeds)
        opened = read_session(session, on_truncated=on_truncated)
        with open_workers(jobs, scheduler):
            left = prepare_sweep(points, opened, out, progress=True, say=print_plain)
        extra = ["--on-truncated", on_truncated]
        failed = {}
        with open_executor(jobs, scheduler) as executor, Progress(console=console) as bar:
            task = bar.add_task("Fitting", total=len(points), completed=len(points) - len(left))
            for point, reason in fit_points(left, session, out, executor, threads, extra):
                bar.advance(task)
                if reason:
                    failed[point.name] = reason
        fitted = load_points(points, out)
        if fitted:
            tabulate(fitted).to_csv(out / "sweep.csv", index=False, lineterminator="\n")
            console.print(sweep_table(summarise(fitted), opened.simulated))
            print_plain(f"Scores of each fit: {out / 'sweep.csv'}. Each result is in a folder beside it.")
        if failed:
            listed = "".join(f"\n{name}: {reason}" for name, reason in failed.items())
            raise LarscopeError(
                f"Expected {len(points)} fits; {len(failed)} failed. Read their logs in {out}, remove the cause and "
                f"give the same command again.{listed}"
            )


@app.command(rich_help_panel=ANALYSE)
def table(
    movies: Annotated[list[Path], typer.Argument(help="Your movies, one run each.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The table to write; must not exist yet.")] = Path("session.csv"),
) -> None:
    """Write a session table of your movies, for you to edit.

    Writes one row per movie, all of one condition. Name the conditions in it, and the blocks (such as days) if you
    recorded in blocks.

    For example:

    * `larscope table monday-1.tif monday-2.tif`

    * `larscope table *.tif --out session.csv`
    """
    with reported_errors():
        from larscope._movies.table import write_table

        print_plain(
            f"Written: {write_table(movies, out)}. Edit its columns `condition` and `block`, then: larscope check {out}"
        )


@app.command(rich_help_panel=ANALYSE)
def check(session: SessionTable) -> None:
    """Check your movies before hours of work: what they hold, and what is wrong with them.

    Reads every movie once. Prints each problem with its file, a number and advice; writes nothing. Exits with code 2 if
    a problem would make every fit wrong.

    For example:

    * `larscope check session.csv`
    """
    with reported_errors():
        from larscope._movies.checks.check import check_session
        from larscope._movies.checks.findings import worst_level
        from larscope._movies.checks.tables import files_table, findings_table, summarise
        from larscope._movies.session import Run
        from larscope._movies.table import read_runs
        from larscope._settings import Settings

        rows = read_runs(session)
        runs = [run for run in rows if isinstance(run, Run)]
        console.print(files_table(runs))
        with Progress(console=complaints, transient=True) as bars:
            bar = bars.add_task("Reading", total=sum(run.n_frames for run in runs))
            findings = check_session(rows, Settings().n_frames_needed, lambda n_frames: bars.advance(bar, n_frames))
        level = worst_level(findings)
        if level != "pass":
            console.print(findings_table(findings))
        print_plain(summarise(runs, findings))
        if level == "fail":
            raise typer.Exit(2)


@app.command(rich_help_panel=TRY)
def demo(
    out: Out = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the simulation and of the training.")] = 0,
) -> None:
    """See a whole analysis: simulate a session with known dynamics, fit it, compare its conditions, report.

    Takes half a minute on two cores. Writes a result folder as `larscope fit` does, with one comparison, and the
    simulated movies in `movies/`.

    For example:

    * `larscope demo`

    * `larscope demo --out another --seed 1`
    """
    with reported_errors():
        from larscope._simulate.session import simulate_session

        console.print(
            "Simulating a session: 8 runs under two conditions. Sparse couplings between cells are planted, weaker in "
            "the second condition. These data are simulated; no animal was recorded."
        )
        simulated = cache(lambda: simulate_session(n_runs=8, n_frames=384, frame_shape=(96, 64), seed=seed))
        fit_and_report(simulated, out, {"seed": seed})
        simulated().write(out / "movies")  # for `larscope view`
        from larscope._fit.estimator import load

        console.print("\nComparing the two conditions:")
        _compare_and_report(load(out), out, "familiar", "novel", True, {"seed": seed})


@app.command(rich_help_panel=ANALYSE)
def compare(
    result: Annotated[Path, typer.Argument(help="Result folder.", show_default=False)],
    first: Annotated[str | None, typer.Argument(help="Condition or group.", show_default=False)] = None,
    second: Annotated[str | None, typer.Argument(help="The one to compare it with.", show_default=False)] = None,
    table: Annotated[bool, typer.Option("--table", help="Compare every two groups, with corrected p-values.")] = False,
    by: Annotated[str, typer.Option(help="Column of the session table with the groups.")] = "condition",
    group: Annotated[
        list[str] | None,
        typer.Option(help="Your own group, NAME=EXPRESSION over the session table. Repeat for more."),
    ] = None,
    relative: Annotated[bool, typer.Option(help="Errors relative to each run's own, or raw (the paper's).")] = True,
    preset: Annotated[
        Preset,
        typer.Option(
            help="'paper': the paper's two tests by its letter: raw errors, influence as printed (inflow), whole runs."
        ),
    ] = "default",
    permutations: Annotated[
        int, typer.Option(min=1, help="Random labelings, if there are too many to try all.")
    ] = 9999,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the permutations.")] = 0,
    jobs: Jobs = 1,
    scheduler: Scheduler = None,
) -> None:
    """Test whether two conditions differ in their dynamics, where in the image, and in which edges.

    The answer is that of the coupling test: whether couplings differ, whatever the activity. The paper's two tests,
    swapped coefficients and influence, stand beside it. Prints all with their limits. Writes tables, maps and figures
    to `comparisons/` in the result folder, and updates its `report.html`; `--table` only prints.

    For example:

    * `larscope compare result`, if there are two conditions

    * `larscope compare result familiar novel`

    * `larscope compare result monday tuesday --by block`

    * `larscope compare result --table`

    * `larscope compare result a b --group "a=run_number<=5" --group "b=run_number>5"`
    """
    with reported_errors():
        if (table and first is not None) or (first is None) != (second is None):
            raise LarscopeError(
                f"Expected two groups, or `--table` for every two: got {[first, second]} "
                f"{'with' if table else 'without'} `--table`. Name two groups, or give `--table` alone."
            )
        from larscope._compute.workers import open_workers
        from larscope._fit.estimator import load
        from larscope._statistics.groups import parse_group, select_runs

        model = load(result)
        expressions = dict(parse_group(text) for text in group or [])
        groups = {name: select_runs(model.runs_, expression) for name, expression in expressions.items()} or None
        how: dict[str, Any] = {"by": by, "groups": groups, "n_permutations": permutations, "seed": seed}
        how["preset"] = preset
        with open_workers(jobs, scheduler):
            if table:
                print_contrasts(model, relative, how)
                return
            if first is None or second is None:
                first, second = _only_two(model.runs_, by, groups)
            _compare_and_report(model, result, first, second, relative, how)


def _only_two(runs: Any, by: str, groups: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return the two groups where there are no others, so that nobody has to name them."""
    from larscope._statistics.groups import groups_by

    names = list(groups or groups_by(runs, by))
    if len(names) != 2:
        raise LarscopeError(
            f"Expected the names of two groups: there are {len(names)}, {', '.join(map(repr, names)) or 'none'}. Name "
            "two groups, or give `--table` alone to compare every two."
        )
    return names[0], names[1]


def _compare_and_report(model: Any, result: Path, first: str, second: str, relative: bool, how: dict[str, Any]) -> None:
    from larscope._report.comparison import describe_comparison
    from larscope._report.finding import verdict_of
    from larscope._report.page import write_report
    from larscope._results.comparison import write_record

    record = model.record_comparison(first, second, relative=relative, **how)
    folder = write_record(record, result)
    page = write_report(result)
    print_verdict([verdict_of(record)])
    for sentence in describe_comparison(record):
        print_plain(sentence)
    print_plain(f"Tables and figures are in {folder}. Open {page} in any browser.")


@app.command(rich_help_panel=TRY)
def simulate(
    folder: Annotated[Path, typer.Argument(help="New folder for the movies.", show_default=False)],
    runs: Annotated[int, typer.Option(min=2, help="Number of runs.")] = 8,
    frames: Annotated[int | None, typer.Option(min=2, help="Frames a run. Default: 306 to 1206, mean 435.")] = None,
    height: Annotated[int, typer.Option(help="Pixels.")] = 96,
    width: Annotated[int, typer.Option(help="Pixels.")] = 64,
    full_size: Annotated[bool, typer.Option(help="Write each pixel 4 x 4 times, to try crop and downscale.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
) -> None:
    """Write simulated movies with known dynamics.

    Writes a new folder: one TIFF per run, the table `session.csv`, and the truth in `truth.json` and `truth.npz`.

    For example:

    * `larscope simulate movies --runs 8 --frames 192`

    * `larscope simulate movies --height 128 --width 96 --full-size --seed 1`
    """
    with reported_errors():
        from larscope._simulate.session import simulate_session

        session = simulate_session(n_runs=runs, n_frames=frames, frame_shape=(height, width), seed=seed)
        table = session.write(folder, full_size=full_size)
        print_plain(f"Simulated session written. Next: larscope fit {table} --out result")


@app.command(rich_help_panel=ANALYSE)
def report(result: Annotated[Path, typer.Argument(help="Result folder.", show_default=False)]) -> None:
    """Write the report of a result again.

    Writes `report.html` and `figures/` from the other files of the result folder.

    For example:

    * `larscope report result`
    """
    with reported_errors():
        from larscope._report.page import write_report

        print_plain(f"Open {write_report(result)} in any browser.")


@app.command(rich_help_panel=ANALYSE)
def view(
    result: Annotated[Path, typer.Argument(help="Result folder.", show_default=False)],
    session: Annotated[
        Path | None, typer.Option(help="Session table, if your movies have moved since the fit.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes any free one.")] = 5006,
    browser: Annotated[bool, typer.Option(help="Open the page in your browser.")] = True,
) -> None:
    """Open the interactive viewer of a result.

    Shows the report, every frame beside its forecast, the couplings of each latent, and the penalty along the exact
    path. Runs until Ctrl-C and only this machine can reach it. Writes a missing `report.html`, nothing else. Needs the
    extra `view`.

    For example:

    * `larscope view result`

    * `larscope view result --session moved/session.csv`

    * `larscope view result --port 8000 --no-browser`, on a machine you reach by `ssh -L 8000:localhost:8000`
    """
    with reported_errors():
        if find_spec("panel") is None:
            raise LarscopeError(
                "`larscope view` needs panel, which is not installed. Run: pip install 'larscope[view]'"
            )
        with console.status("Opening the result"):
            from larscope._view.open_result import Exhibit
            from larscope._view.server import serve

            exhibit = Exhibit(result, session)
        serve(exhibit, port=port, browser=browser, on_start=lambda url: print_plain(f"Serving {url} until Ctrl-C."))


@app.command(rich_help_panel=ANALYSE)
def export(
    result: Annotated[Path, typer.Argument(help="Result folder.", show_default=False)],
    nwb: Annotated[Path, typer.Option(help="The NWB file to write; must not exist yet.", show_default=False)],
    metadata: Annotated[
        Path | None,
        typer.Option(help="TOML file with NWB's general fields, if your movies were not NWB.", show_default=False),
    ] = None,
) -> None:
    """Write a result and its comparisons as an NWB file.

    Writes the file `--nwb`, whole or not at all, and never over another: coefficients, latents, forecasts, maps and
    tests. Copies the metadata of NWB inputs. Give missing fields in a TOML file; we never make them up: `identifier`,
    `session_start_time`, `session_description`, and a table `[subject]`.

    For example:

    * `larscope export result --nwb result.nwb`

    * `larscope export result --nwb result.nwb --metadata session.toml`
    """
    with reported_errors():
        from larscope._results.nwb import write_nwb

        print_plain(f"Written: {write_nwb(result, nwb, metadata)}")


@app.command(rich_help_panel=SETUP)
def doctor() -> None:
    """Examine your machine, and print the command to install each missing package.

    Covers versions, device, threads, free memory and disk, every package, and the optional parts. Writes nothing. Exits
    with 2 if larscope cannot compute here.

    For example:

    * `larscope doctor`
    """
    from larscope._cli.doctor import describe, examine

    with console.status("Trying torch and numba", spinner="line"):
        findings = examine()
    print_plain(describe(findings))
    if any(found.broken for found in findings):
        print_plain("\nlarscope cannot compute here: run the command below each line marked `!`.", complaints)
        raise typer.Exit(2)


@app.command(rich_help_panel=SETUP)
def schema() -> None:
    """Print the JSON schema of `config.toml`, so your editor can complete and check it.

    Writes no file. Put `#:schema ./config.schema.json` in the first line of your `config.toml`. Editors with TOML
    schemas, such as VS Code with Even Better TOML, then use it.

    For example:

    * `larscope schema > config.schema.json`
    """
    from larscope._results.config import config_schema

    print_plain(json.dumps(config_schema(), indent=2))


for _command in app.registered_commands:
    _command.epilog = EXIT_CODES
