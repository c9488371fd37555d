"""Printing in the terminal: results to standard output, errors and warnings to standard error."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

from larscope._errors import LarscopeError, interrupts_as_such

console = Console()
complaints = Console(stderr=True)


@contextmanager
def reported_errors() -> Iterator[None]:
    """Print a `LarscopeError` without a traceback, and exit with code 2."""
    try:
        with warnings.catch_warnings(), interrupts_as_such():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = print_warning
            yield
    except LarscopeError as error:
        complaints.print("[bold red]Error:[/]", end=" ")
        print_plain(str(error), complaints)
        raise typer.Exit(2) from error


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
