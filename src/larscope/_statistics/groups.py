"""Groups of runs, named by a column of the session table or by an expression over its columns.

Expressions come from command lines and from files that strangers send, so they are parsed, never evaluated as Python:
comparisons of columns with constants, joined by `and`, `or` and `not`. Nothing else is understood.
"""

import ast
import math
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from larscope._errors import LarscopeError, suggest

Groups = Mapping[str, Sequence[bool] | Bool[NDArray[np.bool_], " runs"]]
"""The runs of each group, by name."""

MAX_LENGTH = 500
"""Longest expression, so none is nested deeply enough to exhaust the parser."""

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda value, choices: value in choices,
    ast.NotIn: lambda value, choices: value not in choices,
}


def select_runs(table: pd.DataFrame, expression: str) -> Bool[NDArray[np.bool_], " runs"]:
    """Say for each run whether an expression holds.

    Parameters
    ----------
    table
        One row a run. Beside its columns, `run_number` counts the runs of each condition from 1.
    expression
        Comparisons (`==`, `!=`, `<`, `<=`, `>`, `>=`, `in`) of columns with numbers, quoted text or lists of
        these, joined by `and`, `or`, `not` and parentheses. An empty cell is equal to nothing, and neither smaller nor
        larger than anything.

    Raises
    ------
    LarscopeError
        The expression says anything else, names an unknown column, or compares text with numbers.

    Examples
    --------
    >>> table = pd.DataFrame({"condition": list("FFFN"), "block": ["a", "a", "b", "b"]})
    >>> select_runs(table, "condition == 'F' and run_number <= 2")
    array([ True,  True, False, False])
    >>> select_runs(table, "block in ['b', 'c']")
    array([False, False,  True,  True])
    """
    if len(expression) > MAX_LENGTH:
        raise LarscopeError(
            f"A group's expression has at most {MAX_LENGTH} characters: got {len(expression)}. Use shorter conditions."
        )
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise LarscopeError(
            f"A group must be an expression such as \"condition == 'F' and run_number <= 5\": got {expression!r}, "
            f"which cannot be parsed ({error}). Check quotes and parentheses."
        ) from error
    rows = _with_run_number(table).to_dict("records")
    return np.array([_holds(tree, row, expression) for row in rows], dtype=bool)


def parse_group(text: str) -> tuple[str, str]:
    """Cut `NAME=EXPRESSION` into its two parts.

    >>> parse_group("early F=condition == 'F' and run_number <= 5")
    ('early F', "condition == 'F' and run_number <= 5")
    """
    name, _, expression = (part.strip() for part in text.partition("="))
    if not name or not expression or expression.startswith("="):
        raise LarscopeError(
            f"A group must be NAME=EXPRESSION, such as \"early F=condition == 'F' and run_number <= 5\": got {text!r}. "
            "Put a name and one equals sign before the expression."
        )
    return name, expression


def groups_by(table: pd.DataFrame, column: str) -> dict[str, Bool[NDArray[np.bool_], " runs"]]:
    """Make one group of each value of a column, in order of appearance; runs with an empty cell are in none.

    >>> groups_by(pd.DataFrame({"condition": list("FFN")}), "condition")
    {'F': array([ True,  True, False]), 'N': array([False, False,  True])}
    """
    if column not in table:
        raise LarscopeError(f"Unknown column {column!r} in the session table. {suggest(column, table.columns)}")
    values = [None if _is_missing(value) else value for value in table[column]]
    names = [value for value in dict.fromkeys(values) if value is not None]
    if len(names) < 2:
        raise LarscopeError(
            f"Groups need a column with at least two different values: got {names} in column {column!r}. "
            "Choose another column, or write groups as expressions."
        )
    return {str(name): np.array([value == name for value in values]) for name in names}


