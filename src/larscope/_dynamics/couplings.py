"""Couplings between latents: selected on all runs together, those beyond chance kept, measured in each run."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from larscope._dynamics.chance import Shift
from larscope._dynamics.var import SparseVAR, chance, from_design_layout, own_residual
from larscope.lasso import lasso

FDR = 0.1
"""Of the couplings that are shown, at most this share is expected to be chance."""

SELECTED = 0.75
"""Of what chance reaches, the share from which on a coupling is looked at: so that weak ones are controlled for."""

N_SHIFTED = 1000
"""Shifted latents that chance is measured on: 20 shifts of 50 latents, say."""


@dataclass(frozen=True)
class Couplings:
    """Couplings that several runs show together, one a pair of latents, strongest evidence first.

    Attributes
    ----------
    lag, target, source
        The effect of latent `source` on latent `target`, `lag` frames later: of the pair's lags, that with the most
        evidence.
    effect
        Its size over all runs together, in standard deviations of the two latents, not shrunk.
    evidence
        Absolute t of the effect.
    qvalue
        Share of chance to expect among the couplings with at least as much evidence.
    n_chance
        How many of all these chance alone finds, mean over the shifts.
    """

    lag: Int[NDArray[np.int64], " n"]
    target: Int[NDArray[np.int64], " n"]
    source: Int[NDArray[np.int64], " n"]
    effect: Float[NDArray[np.float64], " n"]
    evidence: Float[NDArray[np.float64], " n"]
    qvalue: Float[NDArray[np.float64], " n"]
    n_chance: float

    def __len__(self) -> int:
        return len(self.lag)


def find_couplings(var: SparseVAR, latents: Sequence[Float[Tensor, "_T K"]], seed: int = 0) -> Couplings:
    r"""Find the couplings that several runs show together, each with its share of chance.

    A lasso over the stacked series, each latent of unit variance in each run, selects couplings; a latent's own past is
    free. The penalty of target j,

    .. math:: \alpha_j = \tfrac{3}{4} s_j \sqrt{2 \log(p) / n},

    with :math:`s_j` what its own past leaves unexplained, is three quarters of the largest correlation that p series of
    noise are expected to reach in n frames. The evidence for a coupling is the t of its coefficient in least squares on
    what was selected for its target, at the lag where that is largest.

    Chance is measured on the same latents, each shifted in time by an amount of its own (`Shift`) and searched
    in the same way. A coupling's q-value is how many couplings a shift finds with as much evidence, over how many there
    are (Storey 2002, the share of true nulls taken to be 1; the count over all shifts is raised by one, so that no
    q-value is zero), and no larger than that of a coupling with less.

    Parameters
    ----------
    var
        Its `order` and `max_distance` are used; its penalty and scale are not.
    latents
        Series; frames that are NaN are missing.
    seed
        Of the shifts.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> runs = [torch.randn(200, 10, dtype=torch.float64) for _ in range(2)]
    >>> for latent in runs:
    ...     latent[1:, 2] += latent[:-1, 0]  # latent 0 acts on latent 2
    ...     latent[1:, 3] += latent[:-1, 1]  # and latent 1 on latent 3
    >>> found = find_couplings(SparseVAR(order=1), runs)
    >>> kept = found.qvalue <= FDR
    >>> found.source[kept].tolist(), found.target[kept].tolist()
    ([0, 1], [2, 3])
    """
    found = _strongest_lags(*_evidence(var, latents), var.order)
    rng = np.random.default_rng(seed)
    n_shifts = min(max(math.ceil(N_SHIFTED / latents[0].shape[1]), 3), 20)
    n_latents, n_frames = latents[0].shape[1], min(int(latent.isfinite().all(1).sum()) for latent in latents)
    by_chance, n_far = [], 0
    for _ in range(n_shifts):
        shift = Shift.draw(n_latents, rng)
        shifted = _strongest_lags(*_evidence(var, [shift.apply(latent) for latent in latents]), var.order)
        far = shift.far(var.order, n_frames)
        by_chance.append(shifted.evidence[far[shifted.target, shifted.source]])
        n_far += int(far.sum())
    # as many shifts as would have had this many pairs, all of them far apart
    n_shifts_far = max(n_far, 1) / (n_latents * max(n_latents - 1, 1))
    qvalue = share_of_chance(found.evidence, np.concatenate(by_chance), n_shifts_far)
    return replace(found, qvalue=qvalue, n_chance=sum(map(len, by_chance)) / n_shifts_far)


def _strongest_lags(
    evidence: Float[NDArray[np.float64], "p K"], weights: Float[NDArray[np.float64], "p K"], order: int
) -> Couplings:
    """Return the pairs of latents with evidence, each at the lag with the most, strongest first."""
    n_latents = evidence.shape[1]
    by_lag = evidence.reshape(order, n_latents, n_latents)
    strength, at = by_lag.max(0), by_lag.argmax(0)
    source, target = np.nonzero(strength)
    ranked = np.argsort(-strength[source, target], kind="stable")
    source, target = source[ranked], target[ranked]
    lag, t = at[source, target], strength[source, target]
    effect = weights[lag * n_latents + source, target]
    return Couplings(lag + 1, target, source, effect, t, np.ones_like(t), math.nan)


def share_of_chance(
    strength: Float[NDArray[np.float64], " n"], by_chance: Float[NDArray[np.float64], " m"], n_shifts: float
) -> Float[NDArray[np.float64], " n"]:
    """Return the q-values of evidence that is sorted, strongest first; `by_chance` is that of all shifts.

    >>> share_of_chance(np.array([9.0, 5.0, 4.0]), np.array([4.5, 4.2]), n_shifts=10)
    array([0.05, 0.05, 0.1 ])
    """
    reached = len(by_chance) - np.searchsorted(np.sort(by_chance), strength, side="left")
    share = (1 + reached) / n_shifts / np.arange(1, len(strength) + 1)
    return np.asarray(np.minimum(np.minimum.accumulate(share[::-1])[::-1], 1.0))


def fit_couplings(
    var: SparseVAR, latents: Sequence[Float[Tensor, "_T K"]], found: Couplings | None = None
) -> list[Float[Tensor, "order K K"]]:
    r"""Measure the couplings beyond chance in each run by itself, between latents of unit variance.

    Least squares on each latent's own past and the couplings found in all runs together with a q-value of at most 0.1
    (`find_couplings`) gives each run's own coefficients, not shrunk (the relaxed lasso of Meinshausen 2007). Which
    condition a run belongs to is not looked at, so that conditions can be compared.

    Parameters
    ----------
    var, latents
        As in `find_couplings`.
    found
        What it found, if that is known.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> runs = [torch.randn(200, 10, dtype=torch.float64) for _ in range(2)]
    >>> for latent in runs:
    ...     latent[1:, 2] += latent[:-1, 0]  # latent 0 acts on latent 2
    >>> [(coef.abs() > 0.3).nonzero().tolist() for coef in fit_couplings(SparseVAR(order=1), runs)]
    [[[0, 2, 0]], [[0, 2, 0]]]
    """
    found = find_couplings(var, latents) if found is None else found
    n_latents = latents[0].shape[1]
    allowed = _own(n_latents, var.order)
    kept = found.qvalue <= FDR
    allowed[(found.lag[kept] - 1) * n_latents + found.source[kept], found.target[kept]] = True
    rows_of = _rows(var)
    return [from_design_layout(_least_squares(*rows_of(latent), allowed), var.order) for latent in latents]


def measure_couplings(
    var: SparseVAR, latents: Sequence[Float[Tensor, "_T K"]], found: Couplings
) -> tuple[Float[NDArray[np.float64], "runs n"], Float[NDArray[np.float64], "runs n"]]:
    """Return each coupling beyond chance in each run, and its standard error, in units of the whole session.

    As `fit_couplings`, but a latent's unit is its standard deviation over all runs: one that is livelier in some runs
    then has the same couplings there.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> runs = [scale * torch.randn(200, 10, dtype=torch.float64) for scale in (1, 3)]
    >>> for latent in runs:
    ...     latent[1:, 2] += latent[:-1, 0]  # latent 0 acts on latent 2
    >>> var = SparseVAR(order=1)
    >>> effect, error = measure_couplings(var, runs, find_couplings(var, runs))
    >>> effect.shape, bool(abs(effect[0] - effect[1]) < 4 * error.sum())
    ((2, 1), True)
    """
    n_latents = latents[0].shape[1]
    own, rows_of = _own(n_latents, var.order).numpy(), _rows(var)
    kept = found.qvalue <= FDR
    target, source = found.target[kept], found.source[kept]
    feature = (found.lag[kept] - 1) * n_latents + source
    effect, error = np.zeros((len(latents), len(feature))), np.zeros((len(latents), len(feature)))
    scale = np.ones((len(latents), n_latents))
    for run, latent in enumerate(latents):
        design, now = (part.numpy() for part in rows_of(latent))
        scale[run] = SparseVAR(var.order, scale="latent", penalty_scale="target").mean_and_scale(
            latent[latent.isfinite().all(1)].double()
        )[1]
        for j in np.unique(target):
            mine = np.flatnonzero(target == j)
            columns = np.r_[feature[mine], np.flatnonzero(own[:, j])]
            inverse = np.linalg.pinv(design[:, columns].T @ design[:, columns], hermitian=True)
            weight = inverse @ (design[:, columns].T @ now[:, j])
            left = np.square(now[:, j] - design[:, columns] @ weight).sum() / max(len(now) - len(columns), 1)
            effect[run, mine] = weight[: len(mine)]
            error[run, mine] = np.sqrt(np.maximum(left * inverse.diagonal()[: len(mine)], 0))
    relative = scale / np.sqrt(np.square(scale).mean(axis=0))
    units = relative[:, target] / relative[:, source]
    return units * effect, units * error


def _evidence(
    var: SparseVAR, latents: Sequence[Float[Tensor, "_T K"]]
) -> tuple[Float[NDArray[np.float64], "p K"], Float[NDArray[np.float64], "p K"]]:
    """Return the absolute t of each coupling that a lasso over all series selects, 0 of others; and its coefficient."""
    rows_of = _rows(var)
    design, target, n_rows = condense(rows_of(latent) for latent in latents)
    own = _own(target.shape[1], var.order).to(target.device)
    alpha = SELECTED * own_residual(design, target, var.order) * chance(design.shape[1], n_rows)
    found = lasso(design, target, alpha, gradient=None, weights=(~own).to(design), mask=var.mask) != 0
    allowed, coupled = (found | own).cpu().numpy(), (found & ~own).any(0).cpu().numpy()
    rows = torch.cat([design, target], dim=1)
    gram = (rows.T @ rows / len(rows)).cpu().numpy()
    p = design.shape[1]
    weights, evidence = np.zeros(allowed.shape), np.zeros(allowed.shape)
    for j in np.flatnonzero(coupled):
        columns = np.flatnonzero(allowed[:, j])
        inverse = np.linalg.pinv(gram[np.ix_(columns, columns)], hermitian=True)
        weight = inverse @ gram[columns, p + j]
        left = (gram[p + j, p + j] - weight @ gram[columns, p + j]) / max(n_rows - len(columns), 1)
        error = np.sqrt(np.maximum(left * inverse.diagonal(), 0))
        weights[columns, j] = weight
        evidence[columns, j] = np.divide(np.abs(weight), error, out=np.zeros_like(error), where=error > 0)
    evidence[_own(allowed.shape[1], var.order).numpy()] = 0
    return evidence, weights


def _rows(var: SparseVAR) -> Callable[[Float[Tensor, "T K"]], tuple[Float[Tensor, "n p"], Float[Tensor, "n K"]]]:
    """Return what makes the regression of a series, each latent at unit variance."""
    unit = SparseVAR(var.order, scale="latent", penalty_scale="target")
    return lambda latent: unit.stack([latent.double()], [latent.isnan().any(1)])


def _own(n_latents: int, order: int) -> Bool[Tensor, "p K"]:
    """Say which coefficients are of a latent's own past."""
    return torch.eye(n_latents, dtype=torch.bool).repeat(order, 1)


