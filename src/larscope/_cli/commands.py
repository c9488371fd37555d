"""The commands: each parses, calls, prints."""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import Progress

from larscope._cli.fitting import fit_and_report
from larscope._cli.options import with_settings
from larscope._cli.tables import print_contrasts, sweep_table
from larscope._cli.terminal import complaints, console, print_plain, reported_errors
from larscope._errors import LarscopeError
from larscope._settings import PRESET, Preset, expand_preset

EXIT_CODES = (
    "Exit codes: 0 done; 1 a fault of larscope itself; 2 something must be changed, as the message says; "
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
SessionTable = Annotated[Path, typer.Argument(help="Session table: a CSV with one row a run.", show_default=False)]
Jobs = Annotated[int, typer.Option(min=1, help="Processes of this machine, of one thread each, that share the work.")]
Scheduler = Annotated[str | None, typer.Option(help="Address or file of a dask scheduler, whose workers share it.")]
Out = Annotated[Path, typer.Option(help="Result folder; must not exist yet, or be empty.", show_default=False)]


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

    To see what it does, on simulated data, in a minute or two:

    * `larscope demo`

    With your own motion-corrected movies, listed in a session table with one row a run:

    * `larscope check session.csv`

    * `larscope fit session.csv --out result`

    * `larscope compare result familiar novel`

    Then open `result/report.html` in any browser. `larscope COMMAND --help` is each command's manual;
    `larscope --install-completion` lets the shell complete commands and options.
    """


@app.command(rich_help_panel=ANALYSE)
@with_settings()
def fit(
    session: SessionTable,
    out: Out,
    config: Annotated[
        Path | None, typer.Option(help="Settings from the `config.toml` of an earlier result; options override them.")
    ] = None,
    preset: Annotated[Preset, typer.Option(help=PRESET)] = "default",
    seeds: Annotated[
        int, typer.Option(min=1, help="Train this often, from --seed on, and say how often each edge is found.")
    ] = 1,
    on_truncated: Annotated[
        OnTruncated, typer.Option(help="A movie that was cut short: an error, or keep its whole frames up to there.")
    ] = "error",
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for preprocessed frames, shared by fits. Default: `.larscope-cache` beside --out."),
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="Resident memory to stay below, such as 2GiB; a fit that cannot is refused.")
    ] = None,
    devices: Annotated[
        int, typer.Option(min=1, help="Processes a machine that share each training step: one a GPU, or on the CPU.")
    ] = 1,
    num_nodes: Annotated[int, typer.Option(min=1, help="Machines, each of which runs this command.")] = 1,
    strategy: Annotated[str, typer.Option(help="Lightning's strategy for several processes.")] = "ddp",
    jobs: Jobs = 1,
    scheduler: Scheduler = None,
    **settings: Any,
) -> None:
    """Train on a session, fit each run's VAR, and write a result folder.

    Writes the folder `--out`, whole or not at all: `report.html` and `figures/`, `results.nc` with latents, forecasts,
    coefficients and maps, the network's weights, the settings in `config.toml`, and how it was made.

    An interrupted fit goes on where it was when the same command is given again. Preprocessed frames stay in the cache
    for the next fit of the same movies; remove that folder whenever you like.

    A training may be shared by `--devices`; the preparation of the frames and the fits of the runs by `--jobs`, or the
    workers of a `--scheduler`.

    For example:

    * `larscope fit session.csv --out result`

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
    out: Annotated[Path, typer.Option(help="Folder for the results and their table.", show_default=False)],
    config: Annotated[
        Path | None, typer.Option(help="Settings from the `config.toml` of an earlier result; options override them.")
    ] = None,
    preset: Annotated[Preset, typer.Option(help=PRESET)] = "default",
    seeds: Annotated[int, typer.Option(min=1, help="Fit each combination this often, from --seed on.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Fits at a time, on this machine.")] = 1,
    threads: Annotated[
        int, typer.Option(min=1, help="Of each fit. Another number may change the last bits of the results.")
    ] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="Address or file of a dask scheduler, whose workers do the fits.")
    ] = None,
    on_truncated: Annotated[
        OnTruncated, typer.Option(help="A movie that was cut short: an error, or keep its whole frames up to there.")
    ] = "error",
    **settings: Any,
) -> None:
    """Fit a session with every combination of settings, and say how well each does.

    Any setting takes a list, with commas between. Writes to the folder `--out`: the result of each fit, what it
    printed, and the table `sweep.csv` with a row a fit. Preprocessed frames are shared.

    When the same command is given again, what is finished is not repeated and what was interrupted goes on; a longer
    list adds to what is there. A worker that dies, of a cluster too, loses at most an epoch. How many there are
    changes no result.

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
            tabulate(fitted).to_csv(out / "sweep.csv", index=False)
            console.print(sweep_table(summarise(fitted), opened.simulated))
            print_plain(f"A row a fit is in {out / 'sweep.csv'}, each result in a folder beside it.")
        if failed:
            listed = "".join(f"\n{name}: {reason}" for name, reason in failed.items())
            raise LarscopeError(
                f"Expected {len(points)} fits; {len(failed)} could not be finished. Their logs in {out} say more. Give "
                f"the same command again when the reason is gone.{listed}"
            )


@app.command(rich_help_panel=ANALYSE)
def check(session: SessionTable) -> None:
    """Say what is in the files of a session, and what is wrong with them, before hours of work.

    Every movie is read once. Prints each finding with its file, a number, and what to do about it; writes nothing.
    Exits with code 2 where something failed, so that no fit would be right.

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
    """Simulate a session with planted sparse dynamics, fit it, compare its conditions, and write a report.

    Takes two minutes on two cores. Writes a result folder like that of `larscope fit`, with one comparison and,
    in `movies/`, what was simulated.

    For example:

    * `larscope demo`

    * `larscope demo --out another --seed 1`
    """
    with reported_errors():
        from larscope._simulate.session import simulate_session

        console.print(
            "Simulating a session: 8 runs under two conditions, with sparse couplings between cells that are "
            "weaker in the second. These data are simulated; no animal was recorded."
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
    second: Annotated[str | None, typer.Argument(help="What to compare it with.", show_default=False)] = None,
    table: Annotated[bool, typer.Option("--table", help="Every two groups, corrected for their number.")] = False,
    by: Annotated[str, typer.Option(help="Column of the session table whose values are the groups.")] = "condition",
    group: Annotated[
        list[str] | None,
        typer.Option(help="A group of your own, NAME=EXPRESSION over the session table; may be repeated."),
    ] = None,
    relative: Annotated[bool, typer.Option(help="Relative Deltas; the paper's are raw.")] = True,
    permutations: Annotated[int, typer.Option(min=1, help="Labelings to draw where they are too many.")] = 9999,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the permutations.")] = 0,
    jobs: Jobs = 1,
    scheduler: Scheduler = None,
) -> None:
    """Test whether two conditions differ in their dynamics: by swapping coefficients, and by influence.

    Also where in the image they differ, and in which edges. Prints both tests with what limits them, and writes tables,
    maps and figures to `comparisons/` in the result folder, and its `report.html` anew; `--table` only prints.

    For example:

    * `larscope compare result familiar novel`

    * `larscope compare result monday tuesday --by block`

    * `larscope compare result --table`

    * `larscope compare result a b --group "a=run_number<=5" --group "b=run_number>5"`
    """
    with reported_errors():
        if table != (first is None) or (first is None) != (second is None):
            raise LarscopeError(
                f"Either two groups are compared, or every two with `--table`: got {[first, second]} "
                f"{'with' if table else 'without'} `--table`. Name two groups, or give `--table` alone."
            )
        from larscope._compute.workers import open_workers
        from larscope._fit.estimator import load
        from larscope._statistics.groups import parse_group, select_runs

        model = load(result)
        expressions = dict(parse_group(text) for text in group or [])
        groups = {name: select_runs(model.runs_, expression) for name, expression in expressions.items()} or None
        how: dict[str, Any] = {"by": by, "groups": groups, "n_permutations": permutations, "seed": seed}
        with open_workers(jobs, scheduler):
            if first is None or second is None:
                print_contrasts(model, relative, how)
            else:
                _compare_and_report(model, result, first, second, relative, how)


