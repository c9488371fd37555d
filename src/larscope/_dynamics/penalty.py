"""How the fit of a run depends on the penalty: the same latents, refitted with larger and smaller ones.

The latents were learned at one penalty, so this says what the VAR makes of them at another, not what a training with
another penalty would have found. `choose_penalty` is what `penalty="auto"` does after a training.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from larscope._dynamics.couplings import condense
from larscope._dynamics.var import SparseVAR, complete_rows, first_part, lag_matrix
from larscope._settings import ORDERS
from larscope._statistics.scaling import rounding_energy

FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Penalties of a curve, in units of the chosen one."""

MAX_CURVES = 8
"""Most runs with curves."""

STEP, N_STEPS, STRIDE = 2**0.25, 40, 4
"""`choose_penalty` tries the largest useful penalty and 40 below, each smaller by the fourth root of 2, so the last is
1/1024 of the first. It descends by four steps at once, then tries the neighbours of the best."""

FALL = 0.02
"""The descent ends once the explained share lies this far below its maximum."""

NOISE = 1e-6
"""Smaller differences between explained shares count as ties: solutions are certified to about this."""

GAIN = 0.005
"""Share of the held-out signal that more lags must add to be worth their coefficients."""

FOLDS = 3
"""Parts of a condition's runs, each left out once."""


class PenaltyWarning(UserWarning):
    """No penalty forecasts better than a fit without couplings."""


class TinyPenaltyWarning(UserWarning):
    """A penalty far below chance correlations, probably meant in other units."""


@dataclass(frozen=True)
class PenaltyChoice:
    """The best penalty for forecasting held-out frames, with all candidates.

    Attributes
    ----------
    penalty
        In the units of the setting.
    tried, explained
        Every candidate, the largest first, and its explained share of the held-out signal.
    """

    penalty: float
    tried: list[float]
    explained: list[float]


@dataclass(frozen=True)
class OrderChoice:
    """The best number of lags for forecasting held-out frames, with all candidates.

    Attributes
    ----------
    order
        Number of lags.
    tried, explained
        Every candidate and its explained share of the held-out signal.
    """

    order: int
    tried: list[int]
    explained: list[float]


@dataclass(frozen=True)
class PenaltyCurve:
    """One run, fitted with several penalties; every sequence has one entry a penalty.

    Attributes
    ----------
    penalty
        In the units of the setting.
    n_active
        Non-zero coefficients of the fit to the whole run.
    explained
        1 - squared error / variance, in sample, pooled over frames and latents.
    explained_heldout
        The same on the last 20 % of the frames, with coefficients from the first 80 %, whose mean the variance is
        about; NaN where one of the two parts has nothing to fit or to forecast.
    """

    penalty: list[float]
    n_active: list[int]
    explained: list[float]
    explained_heldout: list[float]


def trace_penalties(var: SparseVAR, latent: Float[Tensor, "T K"], factors: Sequence[float] = FACTORS) -> PenaltyCurve:
    """Fit a run's latents with several penalties, each a multiple of `var.penalty`; masked frames are NaN.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> latent = torch.randn(200, 4, dtype=torch.float64).cumsum(0)
    >>> curve = trace_penalties(SparseVAR(order=2, penalty=0.01), latent, factors=(1, 10))
    >>> curve.penalty, curve.n_active[0] > curve.n_active[1]
    ([0.01, 0.1], True)
    """
    missing = latent.isnan().any(1)
    split = first_part(len(latent))
    late, centre = latent[split - var.order :], latent[:split].nanmean(0)
    can_hold_out = bool(complete_rows(missing[:split], var.order).any())
    curve = PenaltyCurve([], [], [], [])
    for factor in factors:
        tried = copy.copy(var)
        tried.penalty = factor * var.penalty
        with torch.no_grad():
            fit = tried(latent, missing)
            early = tried(latent[:split], missing[:split]) if can_hold_out else None
        curve.penalty.append(tried.penalty)
        curve.n_active.append(int(fit.n_active))
        curve.explained.append(_explained(latent[var.order :], fit.forecast))
        curve.explained_heldout.append(
            math.nan if early is None else _explained(late[var.order :], early.predict(late), centre)
        )
    return curve


