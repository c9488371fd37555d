"""The linear start of latents and images, patch by patch, before the network learns the residual. Not in the paper.

A patch is the square of pixels that a latent stands for; K of them, in row-major order, make a frame.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from larscope._movies.preprocessing import PreparedSession

DARKEST = 1e-6
"""Lowest usable intensity, in [0, 1] of the session, for changes relative to an image."""

BRIGHT = 0.05
"""A latent of 1 in units of the movie's mean intensity: latents are neither small nor large numbers."""

RIDGE = 0.01
"""Ridge penalty of the images' least squares, as a share of the latents' mean square."""

NEAR = 3
"""Rows and columns of latents for drawing a patch: its own, and the eight around it."""

CHUNK = 64
"""Frames read at once."""


class Shortcut(nn.Module):
    r"""A linear encoder and decoder: patches become latents by filters, and are drawn from the nearest latents.

    With x what the network sees of a frame, in pixel p of patch k, and m the static image that the skip connection adds
    (else 1),

    .. math:: z_k = \sum_p w_{pk} x_{pk}, \qquad \hat x_{pk} = m_{pk} \sum_n r_{npk} z_{n(k)},

    where n(k) are patch k and the eight around it. At first w takes means over patches, and r interpolates between them
    bilinearly, relative to the static image drawn likewise. `learn` makes w the first principal component of each
    patch's changes, and r the ridge regression of the changes on these latents.

    Parameters
    ----------
    mean_frame
        In [0, 1] of the session; its sides are multiples of `patch`.
    patch
        Side of a patch, in pixels.
    skip
        Whether the network sees frames less the mean frame, which is then the static image.

    Attributes
    ----------
    filters
        w, of (pixels of a patch, K).
    readout
        r, of (9, pixels of a patch, K).

    Examples
    --------
    >>> from larscope import simulate_session
    >>> from larscope._movies.preprocessing import prepare
    >>> prepared = prepare(simulate_session(n_runs=2, n_frames=80, frame_shape=(48, 48), seed=0))
    >>> mean_frame = torch.from_numpy(prepared.mean_frame())
    >>> change = torch.from_numpy(prepared.frames(0)) - mean_frame
    >>> shortcut = Shortcut(mean_frame)
    >>> def left() -> float:
    ...     drawn = mean_frame * shortcut.decode(shortcut.encode(change))
    ...     return ((drawn - change).square().sum() / change.square().sum()).item()
    >>> begun = left()
    >>> shortcut.learn(prepared, mean_frame)
    >>> left() < 0.9 * begun
    True
    """

    filters: Tensor
    readout: Tensor

    def __init__(self, mean_frame: Float[Tensor, "height width"], patch: int = 8, skip: bool = True) -> None:
        super().__init__()
        self.patch = patch
        self.skip = skip
        height, width = mean_frame.shape
        self.grid = height // patch, width // patch
        unit = BRIGHT * mean_frame.mean()
        self.register_buffer("filters", (1 / (patch**2 * unit)).repeat(patch**2, self.grid[0] * self.grid[1]))
        self.register_buffer("readout", unit * _interpolation(self.grid, patch).to(mean_frame))
        if skip:
            means = F.avg_pool2d(mean_frame[None], patch).flatten(1) / unit
            self.readout /= self._patches(self.decode(means)).clamp(min=DARKEST)

    def encode(self, x: Float[Tensor, "t height width"]) -> Float[Tensor, "t K"]:
        """Return the latents of the network's input."""
        return (self._patches(x) * self.filters).sum(1)

    def decode(self, latent: Float[Tensor, "t K"]) -> Float[Tensor, "t height width"]:
        """Return images; with the skip connection, as shares of the static image."""
        patches = torch.einsum("tnk,npk->tpk", self._near(latent), self.readout)
        return F.pixel_shuffle(patches.unflatten(2, self.grid), self.patch).squeeze(1)

    def learn(
        self,
        prepared: PreparedSession,
        mean_frame: Float[Tensor, "height width"],
        on_frames: Callable[[int], None] = lambda n_frames: None,
    ) -> None:
        """Learn filters and readout from all frames of a session, read twice.

        With the skip connection, changes are about each run's own mean: what tells runs apart is no dynamics.

        Parameters
        ----------
        prepared
            The frames.
        mean_frame
            As in the constructor.
        on_frames
            Called with the number of frames read since the last call, to show progress.
        """
        covariance = self._moments(prepared, mean_frame, self._patches, on_frames)
        component = torch.linalg.eigh(covariance).eigenvectors[..., -1]
        # of either sign: what is brighter shall have the larger latent
        component = component * torch.where(component.sum(1, keepdim=True) < 0, -1.0, 1.0)
        self.filters.copy_((component / (self.patch * BRIGHT * mean_frame.mean())).T)

        def near_and_patches(x: Tensor) -> Tensor:
            return torch.cat([self._near(self.encode(x)), self._patches(x)], 1)

        drawing = self._moments(prepared, mean_frame, near_and_patches, on_frames)[:, : NEAR**2]
        gram, cross = drawing[..., : NEAR**2], drawing[..., NEAR**2 :]
        # a patch that never changes has nothing to draw
        strength = (RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1)).clamp(min=1e-30)
        readout = torch.linalg.solve(gram + strength[:, None, None] * torch.eye(NEAR**2), cross).permute(1, 2, 0)
        if self.skip:
            readout = readout / self._patches(mean_frame[None]).clamp(min=DARKEST)
        self.readout.copy_(readout)

    def _moments(
        self,
        prepared: PreparedSession,
        mean_frame: Float[Tensor, "height width"],
        seen: Callable[[Float[Tensor, "t height width"]], Float[Tensor, "t s K"]],
        on_frames: Callable[[int], None],
    ) -> Float[Tensor, "K s s"]:
        """Return sums over frames of all products within a patch, about its run's mean."""
        total: Tensor = torch.zeros(())
        for run, about in enumerate(prepared.runs):
            n_frames, products, sums = 0, torch.zeros(()), torch.zeros(())
            for start, stop in about.batches(CHUNK):
                frames = torch.from_numpy(prepared.frames(run, start, stop))
                values = seen(frames - mean_frame if self.skip else frames).permute(2, 0, 1)
                products = products + (values.mT @ values).double()
                sums = sums + values.sum(1).double()
                n_frames += len(frames)
                on_frames(len(frames))
            if self.skip:
                products = products - sums[:, :, None] * sums[:, None] / n_frames
            total = total + products
        return total

    def _patches(self, images: Float[Tensor, "t height width"]) -> Float[Tensor, "t pixels K"]:
        return F.pixel_unshuffle(images[:, None], self.patch).flatten(2)

    def _near(self, latent: Float[Tensor, "t K"]) -> Float[Tensor, "t near K"]:
        """Return the latents around each, and itself, row by row; 0 beyond the edge."""
        return F.unfold(latent.unflatten(1, (1, *self.grid)), NEAR, padding=NEAR // 2)


def _interpolation(grid: tuple[int, int], patch: int) -> Float[Tensor, "near pixels K"]:
    """Return the weights of bilinear interpolation between the centres of patches; beyond the outermost, theirs."""

    def along(n: int) -> Float[Tensor, "near pixels n"]:
        weights = F.interpolate(torch.eye(n)[None], scale_factor=patch, mode="linear")[0].unflatten(1, (n, patch))
        around = F.pad(weights, (0, 0, 0, 0, 1, 1)).unfold(0, NEAR, 1)  # (n, n, patch, near)
        return around.diagonal(dim1=0, dim2=1).permute(1, 0, 2)

    rows, columns = (along(n) for n in grid)
    return torch.einsum("api,bqj->abpqij", rows, columns).flatten(4).flatten(2, 3).flatten(0, 1)
