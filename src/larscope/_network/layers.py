"""The network's layers around its poolings: each as one function with a gradient of its own.

On the CPU they are compiled (`kernels`) and pass once over memory, which takes longer than the arithmetic there;
elsewhere they are torch's own functions. Images are (frames, channels, height, width), channels last in memory;
`which` says from which of the four pixels of a square a maximum came: 0 and 1 above, 2 and 3 below.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SLOPE = 0.01
"""Of the leaky ReLU."""


def convolve_and_pool(
    x: Float[Tensor, "t c height width"], conv: nn.Conv2d, norm: nn.BatchNorm2d
) -> tuple[Float[Tensor, "t d h w"], UInt8[Tensor, "t d h w"]]:
    """3 x 3 convolution, leaky ReLU, batch norm, 2 x 2 max-pool; return the maxima and their places."""
    if not _compiled(x):
        pooled, index = F.max_pool2d(norm(F.leaky_relu(conv(x), SLOPE)), kernel_size=2, return_indices=True)
        width = x.shape[-1]
        return pooled, (index // width % 2 * 2 + index % 2).to(torch.uint8)
    fused = conv.in_channels == 1 and not x.requires_grad
    plane, weights = (x, (conv.weight, conv.bias)) if fused else (conv(x), (None, None))
    running = norm.running_mean, norm.running_var
    given = (None, None) if norm.training else running
    pooled, which, mean, var = _apply(_Pool, plane, *weights, norm.weight, norm.bias, *given, norm.eps)
    if norm.training and norm.running_mean is not None and norm.running_var is not None:
        n, momentum = x.numel() // x.shape[1], float(norm.momentum or 0)
        norm.running_mean.lerp_(mean, momentum)
        norm.running_var.lerp_(var * (n / (n - 1)), momentum)
        norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
    return pooled, which


def unpool_and_convolve(
    x: Float[Tensor, "t c h w"], which: UInt8[Tensor, "t c h w"], conv: nn.Conv2d
) -> Float[Tensor, "t d height width"]:
    """2 x 2 max-unpool, 3 x 3 convolution."""
    if _compiled(x) and conv.out_channels == 1:
        image: Tensor = _apply(_UnpoolGather, x, which, conv.weight, conv.bias)
        return image
    planes: Tensor = conv(unpool(x, which))
    return planes


def unpool(x: Float[Tensor, "t c h w"], which: UInt8[Tensor, "t c h w"]) -> Float[Tensor, "t c height width"]:
    """Put every maximum at its place in `which`, zeros elsewhere."""
    if _compiled(x):
        plane: Tensor = _apply(_Unpool, x, which)
        return plane
    t, c, h, w = x.shape
    places = torch.arange(4, dtype=torch.uint8, device=x.device).view(2, 1, 2)
    squares = x[:, :, :, None, :, None] * (which[:, :, :, None, :, None] == places)
    planes: Tensor = squares.reshape(t, c, 2 * h, 2 * w)
    return planes.contiguous(memory_format=torch.channels_last)


class _Pool(torch.autograd.Function):
    """Leaky ReLU, batch norm and max-pool, of a plane or of the convolution of an image.

    Max-pool comes before batch norm, which is increasing in each channel whose weight is positive and decreasing in the
    others, where the least is pooled instead: the plane is read once, and what is written is a quarter of it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        scale: Tensor,
        shift: Tensor,
        mean: Tensor | None,
        var: Tensor | None,
        eps: float,
    ) -> tuple[Tensor, ...]:
        kernels = _kernels()
        frames, _, height, width = x.shape
        channels = len(scale)
        pooled = x.new_empty(frames, height // 2, width // 2, channels)
        which = torch.empty_like(pooled, dtype=torch.uint8)
        total, squares = torch.zeros(2, frames, channels, dtype=torch.float64)
        sign = torch.where(scale < 0, -1, 1).to(x)
        written = SLOPE, sign, pooled, which, total, squares
        source: tuple[Tensor, ...]
        if weight is None or bias is None:
            source = (_last(x),)
            _over_frames(kernels.pool, *source, *written)
        else:
            source = _with_border(x), _taps(weight), bias
            _over_frames(kernels.spread_pool, *source, *written)
        ctx.batch = mean is None or var is None
        if mean is None or var is None:
            n = x.numel() // x.shape[1]
            exact = total.sum(0) / n
            mean, var = exact.to(x), (squares.sum(0) / n - exact.square()).clamp(min=0).to(x)
        rate = scale * (var + eps).rsqrt()
        normed = torch.addcmul(shift - mean * rate, pooled, rate)
        ctx.save_for_backward(*source, pooled, which, scale, mean, var)
        ctx.eps = eps
        result: tuple[Tensor, ...] = normed.permute(0, 3, 1, 2), which.permute(0, 3, 1, 2), mean, var
        ctx.mark_non_differentiable(*result[1:])
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        kernels = _kernels()
        *source, pooled, which, scale, mean, var = ctx.saved_tensors
        gradient = _last(gradient)
        frames, channels = len(gradient), len(scale)
        total, products = torch.zeros(2, frames, channels, dtype=torch.float64)
        _over_frames(kernels.sums, gradient, pooled, total, products)
        inverse = (var + ctx.eps).rsqrt()
        shift_gradient = total.sum(0)
        scale_gradient = (products.sum(0) - mean * shift_gradient) * inverse
        rate = scale * inverse
        constant = linear = torch.zeros_like(rate)
        if ctx.batch:
            n = 4 * gradient.numel() // channels
            linear = -rate * inverse * scale_gradient / n
            constant = -rate * shift_gradient / n - linear * mean
        common = (gradient, which, SLOPE, rate, constant.to(rate), linear.to(rate))
        x_gradient = weight_gradient = bias_gradient = None
        if len(source) == 1:
            out = torch.empty_like(source[0])
            _over_frames(kernels.pool_backward, *source, *common, out)
            x_gradient = out.permute(0, 3, 1, 2)
        else:
            weights, biases = total.new_zeros(frames, 9, channels), total.new_zeros(frames, channels)
            _over_frames(kernels.spread_pool_backward, *source, *common, weights, biases)
            weight_gradient = weights.sum(0).T.reshape(channels, 1, 3, 3).to(rate)
            bias_gradient = biases.sum(0).to(rate)
        return (
            *(x_gradient, weight_gradient, bias_gradient),
            *(scale_gradient.to(rate), shift_gradient.to(rate), None, None, None),
        )


class _Unpool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, which: Tensor) -> Tensor:
        which = _last(which)
        frames, height, width, channels = which.shape
        out = x.new_empty(frames, 2 * height, 2 * width, channels)
        _over_frames(_kernels().unpool, _last(x), which, out)
        ctx.save_for_backward(which)
        return out.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (which,) = ctx.saved_tensors
        out = torch.empty_like(which, dtype=gradient.dtype)
        _over_frames(_kernels().unpool_backward, _last(gradient), which, out)
        return out.permute(0, 3, 1, 2), None


