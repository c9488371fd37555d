r"""Compare conditions: are their dynamics different, and by how much.

Section 2.3 of arXiv 2603.02899, on arrays: latent series and their VAR coefficients, one of each a run.

Both tests start from a number for every pair of runs (`swap_deltas`, `influence_distances`), large where two
runs differ, and ask whether pairs *between* conditions (inter) differ more than pairs *within* one (intra):

.. math:: T = mean(inter) - mean(intra)

where mean(intra) is the average of the conditions' own means, each condition counting alike. For squared
distances T then estimates the squared distance between the conditions' centres whatever their spreads; pooling
all pairs, the larger condition would dominate, and with unequal spreads T would not be zero without a
difference (Anderson et al. 2017).

Pairs are of runs that only chance and condition can set apart: `larscope.permutation.comparable_pairs`.

Pairs that share a run are not independent, so T is compared with its values under permuted condition labels
(`larscope.permutation`). The paper's rank-sum test over pairs, which treats them as independent, is
reported beside it.
"""

import hashlib
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
import scipy.sparse
import scipy.stats
from jaxtyping import Bool, Float, Int

from larscope.errors import LarscopeError
from larscope.groups import Groups, group_members
from larscope.influence import Coefs, check_coefs, influence
from larscope.permutation import (
    ExchangeableUnits,
    Labelings,
    comparable_pairs,
    exchangeable_units,
    permute_labels,
    pvalue,
    resample_units,
)

__all__ = [
    "Comparison",
    "ComparisonWarning",
    "Contrast",
    "PairDistances",
    "coefficient_swap_test",
    "compare_pairs",
    "condition_imbalances",
    "contrast_table",
    "correct_contrasts",
    "influence_distances",
    "influence_test",
    "swap_deltas",
    "swap_errors",
]

N_RESAMPLES = 2000
"""Bootstrap samples behind an effect size's interval."""


class ComparisonWarning(UserWarning):
    """Something about the design or the data limits what a comparison can say."""


@dataclass(frozen=True)
class PairDistances:
    """How much every two runs differ.

    Attributes
    ----------
    value
        The number that is tested, for series s (row) and run r (column); zero on the diagonal.
    relative
        Excess error as a share of the run's own error, from which the effect size is computed; None for
        influence distances, whose effect size is relative to the distances within conditions.
    symmetric
        True when (s, r) and (r, s) are the same number, so that a pair counts once.
    """

    value: Float[np.ndarray, "runs runs"]
    relative: Float[np.ndarray, "runs runs"] | None
    symmetric: bool

    def of(self, runs: Int[np.ndarray, " chosen"]) -> "PairDistances":
        """Keep some of the runs."""
        block = np.ix_(runs, runs)
        relative = None if self.relative is None else self.relative[block]
        return PairDistances(self.value[block], relative, self.symmetric)


