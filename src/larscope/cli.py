"""The command line: parses, calls, prints. No science."""

import inspect
import tomllib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.table import Table

from larscope.errors import LarscopeError
from larscope.settings import Settings, setting_names

app = typer.Typer(
    help="Sparse, interpretable dynamics in cell-imaging video.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
console = Console()
complaints = Console(stderr=True)

SessionTable = Annotated[Path, typer.Argument(help="Session table: a CSV with one row a run.", show_default=False)]
Out = Annotated[Path, typer.Option(help="Result folder; must not exist yet, or be empty.", show_default=False)]


@contextmanager
def reported_errors() -> Iterator[None]:
    """Print what the user must change, without a traceback, and exit with code 2."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = _print_warning
            yield
    except LarscopeError as error:
        complaints.print("[bold red]Error:[/]", end=" ")
        complaints.print(str(error), markup=False, highlight=False)
        raise typer.Exit(2) from error


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    complaints.print("[yellow]Warning:[/]", end=" ")
    complaints.print(str(message), markup=False, highlight=False)


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
    run.__signature__ = inspect.Signature([*own, *_setting_options()])  # type: ignore[attr-defined]
    return run


def _setting_options() -> list[inspect.Parameter]:
    hints = get_type_hints(Settings)
    described = get_type_hints(Settings, include_extras=True)
    options = []
    for name in setting_names():
        description = next(field.description for field in described[name].__metadata__ if field.description)
        default = Settings.__dataclass_fields__[name].default
        default = getattr(default, "default", default)
        shown = "" if default is None else f" [default: {default}]".lower()
        option = typer.Option(help=description + shown, show_default=False, rich_help_panel="Settings")
        options.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[hints[name] | None, option]
            )
        )
    return options


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
    """Sparse, interpretable dynamics in cell-imaging video."""


@app.command()
@with_settings
def fit(
    session: SessionTable,
    out: Out,
    config: Annotated[
        Path | None, typer.Option(help="Settings from the `config.toml` of an earlier result; options override them.")
    ] = None,
    **settings: Any,
) -> None:
    """Train on a session, fit each run's VAR, and write a result folder.

    Example: `larscope fit session.csv --out result --penalty 0.01`

    An interrupted fit goes on from its last epoch when the same command is given again.
    """
    with reported_errors():
        if config is not None:
            settings = {**_read_config(config), **settings}
        from larscope.io import read_session

        _fit_and_report(lambda: read_session(session), out, settings)


@app.command()
def demo(
    out: Out = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the simulation and of the training.")] = 0,
) -> None:
    """Simulate a session with planted sparse dynamics, fit it end to end, and write figures and a report.

    Takes about two minutes on two cores. Example: `larscope demo --out demo`
    """
    with reported_errors():
        from larscope.simulate import simulate_session

        console.print(
            "Simulating a session: 8 runs under two conditions, with sparse couplings between cells that are "
            "weaker in the second. These data are simulated; no animal was recorded."
        )
        _fit_and_report(
            lambda: simulate_session(n_runs=8, n_frames=192, frame_shape=(96, 64), seed=seed), out, {"seed": seed}
        )


@app.command()
def compare(
    result: Annotated[Path, typer.Argument(help="Result folder.", show_default=False)],
    first: Annotated[str, typer.Argument(help="Condition.", show_default=False)],
    second: Annotated[str, typer.Argument(help="Condition to compare it with.", show_default=False)],
    relative: Annotated[bool, typer.Option(help="Relative Deltas; the paper's are raw.")] = True,
    permutations: Annotated[int, typer.Option(min=1, help="Labelings to draw where they are too many.")] = 9999,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the permutations.")] = 0,
) -> None:
    """Test whether two conditions differ in their dynamics: by swapping coefficients, and by influence.

    Example: `larscope compare result familiar novel`
    """
    with reported_errors():
        from larscope.estimator import load

        model = load(result)
        how: dict[str, Any] = {"n_permutations": permutations, "seed": seed}
        swap = model.compare(first, second, relative=relative, **how)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the swap test has said what limits this design
            influence = model.compare(first, second, test="influence", **how)
        table = Table(title=f"{'Simulated data: ' if model.simulated_ else ''}{first} against {second}")
        for column in ("", "coefficient swap", "influence"):
            table.add_column(column, justify="left" if not column else "right")
        rows = {
            "p, permutation of labels": "pvalue",
            "smallest p this design can reach": "min_pvalue",
            "p, rank-sum (the paper's)": "pvalue_ranksum",
            "statistic: mean(inter) - mean(intra)": "statistic",
            "effect size, %": "effect_size",
            "p, difference in spread": "permdisp_pvalue",
        }
        for label, name in rows.items():
            table.add_row(label, *(f"{getattr(test, name):.3g}" for test in (swap, influence)))
        low, high = swap.effect_interval
        console.print(table)
        console.print(swap.units, highlight=False)
        if relative:
            console.print(
                f"Forecasts get {swap.effect_size:.1f} % worse (95 % interval {low:.1f} to {high:.1f} %) under "
                "coefficients from the other condition than under those of another run of the same condition.",
                highlight=False,
            )


@app.command()
def simulate(
    folder: Annotated[Path, typer.Argument(help="New folder for the movies.", show_default=False)],
    runs: Annotated[int, typer.Option(min=2, help="Number of runs.")] = 8,
    frames: Annotated[int | None, typer.Option(min=2, help="Frames a run. Default: 306 to 1206, mean 435.")] = None,
    height: Annotated[int, typer.Option(help="Pixels.")] = 96,
    width: Annotated[int, typer.Option(help="Pixels.")] = 64,
    full_size: Annotated[bool, typer.Option(help="Write each pixel 4 x 4 times, for the preprocessing.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
) -> None:
    """Write a simulated session with planted sparse dynamics: TIFFs, a session table, and the truth.

    Example: `larscope simulate movies --runs 8 --frames 192`
    """
    with reported_errors():
        from larscope.simulate import simulate_session

        session = simulate_session(n_runs=runs, n_frames=frames, frame_shape=(height, width), seed=seed)
        table = session.write(folder, full_size=full_size)
        console.print(f"A simulated session was written. Now: larscope fit {table} --out result", soft_wrap=True)


@app.command()
def report(result: Annotated[Path, typer.Argument(help="Result folder.", show_default=False)]) -> None:
    """Write `report.html` and the figures anew from a result folder.

    Example: `larscope report result`
    """
    with reported_errors():
        from larscope.report import write_report

        console.print(f"Open {write_report(result)} in any browser.", highlight=False)


def _fit_and_report(open_session: Callable[[], Any], out: Path, settings: dict[str, Any]) -> None:
    from larscope.checkpoints import open_checkpoints
    from larscope.estimator import LatentVAR
    from larscope.report import write_report
    from larscope.result import read_result, require_free
    from larscope.training import finished_epochs

    model = LatentVAR(**settings)
    require_free(out)
    session = open_session()
    with open_checkpoints(out, model, session) as checkpoints:
        if (epoch := finished_epochs(checkpoints)) is not None:
            console.print(f"An interrupted fit was found: it goes on from epoch {epoch}.")
        try:
            model.fit(session, progress=True, checkpoints=checkpoints)
        except KeyboardInterrupt:
            complaints.print(
                f"Stopped. The finished epochs are in {checkpoints}: give the same command again to go on from there."
            )
            raise typer.Exit(130) from None
        model.save(out)
    page = write_report(out)
    console.print(_score_table(model.scores_, "Simulated session" if session.simulated else "Session"))
    from larscope.report.words import describe

    for sentence in describe(read_result(out)):
        console.print(sentence, highlight=False)
    console.print(f"The result is in {out}. Open {page} in any browser.", highlight=False, soft_wrap=True)


def _score_table(scores: Any, title: str) -> Table:
    table = Table(title=f"{title}: each run")
    for column in scores.columns:
        text = column in ("run", "condition")
        table.add_column(column.replace("_", "\n"), justify="left" if text else "right", overflow="fold")
    for row in scores.itertuples(index=False):
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    return table


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LarscopeError(f"Expected settings in TOML; {path} cannot be read: {error}.") from error
