"""The one exception that larscope raises on purpose, and Ctrl-C."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class LarscopeError(ValueError):
    """Something in the input must be changed by the user.

    The message has three parts: what was expected, what came (file, run, frame, shape, value), what to do.
    The command line prints it without a traceback and exits with code 2.
    """


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that points from a misspelt `name` to the nearest of the `known` ones.

    >>> suggest("conditon", ["path", "condition"])
    "Did you mean 'condition'?"
    >>> suggest("zzz", ["path", "condition"])
    'Known: path, condition.'
    """
    known = list(known)
    close = get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."


@contextmanager
def interrupts_as_such() -> Iterator[None]:
    """Raise a Ctrl-C as what it is: one that falls into a call out of compiled code comes from there as another error.

    NumPy asking a path for its text, for one, makes a `SystemError` of it, and a reader then an unreadable file.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            cause = cause.__cause__
        raise