@dataclass(frozen=True)
class Comparison:
    """The outcome of comparing conditions.

    Attributes
    ----------
    conditions
        Names of the conditions, that of the first run first.
    statistic
        mean(inter) - mean(intra), every condition counting alike (see the top of this file). So with groups of
        different sizes it is not `inter.mean() - intra.mean()`.
    pvalue
        Share of permuted labelings whose statistic is at least as large, the observed labeling included.
    pvalue_ranksum
        The paper's: one-sided rank-sum test of inter against intra. Too small when runs share blocks or noise.
    min_pvalue
        The smallest `pvalue` that this design can reach.
    n_labelings
        Number of labelings that the design allows.
    effect_size
        In percent. Coefficient swap: how much worse forecasts get, in percent of the run's own error,
        under coefficients from the other condition than under those of another run of the same condition.
        Influence: how much larger squared distances are between conditions than within them.
    effect_interval
        95 % percentile bootstrap interval of `effect_size` over exchangeable units, in percent.
    intra, inter
        The numbers of all pairs within a condition and between conditions, as the paper's test takes them.
    intra_condition
        The condition that each pair of `intra` lies within, as an index into `conditions`.
    permuted
        The statistic under each labeling, the observed one first: `pvalue` is the share of these that reach the first.
    anosim_r
        Clarke's ANOSIM R of the symmetrised numbers: 0 no separation, 1 every inter above every intra.
    permdisp_pvalue
        Permutation p-value for a difference in *spread* between conditions (Anderson 2006). When it is
        small, a small `pvalue` may mean that one condition varies more, not that it lies elsewhere.
    units
        Who traded labels with whom, in words.
    warnings
        What limits the comparison, in words.
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


@dataclass(frozen=True)
class Contrast:
    """One row of a table of comparisons, its p-value corrected for the number of rows in three ways."""

    first: str
    second: str
    comparison: Comparison
    pvalue_bonferroni: float
    pvalue_holm: float
    pvalue_fdr: float


# --------------------------------------------------------------------------------------------- the two tests


def coefficient_swap_test(
    latents: Sequence[Float[np.ndarray, "_frames K"]],
    coefs: Coefs,
    condition: Sequence[Hashable],
    block: Sequence[Hashable] | None = None,
    relative: bool = True,
    center: bool = True,
    n_permutations: int = 9999,
    seed: int = 0,
    *,
    subject: Sequence[Hashable] | None = None,
    equal_length: bool = True,
    scale: Literal["series", "latent"] = "series",
) -> Comparison:
    r"""Test whether forecasts get worse under coefficients from the other condition.

    With E[s, r] the error of series s under the coefficients of run r (`swap_errors`),

    .. math::
        \Delta[s, r] = E[s, r] / E[s, s] - 1 \quad\text{(default)}, \qquad
        \Delta[s, r] = E[s, r] - E[s, s] \quad\text{(relative=False, section 2.3)}

    over ordered pairs of different runs. A raw Delta grows with the noise of the run it is measured on; the
    relative one does not.

    Parameters
    ----------
    latents
        One series (frames, K) a run.
    coefs
        One array (order, K, K) a run, fitted to that run alone, on the same number of frames in every run;
        `SparseCoefficients` will do.
    condition, block, subject
        Design of the session, one entry a run: see `larscope.permutation.exchangeable_units`.
    relative
        False for the paper's Delta.
    center
        Subtract each series' mean over time, as the fit did.
    n_permutations, seed
        How many labelings to draw where there are more than 10,000, and from which seed.
    equal_length
        Measure every run on as many frames as the shortest one has.
    scale
        The `scale` of the fit: see `larscope.SparseVAR`.

    Returns
    -------
    comparison
        See `Comparison`.

    Raises
    ------
    LarscopeError
        If shapes do not match, two runs of a condition have identical coefficients, or no condition has two
        runs.

    Warns
    -----
    ComparisonWarning
        If the design cannot reach p = 0.05, or if run length or signal-to-noise differ by condition.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> coefs = np.array([[[[0.5, a], [0.0, 0.5]]] for a in rng.normal([0.8] * 5 + [-0.8] * 5, 0.05)])
    >>> latents = np.zeros((10, 200, 2))
    >>> for z, coef in zip(latents, coefs):
    ...     for t in range(1, 200):
    ...         z[t] = coef[0] @ z[t - 1] + rng.normal(size=2)
    >>> test = coefficient_swap_test(latents, coefs, ["a"] * 5 + ["b"] * 5)
    >>> test.units, round(test.pvalue, 3)
    ('Labels are permuted over runs (5 a, 5 b): 252 labelings.', 0.008)
    """
    units = exchangeable_units(condition, block, subject)
    check_coefs(coefs, len(units.label))
    _check_fitted_separately(coefs, units)
    _check_latents(latents, coefs)
    pairs = swap_deltas(latents, coefs, relative, center, equal_length, scale)
    found = compare_pairs(pairs, condition, block, subject, n_permutations, seed, warn=False)
    noticed = condition_imbalances(latents, condition, block, subject) + _silent_runs(coefs)
    return _warned(replace(found, warnings=found.warnings + noticed))


def influence_test(
    coefs: Coefs,
    condition: Sequence[Hashable],
    block: Sequence[Hashable] | None = None,
    direction: Literal["outflow", "inflow"] = "outflow",
    n_permutations: int = 9999,
    seed: int = 0,
    *,
    subject: Sequence[Hashable] | None = None,
    exclude_radius: float = 0.0,
    grid: tuple[int, int] | None = None,
) -> Comparison:
    r"""Test whether influence vectors differ between conditions.

    :math:`\|c_s - c_r\|^2` over unordered pairs of runs, with c from `larscope.influence.influence`
    (section 2.4).

    Parameters
    ----------
    coefs
        One array (order, K, K) a run, fitted to that run alone, on the same number of frames in every run;
        `SparseCoefficients` will do.
    condition, block, subject
        Design of the session, one entry a run: see `larscope.permutation.exchangeable_units`.
    direction, exclude_radius, grid
        What counts as influence: see `larscope.influence.influence`.
    n_permutations, seed
        How many labelings to draw where there are more than 10,000, and from which seed.

    Returns
    -------
    comparison
        See `Comparison`.

    Raises
    ------
    LarscopeError
        If shapes do not match, two runs of a condition have identical coefficients, or no condition has two
        runs.

    Warns
    -----
    ComparisonWarning
        If the design cannot reach p = 0.05.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> coefs = rng.normal(0, 0.05, (10, 1, 4, 4))
    >>> coefs[5:, 0, :, 0] += 0.5
    >>> round(influence_test(coefs, ["a"] * 5 + ["b"] * 5).pvalue, 3)
    0.008
    """
    units = exchangeable_units(condition, block, subject)
    check_coefs(coefs, len(units.label))
    _check_fitted_separately(coefs, units)
    pairs = influence_distances(coefs, direction, exclude_radius, grid)
    found = compare_pairs(pairs, condition, block, subject, n_permutations, seed, warn=False)
    return _warned(replace(found, warnings=found.warnings + _silent_runs(coefs)))


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
        For each group's name, which runs are in it (`larscope.groups` makes them from a session table).
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


# ------------------------------------------------------------------------------------------ pairs of runs


def swap_errors(
    latents: Sequence[Float[np.ndarray, "_frames K"]],
    coefs: Coefs,
    center: bool = True,
    equal_length: bool = True,
    scale: Literal["series", "latent"] = "series",
) -> Float[np.ndarray, "runs runs"]:
    r"""Forecast every run with the coefficients of every run.

    .. math::
        E[s, r] = \frac{1}{T - p} \sum_{t=p+1}^{T} \| z^{(s)}_t - \hat z_t \|^2, \qquad
        \hat z_t = \sigma_z \sum_{k=1}^{p} A^{(r)}_k \, z^{(s)}_{t-k} / \sigma_z

    With one scale :math:`\sigma_z` for the whole series it cancels; with one for each latent
    (`scale="latent"`, if the fit had it) it does not.

    Parameters
    ----------
    latents
        One series (frames, K) a run; a frame that is NaN in all latents is missing, and errors leave it out.
    coefs
        One array (order, K, K) a run.
    center
        Subtract each series' mean over time first.
    equal_length
        Keep of every run as many frames, from its start, as the shortest one has.
    scale
        The `scale` of the fit.

    Returns
    -------
    errors
        E[s, r], in squared units of the latents.

    Raises
    ------
    LarscopeError
        If shapes do not match or a run has too few frames.

    Examples
    --------
    >>> latents = [np.array([[1.0], [2.0], [4.0]]), np.array([[1.0], [1.0], [1.0]])]
    >>> coefs = [np.array([[[2.0]]]), np.array([[[1.0]]])]
    >>> swap_errors(latents, coefs, center=False)
    array([[0. , 2.5],
           [1. , 0. ]])
    """
    _check_latents(latents, coefs)
    order = len(coefs[0])
    series_of = equally_long(latents) if equal_length else latents
    matrices = [_coef_matrix(coef) for coef in coefs]
    errors = np.empty((len(latents), len(coefs)))
    for s, latent in enumerate(series_of):
        series = np.asarray(latent, float).T
        if center:
            series = series - np.nanmean(series, axis=1, keepdims=True)
        sigma = _root_mean_square(series) if scale == "latent" else 1.0
        lags = _lagged(series / sigma, order)
        there = np.isfinite(lags).all(axis=0) & np.isfinite(series[:, order:]).all(axis=0)
        lags, target = lags[:, there], series[:, order:][:, there]
        for r, matrix in enumerate(matrices):
            residual = target - sigma * (matrix @ lags)
            errors[s, r] = np.vdot(residual, residual) / target.shape[1]
    return errors


def equally_long(latents: Sequence[Float[np.ndarray, "_frames K"]]) -> list[Float[np.ndarray, "_frames K"]]:
    """Cut every series to as many frames, from its start, as the shortest has: not counting missing (NaN) ones.

    >>> [len(z) for z in equally_long([np.array([[1.0], [2.0]]), np.array([[1.0], [np.nan], [2.0], [3.0]])])]
    [2, 3]
    """
    there = [np.cumsum(np.isfinite(latent).all(axis=1)) for latent in latents]
    shortest = min(count[-1] for count in there)
    return [latent[: int(np.searchsorted(count, shortest)) + 1] for latent, count in zip(latents, there, strict=True)]


def swap_deltas(
    latents: Sequence[Float[np.ndarray, "_frames K"]],
    coefs: Coefs,
    relative: bool = True,
    center: bool = True,
    equal_length: bool = True,
    scale: Literal["series", "latent"] = "series",
) -> PairDistances:
    """Excess error of every run under the coefficients of every run, relative to its own error or raw.

    See `coefficient_swap_test` for the formula and `swap_errors` for the parameters.

    Raises
    ------
    LarscopeError
        If a run is forecast without error by its own coefficients, so that nothing can be relative to it.

    Examples
    --------
    >>> latents = [np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [1.0], [2.0]])]
    >>> coefs = [np.array([[[2.0]]]), np.array([[[1.0]]])]
    >>> swap_deltas(latents, coefs, center=False).value
    array([[0., 1.],
           [0., 0.]])
    """
    errors = swap_errors(latents, coefs, center, equal_length, scale)
    own = errors.diagonal()[:, None]
    if (own <= 0).any():
        run = int(np.argmin(own))
        raise LarscopeError(
            f"Every run must vary beyond what its coefficients forecast: got error {own[run, 0]} in run {run}. "
            "Leave the run out if its latents are constant, or check that they are those of the fit."
        )
    excess = errors - own
    return PairDistances(excess / own if relative else excess, excess / own, symmetric=False)


def influence_distances(
    coefs: Coefs,
    direction: Literal["outflow", "inflow"] = "outflow",
    exclude_radius: float = 0.0,
    grid: tuple[int, int] | None = None,
) -> PairDistances:
    """Squared Euclidean distances between the runs' influence vectors.

    Parameters as in `larscope.influence.influence`, for one array (order, K, K) a run.

    Examples
    --------
    >>> coefs = np.zeros((2, 1, 2, 2))
    >>> coefs[1, 0, 1, 0] = 3.0
    >>> influence_distances(coefs).value
    array([[0., 9.],
           [9., 0.]])
    """
    c = np.stack([influence(coef, direction, exclude_radius, grid) for coef in coefs])
    distance = np.stack([((c - c_r) ** 2).sum(axis=1) for c_r in c])
    return PairDistances(distance, None, symmetric=True)


def compare_pairs(
    pairs: PairDistances,
    condition: Sequence[Hashable],
    block: Sequence[Hashable] | None = None,
    subject: Sequence[Hashable] | None = None,
    n_permutations: int = 9999,
    seed: int = 0,
    *,
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
    warn
        False to leave the warnings to the caller; they are in the result either way.

    Raises
    ------
    LarscopeError
        If no condition has two runs, or the numbers of runs do not match.

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
    labelings = permute_labels(units, n_permutations, seed)
    intra, inter, intra_condition = _split_pairs(pairs, units.label)
    if not intra.size:
        raise LarscopeError(
            f"At least one condition must have two runs: got one run of each of {units.conditions}. "
            "Without pairs within a condition there is nothing to compare with."
        )
    comparable = comparable_pairs(units)
    permuted = np.subtract(*_mean_inter_and_intra(pairs.value, comparable, labelings.labels))
    symmetrised = (pairs.value + pairs.value.T) / 2
    comparison = Comparison(
        conditions=units.conditions,
        statistic=float(permuted[0]),
        pvalue=pvalue(permuted),
        pvalue_ranksum=_ranksum_pvalue(inter, intra),
        min_pvalue=labelings.min_pvalue,
        n_labelings=units.n_labelings,
        effect_size=float(_effect(pairs, comparable, units.label[None])[0]),
        effect_interval=_effect_interval(pairs, comparable, units, seed),
        intra=intra,
        inter=inter,
        intra_condition=intra_condition,
        permuted=permuted,
        anosim_r=_anosim_r(symmetrised, comparable, units.label),
        permdisp_pvalue=_permdisp_pvalue(symmetrised, labelings),
        units=units.description,
        warnings=_unreachable(labelings),
    )
    comparison = replace(comparison, warnings=comparison.warnings + _spread_differs(comparison))
    return _warned(comparison) if warn else comparison


# ------------------------------------------------------------------------------------- what could mislead


def condition_imbalances(
    latents: Sequence[Float[np.ndarray, "_frames K"]],
    condition: Sequence[Hashable],
    block: Sequence[Hashable] | None = None,
    subject: Sequence[Hashable] | None = None,
) -> tuple[str, ...]:
    """Say where conditions differ in run length or signal-to-noise, either of which changes lasso coefficients.

    Signal-to-noise of a run: power of the centred latents over their noise, minus one, where the noise is the
    power that the upper half of the frequencies would have if it filled the whole spectrum. It does not
    change when a series is rescaled. It is reported when the conditions' geometric means differ by more than a
    fifth and more than permuted labels explain (p <= 0.05, or the smallest that the design can reach).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> latents = [rng.normal(size=(n, 3)) for n in (100, 100, 200, 200)]
    >>> condition_imbalances(latents, ["a", "a", "b", "b"])[0][:49]
    'Runs differ in length by condition (a 100, b 200 '
    """
    units = exchangeable_units(condition, block, subject)
    found = []
    n_there = [np.count_nonzero(np.isfinite(z).all(axis=1)) for z in latents]
    length = _mean_by_condition(np.array(n_there, float), units)
    if length.max() > 1.05 * length.min():
        found.append(
            f"Runs differ in length by condition ({_by_name(units, length)} frames on average), and coefficients "
            "fitted on more frames differ from those fitted on fewer. Fit every run on the same number of frames."
        )
    ratio = np.array([np.log(_signal_to_noise(np.asarray(z, float))) for z in latents])
    mean = _mean_by_condition(ratio, units)
    labelings = permute_labels(units, 999)
    distance = (ratio[:, None] - ratio) ** 2
    permuted = np.subtract(*_mean_inter_and_intra(distance, comparable_pairs(units), labelings.labels))
    if np.ptp(mean) > np.log(1.2) and pvalue(permuted) <= max(0.05, labelings.min_pvalue):
        found.append(
            f"Signal-to-noise differs by condition ({_by_name(units, np.exp(mean))}), and noisier observations give "
            "other coefficients under the same dynamics. A small p-value may come from the noise alone."
        )
    return tuple(found)


def _signal_to_noise(latent: Float[np.ndarray, "frames K"]) -> float:
    there = latent[np.isfinite(latent).all(axis=1)]
    power = np.abs(np.fft.rfft(there - there.mean(axis=0), axis=0)) ** 2
    fast = power[len(power) // 2 :].mean(axis=0).sum()
    whole = power[1:].mean(axis=0).sum()
    tiny = np.finfo(float).tiny
    return float(max(whole - fast, 1e-3 * whole, tiny) / max(fast, tiny))


def _mean_by_condition(value: Float[np.ndarray, " runs"], units: ExchangeableUnits) -> np.ndarray:
    return np.array([value[units.label == c].mean() for c in range(len(units.conditions))])


def _by_name(units: ExchangeableUnits, value: Float[np.ndarray, " conditions"]) -> str:
    return ", ".join(f"{name} {v:.3g}" for name, v in zip(units.conditions, value, strict=True))


def _unreachable(labelings: Labelings) -> tuple[str, ...]:
    """Say in words when no outcome could be significant."""
    if labelings.min_pvalue <= 0.05:
        return ()
    _, first = np.unique(labelings.units.unit, return_index=True)
    counts = np.bincount(labelings.units.label[first])
    sides = " against ".join(f"{n} {c}" for n, c in zip(counts, labelings.units.conditions, strict=True))
    return (
        f"With {sides} no p-value can be below {labelings.min_pvalue:.3g}, so this design cannot reach 0.05 "
        f"whatever the data say. {labelings.units.description} Record more units that can trade labels.",
    )


def _spread_differs(comparison: Comparison) -> tuple[str, ...]:
    if not (comparison.pvalue <= 0.05 and comparison.permdisp_pvalue <= 0.05):
        return ()
    return (
        f"Runs vary more in one condition than in another (PERMDISP p = {comparison.permdisp_pvalue:.2g}), so the "
        "small p-value may come from their spread as well as from a shift. Look at the pairs within each condition.",
    )


def _silent_runs(coefs: Coefs) -> tuple[str, ...]:
    silent = [run for run, coef in enumerate(coefs) if not np.any(coef)]
    if not silent:
        return ()
    return (f"All coefficients are zero in runs {silent}: they say nothing about dynamics. Lower the penalty.",)


def _warned(comparison: Comparison) -> Comparison:
    for message in comparison.warnings:
        warnings.warn(message, ComparisonWarning, stacklevel=3)
    return comparison


# ------------------------------------------------------------------------------------------- statistics


def _split_pairs(
    pairs: PairDistances, label: Int[np.ndarray, " runs"]
) -> tuple[Float[np.ndarray, " intra"], Float[np.ndarray, " inter"], Int[np.ndarray, " intra"]]:
    """Return the pairs within conditions, those between them, and which condition each of the former lies within."""
    different = np.triu(np.ones_like(pairs.value, bool), 1) if pairs.symmetric else ~np.eye(len(label), dtype=bool)
    same = label[:, None] == label
    within = np.broadcast_to(label[:, None], same.shape)[different & same]
    return pairs.value[different & same], pairs.value[different & ~same], within


def _mean_inter_and_intra(
    value: Float[np.ndarray, "runs runs"],
    comparable: Bool[np.ndarray, "runs runs"],
    labels: Int[np.ndarray, "#labelings runs"],
    weights: Int[np.ndarray, "#labelings runs"] | None = None,
) -> tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]:
    """Mean over comparable pairs between and within conditions, every condition counting alike.

    A pair counts as often as its runs' weights multiplied.
    """
    weight = np.ones(labels.shape) if weights is None else weights.astype(float)
    symmetrised = np.where(comparable, (value + value.T) / 2, 0)
    members = [weight * (labels == c) for c in range(labels.max() + 1)]
    sums = [member @ symmetrised for member in members]
    counts = [member @ comparable for member in members]
    inter, intra = [], []
    with np.errstate(invalid="ignore"):  # without pairs, a mean is nan
        for c, member in enumerate(members):
            intra.append((sums[c] * member).sum(axis=1) / (counts[c] * member).sum(axis=1))
            for other in members[c + 1 :]:
                inter.append((sums[c] * other).sum(axis=1) / (counts[c] * other).sum(axis=1))
        return _mean_of_known(inter), _mean_of_known(intra)


def _mean_of_known(values: Sequence[Float[np.ndarray, " _"]]) -> Float[np.ndarray, " _"]:
    known = np.isfinite(values)
    return np.asarray(np.where(known, values, 0).sum(axis=0) / known.sum(axis=0))


def _effect(
    pairs: PairDistances,
    comparable: Bool[np.ndarray, "runs runs"],
    labels: Int[np.ndarray, "#labelings runs"],
    weights: Int[np.ndarray, "#labelings runs"] | None = None,
) -> Float[np.ndarray, " _"]:
    """Effect size in percent: see `Comparison`."""
    if pairs.relative is not None:
        return np.asarray(100 * np.subtract(*_mean_inter_and_intra(pairs.relative, comparable, labels, weights)))
    inter, intra = _mean_inter_and_intra(pairs.value, comparable, labels, weights)
    return np.asarray(100 * (inter / np.where(intra > 0, intra, np.nan) - 1))


def _effect_interval(
    pairs: PairDistances, comparable: Bool[np.ndarray, "runs runs"], units: ExchangeableUnits, seed: int
) -> tuple[float, float]:
    """Percentile interval over bootstrap samples, without those that hold no pairs."""
    effects = _effect(pairs, comparable, units.label[None], resample_units(units, N_RESAMPLES, seed))
    known = effects[np.isfinite(effects)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def _ranksum_pvalue(inter: Float[np.ndarray, " inter"], intra: Float[np.ndarray, " intra"]) -> float:
    test = scipy.stats.mannwhitneyu(inter, intra, alternative="greater")  # type: ignore[attr-defined]
    return float(test.pvalue)


def _anosim_r(
    distance: Float[np.ndarray, "runs runs"],
    comparable: Bool[np.ndarray, "runs runs"],
    label: Int[np.ndarray, " runs"],
) -> float:
    first, second = np.nonzero(np.triu(comparable, 1))
    rank = scipy.stats.rankdata(distance[first, second])
    same = label[first] == label[second]
    return float((rank[~same].mean() - rank[same].mean()) / (len(rank) / 2))


def _distance_to_center(
    squared: Float[np.ndarray, "runs runs"], label: Int[np.ndarray, " runs"]
) -> Float[np.ndarray, " runs"]:
    r"""Distance of each run to the centre of its condition, from squared distances alone.

    :math:`d_s^2 = mean_r D_{sr} - mean_{r,r'} D_{rr'} / 2`, over the n runs of the condition, times
    n / (n - 1): a centre computed from few runs lies too close to them.
    """
    distance = np.empty(len(label))
    for c in np.unique(label):
        inside = label == c
        group = squared[np.ix_(inside, inside)]
        n = len(group)
        centred = group.mean(axis=1) - group.mean() / 2
        distance[inside] = np.sqrt(np.maximum(centred, 0) * n / max(n - 1, 1))
    return distance


def _permdisp_pvalue(squared: Float[np.ndarray, "runs runs"], labelings: Labelings) -> float:
    """Permutation p-value of a one-way analysis of variance of the distances to the centres."""
    if np.bincount(labelings.units.label).min() < 2:
        return float("nan")
    distance = _distance_to_center(squared, labelings.units.label)
    centred = distance - distance.mean()
    between = np.zeros(len(labelings.labels))
    for c in range(len(labelings.units.conditions)):
        member = labelings.labels == c
        between += (member @ centred) ** 2 / member.sum(axis=1)
    return pvalue(between)


def _bonferroni(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    return np.asarray(np.minimum(p * len(p), 1))


def _holm(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1)
    return corrected


# ------------------------------------------------------------------------------------------- coefficients


def _lagged(series: Float[np.ndarray, "K frames"], order: int) -> Float[np.ndarray, "p n"]:
    """Stack the series' past, lag by lag: the transpose of `larscope.var.lag_matrix`."""
    n_frames = series.shape[1]
    return np.concatenate([series[:, order - k : n_frames - k] for k in range(1, order + 1)])


