"""Several comparisons in one table, their p-values corrected for their number."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import scipy.stats
from jaxtyping import Float

from larscope._errors import LarscopeError
from larscope._statistics.comparison import Comparison, compare_pairs
from larscope._statistics.groups import Groups, group_members
from larscope._statistics.pairs import PairDistances


@dataclass(frozen=True)
class Contrast:
    """One row of a table of comparisons, its p-value corrected for the number of rows in three ways."""

    first: str
    second: str
    comparison: Comparison
    pvalue_bonferroni: float
    pvalue_holm: float
    pvalue_fdr: float


def contrast_table(
    pairs: PairDistances,
    groups: Groups,
    contrasts: Sequence[tuple[str, str]] | None = None,
    block: Sequence[Hashable] | None = None,
    subject: Sequence[Hashable] | None = None,
    n_permutations: int = 9999,
    seed: int = 0,
) -> list[Contrast]:
    """Compare several pairs of groups of runs, as the paper's tables do, and correct for their number.

    Groups may overlap each other; the two groups of one contrast may not.

    Parameters
    ----------
    pairs
        From `swap_deltas` or `influence_distances`, over all runs.
    groups
        For each group's name, which runs are in it (`larscope._statistics.groups` makes them from a session table).
    contrasts
        Pairs of group names; all pairs when left out.
    block, subject, n_permutations, seed
        As in `coefficient_swap_test`.

    Returns
    -------
    table
        One `Contrast` a pair of groups: permutation p-values after Bonferroni, Holm (both familywise error) and
        Benjamini-Hochberg (false discovery rate).

    Raises
    ------
    LarscopeError
        If a contrast names an unknown group, or two groups that share a run.

    Examples
    --------
    >>> from larscope._statistics.influences import influence_distances
    >>> rng = np.random.default_rng(2)
    >>> coefs = rng.normal(0, 0.05, (15, 1, 4, 4))
    >>> coefs[10:, 0, :, 0] += 0.5
    >>> day = np.repeat([1, 2, 3], 5)
    >>> table = contrast_table(influence_distances(coefs), {f"day {d}": day == d for d in (1, 2, 3)})
    >>> [(row.first, row.second, round(row.pvalue_holm, 3)) for row in table]
    [('day 1', 'day 2', 0.262), ('day 1', 'day 3', 0.024), ('day 2', 'day 3', 0.024)]
    """
    chosen = list(combinations(groups, 2)) if contrasts is None else list(contrasts)
    results = {}
    for first, second in chosen:
        runs, names = group_members(groups, first, second, len(pairs.value))
        inside = [None if c is None else [c[run] for run in runs] for c in (block, subject)]
        results[first, second] = compare_pairs(pairs.of(runs), names, inside[0], inside[1], n_permutations, seed)
    return correct_contrasts(results)


def correct_contrasts(comparisons: Mapping[tuple[str, str], Comparison]) -> list[Contrast]:
    """Correct the p-values of several comparisons for their number: Bonferroni, Holm and Benjamini-Hochberg.

    Parameters
    ----------
    comparisons
        For each pair of group names, its comparison.

    Raises
    ------
    LarscopeError
        If there is nothing to correct.

    Examples
    --------
    >>> x = np.array([0.0, 0.1, 0.2, 5.0, 5.1, 5.3])
    >>> pairs = PairDistances((x[:, None] - x) ** 2, None, symmetric=True)
    >>> test = compare_pairs(pairs, list("aaabbb"), warn=False)
    >>> [round(row.pvalue_holm, 3) for row in correct_contrasts({("a", "b"): test, ("a", "c"): test})]
    [0.2, 0.2]
    """
    if not comparisons:
        raise LarscopeError("A table of comparisons needs at least one pair of groups: got none. Name two groups.")
    p = np.array([comparison.pvalue for comparison in comparisons.values()])
    corrected = zip(_bonferroni(p), _holm(p), scipy.stats.false_discovery_control(p), strict=True)
    return [
        Contrast(first, second, comparison, *map(float, row))
        for ((first, second), comparison), row in zip(comparisons.items(), corrected, strict=True)
    ]


def _bonferroni(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    return np.asarray(np.minimum(p * len(p), 1))


def _holm(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1)
    return corrected
