"""Frames become the brightness of cells and back, whatever haze and fading light do."""

import numpy as np
import pytest
import torch

from larscope._movies.preprocessing import PreparedSession, prepare
from larscope._movies.session import ArrayMovie, Run, Session
from larscope._network.cells import CellNetwork
from larscope._network.footprints import Parts, Windows


@pytest.fixture
def network() -> CellNetwork:
    rng = np.random.default_rng(0)
    footprints = np.zeros((3, 24, 16))
    footprints[0, 0:4, 1:4] = rng.random((4, 3))  # at the edge
    footprints[1, 8:12, 6:10] = rng.random((4, 4))
    footprints[2, 10:14, 8:12] = rng.random((4, 4))  # overlaps the second
    broad = rng.random((2, 24, 16)).astype(np.float32)
    broad /= np.linalg.norm(broad.reshape(2, -1), axis=1)[:, None, None]
    parts = Parts(Windows.around(footprints, 4), broad, np.array([0.5, 1.0]), diameter=4.0)
    return CellNetwork(torch.from_numpy(rng.random((24, 16)).astype(np.float32)), parts)


def made_of(network: CellNetwork, latent: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    footprints = torch.from_numpy(network.footprints)
    return (
        network.mean_frame
        + torch.einsum("tk,khw->thw", latent, footprints)
        + (torch.einsum("tn,nhw->thw", rest, network.broad))
    )


def test_frames_become_what_they_are_made_of(network):
    latent, rest = torch.randn(5, 3), torch.randn(5, 2)
    found, (found_rest, baseline) = network.encode(made_of(network, latent, rest))
    torch.testing.assert_close(found, latent, atol=0.02, rtol=0.02)
    torch.testing.assert_close(found_rest, rest, atol=0.02, rtol=0.02)
    assert not baseline.any()  # nothing was followed


def test_decoding_draws_footprints_and_what_is_left_of_the_rest(network):
    latent, rest = torch.randn(5, 3), torch.randn(5, 2)
    light = torch.rand(5, 24, 16)
    expected = made_of(network, latent, rest * network.memory) + light
    torch.testing.assert_close(network.decode(latent, (rest, light)), expected)


def test_without_forecasts_all_of_the_rest_is_drawn(network):
    same = CellNetwork.from_weights(network.mean_frame, network.state_dict(), forecasts=False)
    frames = torch.rand(4, 24, 16)
    latent, rest = same.encode(frames)
    torch.testing.assert_close(network.encode(frames), (latent, rest))
    torch.testing.assert_close(same.decode(latent, rest), made_of(same, latent, rest[0]))


def session_of(frames: torch.Tensor) -> PreparedSession:
    return prepare(Session((Run("one", "light", ArrayMovie(frames.numpy())),)))


def follow(network: CellNetwork, prepared: PreparedSession) -> None:
    network.mean_frame.copy_(torch.from_numpy(prepared.mean_frame()))
    network.follow(prepared)


def test_the_skip_connection_follows_what_stays_and_not_what_is_new_in_each_frame(network):
    """Light that comes and stays is in the baseline of later frames, by its share; noise has no share of any."""
    torch.manual_seed(0)
    noise = 0.02 * torch.randn(200, 24, 16)
    light = torch.zeros(24, 16)
    light[14:20, 0:6] = 0.3
    steps = (torch.arange(200) >= 100).float()[:, None, None] * light
    follow(network, session_of(network.mean_frame + noise))
    assert network.gain < 0.1
    prepared = session_of(network.mean_frame + noise + steps)
    follow(network, prepared)
    assert 0.5 < network.gain < 1.2
    frames = torch.from_numpy(prepared.frames(0))
    _, (_, baseline) = network.encode(frames)
    gone, come = (part[:, 15:19, 1:5].mean() for part in (baseline[60:100], baseline[160:]))
    assert come - gone > 0.5 * (frames[160:] - frames[60:100].mean(0))[:, 15:19, 1:5].mean()


def test_a_baseline_knows_no_frame_that_comes_later(network):
    network.gain.fill_(1.0)
    frames = torch.rand(30, 24, 16)
    _, (_, baseline) = network.encode(frames)
    _, (_, so_far) = network.encode(frames[:12])
    torch.testing.assert_close(baseline[:12], so_far)
    frames[5] = torch.nan  # a missing frame changes nothing
    _, (_, around) = network.encode(frames)
    torch.testing.assert_close(around[5], so_far[4])


def test_weights_are_those_of_the_same_network(network):
    network.gain.fill_(0.7)
    saved = {name: value.reshape(-1) if value.ndim == 0 else value for name, value in network.state_dict().items()}
    same = CellNetwork.from_weights(network.mean_frame, saved)
    frames = torch.rand(4, 24, 16)
    torch.testing.assert_close(same.decode(*same.encode(frames)), network.decode(*network.encode(frames)))