def condense(
    blocks: Iterable[tuple[Float[Tensor, "_n p"], Float[Tensor, "_n K"]]],
) -> tuple[Float[Tensor, "m p"], Float[Tensor, "m K"], int]:
    """Return a regression of at most p + K rows with the same solutions as all blocks' rows, and their number.

    It is a factor of the products of design and target, scaled so that means over its rows are means over all rows. No
    more than twice as many rows, and those of a block, are held at once.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> X, y = torch.randn(100, 3, dtype=torch.float64), torch.randn(100, 2, dtype=torch.float64)
    >>> design, target, n = condense([(X[:50], y[:50]), (X[50:], y[50:])])
    >>> design.shape, target.shape, n
    (torch.Size([5, 3]), torch.Size([5, 2]), 100)
    >>> torch.allclose(design.T @ target / 5, X.T @ y / 100)
    True
    """
    kept: list[Tensor] = []
    gram: Tensor | None = None
    n_rows = n_features = 0
    for design, target in blocks:
        n_rows, n_features = n_rows + len(design), design.shape[1]
        kept.append(torch.cat([design, target], dim=1).double())
        if sum(map(len, kept)) > 2 * kept[0].shape[1]:
            gram, kept = _products(kept, gram), kept[:0]
    if gram is None and (not kept or sum(map(len, kept)) <= kept[0].shape[1]):
        rows = torch.cat(kept)
    else:
        rows = _factor(_products(kept, gram))
    if n_rows > len(rows):
        rows *= (len(rows) / n_rows) ** 0.5
    return rows[:, :n_features].contiguous(), rows[:, n_features:].contiguous(), n_rows


