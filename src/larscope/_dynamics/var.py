r"""Sparse vector autoregression of a latent series (sec. 2.1, 2.2).

`coef[k - 1, j, l]` is the effect of latent l on latent j at lag k. With the latents centred (`center=True`) and
divided by sigma,

.. math:: \hat z_t = \sigma \sum_k A_k (z_{t-k} / \sigma), \qquad
          \min_A \frac{1}{2nK} \lVert Z - \hat Z \rVert_F^2 + \lambda \sum |a|.

With a squared loss and an entrywise penalty this separates into K lassos with one design.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from larscope._errors import LarscopeError
from larscope._statistics.scaling import rounding_energy
from larscope.lasso import alpha_max, lasso

HELD_OUT = 0.2
"""Held-out share of a run, at its end, for `var_error_heldout`."""

SMALLEST_RESIDUAL = 1e-3
"""Of a target, what its own past is taken to leave at least: below it are rounding and the solver's tolerance."""


def lag_matrix(latent: Float[Tensor, "*batch T K"], order: int) -> Float[Tensor, "*batch n p"]:
    """Return the design of a VAR: row t holds the `order` frames before frame t + order, the nearest first.

    Parameters
    ----------
    latent
        Series of T frames.
    order
        Number of lags, below T.

    Returns
    -------
    Tensor
        n = T - order rows, p = order * K columns: latent l at lag k is column (k - 1) * K + l.

    Examples
    --------
    >>> lag_matrix(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), order=2)
    tensor([[1., 0.],
            [2., 1.]])
    """
    n_frames = latent.shape[-2]
    if not 1 <= order < n_frames:
        raise LarscopeError(
            f"`order` must be at least 1 and smaller than the number of frames: got order={order} and "
            f"{n_frames} frames. Lower `order` or use a longer series."
        )
    lags = [latent[..., order - k : n_frames - k, :] for k in range(1, order + 1)]
    return torch.cat(lags, dim=-1)


def to_design_layout(coef: Float[Tensor, "*batch order K K"]) -> Float[Tensor, "*batch p K"]:
    """Return the coefficients as the columns of one regression a target: `lag_matrix(z) @ result` forecasts."""
    return coef.transpose(-1, -2).flatten(-3, -2)


def from_design_layout(weights: Float[Tensor, "*batch p K"], order: int) -> Float[Tensor, "*batch order K K"]:
    """Undo `to_design_layout`."""
    n_latents = weights.shape[-1]
    return weights.reshape(*weights.shape[:-2], order, n_latents, n_latents).transpose(-1, -2)


@dataclass(frozen=True)
class VARFit:
    """A fitted VAR.

    Attributes
    ----------
    coef
        `coef[..., k - 1, j, l]`: effect of latent l on latent j at lag k.
    forecast
        One-step-ahead forecasts of frames order .. T - 1, the mean included.
    mean
        What was subtracted before the fit: the series' mean, or zero without centring.
    sigma
        What it was divided by: one value a series, or one a latent.
    """

    coef: Float[Tensor, "*batch order K K"]
    forecast: Float[Tensor, "*batch n K"]
    mean: Float[Tensor, "*batch 1 K"]
    sigma: Float[Tensor, "*batch 1 _"]

    @property
    def order(self) -> int:
        """Number of lags."""
        return self.coef.shape[-3]

    @property
    def n_active(self) -> Int[Tensor, "*batch"]:
        """Number of non-zero coefficients."""
        return (self.coef != 0).sum((-3, -2, -1))

    @property
    def n_coupled(self) -> Int[Tensor, "*batch"]:
        """Number of couplings between different latents."""
        own = self.coef.diagonal(dim1=-2, dim2=-1)
        return self.n_active - (own != 0).sum((-2, -1))

    def predict(self, latent: Float[Tensor, "*batch T K"]) -> Float[Tensor, "*batch n K"]:
        """Forecast another stretch of the series with these coefficients, this mean and this scale."""
        scaled = (latent - self.mean) / self.sigma
        return self.sigma * (lag_matrix(scaled, self.order) @ to_design_layout(self.coef)) + self.mean


@dataclass(frozen=True)
class _Rows:
    """The regression of a series; `there`: which of the frames order .. T - 1 are among its rows, None for all."""

    design: Float[Tensor, "*batch n p"]
    target: Float[Tensor, "*batch n K"]
    mean: Float[Tensor, "*batch 1 K"]
    sigma: Float[Tensor, "*batch 1 _"]
    there: Bool[Tensor, " _"] | None


