import pytest
import torch
from torch import nn
from torch.nn import functional as F

from larscope._network.autoencoder import CHANNELS, Autoencoder, Convolution


def seeded(height: int = 32, width: int = 24, **options: object) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(torch.rand(height, width) + 0.5, **options)


def plain_encode(network: Autoencoder, frames: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Sec. 2.1, layer for layer, in torch's own functions."""
    x = (frames - network.mean_frame).unsqueeze(1)
    indices = []
    for block in network.encoder.blocks:
        x = F.conv2d(x, block.conv.weight, block.conv.bias, padding=1)
        x = F.leaky_relu(x, 0.01)
        x = F.batch_norm(x, None, None, block.norm.weight, block.norm.bias, training=True)
        x, index = F.max_pool2d(x, 2, return_indices=True)
        indices.append(index)
    return F.conv2d(x, network.encoder.conv.weight, network.encoder.conv.bias), indices


def plain_decode(network: Autoencoder, z: torch.Tensor, indices: list[torch.Tensor]) -> torch.Tensor:
    x = F.conv2d(z, network.decoder.conv.weight, network.decoder.conv.bias)
    for block, index in zip(network.decoder.blocks, reversed(indices), strict=True):
        x = F.max_unpool2d(x, index, 2)
        x = F.conv2d(x, block.conv.weight, block.conv.bias, padding=1)
        x = F.batch_norm(x, None, None, block.norm.weight, block.norm.bias, training=True)
        x = F.leaky_relu(x, 0.01)
    return (x.squeeze(1) + 1) * network.mean_frame


def places(index: torch.Tensor) -> torch.Tensor:
    """Which pixel of its square torch's flat index of a maximum is."""
    width = 2 * index.shape[-1]
    return (index // width % 2 * 2 + index % 2).to(torch.uint8)


def test_latent_is_24_by_16_at_the_papers_size():
    network = seeded(192, 128)
    latent, indices = network.encode(torch.rand(2, 192, 128))
    assert network.latent_shape == (24, 16)
    assert latent.shape == (2, 384)
    assert [tuple(index.shape[1:]) for index in indices] == [(32, 96, 64), (32, 48, 32), (32, 24, 16)]
    assert network.decode(latent, indices).shape == (2, 192, 128)


def test_fewer_poolings_give_smaller_patches_and_more_latents():
    for patch in (8, 4, 2):
        network = Autoencoder(torch.rand(32, 16), patch=patch)
        latent, indices = network.encode(torch.rand(3, 32, 16))
        assert network.latent_shape == (32 // patch, 16 // patch)
        assert latent.shape == (3, 32 * 16 // patch**2)
        assert len(indices) == len(network.encoder.blocks) == len(network.decoder.blocks)
        assert network.decode(latent, indices).shape == (3, 32, 16)


@pytest.mark.parametrize("skip", [True, False])
def test_begins_as_its_shortcut(skip):
    network = seeded(skip=skip, output="linear", shortcut=True).eval()
    frames = network.mean_frame + 0.1 * torch.randn(3, 32, 24)
    latent, indices = network.encode(frames)
    torch.testing.assert_close(latent, network.shortcut.encode(frames - network.mean_frame if skip else frames))
    drawn = network.shortcut.decode(latent)
    expected = (drawn + 1) * network.mean_frame if skip else drawn
    torch.testing.assert_close(network.decode(latent, indices), expected)


def test_the_shortcut_draws_nothing_where_the_movie_is_black():
    mean_frame = torch.zeros(32, 24)
    mean_frame[:8, :8] = 0.5
    network = Autoencoder(mean_frame, output="linear", shortcut=True)
    images = network.decode(*network.encode(mean_frame + 0.1 * torch.rand(2, 32, 24)))
    assert images.isfinite().all()
    assert images[:, mean_frame == 0].abs().max() == 0


def test_the_network_learns_what_the_shortcut_lacks():
    network = seeded(output="linear", shortcut=True)
    frames = torch.rand(4, 32, 24) + 0.5
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = (network.decode(*network.encode(frames)) - frames).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in network.named_parameters() if "conv.w" in name)


def test_equals_the_paper_layer_for_layer():
    network = seeded().double()
    # batch-norm weights of both signs: the order of activation, normalisation and pooling then matters
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    frames = torch.rand(5, 32, 24, dtype=torch.float64)
    latent, indices = network.encode(frames)
    expected_z, expected_indices = plain_encode(network, frames)
    torch.testing.assert_close(latent, expected_z.flatten(1))
    for index, expected in zip(indices, expected_indices, strict=True):
        assert torch.equal(index, places(expected))
    torch.testing.assert_close(network.decode(latent, indices), plain_decode(network, expected_z, expected_indices))


def test_parameters_are_those_of_the_paper():
    shapes = {name: tuple(p.shape) for name, p in seeded().named_parameters() if "conv.weight" in name}
    assert shapes == {
        "encoder.blocks.0.conv.weight": (CHANNELS, 1, 3, 3),
        "encoder.blocks.1.conv.weight": (CHANNELS, CHANNELS, 3, 3),
        "encoder.blocks.2.conv.weight": (CHANNELS, CHANNELS, 3, 3),
        "encoder.conv.weight": (1, CHANNELS, 1, 1),
        "decoder.conv.weight": (CHANNELS, 1, 1, 1),
        "decoder.blocks.0.conv.weight": (CHANNELS, CHANNELS, 3, 3),
        "decoder.blocks.1.conv.weight": (CHANNELS, CHANNELS, 3, 3),
        "decoder.blocks.2.conv.weight": (1, CHANNELS, 3, 3),
    }


def test_a_step_uses_no_operation_that_torch_calls_nondeterministic():
    network = seeded()
    torch.use_deterministic_algorithms(True)
    try:
        network.decode(*network.encode(torch.rand(4, 32, 24))).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_silent_decoder_returns_the_mean_frame():
    network = seeded()
    for parameter in network.decoder.parameters():
        nn.init.zeros_(parameter)
    latent, indices = network.encode(torch.rand(3, 32, 24))
    torch.testing.assert_close(network.decode(latent, indices), network.mean_frame.expand(3, -1, -1))


def test_without_skip_connection_the_mean_frame_plays_no_part():
    network = seeded(skip=False)
    frames = torch.rand(3, 32, 24)
    before = network.decode(*network.encode(frames))
    network.mean_frame.mul_(2)
    assert torch.equal(before, network.decode(*network.encode(frames)))


def test_linear_output_passes_negative_residuals_undamped():
    damped, linear = seeded().eval(), seeded(output="linear").eval()
    linear.load_state_dict(damped.state_dict(), strict=False)
    latent, indices = damped.encode(torch.rand(3, 32, 24))
    image = damped.decode(latent, indices) / damped.mean_frame - 1
    free = linear.decode(latent, indices) / linear.mean_frame - 1
    norm = damped.decoder.blocks[-1].norm
    # in evaluation the untouched batch norm only divides by sqrt(1 + eps)
    expected = F.leaky_relu(free / (1 + norm.eps) ** 0.5, 0.01)
    torch.testing.assert_close(image, expected, atol=1e-6, rtol=1e-4)
    assert free.min() < 10 * image.min() < 0


def test_window_batch_norm_uses_the_statistics_at_hand_in_evaluation():
    running, window = seeded().eval(), seeded(batch_norm="window").eval()
    window.load_state_dict(running.state_dict(), strict=False)
    frames = torch.rand(6, 32, 24)
    assert not torch.allclose(running.encode(frames)[0], window.encode(frames)[0])
    torch.testing.assert_close(running.train().encode(frames)[0], window.encode(frames)[0])


def test_no_value_comes_back_from_the_device_within_a_step():
    # a tensor on "meta" has no values: whatever asked for one, as a GPU would have to wait for, would raise
    network = seeded().to("meta")
    frames = torch.rand(4, 32, 24, device="meta")
    image = network.decode(*network.encode(frames))
    F.mse_loss(image, frames).backward()
    assert image.shape == frames.shape
    assert all(parameter.grad.device.type == "meta" for parameter in network.parameters())


def test_bfloat16_is_for_the_convolutions_of_training_alone():
    exact, low = seeded(), seeded(precision="bfloat16")
    frames = torch.rand(4, 32, 24)
    losses = []
    for network in (exact, low):
        latent, indices = network.encode(frames)
        losses.append(F.mse_loss(network.decode(latent, indices), frames))
        losses[-1].backward()
        assert latent.dtype == torch.float32
        assert all(parameter.grad.dtype == torch.float32 for parameter in network.parameters())
    assert losses[0] != losses[1]
    # each convolution rounds its input and weights once; gradients have no bound, since a maximum may move
    n_convolutions = sum(isinstance(module, Convolution) for module in low.modules())
    torch.testing.assert_close(*losses, rtol=2 * n_convolutions * torch.finfo(torch.bfloat16).eps, atol=0)
    low.load_state_dict(exact.state_dict())
    assert torch.equal(low.eval().encode(frames)[0], exact.eval().encode(frames)[0])


def test_a_bfloat16_convolution_is_torchs_own():
    torch.manual_seed(0)
    convolution = Convolution(4, 3).train()
    convolution.low_precision = True
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    gradient = torch.randn(2, 3, 8, 8)
    inputs = (x, convolution.weight, convolution.bias)
    ours = torch.autograd.grad(convolution(x), inputs, gradient)
    low = [tensor.to(torch.bfloat16) for tensor in inputs]
    theirs = torch.autograd.grad(F.conv2d(*low, padding=1).float(), inputs, gradient)
    assert torch.equal(convolution(x), F.conv2d(*low, padding=1).float())
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == torch.float32
