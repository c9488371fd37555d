"""The command line: parses, calls, prints. No science."""

import inspect
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from rich.box import SIMPLE, SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from larscope.errors import LarscopeError, interrupts_as_such
from larscope.settings import PRESET, REFITTED, Preset, Settings, describe_setting, setting_names

EXIT_CODES = (
    "Exit codes: 0 done; 1 a fault of larscope itself; 2 something must be changed, as the message says; "
    "130 stopped by Ctrl-C."
)

ANALYSE, TRY, SETUP = "Analyse your movies", "Try it on simulated data", "Set up"

DYNAMICS, FRAMES, NETWORK, TRAINING = (f"Settings: {name}" for name in ("dynamics", "frames", "network", "training"))
PANELS = {
    **dict.fromkeys(REFITTED, DYNAMICS),
    **dict.fromkeys(("crop", "downscale", "nan"), FRAMES),
    **dict.fromkeys(("patch", "skip", "output", "pooling", "batch_norm"), NETWORK),
    **dict.fromkeys(
        ("training", "epochs", "batch_size", "learning_rate", "precision", "window", "window_starts", "seed"), TRAINING
    ),
}
"""Where the help of `larscope fit` shows each setting."""

app = typer.Typer(
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
console = Console()
complaints = Console(stderr=True)

OnTruncated = Literal["error", "keep"]
SessionTable = Annotated[Path, typer.Argument(help="Session table: a CSV with one row a run.", show_default=False)]
Out = Annotated[Path, typer.Option(help="Result folder; must not exist yet, or be empty.", show_default=False)]


@contextmanager
def reported_errors() -> Iterator[None]:
    """Print what the user must change, without a traceback, and exit with code 2."""
    try:
        with warnings.catch_warnings(), interrupts_as_such():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = _print_warning
            yield
    except LarscopeError as error:
        complaints.print("[bold red]Error:[/]", end=" ")
        _print_plain(str(error), complaints)
        raise typer.Exit(2) from error


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    complaints.print("[yellow]Warning:[/]", end=" ")
    _print_plain(str(message), complaints)


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each setting; it receives those that were passed, as keywords.

    Settings are declared once, in `larscope.settings`; this turns that declaration into options.
    """
    signature = inspect.signature(command)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind != parameter.VAR_KEYWORD]

    def run(**passed: Any) -> None:
        settings = {name: passed.pop(name) for name in setting_names()}
        command(**passed, **{name: value for name, value in settings.items() if value is not None})

    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    options = _setting_options(as_lists=command.__name__ == "sweep")
    run.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    return run


def _setting_options(as_lists: bool) -> list[inspect.Parameter]:
    """Return an option for each setting; `as_lists`, one that takes several values, as text with commas between."""
    hints = get_type_hints(Settings)
    options = []
    for name in setting_names():
        default = Settings.__dataclass_fields__[name].default
        default = getattr(default, "default", default)
        described = describe_setting(name)
        parts = (hints[name], *get_args(hints[name]))
        choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
        number = float in parts and bool(choices)  # or a word: typer knows no such type
        listed = "" if all(f"'{choice}'" in described for choice in choices) else f" One of {', '.join(choices)}."
        shown = "" if default is None else f" [default: {default}]".lower()
        as_list = as_lists and name != "crop"
        option = typer.Option(
            help=described + listed + shown,
            show_default=False,
            rich_help_panel=PANELS.get(name, "Settings"),
            metavar="<list>" if as_list else "<number or word>" if number else "<word>" if choices else None,
            parser=_number_or_word if number and not as_list else None,
        )
        options.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[(str if as_list or number else hints[name]) | None, option],
            )
        )
    return options


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


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

    To see what it does, on simulated data, in about two minutes:

    * `larscope demo`

    With your own motion-corrected movies, listed in a session table with one row a run:

    * `larscope check session.csv`

    * `larscope fit session.csv --out result`

    * `larscope compare result familiar novel`

    Then open `result/report.html` in any browser. `larscope COMMAND --help` is each command's manual;
    `larscope --install-completion` lets the shell complete commands and options.
    """


@app.command(rich_help_panel=ANALYSE)
@with_settings
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
    **settings: Any,
) -> None:
    """Train on a session, fit each run's VAR, and write a result folder.

    Writes the folder `--out`, whole or not at all: `report.html` and `figures/`, `results.nc` with latents, forecasts,
    coefficients and maps, the network's weights, the settings in `config.toml`, and how it was made.

    An interrupted fit goes on where it was when the same command is given again. Preprocessed frames stay in the cache
    for the next fit of the same movies; remove that folder whenever you like.

    For example:

    * `larscope fit session.csv --out result`

    * `larscope fit session.csv --out sparser --penalty 1.5 --seeds 5`

    * `larscope fit session.csv --out paper --preset paper --crop 768 512 --downscale 4`

    * `larscope fit session.csv --out again --config result/config.toml`

    * `larscope fit session.csv --out shared --devices 2 --batch-size 2`
    """
    with reported_errors():
        settings = {"preset": preset, **settings}
        if config is not None:
            from larscope.config import read_config

            settings = read_config(config, settings)
        from larscope.io import read_session
        from larscope.settings import parse_size

        folder = out.resolve().with_name(".larscope-cache") if cache is None else cache.resolve()
        limit = None if max_memory is None else parse_size(max_memory)
        how = {"cache": folder, "max_memory": limit, "devices": devices, "num_nodes": num_nodes, "strategy": strategy}
        _fit_and_report(lambda: read_session(session, on_truncated=on_truncated), out, settings, seeds, how)