class SparseVAR(nn.Module):
    r"""l1-penalised VAR, fitted from scratch to each series it is given.

    Minimises `1/(2nK) ||Z - Zhat||_F^2 + penalty * sum |a|` over series of unit variance.

    Parameters
    ----------
    order
        Number of lags p.
    penalty
        lambda of the paper.
    penalty_scale
        `"mean"`: alpha = penalty * K, the objective above. `"target"`: alpha = penalty for each target latent.
        `"noise"`: alpha = penalty * sqrt(2 log(p) / n), with p = order * K candidates and n fitted frames: times the
        largest correlation that p series of noise are expected to reach in n frames, so that one penalty suits windows,
        runs, and runs together (the universal threshold of Donoho and Johnstone 1994). `"residual"`: the same times
        s_j, the share of target j that its own past leaves unexplained (`own_residual`): one penalty then suits every
        target too.
    center
        Subtract the series' mean first; False as in the paper.
    scale
        `"series"`: divide by the standard deviation over all frames and latents; without centring, about the mean of
        them all, as in the paper. `"latent"`: by each latent's own;
        needs another `penalty_scale` than `"mean"`, since there every coefficient is zero from alpha = 1 on.
    own_weight
        The penalty's weight on a latent's own lags: 1 penalises them like all others, 0 not at all.
    max_distance
        Allow only couplings between latents at most this far apart, in latent pixels; needs `latent_shape`.
    latent_shape
        Height and width of the latent map, for `max_distance`.
    gradient
        `"implicit"`, `"unrolled"` or None (coefficients are constants), as in `lasso`.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> latent = torch.randn(200, 4, dtype=torch.float64).cumsum(0)
    >>> fit = SparseVAR(order=2, penalty=0.01)(latent)
    >>> fit.coef.shape, fit.forecast.shape
    (torch.Size([2, 4, 4]), torch.Size([198, 4]))
    """

    def __init__(
        self,
        order: int = 5,
        penalty: float = 0.005,
        *,
        penalty_scale: Literal["mean", "target", "noise", "residual"] = "mean",
        center: bool = True,
        scale: Literal["series", "latent"] = "series",
        own_weight: float = 1.0,
        max_distance: float | None = None,
        latent_shape: tuple[int, int] | None = None,
        gradient: Literal["implicit", "unrolled"] | None = "implicit",
    ) -> None:
        super().__init__()
        if scale == "latent" and penalty_scale == "mean":
            raise LarscopeError(
                "scale='latent' needs penalty_scale='target', 'noise' or 'residual', got penalty_scale='mean': with "
                "every latent at unit variance all coefficients are zero from alpha = 1 on. Pass one of them."
            )
        for name, value, known in (
            ("scale", scale, ("series", "latent")),
            ("penalty_scale", penalty_scale, ("mean", "target", "noise", "residual")),
        ):
            if value not in known:
                raise LarscopeError(f"`{name}` must be one of {', '.join(map(repr, known))}: got {value!r}.")
        if max_distance is not None and latent_shape is None:
            raise LarscopeError("`max_distance` is measured on the latent map: pass `latent_shape` too, got None.")
        self.order = order
        self.penalty = penalty
        self.penalty_scale = penalty_scale
        self.center = center
        self.scale = scale
        self.own_weight = own_weight
        self.gradient = gradient
        self.mask: Tensor | None
        mask = None
        if max_distance is not None and latent_shape is not None:
            mask = neighbours(latent_shape, max_distance).repeat(order, 1)
        self.register_buffer("mask", mask, persistent=False)

    def with_order(self, order: int) -> "SparseVAR":
        """Return the same VAR with another number of lags.

        >>> SparseVAR(order=2, penalty=0.1).with_order(3)
        SparseVAR(order=3, penalty=0.1, gradient='implicit')
        """
        other = copy.deepcopy(self)
        if self.mask is not None:
            other.mask = self.mask[: self.mask.shape[1]].repeat(order, 1)
        other.order = order
        return other

    def alone(self, n_latents: int) -> "SparseVAR":
        """Return the VAR without couplings: of each latent's own past, by least squares."""
        own = SparseVAR(
            self.order, 1.0, penalty_scale="target", center=self.center, scale=self.scale, own_weight=0.0, gradient=None
        )
        own.mask = torch.eye(n_latents, dtype=torch.bool).repeat(self.order, 1)
        return own

    def alpha(
        self, design: Float[Tensor, "*batch n p"], target: Float[Tensor, "*batch n K"], n_rows: int | None = None
    ) -> Float[Tensor, "*batch K"]:
        """Return each target's penalty in scikit-learn's units, for this regression; no gradient flows through it.

        `n_rows`: how many frames the regression stands for, where that is not its number of rows.
        """
        return self.penalty * self._unit(design, target, n_rows)

    def _unit(self, design: Tensor, target: Tensor, n_rows: int | None = None) -> Tensor:
        """Return a penalty of 1 in scikit-learn's units, for each target."""
        n_latents = target.shape[-1]
        unit = float(n_latents) if self.penalty_scale == "mean" else 1.0
        if self.penalty_scale in ("noise", "residual"):
            unit = chance(self.order * n_latents, n_rows or target.shape[-2])
        if self.penalty_scale == "residual":
            return own_residual(design, target, self.order) * unit
        return torch.full((*target.shape[:-2], n_latents), unit, dtype=torch.float64, device=target.device)

    def forward(self, latent: Float[Tensor, "*batch T K"], missing: Bool[Tensor, " T"] | None = None) -> VARFit:
        """Fit every series of a batch and forecast it, in sample.

        `missing` frames (whatever they hold) are left out: a frame is fitted and forecast only if it and the `order`
        frames before it are there; other forecasts are NaN.
        """
        rows = self._rows(latent, missing)
        return self._forecast(rows, self.solve(rows.design, rows.target), latent)

    def fit_together(
        self, latents: Sequence[Float[Tensor, "_T K"]], missing: Sequence[Bool[Tensor, " _T"]] | None = None
    ) -> Float[Tensor, "order K K"]:
        """Fit one matrix of coefficients to several series: their lagged frames are stacked.

        Each series is first centred and scaled by itself, so that a livelier one counts no more than others.

        Examples
        --------
        >>> _ = torch.manual_seed(0)
        >>> runs = [torch.randn(100, 4, dtype=torch.float64).cumsum(0) for _ in range(3)]
        >>> SparseVAR(order=2, penalty=0.01).fit_together(runs).shape
        torch.Size([2, 4, 4])
        """
        return from_design_layout(self.solve(*self.stack(latents, missing)), self.order)

    def stack(
        self, latents: Sequence[Float[Tensor, "_T K"]], missing: Sequence[Bool[Tensor, " _T"]] | None = None
    ) -> tuple[Float[Tensor, "n p"], Float[Tensor, "n K"]]:
        """Return design and targets of `fit_together`: for `solve`, when it is solved more than once."""
        gaps = [None] * len(latents) if missing is None else missing
        rows = [self._rows(latent, gone) for latent, gone in zip(latents, gaps, strict=True)]
        return torch.cat([row.design for row in rows]), torch.cat([row.target for row in rows])

    def solve(
        self,
        design: Float[Tensor, "*batch n p"],
        target: Float[Tensor, "*batch n K"],
        init: Float[Tensor, "p K"] | None = None,
        n_rows: int | None = None,
    ) -> Float[Tensor, "*batch p K"]:
        """Return the coefficients, in the layout of `lag_matrix`; `init` changes the time, not the answer.

        `n_rows`: how many frames the regression stands for, where that is not its number of rows.
        """
        weights = self._penalty_weights(target)
        alpha = self.alpha(design, target, n_rows)
        return lasso(design, target, alpha, gradient=self.gradient, weights=weights, mask=self.mask, init=init)

    def largest_penalty(self, design: Float[Tensor, "n p"], target: Float[Tensor, "n K"]) -> float:
        """Return the smallest penalty without any penalised coefficient.

        Examples
        --------
        >>> _ = torch.manual_seed(0)
        >>> var = SparseVAR(order=2)
        >>> rows = var.stack([torch.randn(100, 4, dtype=torch.float64).cumsum(0)])
        >>> var.penalty = var.largest_penalty(*rows)
        >>> int((var.solve(*rows) != 0).sum())
        0
        """
        alpha = alpha_max(design, target, weights=self._penalty_weights(target), mask=self.mask)
        return float((alpha / self._unit(design, target)).max())

    def apply_coef(
        self,
        coef: Float[Tensor, "order K K"],
        latent: Float[Tensor, "T K"],
        missing: Bool[Tensor, " T"] | None = None,
    ) -> VARFit:
        """Forecast a series with given coefficients; mean and scale are the series' own."""
        return self._forecast(self._rows(latent, missing), to_design_layout(coef), latent)

    def _rows(self, latent: Float[Tensor, "*batch T K"], missing: Bool[Tensor, " T"] | None) -> _Rows:
        """Return the regression of a series: in units of its scale, without missing frames."""
        if missing is not None and missing.shape != latent.shape[-2:-1]:
            raise LarscopeError(
                f"`missing` must have one value per frame, shape ({latent.shape[-2]},): got {tuple(missing.shape)}. "
                "Pass a boolean for each frame of the series."
            )
        if missing is None or not bool(missing.any()):
            mean, sigma = self.mean_and_scale(latent)
            scaled = (latent - mean) / sigma
            return _Rows(lag_matrix(scaled, self.order), scaled[..., self.order :, :], mean, sigma, None)
        there = complete_rows(missing, self.order)
        if not bool(there.any()):
            raise LarscopeError(
                f"A fit of order {self.order} needs {self.order + 1} consecutive frames: got {len(missing)} frames "
                f"with {int(missing.sum())} missing and no such stretch. Drop the run, or lower `order`."
            )
        mean, sigma = self.mean_and_scale(latent[..., ~missing, :])
        scaled = ((latent - mean) / sigma).masked_fill(missing.unsqueeze(-1), 0)  # NaN times zero is NaN
        design = lag_matrix(scaled, self.order)[..., there, :]
        return _Rows(design, scaled[..., self.order :, :][..., there, :], mean, sigma, there)

    def _forecast(self, rows: _Rows, weights: Float[Tensor, "*batch p K"], latent: Tensor) -> VARFit:
        forecast = rows.sigma * (rows.design @ weights) + rows.mean
        if rows.there is not None:
            everywhere = torch.full_like(latent[..., self.order :, :], float("nan"))
            everywhere[..., rows.there, :] = forecast
            forecast = everywhere
        return VARFit(from_design_layout(weights, self.order), forecast, rows.mean, rows.sigma)

    def _penalty_weights(self, target: Float[Tensor, "*batch n K"]) -> Float[Tensor, "p K"] | None:
        if self.own_weight == 1:
            return None
        own = torch.eye(target.shape[-1], dtype=torch.bool, device=target.device).repeat(self.order, 1)
        return torch.where(own, self.own_weight, 1.0).to(target)

    def mean_and_scale(
        self, latent: Float[Tensor, "*batch T K"]
    ) -> tuple[Float[Tensor, "*batch 1 K"], Float[Tensor, "*batch 1 _"]]:
        """Return center and scale of a series: see `VARFit`."""
        mean = latent.mean(-2, keepdim=True) if self.center else torch.zeros_like(latent[..., :1, :])
        axes = (-2,) if self.scale == "latent" else (-2, -1)
        # a standard deviation is about the mean, whether or not that is subtracted
        middle = mean if self.center else latent.mean(axes, keepdim=True)
        variance = (latent - middle).square().mean(axes, keepdim=True)
        # what is constant but for rounding has no dynamics: scaled up, the rounding would forecast itself
        energy = latent.detach().square().mean(axes, keepdim=True)
        constant = variance <= rounding_energy(energy, torch.finfo(latent.dtype).eps)
        return mean, torch.where(constant, torch.ones_like(variance), variance).sqrt()

    def extra_repr(self) -> str:
        """Show the settings in the module's repr."""
        return f"order={self.order}, penalty={self.penalty}, gradient={self.gradient!r}"


