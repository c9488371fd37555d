"""Groups of runs: against pandas' own query, and against what must not run."""

import numpy as np
import pandas as pd
import pytest

from larscope._errors import LarscopeError
from larscope._statistics.groups import group_members, groups_by, parse_group, select_runs

TABLE = pd.DataFrame(
    {
        "condition": list("FNFNFN"),
        "block": ["a", "a", "b", "b", None, None],
        "n_frames": [100, 200, 300, 400, 500, 600],
        "frame_rate": [10.0, np.nan, 30.0, 10.0, 10.0, 10.0],
    }
)


@pytest.mark.parametrize(
    "expression",
    [
        "condition == 'F' and n_frames <= 300",
        "not (condition == 'F' or n_frames < 300)",
        "100 < n_frames <= 400 and condition != 'N'",
        "block in ['a', 'b'] and n_frames > 100",
        "condition not in ['F']",
        "frame_rate > 5 or n_frames == 100",
        "n_frames > -1 and n_frames >= 2.5e2",
    ],
)
def test_expressions_mean_what_pandas_means(expression):
    expected = TABLE.query(expression).index
    assert np.flatnonzero(select_runs(TABLE, expression)).tolist() == expected.tolist()


def test_runs_are_numbered_within_their_condition():
    assert select_runs(TABLE, "condition == 'N' and run_number <= 2").tolist() == [
        False,
        True,
        False,
        True,
        False,
        False,
    ]


def test_an_empty_cell_is_equal_to_nothing():
    assert select_runs(TABLE, "block == 'a'").sum() == 2
    assert select_runs(TABLE, "block != 'a'").sum() == 4
    assert select_runs(TABLE, "block < 'b'").sum() == 2
    assert select_runs(TABLE, "frame_rate <= 10").sum() == 4


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('touch owned')",
        "@pd.eval('1')",
        "condition.str.len() == 1",
        "condition.__class__ == 'F'",
        "n_frames ** 9 ** 9 > 1",
        "(lambda: 1)() == 1",
        "[x for x in 'ab'] == 1",
        "f'{n_frames}' == '1'",
        "condition[0] == 'F'",
        "(n_frames := 3) == 3",
        "n_frames",
        "True",
        "n_frames == None",
        "n_frames is 3",
        "condition == ['F']",
        "'F' in condition",
        "block in [['a']]",
        "",
        "condition == 'F",
        "(" * 250 + ")" * 250,
        "-" * 400 + "1 == n_frames",
        "not " * 120 + "n_frames",
        "n_frames == 1\nn_frames == 2",
        "condition == '" + "F" * 600 + "'",
    ],
)
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_nothing_else_is_evaluated(expression):
    with pytest.raises(LarscopeError):
        select_runs(TABLE, expression)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("conditon == 'F'", "Unknown column 'conditon' in .* Did you mean 'condition'?"),
        ("n_frames == '100'", "got 100 and '100'.*quotes"),
        ("condition == 'F' and n_frames + 1 > 3", r"got 'n_frames \+ 1' in"),
    ],
)
def test_a_wrong_expression_is_explained(expression, message):
    with pytest.raises(LarscopeError, match=message):
        select_runs(TABLE, expression)


def test_names_are_cut_at_the_first_equals_sign():
    assert parse_group(" early = n_frames == 100 ") == ("early", "n_frames == 100")
    for text in ("condition == 'F'", "early", "=n_frames > 1", "early="):
        with pytest.raises(LarscopeError, match="NAME=EXPRESSION"):
            parse_group(text)


def test_columns_make_groups():
    groups = groups_by(TABLE, "block")
    assert {name: np.flatnonzero(mask).tolist() for name, mask in groups.items()} == {"a": [0, 1], "b": [2, 3]}
    with pytest.raises(LarscopeError, match="Did you mean 'block'"):
        groups_by(TABLE, "blok")
    with pytest.raises(LarscopeError, match="at least two different values"):
        groups_by(TABLE.assign(subject="x"), "subject")


def test_members_come_first_group_first():
    groups = {"N": TABLE["condition"] == "N", "late": TABLE["n_frames"] > 400, "none": [False] * 6, "early": [True] * 2}
    groups["F early"] = select_runs(TABLE, "condition == 'F' and run_number == 1")
    runs, names = group_members(groups, "N", "F early", 6)
    assert runs.tolist() == [1, 3, 5, 0]
    assert names == ["N", "N", "N", "F early"]
    for first, second, message in [
        ("N", "late", "share runs.*5"),
        ("N", "nope", "Unknown group 'nope'"),
        ("N", "N", "got 'N' twice"),
        ("N", "none", "got none in 'none'"),
        ("N", "early", "got 2 entries"),
    ]:
        with pytest.raises(LarscopeError, match=message):
            group_members(groups, first, second, 6)