def _compare_and_report(model: Any, result: Path, first: str, second: str, relative: bool, how: dict[str, Any]) -> None:
    from larscope._report.comparison import describe_comparison
    from larscope._report.page import write_report
    from larscope._results.comparison import write_record

    record = model.record_comparison(first, second, relative=relative, **how)
    folder = write_record(record, result)
    page = write_report(result)
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
    full_size: Annotated[bool, typer.Option(help="Write each pixel 4 x 4 times, for the preprocessing.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
) -> None:
    """Write a simulated session with planted sparse dynamics.

    Writes a new folder: one TIFF a run, the table `session.csv`, and the truth in `truth.json` and `truth.npz`.

    For example:

    * `larscope simulate movies --runs 8 --frames 192`

    * `larscope simulate movies --height 128 --width 96 --full-size --seed 1`
    """
    with reported_errors():
        from larscope._simulate.session import simulate_session

        session = simulate_session(n_runs=runs, n_frames=frames, frame_shape=(height, width), seed=seed)
        table = session.write(folder, full_size=full_size)
        print_plain(f"A simulated session was written. Now: larscope fit {table} --out result")


@app.command(rich_help_panel=ANALYSE)
def report(result: Annotated[Path, typer.Argument(help="Result folder.", show_default=False)]) -> None:
    """Write the report of a result anew.

    Writes `report.html` and `figures/` in the result folder, from what else is in it.

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
        Path | None, typer.Option(help="Session table, where the movies are no longer where they were fitted.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes any free port.")] = 5006,
    browser: Annotated[bool, typer.Option(help="Open the page.")] = True,
) -> None:
    """Look into a result: the report with what a file cannot hold.

    Serves a page to this machine until Ctrl-C: every frame beside its forecast, the couplings of each latent, the
    penalty along the exact path. Writes nothing but a `report.html` that is missing. Needs the extra `view`.

    For example:

    * `larscope view result`

    * `larscope view result --session moved/session.csv`

    * `larscope view result --port 8000 --no-browser`, on a machine that is reached through `ssh -L 8000:localhost:8000`
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
        typer.Option(help="TOML with NWB's general fields: needed where the inputs were not NWB.", show_default=False),
    ] = None,
) -> None:
    """Write a result and its comparisons as an NWB file.

    Writes the file `--nwb`, whole or not at all and never over another: coefficients, latents, forecasts, maps and
    tests. The metadata of inputs that were NWB are copied. What NWB requires and they do not say is asked for in a TOML
    file, and never made up: `identifier`, `session_start_time`, `session_description`; a table `[subject]`.

    For example:

    * `larscope export result --nwb result.nwb`

    * `larscope export result --nwb result.nwb --metadata session.toml`
    """
    with reported_errors():
        from larscope._results.nwb import write_nwb

        print_plain(f"Written: {write_nwb(result, nwb, metadata)}")


@app.command(rich_help_panel=SETUP)
def doctor() -> None:
    """Say what is there on this machine, and which commands install what is missing.

    Versions, device, threads, free memory and disk, every package, and the optional parts. Writes nothing. Exits with
    2 if larscope cannot compute here.

    For example:

    * `larscope doctor`
    """
    from larscope._cli.doctor import describe, examine

    with console.status("Trying torch and numba", spinner="line"):
        findings = examine()
    print_plain(describe(findings))
    if any(found.broken for found in findings):
        print_plain("\nlarscope cannot compute here: run the commands below the lines that begin with `!`.", complaints)
        raise typer.Exit(2)


@app.command(rich_help_panel=SETUP)
def schema() -> None:
    """Print the JSON schema of `config.toml`, with which editors complete and check it.

    Writes no file itself. With `#:schema ./config.schema.json` as the first line of a `config.toml`, editors that know
    TOML schemas (VS Code with Even Better TOML, anything that runs taplo) use it.

    For example:

    * `larscope schema > config.schema.json`
    """
    from larscope._results.config import config_schema

    print_plain(json.dumps(config_schema(), indent=2))


for _command in app.registered_commands:
    _command.epilog = EXIT_CODES
