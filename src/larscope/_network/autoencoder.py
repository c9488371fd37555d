"""The convolutional autoencoder of sec. 2.1, with its skip connection for the static image.

A frame of height x width pixels becomes a latent map of height/8 x width/8: three blocks, or fewer for a finer map. All
tensors of images are (frames, channels, height, width); `Indices` are what unpooling needs to put each value back where
the encoder found it.
"""

import math
from itertools import chain
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from larscope._network.layers import SLOPE, convolve_and_pool, unpool_and_convolve
from larscope._network.linear_start import Shortcut
from larscope._statistics.maps import latent_positions

CHANNELS = 32

Indices = tuple[UInt8[Tensor, "frames channels h w"], ...]
"""For each encoder block, the place of every maximum in its square of four pixels: 0 and 1 above, 2 and 3 below."""


class Convolution(nn.Conv2d):
    """3 x 3 convolution; may compute in bfloat16 in training, with float32 input and output."""

    low_precision = False

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Float[Tensor, "t c height width"]) -> Float[Tensor, "t d height width"]:
        """Return maps of the same height and width."""
        if not (self.low_precision and self.training):
            return super().forward(x)
        low = torch.bfloat16
        bias = None if self.bias is None else self.bias.to(low)
        return F.conv2d(x.to(low), self.weight.to(low), bias, padding=1).to(x)


class EncoderBlock(nn.Module):
    """3 x 3 convolution, leaky ReLU, batch norm, 2 x 2 max-pool with indices."""

    def __init__(self, in_channels: int, running_norm: bool = True) -> None:
        super().__init__()
        self.conv = Convolution(in_channels, CHANNELS)
        self.norm = nn.BatchNorm2d(CHANNELS, track_running_stats=running_norm)

    def forward(self, x: Float[Tensor, "t c height width"]) -> tuple[Tensor, Tensor]:
        """Return the pooled maps and the indices of the maxima."""
        return convolve_and_pool(x, self.conv, self.norm)


class Encoder(nn.Module):
    """Three blocks, then a 1 x 1 convolution to one channel."""

    def __init__(self, running_norm: bool = True, n_blocks: int = 3) -> None:
        super().__init__()
        channels = (1, *[CHANNELS] * (n_blocks - 1))
        self.blocks = nn.ModuleList([EncoderBlock(in_channels, running_norm) for in_channels in channels])
        self.conv = nn.Conv2d(CHANNELS, 1, kernel_size=1)

    def forward(self, x: Float[Tensor, "t 1 height width"]) -> tuple[Float[Tensor, "t 1 h w"], Indices]:
        """Return the latent maps and the indices of the poolings."""
        indices = []
        for block in self.blocks:
            x, index = block(x)
            indices.append(index)
        return self.conv(x), tuple(indices)


class DecoderBlock(nn.Module):
    """2 x 2 max-unpool, 3 x 3 convolution, and unless `linear`, batch norm and leaky ReLU."""

    def __init__(self, out_channels: int, running_norm: bool = True, linear: bool = False) -> None:
        super().__init__()
        self.conv = Convolution(CHANNELS, out_channels)
        self.norm = None if linear else nn.BatchNorm2d(out_channels, track_running_stats=running_norm)

    def forward(self, x: Float[Tensor, "t c h w"], indices: UInt8[Tensor, "t c h w"]) -> Tensor:
        """Return maps of twice the height and width."""
        x = unpool_and_convolve(x, indices, self.conv)
        if self.norm is None:
            return x
        return F.leaky_relu(self.norm(x), SLOPE, inplace=True)


class Decoder(nn.Module):
    """A 1 x 1 convolution to 32 channels, then three blocks; the last has one channel."""

    def __init__(self, running_norm: bool = True, linear_output: bool = False, n_blocks: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, CHANNELS, kernel_size=1)
        inner = [DecoderBlock(CHANNELS, running_norm) for _ in range(n_blocks - 1)]
        self.blocks = nn.ModuleList([*inner, DecoderBlock(1, running_norm, linear=linear_output)])

    def forward(self, z: Float[Tensor, "t 1 h w"], indices: Indices) -> Float[Tensor, "t 1 height width"]:
        """Return images, unpooling with the indices of the corresponding encoder block, deepest first."""
        x: Tensor = self.conv(z)
        for block, index in zip(self.blocks, reversed(indices), strict=True):
            x = block(x, index)
        return x


