"""The outcome of a comparison, from a number for every pair of runs; shared by all tests."""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from larscope._errors import LarscopeError
from larscope._statistics.pairs import (
    PairDistances,
    anosim_r,
    effect_interval,
    effect_size,
    pairs_to_test,
    permdisp_pvalue,
    permuted_statistics,
    ranksum_pvalue,
    split_pairs,
)
from larscope._statistics.permutation import comparable_pairs, exchangeable_units, permute_labels, pvalue
from larscope._statistics.pitfalls import drifts, spread_differs, streaks, unreachable


class ComparisonWarning(UserWarning):
    """A limit of the comparison, from its design or data."""


@dataclass(frozen=True)
class Comparison:
    """The outcome of comparing conditions.

    Attributes
    ----------
    conditions
        Names of the conditions, starting with the first run's.
    statistic
        mean(inter) - mean(intra), every condition counting alike, and after each block or subject within which labels
        trade is centred (see `larscope._statistics`). So with groups of different sizes, or blocks, it is not
        `inter.mean() - intra.mean()`.
    pvalue
        Share of permuted labelings whose statistic is at least as large, the observed labeling included.
    pvalue_ranksum
        The paper's: one-sided rank-sum test of inter against intra, as if pairs that share runs were independent: it
        may be far too small, or too large.
    min_pvalue
        The smallest possible `pvalue` of this design.
    n_labelings
        Number of labelings of this design.
    effect_size
        In percent. Coefficient swap: how much worse forecasts get, in percent of the run's own error,
        under coefficients from the other condition than under those of another run of the same condition.
        Influence: how much larger squared distances are between conditions than within them.
    effect_interval
        95 % jackknife interval of `effect_size` over exchangeable units, in percent; NaN with fewer than five units a
        side.
    intra, inter
        The numbers of all pairs within a condition and between conditions, as the paper's test takes them.
    intra_condition
        The condition of each pair of `intra`, as an index into `conditions`.
    permuted
        The statistic under each labeling, the observed one first: `pvalue` is the share of these that reach the first.
    anosim_r
        Clarke's ANOSIM R of the symmetrised numbers: 0 no separation, 1 every inter above every intra.
    permdisp_pvalue
        Permutation p-value for a difference in *spread* between conditions (Anderson 2006). When it is
        small, a small `pvalue` may mean that one condition varies more, not that it lies elsewhere. Approximate:
        distances to centres that are themselves estimated are not quite exchangeable, and in small or unequal groups it
        rejects too often. NaN where a condition has fewer than three runs.
    units
        Who traded labels with whom, in words.
    warnings
        Limits of the comparison, in words.
    """

    conditions: tuple[str, ...]
    statistic: float
    pvalue: float
    pvalue_ranksum: float
    min_pvalue: float
    n_labelings: int
    effect_size: float
    effect_interval: tuple[float, float]
    intra: Float[np.ndarray, " pairs_within"]
    inter: Float[np.ndarray, " pairs_between"]
    intra_condition: Int[np.ndarray, " pairs_within"]
    permuted: Float[np.ndarray, " labelings"]
    anosim_r: float
    permdisp_pvalue: float
    units: str
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        low, high = self.effect_interval
        # where no outcome could be significant, an interval would say more than the design can
        interval = f" (95 % interval {low:.1f} to {high:.1f} %)" if self.min_pvalue <= 0.05 else ""
        warned = f"; {len(self.warnings)} warnings, see `warnings`" if self.warnings else ""
        return (
            f"Comparison({' against '.join(self.conditions)}: p = {self.pvalue:.2g}, smallest possible "
            f"{self.min_pvalue:.2g} ({self.n_labelings:,} labelings); effect "
            f"{self.effect_size:.1f} %{interval}{warned})"
        )


def compare_pairs(
    pairs: PairDistances,
    condition: Sequence[Hashable],
    block: Sequence[Hashable] | None = None,
    subject: Sequence[Hashable] | None = None,
    n_permutations: int = 9999,
    seed: int = 0,
    *,
    position: Sequence[float] | None = None,
    warn: bool = True,
) -> Comparison:
    """Test whether runs differ more between conditions than within them.

    What both tests share, and what to call with distances of your own.

    Parameters
    ----------
    pairs
        A number for every pair of runs, larger where the two differ more.
    condition, block, subject, n_permutations, seed
        As in `coefficient_swap_test`.
    position
        When each run was recorded, in any unit: then conditions in streaks are warned of. If None, a drift is looked
        for in the order given.
    warn
        False to leave the warnings to the caller; they are in the result either way.

    Raises
    ------
    LarscopeError
        If no condition has two runs, the numbers of runs do not match, or a number is not finite.

    Examples
    --------
    >>> x = np.array([0.0, 0.1, 0.2, 5.0, 5.1, 5.3])
    >>> pairs = PairDistances((x[:, None] - x) ** 2, None, symmetric=True)
    >>> compare_pairs(pairs, list("aaabbb"), warn=False).warnings[0][:63]
    'With 3 a against 3 b no p-value can be below 0.1, so this desig'
    """
    units = exchangeable_units(condition, block, subject)
    if len(pairs.value) != len(units.label):
        raise LarscopeError(
            f"`condition` must have one entry a run: got {len(units.label)} entries for {len(pairs.value)} runs. "
            "Pass distances and conditions of the same runs, in the same order."
        )
    for run in np.flatnonzero(~np.isfinite(pairs.value).all(axis=1)):
        raise LarscopeError(
            f"Pairs of runs must have finite numbers: got NaN or infinite ones for run {run}. Leave this run out."
        )
    labelings = permute_labels(units, n_permutations, seed)
    intra, inter, intra_condition = split_pairs(pairs, units.label)
    if not intra.size:
        raise LarscopeError(
            f"At least one condition must have two runs: got one run of each of {units.conditions}. "
            "Without pairs within a condition there is nothing to compare with."
        )
    comparable = comparable_pairs(units)
    permuted = permuted_statistics(*pairs_to_test(pairs.value, units), labelings)
    symmetrised = (pairs.value + pairs.value.T) / 2
    shift, spread = pvalue(permuted), permdisp_pvalue(symmetrised, labelings)
    comparison = Comparison(
        conditions=units.conditions,
        statistic=float(permuted[0]),
        pvalue=shift,
        pvalue_ranksum=ranksum_pvalue(inter, intra),
        min_pvalue=labelings.min_pvalue,
        n_labelings=units.n_labelings,
        effect_size=float(effect_size(pairs, comparable, units.label[None])[0]),
        effect_interval=effect_interval(pairs, comparable, units),
        intra=intra,
        inter=inter,
        intra_condition=intra_condition,
        permuted=permuted,
        anosim_r=anosim_r(symmetrised, comparable, units.label),
        permdisp_pvalue=spread,
        units=units.description,
        warnings=unreachable(labelings)
        + spread_differs(shift, spread, labelings.min_pvalue)
        + drifts(symmetrised, labelings, position)
        + (streaks(labelings, position) if position is not None and block is None else ()),
    )
    return warned(comparison) if warn else comparison


def warned(comparison: Comparison) -> Comparison:
    """Warn of all limits of a comparison, in the name of the caller's caller."""
    for message in comparison.warnings:
        warnings.warn(message, ComparisonWarning, stacklevel=3)
    return comparison
