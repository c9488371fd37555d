"""Couplings between latents: selected on all runs together, measured in each."""

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from larscope._dynamics.var import SparseVAR, from_design_layout
from larscope.lasso import lasso


def fit_couplings(var: SparseVAR, latents: Sequence[Float[Tensor, "_T K"]]) -> list[Float[Tensor, "order K K"]]:
    r"""Fit couplings between latents of unit variance: selected on all series together, measured in each by itself.

    A lasso over the stacked series selects couplings; a latent's own past is free. The penalty of target j,

    .. math:: \alpha_j = s_j \sqrt{2 \log(p) / n},

    with :math:`s_j` what its own past leaves unexplained, is the largest correlation that p series of noise are
    expected to reach in n frames. Least squares on what was selected then gives each series' own coefficients, not
    shrunk (the relaxed lasso of Meinshausen 2007). Which condition a series belongs to is not looked at, so that
    conditions can be compared.

    Parameters
    ----------
    var
        Its `order` and `max_distance` are used; its penalty and scale are not.
    latents
        Series; frames that are NaN are missing.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> runs = [torch.randn(200, 3, dtype=torch.float64) for _ in range(2)]
    >>> for latent in runs:
    ...     latent[1:, 2] += latent[:-1, 0]  # latent 0 acts on latent 2
    >>> [(coef.abs() > 0.3).nonzero().tolist() for coef in fit_couplings(SparseVAR(order=1), runs)]
    [[[0, 2, 0]], [[0, 2, 0]]]
    """
    unit = SparseVAR(var.order, scale="latent", penalty_scale="target")

    def rows_of(latent: Float[Tensor, "T K"]) -> tuple[Float[Tensor, "n p"], Float[Tensor, "n K"]]:
        return unit.stack([latent.double()], [latent.isnan().any(1)])

    design, target, n = condense(rows_of(latent) for latent in latents)
    p, n_latents = design.shape[1], target.shape[1]
    own = torch.eye(n_latents, dtype=torch.bool, device=target.device).repeat(var.order, 1)
    noise = (target - design @ _least_squares(design, target, own)).square().mean(0).sqrt()
    alpha = noise * math.sqrt(2 * math.log(p) / n)
    found = lasso(design, target, alpha, gradient=None, weights=(~own).to(design), mask=var.mask) != 0
    return [from_design_layout(_least_squares(*rows_of(latent), found | own), var.order) for latent in latents]


def condense(
    blocks: Iterable[tuple[Float[Tensor, "_n p"], Float[Tensor, "_n K"]]],
) -> tuple[Float[Tensor, "m p"], Float[Tensor, "m K"], int]:
    """Return a regression of at most p + K rows with the same solutions as all blocks' rows, and their number.

    It is the triangular factor of design and target, scaled so that means over its rows are means over all rows. No
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
    n_rows = n_features = 0
    for design, target in blocks:
        n_rows, n_features = n_rows + len(design), design.shape[1]
        kept.append(torch.cat([design, target], dim=1))
        if sum(map(len, kept)) > 2 * kept[0].shape[1]:
            kept = [_triangular(kept)]
    size = kept[0].shape[1]
    if sum(map(len, kept)) > size:
        kept = [_triangular(kept)]
    rows = torch.cat(kept)
    if n_rows > len(rows):
        rows *= (len(rows) / n_rows) ** 0.5
    return rows[:, :n_features].contiguous(), rows[:, n_features:].contiguous(), n_rows


def _triangular(blocks: Sequence[Float[Tensor, "_n s"]]) -> Float[Tensor, "m s"]:
    """Return the triangular factor of stacked blocks, of as many rows as columns."""
    factor: Tensor = torch.linalg.qr(torch.cat(list(blocks)).double(), mode="r").R
    return factor


def _least_squares(
    design: Float[Tensor, "n p"], target: Float[Tensor, "n K"], allowed: Bool[Tensor, "p K"]
) -> Float[Tensor, "p K"]:
    weights = design.new_zeros(allowed.shape)
    for j, columns in enumerate(allowed.T):
        # gelsd: what is constant in a series, or allowed more often than it has rows, leaves it without full rank
        weights[columns, j] = torch.linalg.lstsq(design[:, columns], target[:, j], driver="gelsd").solution
    return weights
