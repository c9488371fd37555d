"""Reasons for misleading p-values: shared coefficients are an error, all others a warning."""

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np
import scipy.stats
from jaxtyping import Float

from larscope._errors import LarscopeError
from larscope._statistics.maps import Coefs, influence
from larscope._statistics.pairs import mean_inter_and_intra
from larscope._statistics.permutation import (
    ExchangeableUnits,
    Labelings,
    comparable_pairs,
    exchangeable_units,
    permute_labels,
    pvalue,
)

DRIFT = 0.02
"""Largest p at which a drift is warned of: one in fifty sessions without any."""

MIN_PAIRS = 6
"""Fewest pairs of runs of one condition to see a drift in."""

N_ORDERS = 999
"""Permuted orders of the runs."""


def condition_imbalances(
    latents: Sequence[Float[np.ndarray, "_frames K"]],
    condition: Sequence[Hashable],
    block: Sequence[Hashable] | None = None,
    subject: Sequence[Hashable] | None = None,
) -> tuple[str, ...]:
    """Report run length or signal-to-noise differing by condition: both change lasso coefficients.

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
            f"Runs differ in length by condition ({_by_name(units, length)} frames on average), and more frames give "
            "other coefficients. Fit every run on the same number of frames."
        )
    ratio = np.array([np.log(_signal_to_noise(np.asarray(z, float))) for z in latents])
    mean = _mean_by_condition(ratio, units)
    labelings = permute_labels(units, 999)
    distance = (ratio[:, None] - ratio) ** 2
    permuted = np.subtract(*mean_inter_and_intra(distance, comparable_pairs(units), labelings.labels))
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


def unreachable(labelings: Labelings) -> tuple[str, ...]:
    """Say in words when no outcome could be significant."""
    if labelings.min_pvalue <= 0.05:
        return ()
    _, first = np.unique(labelings.units.unit, return_index=True)
    counts = np.bincount(labelings.units.label[first])
    sides = " against ".join(f"{n} {c}" for n, c in zip(counts, labelings.units.conditions, strict=True))
    return (
        f"With {sides} no p-value can be below {labelings.min_pvalue:.3g}, so this design cannot reach 0.05, "
        f"whatever the data. {labelings.units.description} Record more {labelings.units.noun} per condition.",
    )


def spread_differs(shift: float, spread: float, smallest: float) -> tuple[str, ...]:
    """Report a difference in spread as a possible reason for a small p-value."""
    if not (shift <= 0.05 and spread <= 0.05):
        return ()
    floor = ", the smallest that this design can reach" if spread <= smallest else ""
    return (
        f"Runs vary more in one condition than in another (PERMDISP p = {spread:.2g}{floor}), so the small p-value may "
        "come from their spread as well as from a shift. Look at the pairs within each condition.",
    )


def drifts(
    distance: Float[np.ndarray, "runs runs"], labelings: Labelings, position: Sequence[float] | None = None
) -> tuple[str, ...]:
    """Report runs that differ more the further apart they were recorded: they are not exchangeable.

    Only where single runs trade labels; pairs are those of one condition and stratum. The correlation of lag and rank
    of the distance is compared with its values under permuted positions, within condition and stratum (Mantel 1967).

    Examples
    --------
    >>> units = exchangeable_units(list("aaaaabbbbb"))
    >>> x = np.arange(10.0)
    >>> drifts((x[:, None] - x) ** 2, permute_labels(units))[0][:56]
    'Runs differ more the further apart they were recorded, w'
    """
    units = labelings.units
    if units.noun != "runs":
        return ()
    place = np.arange(len(units.label), dtype=float) if position is None else np.asarray(position, float)
    cell = units.stratum * len(units.conditions) + units.label
    first, second = np.nonzero(np.triu(cell[:, None] == cell, 1))
    if len(first) < MIN_PAIRS or np.ptp(distance[first, second]) == 0:
        return ()
    rank = scipy.stats.rankdata(distance[first, second])
    rng, places = np.random.default_rng(0), np.tile(place, (N_ORDERS + 1, 1))
    for one in np.unique(cell):
        runs = np.flatnonzero(cell == one)
        places[1:, runs] = rng.permuted(np.tile(place[runs], (N_ORDERS, 1)), axis=1)
    # an order changes which pair has which lag, and not the lags: so their mean and spread need no correction
    p = pvalue(np.array([np.abs(order[first] - order[second]) @ (rank - rank.mean()) for order in places]))
    if p > DRIFT:
        return ()
    return (
        f"Runs differ more the further apart they were recorded, within one condition too (p = {p:.2g}): the session "
        "drifts, and a drift can look like a difference between conditions. Name runs that were recorded together in "
        "the column `block`, and record both conditions in each block.",
    )


def streaks(labelings: Labelings, position: Sequence[float]) -> tuple[str, ...]:
    """Report conditions recorded one after the other without blocks, where a drift looks like a difference.

    That is where each condition comes in a single streak of several runs, or labels change less often along the session
    than in 95 % of the labelings.

    Examples
    --------
    >>> streaks(permute_labels(exchangeable_units(list("aabb"))), range(4))[0][:57]
    'The conditions come in streaks: along the session they ch'
    >>> streaks(permute_labels(exchangeable_units(list("abab"))), range(4))
    ()
    """
    units = labelings.units
    if units.noun != "runs" or len(units.label) < 4:
        return ()
    order = np.lexsort((np.asarray(position, float), units.stratum))
    inside = np.diff(units.stratum[order]) == 0
    changes = ((np.diff(labelings.labels[:, order], axis=1) != 0) & inside).sum(axis=1)
    fewest = sum(len(np.unique(units.label[units.stratum == s])) - 1 for s in np.unique(units.stratum))
    alone = np.bincount(units.label).min() < 2
    if not ((changes[0] == fewest and not alone) or np.mean(changes <= changes[0]) <= 0.05):
        return ()
    return (
        f"The conditions come in streaks: along the session they change {changes[0]} times, and nothing but time may "
        "set them apart. A slow drift then looks like a difference. Name runs that were recorded together in the "
        "column `block`; next time, let conditions take turns.",
    )


def silent_runs(coefs: Coefs) -> tuple[str, ...]:
    """Name the runs without coefficients."""
    silent = [run for run, coef in enumerate(coefs) if not np.any(coef)]
    return _without("coefficients", "say nothing about dynamics", silent)


def uncoupled_runs(coefs: Coefs) -> tuple[str, ...]:
    """Name the runs without couplings between latents."""
    uncoupled = [run for run, coef in enumerate(coefs) if not influence(coef).any()]
    return _without("couplings between latents", "have no influence", uncoupled)


def _without(what: str, so: str, runs: list[int]) -> tuple[str, ...]:
    return (f"Runs {runs} (counted from 0) have no {what}: they {so}.",) if runs else ()


def check_fitted_separately(coefs: Coefs, units: ExchangeableUnits) -> None:
    """Refuse coefficients shared by runs of one condition."""
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