def choose_penalty(
    var: SparseVAR,
    latents: Sequence[Float[Tensor, "_T K"]],
    conditions: Sequence[str] | None = None,
    on_fit: Callable[[int], None] = lambda n_left: None,
) -> PenaltyChoice:
    r"""Choose the best penalty for forecasting held-out frames by exact fits; masked frames are NaN.

    Coefficients come from the first 80 % of each run and forecast the rest, one step ahead. With `conditions`, one
    matrix is fitted to all runs of a condition but a third of them, and forecasts those; with fewer than three runs, to
    the first 80 % of each. The share that is explained,

    .. math:: 1 - \sum_r \lVert Z_r - \hat Z_r \rVert^2 / s_r^2 \,\Big/\, \sum_r \lVert Z_r - m_r \rVert^2 / s_r^2 ,

    pools the held-out frames of all runs, each run in units of its variance :math:`s_r^2` about its mean :math:`m_r`
    (zero without centring), so that a livelier one counts no more than others. Of penalties that explain as much, the
    largest is taken.

    Parameters
    ----------
    var
        Everything but the penalty; `var.penalty` is returned where no frame can be held out.
    latents
        One series a run.
    conditions
        Of each run, where its runs share coefficients.
    on_fit
        Called with how many penalties are still to be tried, at most, to show progress.

    Warns
    -----
    PenaltyWarning
        No penalty forecasts better than no couplings at all: the best of those that leave every run some is taken. Or
        nothing can be held out.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> latent = torch.randn(200, 4, dtype=torch.float64).cumsum(0)
    >>> choice = choose_penalty(SparseVAR(order=2), [latent])
    >>> choice.tried[0] > choice.penalty > choice.tried[-1]
    True
    """
    tried = copy.copy(var)
    splits = [split for split in _splits(var, latents, conditions) if split.largest > 0]
    if not splits:
        warnings.warn(
            f"There is nothing to choose a penalty by: no frames can be held out, or their latents are constant. "
            f"{var.penalty:g} is used. Record longer runs, or pass a number as `penalty`.",
            PenaltyWarning,
            stacklevel=2,
        )
        return PenaltyChoice(var.penalty, [], [])
    largest = [split.largest for split in splits]
    penalties = [max(largest) * STEP**-step for step in range(N_STEPS + 1)]
    explained: dict[int, float] = {}

    def measure(step: int) -> None:
        tried.penalty = penalties[step]
        explained[step] = 1 - sum(split.error(tried) for split in splits) / sum(split.spread for split in splits)

    def leaves_all(step: int) -> bool:
        return penalties[step] < min(largest) or step == N_STEPS

    def refine(allowed: Callable[[int], bool]) -> int:
        best = _best({step: share for step, share in explained.items() if allowed(step)})
        around = range(max(best - STRIDE, 0), min(best + STRIDE, N_STEPS) + 1)
        missing = [step for step in around if step not in explained and allowed(step)]
        # upwards: the fits begin with the last of the descent
        for n_left, step in reversed(list(enumerate(missing))):
            on_fit(n_left + 1)
            measure(step)
        return _best({step: share for step, share in explained.items() if allowed(step)})

    for step in range(0, N_STEPS + 1, STRIDE):
        on_fit((N_STEPS - step) // STRIDE + 2 * STRIDE - 1)
        measure(step)
        if leaves_all(step) and explained[step] < max(explained.values()) - FALL:
            break
    best = refine(lambda step: True)
    if best == 0:
        best = refine(leaves_all)
        share = "" if conditions is not None else "share coefficients among runs (`coefficients='condition'`), "
        warnings.warn(
            "No penalty forecasts held-out frames better than a fit without couplings. We took "
            f"{penalties[best]:.3g}, the best with couplings in every run. It explains {explained[best]:.1%} of the "
            f"held-out signal, so trust no single coupling. Record longer runs, {share}or pass a number as `penalty`.",
            PenaltyWarning,
            stacklevel=2,
        )
    on_fit(0)
    steps = sorted(explained)
    return PenaltyChoice(penalties[best], [penalties[step] for step in steps], [explained[step] for step in steps])


def choose_order(
    var: SparseVAR,
    latents: Sequence[Float[Tensor, "_T K"]],
    conditions: Sequence[str] | None = None,
    orders: Sequence[int] = ORDERS,
) -> OrderChoice:
    """Choose the number of lags that forecasts held-out frames best, at the VAR's penalty; masked frames are NaN.

    Held-out frames, fits and the explained share are those of `choose_penalty`. The
    smallest order is taken that explains as much as any, to half a percent of the signal; `var.order` where no frame
    can be held out.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> latent = torch.randn(400, 4, dtype=torch.float64)
    >>> for t in range(2, 400):
    ...     latent[t] += 0.7 * latent[t - 2]
    >>> var = SparseVAR(penalty=1.0, penalty_scale="residual", scale="latent", own_weight=0.0)
    >>> choose_order(var, [latent]).order
    2
    """
    explained = {}
    for order in sorted(orders):
        tried = var.with_order(order)
        splits = [split for split in _splits(tried, latents, conditions) if split.spread > 0]
        if splits:
            explained[order] = 1 - sum(split.error(tried) for split in splits) / sum(split.spread for split in splits)
    if not explained:
        warnings.warn(
            f"There is nothing to choose an order by: no frames can be held out, or their latents are constant. "
            f"{var.order} is used. Record longer runs, or pass a number as `order`.",
            PenaltyWarning,
            stacklevel=2,
        )
        return OrderChoice(var.order, [], [])
    enough = max(explained.values()) - GAIN
    best = min(order for order, share in explained.items() if share >= enough)
    return OrderChoice(best, list(explained), list(explained.values()))


def _best(explained: Mapping[int, float]) -> int:
    """Return the first step with the largest explained share, up to noise.

    >>> _best({0: 0.1, 4: 0.3, 8: 0.3 + 1e-9, 12: 0.2})
    4
    """
    most = max(explained.values())
    return min(step for step, share in explained.items() if share >= most - NOISE)


class _Split:
    """Series fitted together, and the held-out series they forecast.

    `judged` holds each of the latter with the series that its mean and scale are taken from.
    """

    def __init__(
        self,
        var: SparseVAR,
        fitted: Sequence[Float[Tensor, "_T K"]],
        judged: Sequence[tuple[Float[Tensor, "_T K"], Float[Tensor, "_U K"]]],
    ) -> None:
        self._fitted = fitted
        units = (_in_units_of(var, series, known) for series, known in judged)
        self._judged = [one for one in units if one is not None]
        self._coef: Tensor | None = None
        design, target = rows = self._rows(var)
        self._n_rows = len(design)
        many = self._n_rows > design.shape[1] + target.shape[1]
        self._short = condense([rows])[:2] if many else None
        self.spread = sum(float((target.square() * weight).sum()) for _, target, weight in self._judged)
        self.largest = var.largest_penalty(*rows) if self.spread > 0 else 0.0

    def error(self, var: SparseVAR) -> float:
        """Return the squared error of the forecasts; the fit starts from the last one."""
        rows = self._rows(var) if self._short is None else self._short
        with torch.no_grad():
            coef = var.solve(*rows, init=None if self._coef is None else self._coef.to_dense(), n_rows=self._n_rows)
        self._coef = coef.to_sparse()
        coef = coef.double()
        return sum(float(((target - design @ coef).square() * weight).sum()) for design, target, weight in self._judged)

    def _rows(self, var: SparseVAR) -> tuple[Float[Tensor, "n p"], Float[Tensor, "n K"]]:
        return var.stack(self._fitted, [series.isnan().any(1) for series in self._fitted])


def _in_units_of(
    var: SparseVAR, series: Float[Tensor, "T K"], known: Float[Tensor, "U K"]
) -> tuple[Float[Tensor, "n p"], Float[Tensor, "n K"], Float[Tensor, "1 _"]] | None:
    """Return the regression of a series in units of another, and the weight of its squared errors.

    The weight makes them shares of the other's variance. None where there is nothing to forecast, or no variance.
    """
    there = complete_rows(series.isnan().any(1), var.order)
    known = known[known.isfinite().all(1)]
    mean, sigma = var.mean_and_scale(known)
    variance = (known - mean).double().square().mean()
    if not bool(there.any()) or variance <= rounding_energy(known.square().mean(), torch.finfo(known.dtype).eps):
        return None
    scaled = ((series - mean) / sigma).double()
    return lag_matrix(scaled, var.order)[there], scaled[var.order :][there], sigma.double().square() / variance


def _splits(
    var: SparseVAR, latents: Sequence[Float[Tensor, "_T K"]], conditions: Sequence[str] | None
) -> Iterator[_Split]:
    """Yield fitted and held-out parts: of each run, or of the runs of each condition."""
    if conditions is None:
        groups = [[latent] for latent in latents]
    else:
        groups = [
            [latent for latent, name in zip(latents, conditions, strict=True) if name == condition]
            for condition in dict.fromkeys(conditions)
        ]
    for group in groups:
        runs = [latent for latent in group if bool(complete_rows(latent.isnan().any(1), var.order).any())]
        if len(runs) >= FOLDS:
            for fold in range(FOLDS):
                others = [run for number, run in enumerate(runs) if number % FOLDS != fold]
                yield _Split(var, others, [(run, run) for run in runs[fold::FOLDS]])
            continue
        early = [latent[: first_part(len(latent))] for latent in runs]
        late = [latent[first_part(len(latent)) - var.order :] for latent in runs]
        usable = [i for i, part in enumerate(early) if bool(complete_rows(part.isnan().any(1), var.order).any())]
        if usable:
            yield _Split(var, [early[i] for i in usable], [(late[i], early[i]) for i in usable])


def chosen_runs(conditions: Sequence[str], n_runs: int = MAX_CURVES) -> list[int]:
    """Return the runs with curves: conditions take turns, so all are shown.

    >>> chosen_runs(["a", "a", "a", "b"], n_runs=3)
    [0, 1, 3]
    """
    turn = [conditions[:run].count(name) for run, name in enumerate(conditions)]
    return sorted(sorted(range(len(conditions)), key=lambda run: (turn[run], run))[:n_runs])


def _explained(target: Tensor, forecast: Tensor, centre: Tensor | None = None) -> float:
    there = torch.isfinite(target).all(1) & torch.isfinite(forecast).all(1)
    target, forecast = target[there].double(), forecast[there].double()
    spread = (target - (target.mean(0) if centre is None else centre.double())).square().sum()
    return float(1 - (target - forecast).square().sum() / spread) if spread > 0 else math.nan