class Autoencoder(nn.Module):
    r"""Encoder and decoder of single frames around the static image (sec. 2.1).

    With the skip connection the network sees `x - mean_frame` and its output is
    `(decoder(z) + 1) * mean_frame`; without it (the ablation of sec. 3.2), `x` and `decoder(z)`.

    With the shortcut, which the paper does not have, both begin as a linear encoder and decoder of patches, and learn
    the rest: with f and g those of `Shortcut`, and m the mean frame,

    .. math:: z = f(x - m) + encoder(x - m), \qquad \hat x = (g(z) + decoder(z) + 1)\, m,

    where the last convolutions of encoder and decoder are zero at first.

    Parameters
    ----------
    mean_frame
        Mean over runs of each run's mean over time.
    skip
        Whether to use the skip connection.
    output
        The last decoder block: `"leaky"` as in the paper, or `"linear"`.
    batch_norm
        Statistics in evaluation: `"running"` averages of training, or those of the frames at hand (`"window"`).
    precision
        Arithmetic of the convolutions in training. Everything else is float32.
    patch
        Side of the square of pixels that a latent stands for: 8, as in the paper, 4 or 2.
    shortcut
        Whether latents and images begin as those of a `Shortcut`, which is to `learn` from the session first.

    Examples
    --------
    >>> network = Autoencoder(torch.rand(192, 128))
    >>> latent, indices = network.encode(torch.rand(10, 192, 128))
    >>> latent.shape
    torch.Size([10, 384])
    >>> network.decode(latent, indices).shape
    torch.Size([10, 192, 128])
    """

    mean_frame: Tensor

    history = 0
    """Frames before a frame that its pooling indices depend on."""

    def __init__(
        self,
        mean_frame: Float[Tensor, "height width"],
        skip: bool = True,
        output: Literal["leaky", "linear"] = "leaky",
        batch_norm: Literal["running", "window"] = "running",
        precision: Literal["float32", "bfloat16"] = "float32",
        patch: int = 8,
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("mean_frame", mean_frame)
        self.skip = skip
        self.shortcut = Shortcut(mean_frame, patch, skip) if shortcut else None
        running_norm = batch_norm == "running"
        n_blocks = patch.bit_length() - 1
        self.encoder = Encoder(running_norm, n_blocks)
        self.decoder = Decoder(running_norm, output == "linear", n_blocks)
        if shortcut:
            last = (self.encoder.conv, self.decoder.blocks[-1].get_submodule("conv"))
            for parameter in chain.from_iterable(conv.parameters() for conv in last):
                nn.init.zeros_(parameter)
        for module in self.modules():
            if isinstance(module, Convolution):
                module.low_precision = precision == "bfloat16"
        # Twice as fast on the CPU. Not `contiguous(memory_format=...)`: it leaves the strides of one-channel weights,
        # which count as contiguous in both layouts, and the convolution would answer in the slow one.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def latent_shape(self) -> tuple[int, int]:
        """Height and width of the latent map."""
        height, width = self.mean_frame.shape
        return height // self.patch, width // self.patch

    @property
    def n_latents(self) -> int:
        """K, the number of latents."""
        return math.prod(self.latent_shape)

    @property
    def positions(self) -> Float[NDArray[np.float64], "K 2"]:
        """Row and column of the centre of each latent's patch, in pixels of the prepared frames."""
        height, width = self.mean_frame.shape
        return latent_positions(self.latent_shape, (height, width))

    @property
    def patch(self) -> int:
        """Pixels per latent, along each side."""
        return 1 << len(self.encoder.blocks)

    def encode(self, frames: Float[Tensor, "t height width"]) -> tuple[Float[Tensor, "t K"], Indices]:
        """Return one latent vector a frame, K of them in row-major order, and the pooling indices."""
        x = frames - self.mean_frame if self.skip else frames
        z, indices = self.encoder(x.unsqueeze(1).contiguous(memory_format=torch.channels_last))
        latent: Tensor = z.flatten(1)
        return latent if self.shortcut is None else latent + self.shortcut.encode(x), indices

    def decode(self, latent: Float[Tensor, "t K"], indices: Indices) -> Float[Tensor, "t height width"]:
        """Return the frames of latent vectors."""
        image = self.decode_residual(latent, indices)
        return (image + 1) * self.mean_frame if self.skip else image

    def decode_residual(self, latent: Float[Tensor, "t K"], indices: Indices) -> Float[Tensor, "t height width"]:
        """Return the decoder's own output, before the mean frame comes in."""
        z = latent.unflatten(1, (1, *self.latent_shape))
        images: Tensor = self.decoder(z, indices).squeeze(1)
        return images if self.shortcut is None else images + self.shortcut.decode(latent)