def _products(blocks: Sequence[Float[Tensor, "_n s"]], gram: Float[Tensor, "s s"] | None) -> Float[Tensor, "s s"]:
    """Add the products of the columns of stacked blocks: a tenth of the time of a triangular factor of each stack."""
    if not blocks:
        assert gram is not None
        return gram
    rows = torch.cat(list(blocks))
    if rows.device.type == "cpu":  # NumPy computes half of it and mirrors that, torch all
        product: Tensor = torch.from_numpy(rows.numpy().T @ rows.numpy())
    else:
        product = rows.T @ rows
    return product if gram is None else gram.add_(product)


def _factor(gram: Float[Tensor, "s s"]) -> Float[Tensor, "s s"]:
    """Return rows with these products."""
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(gram, upper=True)
    if not failed:
        return factor
    values, vectors = torch.linalg.eigh(gram)  # columns depend on each other: a latent is constant, say
    factor = (vectors * values.clamp(min=0).sqrt()).T
    return factor


def _least_squares(
    design: Float[Tensor, "n p"], target: Float[Tensor, "n K"], allowed: Bool[Tensor, "p K"]
) -> Float[Tensor, "p K"]:
    weights = design.new_zeros(allowed.shape)
    for j, columns in enumerate(allowed.T):
        # gelsd: what is constant in a series, or allowed more often than it has rows, leaves it without full rank
        weights[columns, j] = torch.linalg.lstsq(design[:, columns], target[:, j], driver="gelsd").solution
    return weights
