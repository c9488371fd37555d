"""Frames become the brightness of cells and back, whatever haze and fading light do."""

import numpy as np
import pytest
import torch

from larscope._network.cells import CellNetwork
from larscope._network.footprints import Parts, Windows


@pytest.fixture
def network() -> CellNetwork:
    rng = np.random.default_rng(0)
    footprints = np.zeros((3, 20, 16))
    footprints[0, 0:4, 1:4] = rng.random((4, 3))  # at the edge
    footprints[1, 8:12, 6:10] = rng.random((4, 4))
    footprints[2, 10:14, 8:12] = rng.random((4, 4))  # overlaps the second
    broad = rng.random((2, 20, 16)).astype(np.float32)
    broad /= np.linalg.norm(broad.reshape(2, -1), axis=1)[:, None, None]
    parts = Parts(Windows.around(footprints, 4), broad, np.array([0.5, 1.0]))
    return CellNetwork(torch.from_numpy(rng.random((20, 16)).astype(np.float32)), parts)


def made_of(network: CellNetwork, latent: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    footprints = torch.from_numpy(network.footprints)
    return (
        network.mean_frame
        + torch.einsum("tk,khw->thw", latent, footprints)
        + (torch.einsum("tn,nhw->thw", rest, network.broad))
    )


def test_frames_become_what_they_are_made_of(network):
    latent, rest = torch.randn(5, 3), torch.randn(5, 2)
    found, (found_rest,) = network.encode(made_of(network, latent, rest))
    torch.testing.assert_close(found, latent, atol=0.02, rtol=0.02)
    torch.testing.assert_close(found_rest, rest, atol=0.02, rtol=0.02)


def test_decoding_draws_footprints_and_what_is_left_of_the_rest(network):
    latent, rest = torch.randn(5, 3), torch.randn(5, 2)
    torch.testing.assert_close(network.decode(latent, (rest,)), made_of(network, latent, rest * network.memory))
    torch.testing.assert_close(
        network.decode(latent, (rest,)) - network.mean_frame, network.decode_residual(latent, (rest,))
    )


def test_without_forecasts_all_of_the_rest_is_drawn(network):
    same = CellNetwork.from_weights(network.mean_frame, network.state_dict(), forecasts=False)
    frames = torch.rand(4, 20, 16)
    for ours, theirs in zip(network.encode(frames), same.encode(frames), strict=True):
        torch.testing.assert_close(ours, theirs)
    latent, rest = same.encode(frames)
    torch.testing.assert_close(same.decode(latent, rest), made_of(same, latent, rest[0]))
