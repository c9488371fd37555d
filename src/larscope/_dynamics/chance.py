"""What chance finds: the same latents, each shifted in time by an amount of its own, have no couplings left."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from larscope._dynamics.var import SparseVAR

NEAR = 3
"""Latents shifted by amounts within so many orders of each other are still related, and left out of the count."""


@dataclass(frozen=True)
class Shift:
    """How far each latent is shifted in time, circularly, as a share of its run.

    Each latent keeps its own past, its noise and the shape of its events. What one latent says of another is gone, but
    for pairs whose amounts are nearly equal.
    """

    share: Float[NDArray[np.float64], " K"]

    @classmethod
    def draw(cls, n_latents: int, rng: np.random.Generator) -> "Shift":
        """Draw an amount for each latent."""
        return cls(rng.random(n_latents))

    def apply(self, latent: Float[Tensor, "T K"]) -> Float[Tensor, "T K"]:
        """Shift each latent of a series; frames that are NaN stay where they are.

        Examples
        --------
        >>> latent = torch.tensor([[0.0, 5.0], [1.0, 6.0], [2.0, 7.0], [3.0, 8.0]])
        >>> Shift(np.array([0.25, 0.5])).apply(latent)
        tensor([[3., 7.],
                [0., 8.],
                [1., 5.],
                [2., 6.]])
        """
        there = latent.isfinite().all(1)
        series = latent[there]
        frame = torch.arange(len(series))[:, None] - torch.from_numpy((self.share * len(series)).astype(np.int64))
        shifted = latent.clone()
        shifted[there] = series.gather(0, (frame % len(series)).to(latent.device))
        return shifted

    def far(self, order: int, n_frames: int) -> Bool[NDArray[np.bool_], "K K"]:
        """Say which pairs of latents are shifted far apart, in runs of `n_frames` or more."""
        apart = np.abs(self.share[:, None] - self.share)
        return np.asarray(np.minimum(apart, 1 - apart) * n_frames > NEAR * order)


def count_by_chance(var: SparseVAR, latent: Float[Tensor, "T K"], seed: int = 0) -> int:
    """Return how many couplings a fit finds by chance: in the same latents, shifted in time.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> latent = torch.randn(300, 10, dtype=torch.float64)
    >>> latent[1:, 2] += latent[:-1, 0]
    >>> var = SparseVAR(order=1, penalty=1.0, penalty_scale="residual", scale="latent")
    >>> count_by_chance(var, latent) <= 8  # of 90, where noise alone would give about 3
    True
    """
    n_latents = latent.shape[1]
    shift = Shift.draw(n_latents, np.random.default_rng(seed))
    missing = latent.isnan().any(1)
    far = shift.far(var.order, int((~missing).sum()))
    with torch.no_grad():
        found = (var(shift.apply(latent), missing).coef != 0).sum(0).cpu().numpy()
    between = ~np.eye(n_latents, dtype=bool)
    return round(float(found[far & between].sum() * between.sum() / max((far & between).sum(), 1)))