def group_members(
    groups: Groups, first: str, second: str, n_runs: int, noun: str = "group"
) -> tuple[Int[NDArray[np.int64], " chosen"], list[str]]:
    """Return the runs of two groups, the first group's first, and the name of each run's group.

    Raises
    ------
    LarscopeError
        A group is unknown, empty or of the wrong length, or the two are the same or share runs. The message calls them
        by `noun`.

    Examples
    --------
    >>> group_members({"F": [False, True, True], "N": [True, False, False]}, "F", "N", n_runs=3)
    (array([1, 2, 0]), ['F', 'F', 'N'])
    """
    for name in (first, second):
        if name not in groups:
            raise LarscopeError(f"Unknown {noun} {name!r}. {suggest(name, groups)}")
        if len(groups[name]) != n_runs:
            raise LarscopeError(
                f"A group must say True or False for each of the {n_runs} runs: got {len(groups[name])} entries for "
                f"{name!r}. Pass one entry a run, in the order of the runs."
            )
        if not np.any(groups[name]):
            raise LarscopeError(f"A group needs at least one run: got none in {name!r}. Change its definition.")
    if first == second:
        raise LarscopeError(f"Two different {noun}s are compared: got {first!r} twice. Name another one.")
    inside = [np.flatnonzero(np.asarray(groups[name], bool)) for name in (first, second)]
    shared = np.intersect1d(inside[0], inside[1])
    if shared.size:
        raise LarscopeError(
            f"The two groups of a contrast must not share runs: got {first!r} and {second!r} with runs "
            f"{shared.tolist()} in both. Choose groups without common runs."
        )
    return np.concatenate(inside), [first] * len(inside[0]) + [second] * len(inside[1])


def _with_run_number(table: pd.DataFrame) -> pd.DataFrame:
    if "condition" not in table:
        return table
    return table.assign(run_number=table.groupby("condition").cumcount() + 1)


def _holds(node: ast.expr, row: Mapping[Hashable, Any], expression: str) -> bool:
    """Evaluate a condition on one run."""
    match node:
        case ast.BoolOp(op=ast.And()):
            return all([_holds(part, row, expression) for part in node.values])
        case ast.BoolOp(op=ast.Or()):
            return any([_holds(part, row, expression) for part in node.values])
        case ast.UnaryOp(op=ast.Not()):
            return not _holds(node.operand, row, expression)
        case ast.Compare():
            values = [_value(part, row, expression) for part in (node.left, *node.comparators)]
            steps = zip(node.ops, values, values[1:], strict=False)
            return all([_compare(op, left, right, expression) for op, left, right in steps])
        case _:
            raise _not_understood(node, expression)


def _value(node: ast.expr, row: Mapping[Hashable, Any], expression: str) -> Any:
    """Return a column's cell, a constant, or a list of constants."""
    match node:
        case ast.Name():
            if node.id not in row:
                known = [str(name) for name in row]
                raise LarscopeError(f"Unknown column {node.id!r} in {expression!r}. {suggest(node.id, known)}")
            return row[node.id]
        case ast.Constant(value=str() | int() | float()):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List() | ast.Tuple():
            return [_value(part, row, expression) for part in node.elts]
        case _:
            raise _not_understood(node, expression)


def _compare(op: ast.cmpop, left: Any, right: Any, expression: str) -> bool:
    if type(op) not in COMPARISONS:
        raise LarscopeError(f"A group's expression knows {_known()}: got `is` in {expression!r}. Use == instead.")
    membership = isinstance(op, ast.In | ast.NotIn)
    if membership != isinstance(right, list) or isinstance(left, list):
        raise LarscopeError(f"Lists go with `in`, and only there: got {expression!r}. Write column in ['a', 'b'].")
    if _is_missing(left) or (not membership and _is_missing(right)):
        return isinstance(op, ast.NotEq | ast.NotIn)
    for other in right if membership else [right]:
        if isinstance(left, str) != isinstance(other, str):
            raise LarscopeError(
                f"Text must be compared with text, and numbers with numbers: got {left!r} and {other!r} in "
                f"{expression!r}. Put quotes around text, and none around numbers."
            )
    return bool(COMPARISONS[type(op)](left, right))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _known() -> str:
    return "==, !=, <, <=, >, >=, in, and, or, not"


def _not_understood(node: ast.expr, expression: str) -> LarscopeError:
    got = ast.get_source_segment(expression.strip(), node)
    return LarscopeError(
        f"A group's expression compares columns with constants ({_known()}): got {got!r} in {expression!r}. "
        "Rewrite it; nothing else is evaluated."
    )