def _root_mean_square(series: Float[np.ndarray, "K frames"]) -> Float[np.ndarray, "K 1"]:
    """Scale of each latent; 1 for one that does not vary."""
    scale = np.sqrt(np.nanmean(series**2, axis=1, keepdims=True))
    return np.asarray(np.where(scale > 0, scale, 1.0))


def _coef_matrix(coef: Float[np.ndarray, "order K K"]) -> Any:
    """Coefficients as one matrix (K, order * K), row the target, column the source lag by lag; sparse if few."""
    matrix = np.concatenate(list(np.asarray(coef, float)), axis=1)
    few = np.count_nonzero(matrix) < 0.05 * matrix.size
    return scipy.sparse.csr_array(matrix) if few else matrix  # type: ignore[no-untyped-call]


def _check_fitted_separately(coefs: Coefs, units: ExchangeableUnits) -> None:
    seen: dict[tuple[int, bytes], int] = {}
    for run, coef in enumerate(coefs):
        key = (int(units.label[run]), hashlib.sha256(np.ascontiguousarray(coef).tobytes()).digest())
        if key in seen and np.any(coef):
            raise LarscopeError(
                f"Coefficients must be fitted to each run alone: got identical ones for runs {seen[key]} and {run} of "
                f"condition {units.conditions[key[0]]!r}. With shared coefficients every difference within a "
                "condition is zero and any labels would look significant; fit each run for the comparison."
            )
        seen[key] = run


