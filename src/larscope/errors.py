"""The one exception that larscope raises on purpose."""

from collections.abc import Iterable
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
