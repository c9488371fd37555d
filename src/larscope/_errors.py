"""The one deliberate exception of larscope, and Ctrl-C."""

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from types import FrameType
from typing import Any


class LarscopeError(ValueError):
    """Something in the input must be changed by the user.

    The message has three parts: what was expected, what came (file, run, frame, shape, value), what to do.
    The command line prints it without a traceback and exits with code 2.
    """


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the nearest `known` name for a misspelt `name`.

    >>> suggest("conditon", ["path", "condition"])
    "Did you mean 'condition'?"
    >>> suggest("zzz", ["path", "condition"])
    'Known: path, condition.'
    """
    known = list(known)
    close = get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."


@contextmanager
def interrupts_as_such() -> Iterator[Callable[[], None]]:
    """Raise Ctrl-C as `KeyboardInterrupt`, even from compiled code, which reports it as another error.

    NumPy asking a path for its text, for one, makes a `SystemError` of it, and a reader then an unreadable file. In a
    destructor it is lost altogether: what is yielded raises one that was.
    """
    handler, lost = signal.getsignal(signal.SIGINT), False
    report = sys.unraisablehook

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal lost
        lost = True
        if callable(handler):
            handler(number, frame)

    def report_others(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            report(unraisable)

    def raise_lost() -> None:
        if lost:
            raise KeyboardInterrupt

    # only the main thread may; an ignored signal, as of a shell's background jobs, stays ignored
    noting = callable(handler) and threading.current_thread() is threading.main_thread()
    if noting:
        signal.signal(signal.SIGINT, note)
        sys.unraisablehook = report_others
    try:
        yield raise_lost
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            cause = cause.__cause__
        raise
    finally:
        if noting and signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, handler)
        if sys.unraisablehook is report_others:
            sys.unraisablehook = report
