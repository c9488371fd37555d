"""Restricted permutations, against brute force over itertools, counting formulas and scikit-bio."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from larscope._errors import LarscopeError
from larscope._statistics.permutation import (
    comparable_pairs,
    exchangeable_units,
    max_t,
    permute_labels,
    pvalue,
)


def brute_force(condition, trades):
    """All distinct labelings reached by reordering runs such that `trades(order)` holds."""
    n = len(condition)
    return {tuple(condition[i] for i in order) for order in itertools.permutations(range(n)) if trades(order)}


def as_names(labelings):
    names = labelings.units.conditions
    return [tuple(names[code] for code in row) for row in labelings.labels]


def test_free_permutation_visits_every_labeling_once():
    condition = list("aabbbc")
    labelings = permute_labels(exchangeable_units(condition))
    found = as_names(labelings)
    assert found[0] == tuple(condition)
    assert len(found) == len(set(found)) == math.factorial(6) // (2 * 6 * 1)
    assert set(found) == brute_force(condition, lambda order: True)


def test_labels_stay_within_blocks_when_conditions_vary_within():
    condition, block = list("ababba"), [1, 1, 1, 2, 2, 2]
    labelings = permute_labels(exchangeable_units(condition, block))
    expected = brute_force(condition, lambda order: all(block[i] == block[j] for i, j in enumerate(order)))
    assert set(as_names(labelings)) == expected
    assert "over runs" in labelings.units.description
    assert "within each of 2 blocks" in labelings.units.description


def test_whole_blocks_trade_when_conditions_are_constant_within():
    condition, block = list("aaabbb"), [1, 1, 2, 3, 4, 4]  # blocks of unequal size
    labelings = permute_labels(exchangeable_units(condition, block))
    expected = set()
    for blocks in itertools.combinations([1, 2, 3, 4], 2):
        expected.add(tuple("a" if b in blocks else "b" for b in block))
    assert set(as_names(labelings)) == expected
    assert "whole blocks (2 a, 2 b): 6 labelings" in labelings.units.description


def test_runs_trade_within_subjects():
    condition, subject = list("abbaab"), list("xxxyyy")
    labelings = permute_labels(exchangeable_units(condition, subject=subject))
    expected = brute_force(condition, lambda order: all(subject[i] == subject[j] for i, j in enumerate(order)))
    assert set(as_names(labelings)) == expected
    assert "within each of 2 subjects" in labelings.units.description


def test_whole_blocks_trade_within_subjects():
    condition = list("aabb" * 2)
    block = [1, 1, 2, 2] * 2  # the same names under two subjects: four blocks
    subject = list("xxxxyyyy")
    units = exchangeable_units(condition, block, subject)
    assert units.n_labelings == 4
    assert units.n_symmetric == 2
    assert len(np.unique(units.unit)) == 4


def test_whole_subjects_trade_when_conditions_are_constant_within():
    units = exchangeable_units(list("aaaabbbb"), subject=list("wwxxyyzz"))
    assert units.n_labelings == 6
    assert "whole subjects (2 a, 2 b)" in units.description


def test_a_mixed_design_permutes_within_blocks():
    units = exchangeable_units(list("aaab"), block=[1, 1, 2, 2])
    assert units.n_labelings == 2


@pytest.mark.parametrize(
    ("condition", "block", "smallest"),
    [
        ("aabb", None, 2 / 6),
        ("aaabb", None, 1 / 10),  # unequal groups cannot swap names
        ("aaaabbbb", None, 2 / 70),
        ("aaaabbbb", [1, 1, 2, 2, 3, 3, 4, 4], 2 / 6),
        ("abab", [1, 1, 2, 2], 2 / 4),
        ("abaabb", [1, 1, 2, 2, 2, 2], 2 / 12),
        ("aabbb" + "aaabb", [1] * 5 + [2] * 5, 1 / 100),  # sizes swap in no block alone
        ("aabbcc", None, 6 / 90),
        ("aabbccc", None, 2 / 210),
    ],
)
def test_smallest_pvalue_counts_the_swap_symmetry(condition, block, smallest):
    labelings = permute_labels(exchangeable_units(list(condition), block))
    assert labelings.exact
    assert labelings.min_pvalue == pytest.approx(smallest)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), min_size=3, max_size=8), st.randoms())
def test_smallest_pvalue_is_reached_and_never_undercut(runs, random):
    """Brute force: over all labelings, how many give the observed partition into conditions?"""
    condition, block = zip(*runs, strict=True)
    if len(set(condition)) < 2:
        return
    labelings = permute_labels(exchangeable_units(condition, block))

    def partition(row):
        return frozenset(frozenset(np.flatnonzero(row == c)) for c in np.unique(row))

    same = sum(partition(row) == partition(labelings.labels[0]) for row in labelings.labels)
    assert labelings.min_pvalue == pytest.approx(same / len(labelings.labels))


def test_counts_do_not_overflow():
    units = exchangeable_units(["a"] * 300 + ["b"] * 300)
    assert units.n_labelings == math.comb(600, 300)
    assert permute_labels(units, n_permutations=99).min_pvalue == 1 / 100


def test_enumerates_up_to_ten_thousand_and_draws_beyond():
    assert len(permute_labels(exchangeable_units("a" * 7 + "b" * 8)).labels) == math.comb(15, 7)
    drawn = permute_labels(exchangeable_units("a" * 8 + "b" * 8), n_permutations=500, seed=3)
    assert not drawn.exact
    assert len(drawn.labels) == 501
    assert (drawn.labels[0] == [0] * 8 + [1] * 8).all()
    assert (drawn.labels.sum(axis=1) == 8).all()
    again = permute_labels(exchangeable_units("a" * 8 + "b" * 8), n_permutations=500, seed=3)
    np.testing.assert_array_equal(drawn.labels, again.labels)


def test_drawn_labelings_are_uniform():
    units = exchangeable_units("ab" * 10, block=np.repeat(range(10), 2).tolist())
    labelings = permute_labels(units)
    assert labelings.exact  # 2^10
    units = exchangeable_units("ab" * 15, block=np.repeat(range(15), 2).tolist())
    drawn = permute_labels(units, n_permutations=4000).labels[1:]
    assert not permute_labels(units, n_permutations=10).exact
    assert (drawn.reshape(-1, 15, 2).sum(axis=2) == 1).all()
    assert abs(drawn[:, ::2].mean(axis=0) - 0.5).max() < 4 * 0.5 / np.sqrt(4000)


def test_pvalue_counts_the_observed_labeling_and_ignores_rounding():
    assert pvalue(np.array([1.0, 0.0, 0.0, 0.0])) == 0.25
    assert pvalue(np.array([0.1 + 0.2, 0.3, 0.0, 0.0])) == 0.5


def test_pairs_of_one_block_are_not_compared():
    units = exchangeable_units(list("aabb"), block=[1, 1, 2, 2])  # one block a side: any two runs
    assert comparable_pairs(units)[0].tolist() == [False, True, True, True]
    units = exchangeable_units(list("aaabb"), block=[1, 1, 4, 2, 3])
    assert comparable_pairs(units)[0].tolist() == [False, False, True, True, True]


def test_pairs_are_compared_within_strata_or_for_matched_pairs_across():
    units = exchangeable_units(list("aabbaabb"), block=[1] * 4 + [2] * 4)
    assert comparable_pairs(units)[0].tolist() == [False, True, True, True] + [False] * 4
    units = exchangeable_units(list("abab"), block=[1, 1, 2, 2])
    assert comparable_pairs(units)[0].tolist() == [False, False, True, True]


def test_max_t_equals_brute_force():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(7, 3, 2))
    condition = np.array(list("aaabbbb"))
    test = max_t(values, permute_labels(exchangeable_units(condition.tolist())), chunk=4)
    spread = values.std(axis=0)
    standard = values / (spread + np.median(spread))

    def difference(first):
        rest = [run for run in range(7) if run not in first]
        return standard[list(first)].mean(axis=0) - standard[rest].mean(axis=0)

    largest = np.array([abs(difference(first)).max() for first in itertools.combinations(range(7), 3)])
    expected = np.mean(largest[:, None, None] >= abs(difference((0, 1, 2))) - 1e-9, axis=0)
    np.testing.assert_allclose(test.pvalue, expected)
    np.testing.assert_allclose(test.difference, values[:3].mean(axis=0) - values[3:].mean(axis=0))
    assert test.pvalue.min() >= test.min_pvalue


def test_max_t_orders_positions_as_student_t_does():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(12, 50))
    values /= values.std(axis=0)  # equal spreads: the offset then scales every position alike
    test = max_t(values, permute_labels(exchangeable_units("a" * 5 + "b" * 7)))
    student = scipy.stats.ttest_ind(values[:5], values[5:]).statistic
    np.testing.assert_array_equal(np.argsort(test.statistic), np.argsort(student))


def test_max_t_controls_the_familywise_error_under_subject_offsets():
    """Simulated maps without a difference, whose subjects differ a lot and hold unequal shares of conditions."""
    rng = np.random.default_rng(3)
    condition, subject = list("aaabbabbbb"), list("xxxxxyyyyy")
    labelings = permute_labels(exchangeable_units(condition, subject=subject))
    offsets = np.array([0.0] * 5 + [10.0] * 5)[:, None]
    rejected = [(max_t(offsets + rng.normal(size=(10, 30)), labelings).pvalue <= 0.1).any() for _ in range(300)]
    assert np.mean(rejected) <= 0.1 + 3 * np.sqrt(0.09 / 300)
    assert np.mean(rejected) >= 0.03


def test_a_difference_within_strata_is_not_that_between_them():
    """Simulated: two blocks that hold unequal shares of the conditions and lie ten apart."""
    rng = np.random.default_rng(0)
    condition, block = [*"aaaaaaaabb", *"aabbbbbbbb"], [1] * 10 + [2] * 10
    truth = (np.array(condition) == "a")[:, None] * np.array([1.0, -2.0, 0.0])
    values = truth + 10 * np.array(block)[:, None] + 0.1 * rng.normal(size=(20, 3))
    test = max_t(values, permute_labels(exchangeable_units(condition, block)))
    np.testing.assert_allclose(test.difference, [1, -2, 0], atol=0.2)
    assert (np.sign(test.difference) == np.sign(test.statistic)).all()
    # a block of one condition says nothing of the difference, and changes nothing
    alone = max_t(
        np.vstack([values, values[:2] + 5]), permute_labels(exchangeable_units([*condition, *"aa"], [*block, 3, 3]))
    )
    np.testing.assert_allclose(alone.difference, [1, -2, 0], atol=0.2)


def test_the_smallest_p_value_is_reached_and_none_lies_below_it():
    values = np.array([[100.0]] + [[float(run % 3)] for run in range(19)])
    test = max_t(values, permute_labels(exchangeable_units("a" + "b" * 19)))
    assert test.pvalue[0] == test.min_pvalue == 0.05
    drawn = permute_labels(exchangeable_units("a" * 8 + "b" * 8), n_permutations=999)
    assert drawn.min_pvalue == 1 / 1000


def test_values_that_are_not_finite_are_refused():
    values = np.zeros((6, 4))
    values[2, 1] = np.nan
    with pytest.raises(LarscopeError, match="`values` must be finite: got NaN or infinite ones for run 2"):
        max_t(values, permute_labels(exchangeable_units("aaabbb")))


def test_max_t_handles_constant_positions():
    values = np.zeros((6, 4))
    test = max_t(values, permute_labels(exchangeable_units("aaabbb")))
    assert (test.pvalue == 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(condition=["a", "a"]), "at least two conditions: got .'a'. over 2 runs"),
        (dict(condition=["a", None]), "`condition` must be known for every run: got None for run 1"),
        (dict(condition=["a", "b"], block=[1.0, float("nan")]), "`block` must be known"),
        (dict(condition=["a", "b", pd.NA]), "`condition` must be known for every run: got <NA> for run 2"),
        (dict(condition=["a", "b"], subject=["x"]), "`subject` must have one entry a run: got 1 entries for 2 runs"),
    ],
)
def test_designs_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        exchangeable_units(**arguments)


def test_max_t_refuses_three_conditions_and_other_runs():
    with pytest.raises(ValueError, match="exactly two conditions"):
        max_t(np.zeros((3, 2)), permute_labels(exchangeable_units("abc")))
    with pytest.raises(ValueError, match="got 4 for 3 labeled runs"):
        max_t(np.zeros((4, 2)), permute_labels(exchangeable_units("aab")))
    with pytest.raises(ValueError, match="n_permutations"):
        permute_labels(exchangeable_units("ab"), n_permutations=0)