def own_residual(
    design: Float[Tensor, "*batch n p"], target: Float[Tensor, "*batch n K"], order: int
) -> Float[Tensor, "*batch K"]:
    """Return what its own past leaves unexplained of each target: the root mean square of its residuals.

    Least squares on its own lags. No gradient flows through it, and it is at least a thousandth of the target, so that
    a penalty in these units is never zero.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> latent = torch.randn(2000, 1, dtype=torch.float64)
    >>> for t in range(1, 2000):
    ...     latent[t] += 0.8 * latent[t - 1]
    >>> bool((own_residual(lag_matrix(latent, 2), latent[2:], 2) - 1).abs() < 0.05)  # noise of variance 1 drives it
    True
    """
    past, now = design.detach().double(), target.detach().double()
    past = past.unflatten(-1, (order, -1))
    gram = torch.einsum("...nak,...nbk->...kab", past, past)
    cross = torch.einsum("...nak,...nk->...ka", past, now)
    # a constant latent has no past to invert
    ridge = 1e-10 * gram.diagonal(dim1=-2, dim2=-1).mean(-1)
    ridge = torch.where(ridge > 0, ridge, torch.ones_like(ridge))[..., None, None]
    weights = torch.linalg.solve(gram + ridge * torch.eye(order, dtype=gram.dtype, device=gram.device), cross)
    left = (now - torch.einsum("...nak,...ka->...nk", past, weights)).square().mean(-2).sqrt()
    size = now.square().mean(-2).sqrt()
    return torch.where(size > 0, left.maximum(SMALLEST_RESIDUAL * size), torch.ones_like(size))


