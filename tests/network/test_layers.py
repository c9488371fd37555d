"""The compiled layers against torch's own functions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from larscope._network import layers
from larscope._network.layers import SLOPE, convolve_and_pool, unpool, unpool_and_convolve

CHANNELS = 6


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def channels_last(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last)


def block(in_channels: int, out_channels: int = CHANNELS, **options: object) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1).double()
    norm = nn.BatchNorm2d(out_channels, **options).double()
    # of both signs: where a weight is negative, batch norm makes the least the largest
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return conv, norm


def places(index: torch.Tensor) -> torch.Tensor:
    """Which pixel of its square torch's flat index of a maximum is."""
    width = 2 * index.shape[-1]
    return (index // width % 2 * 2 + index % 2).to(torch.uint8)


def flat_index(which: torch.Tensor) -> torch.Tensor:
    """What torch's own max-unpool takes for places."""
    h, w = which.shape[-2:]
    rows = 2 * torch.arange(h).view(-1, 1) + which // 2
    return rows * 2 * w + 2 * torch.arange(w) + which % 2


def gradients(result: torch.Tensor, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    weight = torch.randn(result.shape, dtype=result.dtype, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((result * weight).sum(), inputs)


@pytest.fixture(params=["compiled", "torch"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(layers, "_compiled", lambda x: False)
    return request.param


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("in_channels", "leaf"), [(1, False), (1, True), (4, True)])
@pytest.mark.parametrize("running", [True, False])
def test_convolve_and_pool_is_torchs(in_channels, leaf, training, running, engine):
    conv, norm = block(in_channels, track_running_stats=running)
    expected_norm = nn.BatchNorm2d(CHANNELS, track_running_stats=running).double()
    expected_norm.load_state_dict(norm.state_dict())
    norm.train(training), expected_norm.train(training)
    x = channels_last(3, in_channels, 8, 12).requires_grad_(leaf)
    inputs = [*([x] if leaf else []), conv.weight, conv.bias]
    pooled, which = convolve_and_pool(x, conv, norm)
    activation = F.leaky_relu(F.conv2d(x, conv.weight, conv.bias, padding=1), SLOPE)
    expected, index = F.max_pool2d(expected_norm(activation), 2, return_indices=True)
    torch.testing.assert_close(pooled, expected)
    assert torch.equal(which, places(index))
    for ours, theirs in zip(
        gradients(pooled, [*inputs, *norm.parameters()]),
        gradients(expected, [*inputs, *expected_norm.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(norm.buffers(), expected_norm.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("out_channels", [1, 4])
def test_unpool_and_convolve_is_torchs(out_channels, engine):
    conv, _ = block(CHANNELS, out_channels)
    x = channels_last(3, CHANNELS, 4, 6).requires_grad_()
    which = torch.randint(0, 4, x.shape, dtype=torch.uint8)
    ours = unpool_and_convolve(x, which, conv)
    theirs = conv(F.max_unpool2d(x, flat_index(which), 2))
    torch.testing.assert_close(ours, theirs)
    inputs = [x, conv.weight, conv.bias]
    for a, b in zip(gradients(ours, inputs), gradients(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_are_derivatives():
    conv, norm = block(2)
    weights = [conv.weight, conv.bias, norm.weight, norm.bias]
    x = channels_last(2, 2, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: convolve_and_pool(x, conv, norm)[0], (x, *weights))
    which = torch.randint(0, 4, x.shape, dtype=torch.uint8)
    last, _ = block(2, 1)
    assert torch.autograd.gradcheck(lambda x, *_: unpool_and_convolve(x, which, last), (x, last.weight, last.bias))
    assert torch.autograd.gradcheck(lambda x: unpool(x, which), (x,))


def test_an_image_gives_the_weights_the_derivative_too():
    conv, norm = block(1)
    image = channels_last(2, 1, 4, 6)
    weights = (conv.weight, conv.bias, norm.weight, norm.bias)
    assert torch.autograd.gradcheck(lambda *_: convolve_and_pool(image, conv, norm)[0], weights)


def test_answers_do_not_depend_on_the_number_of_threads():
    conv, norm = block(1)
    last, _ = block(CHANNELS, 1)
    image = channels_last(5, 1, 8, 12)
    answers = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            pooled, which = convolve_and_pool(image, conv, norm)
            out = unpool_and_convolve(pooled, which, last)
            answers.append([out, *gradients(out, [conv.weight, last.weight, norm.weight])])
    finally:
        torch.set_num_threads(before)
    for other in answers[1:]:
        for a, b in zip(answers[0], other, strict=True):
            assert torch.equal(a, b)


def test_single_precision_holds_where_the_mean_is_large_against_the_spread():
    conv, norm = block(1)
    image = channels_last(4, 1, 64, 64)
    with torch.no_grad():
        conv.bias += 30
    expected, _ = convolve_and_pool(image, conv, norm)
    exact = gradients(expected, [conv.weight, norm.weight])
    conv, norm = conv.float(), norm.float()
    pooled, _ = convolve_and_pool(image.float(), conv, norm)
    torch.testing.assert_close(pooled.double(), expected, atol=2e-4, rtol=0)
    pooled.backward(torch.randn(pooled.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).float())
    for ours, theirs in zip((conv.weight.grad, norm.weight.grad), exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=2e-4 * float(theirs.abs().max()), rtol=0)
