"""What the paper's standard deviation does to R_var: about the mean of the latents, or about zero.

The same latents, trained as in the paper on a simulated session, with its VAR fitted twice. Prints the table of
`docs/paper.md`. Three minutes on one core.

    python reproduction/sigma.py
"""

import copy
import warnings

import numpy as np
import torch
from torch import Tensor

from larscope import LatentVAR, SparseVAR, simulate_session

PAPER = {
    "sequential": {0.005: 0.472, 0.01: 0.682, 0.02: 0.853},
    "embedded": {0.005: 0.421, 0.01: 0.611, 0.02: 0.791},
    "end-to-end": {0.005: 0.398, 0.01: 0.530, 0.02: 0.699},
}
"""R_var of the paper's Table 2."""


class AboutZero(SparseVAR):
    """The VAR with the root mean square in place of the standard deviation."""

    def mean_and_scale(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return no centre, and the root mean square."""
        return torch.zeros_like(latent[..., :1, :]), latent.square().mean((-2, -1), keepdim=True).sqrt()


def r_var(var: SparseVAR, latents: list[np.ndarray]) -> float:
    """Return the mean over runs of R_var, in sample."""
    errors = []
    for latent in map(torch.from_numpy, latents):
        with torch.no_grad():
            forecast = var(latent).forecast
        target = latent[var.order :]
        errors.append(float(((target - forecast).square().sum(1) / target.square().sum(1)).mean()))
    return float(np.mean(errors))


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    session = simulate_session(n_runs=8, n_frames=384, frame_shape=(96, 64), seed=0)
    print("| penalty | training | offset's share | R_var, about the mean | R_var, about zero | paper |")
    print("|---|---|---|---|---|---|")
    for training, published in PAPER.items():
        for penalty, theirs in published.items():
            model = LatentVAR(preset="paper", training=training, penalty=penalty).fit(session)
            offset = np.mean([np.square(z.mean(0)).sum() / np.square(z).mean(0).sum() for z in model.latents_])
            zero = copy.deepcopy(model.var_)
            zero.__class__ = AboutZero
            both = [f"{r_var(var, model.latents_):.3f}" for var in (model.var_, zero)]
            print(f"| {penalty:g} | {training} | {offset:.0%} | {' | '.join(both)} | {theirs:.3f} |", flush=True)


if __name__ == "__main__":
    main()