def _check_latents(latents: Sequence[Any], coefs: Coefs) -> None:
    if len(latents) != len(coefs):
        raise LarscopeError(
            f"`latents` must have one series a run: got {len(latents)} series and {len(coefs)} arrays of coefficients. "
            "Pass both for the same runs, in the same order."
        )
    n_lags, n_latents, _ = coefs[0].shape
    for run, latent in enumerate(latents):
        shape = np.shape(latent)
        if len(shape) != 2 or shape[1] != n_latents or shape[0] <= n_lags:
            raise LarscopeError(
                f"`latents` must be series (frames, K) with K={n_latents} and more than order={n_lags} frames: "
                f"got shape {shape} for run {run}. Drop the run, or pass the latents that the coefficients "
                "were fitted to."
            )
        missing = np.isnan(latent).all(axis=1)
        if not np.isfinite(np.asarray(latent)[~missing]).all():
            raise LarscopeError(
                f"`latents` must be finite, or NaN in all latents of a missing frame: got NaN or infinity in run "
                f"{run}. Drop those frames or the run."
            )
        there = np.lib.stride_tricks.sliding_window_view(~missing, n_lags + 1).all(axis=1)
        if not there.any():
            raise LarscopeError(
                f"Every run needs {n_lags + 1} consecutive frames: run {run} has too many missing. Drop the run."
            )