def chance(n_candidates: int, n_frames: int) -> float:
    """Return the largest correlation that so many series of noise are expected to reach with another.

    >>> round(chance(480, 384), 3)
    0.179
    """
    return math.sqrt(2 * math.log(max(2, n_candidates)) / n_frames)


def neighbours(latent_shape: tuple[int, int], max_distance: float) -> Bool[Tensor, "K K"]:
    """Return the pairs of latents within `max_distance` latent pixels.

    >>> neighbours((1, 3), 1.0)
    tensor([[ True,  True, False],
            [ True,  True,  True],
            [False,  True,  True]])
    """
    rows, columns = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in latent_shape), indexing="ij")
    position = torch.stack([rows.flatten(), columns.flatten()], dim=1)
    return torch.cdist(position, position) <= max_distance


@dataclass(frozen=True)
class Measures:
    """How well a VAR describes one run (sec. 3.5)."""

    var_error: float
    var_explained: float
    var_error_heldout: float
    own_error_heldout: float


def measure(
    var: SparseVAR,
    latent: Float[Tensor, "T K"],
    fit: VARFit,
    missing: Bool[Tensor, " T"] | None = None,
    early_coef: Float[Tensor, "order K K"] | None = None,
) -> Measures:
    """Return the errors of a fit on its own run, and of a fit to the run's first 80 % on the rest.

    `var_error` is R_var, the mean over frames of `||z_t - zhat_t||^2 / ||z_t||^2`, on the centred series when
    `var.center`. `var_explained` is 1 - squared error / variance, both summed over frames and latents.
    `var_error_heldout` is R_var on the last 20 % of the frames, with coefficients, mean and scale from the
    first 80 %; with `early_coef` in place of those coefficients where they come from several runs. `own_error_heldout`
    is the same for each latent's own past alone, by least squares: what couplings have to beat. All are NaN for a
    series without variance, which has nothing to forecast, and the last two where `missing` frames leave nothing to fit
    or to forecast on their side.
    """
    gone = torch.zeros(len(latent), dtype=torch.bool) if missing is None else missing
    rows = complete_rows(gone, var.order)
    with torch.no_grad():
        target = latent[var.order :][rows]
        forecast = fit.forecast[rows]
        residual = (target - forecast).square().sum()
        spread = (target - target.mean(0)).square().sum()
        if spread <= rounding_energy(target.square().sum(), torch.finfo(target.dtype).eps):
            return Measures(*[float("nan")] * 4)
        return Measures(
            var_error=_relative_error(target, forecast, fit.mean),
            var_explained=float(1 - residual / spread),
            var_error_heldout=_heldout_error(var, latent, gone, early_coef),
            own_error_heldout=_heldout_error(var.alone(latent.shape[-1]), latent, gone, None),
        )


