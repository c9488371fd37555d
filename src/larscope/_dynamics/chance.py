"""What chance finds: the same latents, each shifted in time by an amount of its own, have no couplings left."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def shift_in_time(latent: Float[Tensor, "T K"], rng: np.random.Generator) -> Float[Tensor, "T K"]:
    """Shift each latent of a series circularly, by an amount of its own; frames that are NaN stay where they are.

    Each latent keeps its own past, its noise and the shape of its events. What one latent says of another is gone, but
    for the few pairs whose amounts are nearly equal.

    Examples
    --------
    >>> latent = torch.tensor([[0.0, 5.0], [1.0, 6.0], [2.0, 7.0], [3.0, 8.0]])
    >>> shift_in_time(latent, np.random.default_rng(0))
    tensor([[1., 7.],
            [2., 8.],
            [3., 5.],
            [0., 6.]])
    """
    there = latent.isfinite().all(1)
    series = latent[there]
    n_frames, n_latents = series.shape
    amount = torch.from_numpy(rng.integers(n_frames, size=n_latents)).to(latent.device)
    frame = (torch.arange(n_frames, device=latent.device)[:, None] - amount) % n_frames
    shifted = latent.clone()
    shifted[there] = series.gather(0, frame)
    return shifted
