"""Cells as latents: a linear encoder and decoder made of footprints, haze and the static image. Not in the paper.

What an autoencoder's pooling indices are to the grid, haze, static image and baseline are to cells: what a frame is
decoded with beside its latents. With them the skip connection adapts, as light fades and tissue moves.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from larscope._movies.preprocessing import PreparedSession
from larscope._network.footprints import CHUNK, RIDGE, Parts, Windows

KEPT = 0.9
"""Share of the baseline that is left one frame later."""

SMOOTH = 0.16
"""Width of the Gaussian that the baseline is smoothed by, in diameters."""

Rest = tuple[Float[Tensor, "frames broad"] | Float[Tensor, "frames height width"], ...]
"""The coefficients of haze and static image, and the baseline: what a frame is decoded with beside its latents."""


class CellNetwork(nn.Module):
    r"""Encoder and decoder of single frames: latents are the brightness of cells.

    With A the footprints, B haze and static image and m the mean frame,

    .. math:: (z, u) = \arg\min \lVert x - m - A z - B u \rVert^2 + \text{ridge}, \qquad \hat x = m + A z + B u + g b,

    where the baseline b is what was left of the frames so far, smoothed, in an exponential moving average: the adaptive
    skip connection (Liu et al. 2019), as dF/F has a moving baseline. `follow` learns its share g; before, it is 0.

    Parameters
    ----------
    mean_frame
        Mean over runs of each run's mean over time.
    parts
        Footprints, haze and static image.
    forecasts
        Whether frames are decoded with the rest, u, of the frame before: each of its parts then counts by how much of
        it is left one frame later.

    Examples
    --------
    >>> footprints = np.zeros((2, 12, 12))
    >>> footprints[0, 2:5, 2:5] = footprints[1, 6:9, 7:10] = 1
    >>> light = np.full((1, 12, 12), 1 / 12, np.float32)
    >>> parts = Parts(Windows.around(footprints, 3), light, memory=np.ones(1))
    >>> network = CellNetwork(torch.full((12, 12), 0.5), parts)
    >>> frame = 0.5 + 0.2 * torch.from_numpy(footprints[:1]).float()
    >>> latent, rest = network.encode(frame)
    >>> tuple(one.shape[1:] for one in rest)
    (torch.Size([1]), torch.Size([12, 12]))
    >>> bool((latent - torch.tensor([[0.2, 0.0]])).abs().max() < 0.01)
    True
    >>> torch.allclose(network.decode(latent, rest), frame, atol=1e-2)
    True
    """

    mean_frame: Tensor
    values: Tensor
    corner: Tensor
    broad: Tensor
    memory: Tensor
    gain: Tensor
    diameter: Tensor
    places: Tensor
    read: Tensor

    history = 40
    """Frames before a frame that its baseline needs: what is older counts for less than 2 %."""

    def __init__(self, mean_frame: Float[Tensor, "height width"], parts: Parts, forecasts: bool = True) -> None:
        super().__init__()
        self._forecasts = forecasts
        self._cells = parts.cells
        self.register_buffer("mean_frame", mean_frame)
        self.register_buffer("values", torch.from_numpy(parts.cells.values).float())
        self.register_buffer("corner", torch.from_numpy(parts.cells.corner))
        self.register_buffer("broad", torch.from_numpy(parts.broad))
        self.register_buffer("memory", torch.from_numpy(parts.memory).float())
        self.register_buffer("gain", torch.tensor(0.0))
        self.register_buffer("diameter", torch.tensor(parts.diameter))
        self.register_buffer("places", torch.from_numpy(parts.cells.places), persistent=False)
        gram = parts.gram()
        # parts weigh as if all were of unit length
        ridge = RIDGE * np.diag(np.diag(gram))
        self.register_buffer("read", torch.from_numpy(np.linalg.inv(gram + ridge)).float(), persistent=False)

    @classmethod
    def from_weights(
        cls, mean_frame: Float[Tensor, "height width"], weights: Mapping[str, Tensor], forecasts: bool = True
    ) -> "CellNetwork":
        """Return the network whose `state_dict` these are."""
        values, corner, broad, memory = (weights[name].numpy() for name in ("values", "corner", "broad", "memory"))
        shape = (int(mean_frame.shape[0]), int(mean_frame.shape[1]))
        network = cls(
            mean_frame, Parts(Windows(values, corner, shape), broad, memory, weights["diameter"].item()), forecasts
        )
        network.gain.copy_(weights["gain"].reshape(()))
        return network

    @property
    def n_latents(self) -> int:
        """K, the number of cells."""
        return len(self.values)

    @property
    def footprints(self) -> Float[NDArray[np.float32], "K height width"]:
        """The footprints as frames: non-negative, 1 at their brightest."""
        return self._cells.images().astype(np.float32)

    @property
    def positions(self) -> Float[NDArray[np.float64], "K 2"]:
        """Row and column of each cell's centre of mass, in pixels of the prepared frames."""
        return self._cells.centres()

    def follow(
        self,
        prepared: PreparedSession,
        on_frames: Callable[[int], None] = lambda n_frames: None,
    ) -> None:
        """Learn the share of the baseline that the next frame has: by least squares, over all frames and pixels."""
        products = torch.zeros(2, dtype=torch.float64)
        for run in range(len(prepared.runs)):
            for start, stop in prepared.runs[run].batches(CHUNK):
                first = max(start - self.history, 0)
                left = self._left(torch.from_numpy(prepared.frames(run, first, stop)))
                baseline, target = self._average(left)[:-1][start - first :], left[1:][start - first :]
                products += torch.stack([(baseline * target).sum(), baseline.square().sum()]).double()
                on_frames(stop - start)
        self.gain.copy_((products[0] / products[1].clamp(min=1e-300)).clamp(min=0))

    def encode(self, frames: Float[Tensor, "t height width"]) -> tuple[Float[Tensor, "t K"], Rest]:
        """Return how much brighter each cell is than in the mean frame, at its brightest pixel, and the rest.

        Frames follow each other; a baseline knows those before it alone that are among them.
        """
        z, u = self._read(frames)
        baseline = frames.new_zeros(frames.shape)
        if self.gain > 0:
            baseline = self.gain * self._average(self._left(frames))
        return z, (u, baseline)

    def decode(self, latent: Float[Tensor, "t K"], rest: Rest) -> Float[Tensor, "t height width"]:
        """Return the frames that latents and rest stand for."""
        coefficients, baseline = rest
        if self._forecasts:
            coefficients = coefficients * self.memory
        return self.mean_frame + baseline + self._draw(latent, coefficients)

    def _read(self, frames: Float[Tensor, "t height width"]) -> tuple[Float[Tensor, "t K"], Float[Tensor, "t broad"]]:
        x = frames - self.mean_frame
        half = self._cells.half
        around = F.pad(x, (half, half, half, half)).flatten(1)
        seen = torch.einsum("tkp,kp->tk", around[:, self.places], self.values.flatten(1))
        both = torch.cat([seen, x.flatten(1) @ self.broad.flatten(1).T], 1) @ self.read
        return both[:, : self.n_latents], both[:, self.n_latents :]

    def _left(self, frames: Float[Tensor, "t height width"]) -> Float[Tensor, "t height width"]:
        """Return what cells, haze and static image leave of frames."""
        return frames - self.mean_frame - self._draw(*self._read(frames))

    def _average(self, left: Float[Tensor, "t height width"]) -> Float[Tensor, "t height width"]:
        """Return the smooth moving average of what is left, up to each frame; a missing one changes nothing."""
        reach = max(1, round(3 * SMOOTH * float(self.diameter)))
        at = torch.arange(-reach, reach + 1.0)
        kernel = torch.exp(-0.5 * (at / (SMOOTH * self.diameter)) ** 2)
        kernel = (kernel / kernel.sum()).to(left)
        padded = F.pad(left[:, None], (reach, reach, reach, reach), mode="replicate")
        smooth = F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])[:, 0]
        averages, average = [], torch.zeros_like(left[0])
        for one in smooth:
            if torch.isfinite(one).all():
                average = KEPT * average + (1 - KEPT) * one
            averages.append(average)
        return torch.stack(averages)

    def _draw(
        self, latent: Float[Tensor, "t K"], coefficients: Float[Tensor, "t broad"]
    ) -> Float[Tensor, "t height width"]:
        half, (height, width) = self._cells.half, self.mean_frame.shape
        canvas = latent.new_zeros(len(latent), (height + 2 * half) * (width + 2 * half))
        drawn = latent[:, :, None] * self.values.flatten(1)
        canvas.index_add_(1, self.places.flatten(), drawn.flatten(1))
        cells = canvas.unflatten(1, (height + 2 * half, -1))[:, half : half + height, half : half + width]
        images: Tensor = cells + (coefficients @ self.broad.flatten(1)).unflatten(1, (height, width))
        return images