def first_part(n_frames: int) -> int:
    """Return how many frames of a run the coefficients of `var_error_heldout` are fitted to."""
    return round(n_frames * (1 - HELD_OUT))


def _heldout_error(var: SparseVAR, latent: Tensor, missing: Tensor, early_coef: Tensor | None) -> float:
    split = first_part(len(latent))
    # the last `order` frames before the split are the past of the first held-out frame
    late, late_missing = latent[split - var.order :], missing[split - var.order :]
    rows = complete_rows(late_missing, var.order)
    if not (bool(rows.any()) and bool(complete_rows(missing[:split], var.order).any())):
        return float("nan")
    series = latent[:split], missing[:split]
    early: VARFit = var(*series) if early_coef is None else var.apply_coef(early_coef, *series)
    return _relative_error(late[var.order :][rows], early.predict(late)[rows], early.mean)


def _relative_error(target: Tensor, forecast: Tensor, mean: Tensor) -> float:
    energy = (target - mean).square().sum(-1)
    error = (target - forecast).square().sum(-1)
    return float((error / energy)[energy > 0].mean())


def complete_rows(missing: Bool[Tensor, " T"], order: int) -> Bool[Tensor, " n"]:
    """Return the frames of order .. T - 1 present together with the `order` frames before them.

    >>> complete_rows(torch.tensor([False, True, False, False, False]), order=1).tolist()
    [False, False, True, True]
    """
    gone = torch.stack([missing[order - k : len(missing) - k] for k in range(order + 1)])
    return ~gone.any(dim=0)
