"""A number for every pair of runs, and the statistics over them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.special
import scipy.stats
from jaxtyping import Bool, Float, Int

from larscope._compute.workers import hand_out
from larscope._statistics.permutation import (
    ExchangeableUnits,
    Labelings,
    comparable_pairs,
    permute_labels,
    pvalue,
)

LABELINGS_AT_ONCE = 1024
"""Labelings per piece of work."""

MIN_UNITS = 5
"""Fewest units a side for an interval: of fewer, no spread can be told."""

MAX_LABELINGS = 1000
"""Labelings behind an interval."""


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


def split_pairs(
    pairs: PairDistances, label: Int[np.ndarray, " runs"]
) -> tuple[Float[np.ndarray, " intra"], Float[np.ndarray, " inter"], Int[np.ndarray, " intra"]]:
    """Return the pairs within conditions, the pairs between them, and the condition of each pair within."""
    different = np.triu(np.ones_like(pairs.value, bool), 1) if pairs.symmetric else ~np.eye(len(label), dtype=bool)
    same = label[:, None] == label
    within = np.broadcast_to(label[:, None], same.shape)[different & same]
    return pairs.value[different & same], pairs.value[different & ~same], within


def mean_inter_and_intra(
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


def permuted_statistics(
    value: Float[np.ndarray, "runs runs"], comparable: Bool[np.ndarray, "runs runs"], labelings: Labelings
) -> Float[np.ndarray, " labelings"]:
    """Return mean(inter) - mean(intra) under each labeling."""
    labels = labelings.labels
    parts = (labels[start : start + LABELINGS_AT_ONCE] for start in range(0, len(labels), LABELINGS_AT_ONCE))
    return np.concatenate(list(hand_out(partial(_statistics, value, comparable), parts)))


def pairs_to_test(
    value: Float[np.ndarray, "runs runs"], units: ExchangeableUnits
) -> tuple[Float[np.ndarray, "runs runs"], Bool[np.ndarray, "runs runs"]]:
    """Return the numbers that are tested, and which pairs of runs: where labels trade within strata, centred in these.

    Pairs across strata then tell as much as pairs within one, whatever sets the strata apart, and the statistic
    estimates the squared distance between conditions where these have the same share in every stratum. Strata of a
    single condition are left out.
    """
    comparable = comparable_pairs(units)
    n_labels = [len(np.unique(units.label[units.stratum == s])) for s in range(units.stratum.max() + 1)]
    telling = np.array(n_labels)[units.stratum] > 1
    among = (units.unit[:, None] != units.unit) & telling[:, None] & telling
    same_label = units.label[:, None] == units.label
    if not units.stratum.any() or not (among & same_label).any() or not (among & ~same_label).any():
        return value, comparable
    return centre_groups(value, units.stratum), among


def centre_groups(
    squared: Float[np.ndarray, "runs runs"], group: Int[np.ndarray, " runs"]
) -> Float[np.ndarray, "runs runs"]:
    r"""Return squared distances after each group's centre is moved to the same place (Gower 1966).

    Groups of few runs lie too close to their own centre, so pairs across groups are given back the
    :math:`s_g^2 / n_g` of both groups that this takes: without other differences, all pairs are then equally far apart,
    on average. Distances within a group stay.

    Examples
    --------
    >>> x = np.array([0.0, 2.0, 100.0, 102.0])
    >>> centre_groups((x[:, None] - x) ** 2, np.array([0, 0, 1, 1]))[0]
    array([0., 4., 2., 6.])
    """
    symmetrised = (squared + squared.T) / 2
    size = np.bincount(group)
    centring = np.eye(len(group)) - (group[:, None] == group) / size[group]
    inner = -0.5 * centring @ symmetrised @ centring
    own = inner.diagonal()
    lost = (np.bincount(group, own) / np.maximum(size - 1, 1) / np.maximum(size, 1))[group]
    moved = own[:, None] + own - 2 * inner + lost[:, None] + lost
    return np.asarray(np.where(group[:, None] == group, symmetrised, moved))


def _statistics(
    value: Float[np.ndarray, "runs runs"],
    comparable: Bool[np.ndarray, "runs runs"],
    labels: Int[np.ndarray, "labelings runs"],
) -> Float[np.ndarray, " labelings"]:
    return np.asarray(np.subtract(*mean_inter_and_intra(value, comparable, labels)))


def _mean_of_known(values: Sequence[Float[np.ndarray, " _"]]) -> Float[np.ndarray, " _"]:
    known = np.isfinite(values)
    return np.asarray(np.where(known, values, 0).sum(axis=0) / known.sum(axis=0))


def effect_size(
    pairs: PairDistances,
    comparable: Bool[np.ndarray, "runs runs"],
    labels: Int[np.ndarray, "#labelings runs"],
    weights: Int[np.ndarray, "#labelings runs"] | None = None,
) -> Float[np.ndarray, " _"]:
    """Effect size in percent: see `Comparison`."""
    if pairs.relative is not None:
        return np.asarray(100 * np.subtract(*mean_inter_and_intra(pairs.relative, comparable, labels, weights)))
    inter, intra = mean_inter_and_intra(pairs.value, comparable, labels, weights)
    return np.asarray(100 * (inter / np.where(intra > 0, intra, np.nan) - 1))


def effect_interval(
    pairs: PairDistances, comparable: Bool[np.ndarray, "runs runs"], units: ExchangeableUnits
) -> tuple[float, float]:
    r"""Return a 95 % interval of the effect size; NaN with fewer than five units a side.

    By the jackknife, with the quantiles of Student's t. Of five or more strata (blocks, or subjects, that hold both
    conditions), whole strata are left out one by one; else units, each within its stratum and condition. Near no
    difference the latter counts the noise of a squared distance twice (Efron & Stein 1981), so without strata it is
    taken off once:

    .. math:: V = \max(V_{jack} - V_0, V_0)

    with :math:`V_0` the variance of the effect under permuted labels, after each condition's centre is moved to the
    same place.
    """
    unknown = float("nan"), float("nan")
    cell = np.unique(units.stratum * len(units.conditions) + units.label, return_inverse=True)[1]
    whole = len(np.unique(units.stratum)) >= MIN_UNITS
    unit, alike = (units.stratum, np.zeros_like(units.stratum)) if whole else (units.unit, cell)
    names, first = np.unique(unit, return_index=True)
    if np.bincount(alike[first]).min() < MIN_UNITS:
        return unknown
    effect = float(effect_size(pairs, comparable, units.label[None])[0])
    left_out = effect_size(pairs, comparable, units.label[None], (unit != names[:, None]).astype(int))
    if not np.isfinite([effect, *left_out]).all():
        return unknown
    groups = [left_out[alike[first] == one] for one in np.unique(alike)]
    variance = sum((len(group) - 1) * float(group.var()) for group in groups)
    if not units.stratum.any():
        noise = _variance_without_difference(pairs, comparable, units, cell)
        variance = max(variance - noise, noise)
    half = float(scipy.special.stdtrit(len(names) - len(groups), 0.975) * np.sqrt(variance))
    return effect - half, effect + half


def _variance_without_difference(
    pairs: PairDistances,
    comparable: Bool[np.ndarray, "runs runs"],
    units: ExchangeableUnits,
    cell: Int[np.ndarray, " runs"],
) -> float:
    value = pairs.value if pairs.relative is None else pairs.relative
    labels = permute_labels(units, MAX_LABELINGS).labels
    some = labels[:: -(-len(labels) // MAX_LABELINGS)]
    inter, intra = mean_inter_and_intra(centre_groups(value, cell), comparable, some)
    spread = float(np.nanvar(inter - intra))
    if pairs.relative is not None:
        return 100**2 * spread
    within = float(mean_inter_and_intra(value, comparable, units.label[None])[1][0])
    return 100**2 * spread / within**2


def ranksum_pvalue(inter: Float[np.ndarray, " inter"], intra: Float[np.ndarray, " intra"]) -> float:
    """One-sided rank-sum test, as if pairs were independent."""
    test = scipy.stats.mannwhitneyu(inter, intra, alternative="greater")  # type: ignore[attr-defined]
    return float(test.pvalue)


def anosim_r(
    distance: Float[np.ndarray, "runs runs"],
    comparable: Bool[np.ndarray, "runs runs"],
    label: Int[np.ndarray, " runs"],
) -> float:
    """Clarke's R over comparable pairs: mean rank between minus within conditions, scaled to [-1, 1]."""
    first, second = np.nonzero(np.triu(comparable, 1))
    rank = scipy.stats.rankdata(distance[first, second])
    same = label[first] == label[second]
    return float((rank[~same].mean() - rank[same].mean()) / (len(rank) / 2))


def permdisp_pvalue(squared: Float[np.ndarray, "runs runs"], labelings: Labelings) -> float:
    """Permutation p-value of a one-way analysis of variance of the distances to the centres."""
    if np.bincount(labelings.units.label).min() < 3:  # two are equally far from their centre
        return float("nan")
    distance = distance_to_center(squared, labelings.units.label)
    centred = distance - distance.mean()
    between = np.zeros(len(labelings.labels))
    for c in range(len(labelings.units.conditions)):
        member = labelings.labels == c
        between += (member @ centred) ** 2 / member.sum(axis=1)
    return pvalue(between)


def distance_to_center(
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