@app.command(rich_help_panel=ANALYSE)
@with_settings
def sweep(
    session: SessionTable,
    out: Annotated[Path, typer.Option(help="Folder for the results and their table.", show_default=False)],
    config: Annotated[
        Path | None, typer.Option(help="Settings from the `config.toml` of an earlier result; options override them.")
    ] = None,
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

    * `larscope sweep session.csv --out sweep --order 3,5 --scheduler tcp://10.0.0.1:8786`
    """
    with reported_errors():
        from larscope.io import read_session
        from larscope.sweep import fit_points, load_points, open_executor, plan, summarise, tabulate

        fixed: dict[str, Any] = {"crop": settings.pop("crop", None)}
        if config is not None:
            from larscope.config import read_config

            fixed = read_config(config, {name: value for name, value in fixed.items() if value is not None})
        points = plan(fixed, {name: text.split(",") for name, text in settings.items()}, seeds)
        opened = read_session(session, on_truncated=on_truncated)
        left = _prepare_sweep(points, opened, out)
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
            console.print(_sweep_table(summarise(fitted), opened.simulated))
            _print_plain(f"A row a fit is in {out / 'sweep.csv'}, each result in a folder beside it.")
        if failed:
            listed = "".join(f"\n{name}: {reason}" for name, reason in failed.items())
            raise LarscopeError(
                f"Expected {len(points)} fits; {len(failed)} could not be finished. Their logs in {out} say more. Give "
                f"the same command again when the reason is gone.{listed}"
            )


def _prepare_sweep(points: list[Any], session: Any, out: Path) -> list[Any]:
    """Refuse what no fit could do, prepare the frames of all fits, and return those that are not there yet."""
    from larscope.checkpoints import identify_fit
    from larscope.conditions import prepare_showing
    from larscope.preflight import estimate_fit, require_disk, size
    from larscope.result import find_fit, require_free

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LarscopeError(f"The results must be written to {out}: {error}. Pass another `--out`.") from error
    cache = out.resolve() / ".larscope-cache"
    estimates = [estimate_fit(point.settings, session, cached=True) for point in points]
    left = [point for point in points if find_fit(out / point.name) != identify_fit(point.settings, session)]
    for point in left:
        require_free(out / point.name)
    _print_plain(
        f"{len(points)} fits, of which {len(points) - len(left)} are there. Each will take up to about "
        f"{size(max(estimate.memory for estimate in estimates))} of memory."
    )
    if left:
        _check_once(session, cache)
    for crop, downscale, nan in dict.fromkeys((p.settings.crop, p.settings.downscale, p.settings.nan) for p in left):
        require_disk(max(estimates, key=lambda estimate: estimate.disk), cache)
        prepare_showing(session, True, crop=crop, downscale=downscale, nan=nan, cache=cache)
    return left


def _sweep_table(summary: Any, simulated: bool) -> Table:
    """Show the scores of each combination of settings, with their standard deviation over the seeds."""
    table = Table(
        title=f"{'Simulated session' if simulated else 'Session'}: means over runs and seeds (standard deviation)",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    names = [name for name in summary if not name.endswith("_sd")]
    for name in names:
        table.add_column(SCORE_HEADERS.get(name, name.replace("_", "\n")), justify="right", no_wrap=True)
    for _, row in summary.iterrows():
        cells = []
        for name in names:
            deviation = row.get(f"{name}_sd", float("nan"))
            shown = f"{row[name]:.3g}" if isinstance(row[name], float) else escape(str(row[name]))
            cells.append(shown if deviation != deviation else f"{shown}\n({deviation:.2g})")
        table.add_row(*cells)
    return table


@app.command(rich_help_panel=ANALYSE)
def check(session: SessionTable) -> None:
    """Say what is in the files of a session, and what is wrong with them, before hours of work.

    Every movie is read once. Prints each finding with its file, a number, and what to do about it; writes nothing.
    Exits with code 2 where something failed, so that no fit would be right.

    For example:

    * `larscope check session.csv`
    """
    with reported_errors():
        from rich.progress import Progress

        from larscope.io import read_runs
        from larscope.quality import check_session, worst_level
        from larscope.quality.tables import files_table, findings_table, summarise
        from larscope.session import Run

        rows = read_runs(session)
        runs = [run for run in rows if isinstance(run, Run)]
        console.print(files_table(runs))
        with Progress(console=complaints, transient=True) as bars:
            bar = bars.add_task("Reading", total=sum(run.n_frames for run in runs))
            findings = check_session(rows, lambda n_frames: bars.advance(bar, n_frames))
        level = worst_level(findings)
        if level != "pass":
            console.print(findings_table(findings))
        _print_plain(summarise(runs, findings))
        if level == "fail":
            raise typer.Exit(2)


@app.command(rich_help_panel=TRY)
def demo(
    out: Out = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the simulation and of the training.")] = 0,
) -> None:
    """Simulate a session with planted sparse dynamics, fit it, compare its conditions, and write a report.

    Takes about two minutes on two cores. Writes a result folder like that of `larscope fit`, with one comparison and,
    in `movies/`, what was simulated.

    For example:

    * `larscope demo`

    * `larscope demo --out another --seed 1`
    """
    with reported_errors():
        from larscope.simulate import simulate_session

        console.print(
            "Simulating a session: 8 runs under two conditions, with sparse couplings between cells that are "
            "weaker in the second. These data are simulated; no animal was recorded."
        )
        simulated = cache(lambda: simulate_session(n_runs=8, n_frames=192, frame_shape=(96, 64), seed=seed))
        _fit_and_report(simulated, out, {"seed": seed})
        simulated().write(out / "movies")  # for `larscope view`
        from larscope.estimator import load

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
        from larscope.estimator import load
        from larscope.groups import parse_group, select_runs

        model = load(result)
        expressions = dict(parse_group(text) for text in group or [])
        groups = {name: select_runs(model.runs_, expression) for name, expression in expressions.items()} or None
        how: dict[str, Any] = {"by": by, "groups": groups, "n_permutations": permutations, "seed": seed}
        if first is None or second is None:
            _print_contrasts(model, relative, how)
        else:
            _compare_and_report(model, result, first, second, relative, how)


def _compare_and_report(model: Any, result: Path, first: str, second: str, relative: bool, how: dict[str, Any]) -> None:
    from larscope.record import write_record
    from larscope.report import write_report
    from larscope.report.comparison import describe_comparison

    record = model.record_comparison(first, second, relative=relative, **how)
    folder = write_record(record, result)
    page = write_report(result)
    for sentence in describe_comparison(record):
        _print_plain(sentence)
    _print_plain(f"Tables and figures are in {folder}. Open {page} in any browser.")


def _print_contrasts(model: Any, relative: bool, how: dict[str, Any]) -> None:
    """Print both tests of every two groups, as the paper's Table 1, and what limits each."""
    limits = []
    for test, title in (("swap", "Coefficient swap"), ("influence", "Influence")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # printed below, each with its groups
            contrasts = model.comparison_table(test=test, relative=relative, **how)
        table = Table(
            title=f"{title}{' (simulated data)' if model.simulated_ else ''}", box=SIMPLE, padding=(0, 1, 0, 0)
        )
        table.add_column("groups", overflow="fold", min_width=12)
        for column in (
            "effect, %\n(95 %)",
            "R",
            "spread\np",
            "rank-sum\np",
            "p\n(smallest)",
            "Bonfer-\nroni",
            "Holm",
            "BH",
        ):
            table.add_column(column, justify="right", no_wrap=True)
        for row in contrasts:
            found = row.comparison
            low, high = found.effect_interval
            cells = [
                f"{found.effect_size:.1f}\n({low:.0f} to {high:.0f})",
                f"{found.anosim_r:.2f}",
                *(f"{p:.2g}" for p in (found.permdisp_pvalue, found.pvalue_ranksum)),
                f"{found.pvalue:.2g}\n({found.min_pvalue:.2g})",
                *(f"{p:.2g}" for p in (row.pvalue_bonferroni, row.pvalue_holm, row.pvalue_fdr)),
            ]
            table.add_row(f"{escape(_printable(row.first))}\n{escape(_printable(row.second))}", *cells)
            limits += [f"{title}, {row.first} against {row.second}: {text}" for text in (found.units, *found.warnings)]
        console.print(table)
    _print_plain(
        "R: ANOSIM, from 0 (no separation) to 1. Spread: PERMDISP. p: permutation of labels, and the smallest that the "
        "design can reach; then corrected for the number of rows by Bonferroni, Holm and Benjamini-Hochberg."
    )
    for text in limits:
        _print_plain(text)


def _printable(text: str) -> str:
    r"""Spell out what cannot be printed.

    >>> print(_printable("novel \x1b[2J"))
    novel \x1b[2J
    """
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)


def _print_plain(text: str, to: Console = console) -> None:
    """Print text that may hold names given by strangers: never markup, nor codes that steer the terminal."""
    to.print(_printable(text), markup=False, highlight=False, soft_wrap=True)


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
        from larscope.simulate import simulate_session

        session = simulate_session(n_runs=runs, n_frames=frames, frame_shape=(height, width), seed=seed)
        table = session.write(folder, full_size=full_size)
        _print_plain(f"A simulated session was written. Now: larscope fit {table} --out result")


@app.command(rich_help_panel=ANALYSE)
def report(result: Annotated[Path, typer.Argument(help="Result folder.", show_default=False)]) -> None:
    """Write the report of a result anew.

    Writes `report.html` and `figures/` in the result folder, from what else is in it.

    For example:

    * `larscope report result`
    """
    with reported_errors():
        from larscope.report import write_report

        _print_plain(f"Open {write_report(result)} in any browser.")


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
            from larscope.view import Exhibit, serve

            exhibit = Exhibit(result, session)
        serve(exhibit, port=port, browser=browser, on_start=lambda url: _print_plain(f"Serving {url} until Ctrl-C."))


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
        from larscope.nwb import write_nwb

        _print_plain(f"Written: {write_nwb(result, nwb, metadata)}")


@app.command(rich_help_panel=SETUP)
def doctor() -> None:
    """Say what is there on this machine, and which commands install what is missing.

    Versions, device, threads, free memory and disk, every package, and the optional parts. Writes nothing. Exits with
    2 if larscope cannot compute here.

    For example:

    * `larscope doctor`
    """
    from larscope.doctor import describe, examine

    with console.status("Trying torch and numba", spinner="line"):
        findings = examine()
    _print_plain(describe(findings))
    if any(found.broken for found in findings):
        _print_plain(
            "\nlarscope cannot compute here: run the commands below the lines that begin with `!`.", complaints
        )
        raise typer.Exit(2)


@app.command(rich_help_panel=SETUP)
def schema() -> None:
    """Print the JSON schema of `config.toml`, with which editors complete and check it.

    Writes no file itself. With `#:schema ./config.schema.json` as the first line of a `config.toml`, editors that know
    TOML schemas (VS Code with Even Better TOML, anything that runs taplo) use it.

    For example:

    * `larscope schema > config.schema.json`
    """
    from larscope.config import config_schema

    _print_plain(json.dumps(config_schema(), indent=2))


def _fit_and_report(
    open_session: Callable[[], Any],
    out: Path,
    settings: dict[str, Any],
    n_seeds: int = 1,
    how: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Fit with each seed, `how` and where as `LatentVAR.fit` takes it, and report; unless it was done before."""
    from larscope.checkpoints import identify_fit, open_checkpoints
    from larscope.estimator import LatentVAR
    from larscope.processes import Processes
    from larscope.result import find_fit, read_result, require_free

    model = LatentVAR(**settings)
    out = out.resolve()  # `.`, `..` and links name a folder too
    processes = Processes(**{name: value for name, value in how.items() if name in Processes.__annotations__})
    processes.share(model.batch_size)
    fabric = processes.start()
    if fabric.global_rank:
        _help_to_fit(fabric, model, open_session, settings, n_seeds, how)
        return
    try:
        with interrupts_as_such() as raise_lost:
            session = open_session()
            with console.status("Reading the files once, to know them again", spinner="line"):
                fit = identify_fit(model, session, n_seeds)
            done = find_fit(out) == fit
            if not done:
                require_free(out)
            with open_checkpoints(out, fit) as folder:
                if done:
                    fabric.broadcast(None)
                    _print_plain(f"This fit is in {out} already; nothing was done again.")
                else:
                    _fit_whole(fabric, model, session, out, settings, n_seeds, folder, how, raise_lost)
    except KeyboardInterrupt:
        _print_plain("Stopped. Give the same command again to go on from what was finished.", complaints)
        raise typer.Exit(130) from None
    except OSError as error:
        raise LarscopeError(
            f"A file could not be read or written: {error}. What was finished is kept: give the same command again "
            "when it can."
        ) from error
    result = read_result(out)
    console.print(_score_table(result.dataset, "Simulated session" if session.simulated else "Session"))
    from larscope.report.words import describe

    for sentence in describe(result):
        _print_plain(sentence)
    _print_plain(f"The result is in {out}. Open {out / 'report.html'} in any browser.")


def _help_to_fit(
    fabric: Any,
    model: Any,
    open_session: Callable[[], Any],
    settings: dict[str, Any],
    n_seeds: int,
    how: Mapping[str, Any],
) -> None:
    """Do this process's share of a fit that another process leads, and say nothing but what goes wrong here."""
    from larscope.processes import LostProcessError, noticing_lost_processes

    console.quiet = True
    warnings.simplefilter("ignore")
    try:
        with interrupts_as_such():
            with noticing_lost_processes():
                session = open_session()
                folder = fabric.broadcast(None)
            if folder is not None:
                model.fit(session, checkpoints=folder, **how)
                _train_again(model, session, settings, n_seeds, folder, how)
    except LostProcessError:
        raise typer.Exit(2) from None  # the one that ended has said why
    except LarscopeError as error:
        raise LarscopeError(f"In process {fabric.global_rank + 1} of {fabric.world_size}: {error}") from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _fit_whole(
    fabric: Any,
    model: Any,
    session: Any,
    out: Path,
    settings: dict[str, Any],
    n_seeds: int,
    folder: Path,
    how: Mapping[str, Any],
    raise_lost: Callable[[], None],
) -> None:
    """Fit, and put the whole result in its place in one step; what is not finished stays in `folder`."""
    from larscope.report import write_report
    from larscope.result import publish_result, write_dataset
    from larscope.training import finished_epochs

    _announce(model, session, how, n_seeds, fabric.world_size)
    checks = _check_once(session, how.get("cache"))
    if (epoch := finished_epochs(folder)) is not None:
        console.print(f"An interrupted fit was found: it goes on from epoch {epoch}.")
    fabric.broadcast(folder)
    model.fit(session, checkpoints=folder, progress=True, **how)
    raise_lost()
    model.provenance_ |= {"fit": folder.name, "checks": checks}
    finished = folder / "result"
    shutil.rmtree(finished, ignore_errors=True)
    model.save(finished)
    if n_seeds > 1:
        stability = _train_again(model, session, settings, n_seeds, folder, {"progress": True, **how})
        write_dataset(stability, finished / "stability.nc")
    write_report(finished)
    raise_lost()
    publish_result(finished, out)


def _check_once(session: Any, cache: Path | None) -> list[dict[str, Any]]:
    """Check the movies, unless the cache holds what was found in them before; say what is wrong with them."""
    from larscope.checkpoints import identify_session
    from larscope.quality import check_session, describe_findings
    from larscope.quality.cached import find_checks, keep_checks

    name = identify_session(session)
    findings = None if cache is None else find_checks(cache, name)
    if findings is None:
        with Progress(console=console) as bar:
            task = bar.add_task("Checking", total=sum(run.n_frames for run in session))
            found = check_session(session, on_frames=lambda n_frames: bar.advance(task, n_frames))
        findings = describe_findings(found)
        if cache is not None:
            keep_checks(findings, cache, name)
    wrong = [finding for finding in findings if finding["level"] != "pass"]
    for finding in wrong[:MOST_WARNINGS]:
        _print_warning(f"{'' if finding['run'] is None else 'run ' + repr(finding['run']) + ': '}{finding['message']}")
    if len(wrong) > MOST_WARNINGS:
        _print_warning(f"{len(wrong) - MOST_WARNINGS} more findings; `larscope check` says all, with advice.")
    return findings


def _announce(model: Any, session: Any, how: Mapping[str, Any], n_seeds: int, n_processes: int) -> None:
    """Say before a fit starts what it will take, and refuse it if that is not there."""
    from larscope.preflight import duration, estimate_fit, require_disk, size, time_training

    cache, max_memory = how.get("cache"), how.get("max_memory")
    estimate = estimate_fit(model, session, cached=cache is not None)
    keep = estimate.may_keep_memory(max_memory)
    if cache is not None:
        require_disk(estimate, cache)
    n_steps = n_seeds * estimate.n_steps
    with console.status("Timing one training step", spinner="line"):
        seconds = time_training(model, session, n_steps * model.batch_size // n_processes)
    n_frames = sum(run.n_frames for run in session)
    limit = "" if max_memory is None else f" of {size(max_memory)} allowed"
    limit += "" if n_processes == 1 else f" in each of {n_processes} processes"
    disk = "" if cache is None else f", {size(estimate.disk)} of disk in {cache} for the prepared frames"
    _print_plain(
        f"{len(session)} runs, {n_frames} frames, {estimate.n_latents} latents. This will take up to about "
        f"{size(estimate.memory if keep else estimate.lean_memory)} of memory{limit}{disk}, and about "
        f"{duration(seconds)} for {n_steps} training steps."
    )


MOST_WARNINGS = 5
"""Findings about the movies that a fit prints; all are in the report."""

SCORE_HEADERS = {
    "run": "run",
    "condition": "condition",
    "reconstruction_error": "recon.\nerror",
    "forecast_error": "forecast\nerror",
    "var_error": "VAR\nerror",
    "var_explained": "VAR ex-\nplained",
    "var_error_heldout": "VAR error\nheld out",
    "n_active": "active\ncoef.",
}


def _train_again(
    model: Any, session: Any, settings: dict[str, Any], n_seeds: int, folder: Path, how: Mapping[str, Any]
) -> Any:
    """Train with further seeds, each with checkpoints of its own, and return how often each edge and pixel is found."""
    from larscope.estimator import LatentVAR
    from larscope.stability import describe_stability, find_in_conditions

    conditions = [run.condition for run in session]
    findings = {model.seed: find_in_conditions(model.var_, model.latents_, model.contribution_maps_, conditions)}
    for seed in range(model.seed + 1, model.seed + n_seeds):
        console.print(f"Training with seed {seed}, {len(findings) + 1} of {n_seeds}.", highlight=False)
        again = LatentVAR(**{**settings, "seed": seed}).fit(session, checkpoints=folder / f"seed-{seed}", **how)
        findings[seed] = find_in_conditions(again.var_, again.latents_, again.contribution_maps_, conditions)
    return describe_stability(findings, session.conditions, session.simulated)


def _score_table(dataset: Any, title: str) -> Table:
    table = Table(title=f"{title}: each run", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for header in SCORE_HEADERS.values():
        if header in ("run", "condition"):
            table.add_column(header, overflow="fold", max_width=16)
        else:
            table.add_column(header, justify="right", no_wrap=True)
    for row in zip(*(dataset[name].to_numpy().tolist() for name in SCORE_HEADERS), strict=True):
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else escape(_printable(str(cell))) for cell in row))
    return table


for _command in app.registered_commands:
    _command.epilog = EXIT_CODES