class _UnpoolGather(torch.autograd.Function):
    """Max-unpool, and the 3 x 3 convolution of it to one channel, without the unpooled plane."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, which: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x, which = _last(x), _last(which)
        frames, height, width, _ = x.shape
        taps = _taps(weight)
        out = x.new_empty(frames, 2 * height + 2, 2 * width + 2)
        _over_frames(_kernels().unpool_gather, x, which, taps, out)
        ctx.save_for_backward(x, which, taps)
        return out[:, None, 1:-1, 1:-1] + bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        x, which, taps = ctx.saved_tensors
        frames, channels = len(x), x.shape[3]
        x_gradient, weights = torch.empty_like(x), x.new_zeros(frames, 9, channels, dtype=torch.float64)
        turned = taps.flip(0)
        _over_frames(_kernels().unpool_gather_backward, x, which, turned, _with_border(gradient), x_gradient, weights)
        weight_gradient = weights.sum(0).flip(0).T.reshape(1, channels, 3, 3).to(x)
        return x_gradient.permute(0, 3, 1, 2), None, weight_gradient, gradient.sum().reshape(1)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    return function.apply(*arguments)


def _kernels() -> ModuleType:
    # Imported here, because numba is slow to import.
    from larscope._network import kernels

    return kernels


def _compiled(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def _last(x: Tensor) -> Tensor:
    """Channels last, as arrays of the kernels."""
    return x.permute(0, 2, 3, 1).contiguous()


def _with_border(image: Float[Tensor, "t 1 height width"]) -> Float[Tensor, "t rows columns"]:
    return F.pad(image.squeeze(1), (1, 1, 1, 1))


def _taps(weight: Tensor) -> Float[Tensor, "9 channels"]:
    """Weights of a convolution from one channel, or to one, of all channels side by side."""
    return weight.detach().reshape(-1, 9).T.contiguous()


def _over_frames(kernel: Callable[..., None], first: Tensor, *others: Any) -> None:
    """Run a kernel over the frames, in threads: it releases the GIL, and frames share no written number."""
    arrays = [
        value.detach().numpy() if isinstance(value, Tensor) else first.new_tensor(value).numpy()[()]
        for value in (first, *others)
    ]
    frames = len(first)
    threads = min(torch.get_num_threads(), frames)
    if threads == 1:
        kernel(0, frames, *arrays)
        return
    bounds = [frames * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for run in [pool.submit(kernel, *bounds[i : i + 2], *arrays) for i in range(threads)]:
            run.result()
