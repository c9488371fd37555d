"""Printing in the terminal: results to standard output, errors and warnings to standard error."""

import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from larscope._errors import LarscopeError, interrupts_as_such

console = Console()
complaints = Console(stderr=True)


@contextmanager
def reported_errors() -> Iterator[None]:
    """Print a `LarscopeError`, or a file that cannot be used, without a traceback, and exit with code 2.

    Any other error is a fault of larscope. We print it whole, ask for a report, and exit with code 1; click would turn
    some into "Aborted."
    """
    try:
        with warnings.catch_warnings(), interrupts_as_such():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = print_warning
            yield
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
        raise
    except (LarscopeError, OSError) as error:
        complaints.print("[bold red]Error:[/]", end=" ")
        missing = "" if isinstance(error, LarscopeError) else "A file could not be read or written: "
        print_plain(f"{missing}{error}", complaints)
        raise typer.Exit(2) from error
    except Exception as error:
        print_plain("".join(traceback.format_exception(error)), complaints)
        complaints.print("[bold red]Error:[/] this is a fault of larscope. Please report it with the lines above.")
        raise typer.Exit(1) from error


def print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning in one line; replaces `warnings.showwarning`."""
    complaints.print("[yellow]Warning:[/]", end=" ")
    print_plain(str(message), complaints)


def printable(text: str) -> str:
    r"""Spell out unprintable characters.

    >>> print(printable("novel \x1b[2J"))
    novel \x1b[2J
    """
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)


def print_plain(text: str, to: Console = console) -> None:
    """Print text with names from files: no markup, no terminal codes."""
    to.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def print_verdict(lines: Iterable[Any]) -> None:
    """Print the lines of a verdict (`larscope._report.finding`), each with its question, the answer in colour."""
    for line in lines:
        colour = {"good": "green", "caution": "yellow", "unknown": "bright_black"}[line.standing]
        answer = Text.assemble(printable(line.question), " ", (line.answer.upper(), f"bold {colour}"))
        console.print(answer, soft_wrap=True)
        print_plain(f"  {line.sentence}")
