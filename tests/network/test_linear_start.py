import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from torch.nn import functional as F

from larscope._movies.preprocessing import prepare
from larscope._movies.session import ArrayMovie, Run, Session
from larscope._network.linear_start import NEAR, RIDGE, Shortcut


def recorded(n_runs=3, n_frames=70, shape=(32, 24), seed=0):
    """Runs of different brightness, in which a smooth image comes and goes in each of 12 places."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    places = rng.uniform((0, 0), shape, (12, 2))
    images = np.stack([np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 20) for y, x in places])
    static = rng.uniform(1, 2, shape)
    movies = [
        run + static + np.einsum("tk,khw->thw", rng.exponential(1, (n_frames, 12)), images)
        + 0.2 * rng.normal(size=(n_frames, *shape))
        for run in range(n_runs)
    ]  # fmt: skip
    return [movie.astype(np.float32) for movie in movies]


def session_of(movies):
    return Session(tuple(Run(str(i), "a", ArrayMovie(movie)) for i, movie in enumerate(movies)))


def learned(movies, patch=8, skip=True, **how):
    prepared = prepare(session_of(movies), **how)
    mean_frame = torch.from_numpy(prepared.mean_frame())
    shortcut = Shortcut(mean_frame, patch, skip)
    shortcut.learn(prepared, mean_frame)
    changes = [torch.from_numpy(prepared.frames(run)) for run in range(len(movies))]
    return shortcut, mean_frame, [frames - mean_frame if skip else frames for frames in changes]


def in_patches(frames, patch):
    """(frames, K, pixels), without torch."""
    t, height, width = frames.shape
    cut = np.asarray(frames, np.float64).reshape(t, height // patch, patch, width // patch, patch)
    return cut.transpose(0, 1, 3, 2, 4).reshape(t, -1, patch**2)


@pytest.mark.parametrize("patch", [8, 4, 2])
@pytest.mark.parametrize("skip", [True, False])
def test_begins_with_means_and_what_lies_between_them(patch, skip):
    mean_frame = torch.rand(32, 24, dtype=torch.float64) + 0.5
    shortcut = Shortcut(mean_frame, patch, skip).double()
    x = torch.randn(3, 32, 24, dtype=torch.float64)
    means = F.avg_pool2d(x[:, None], patch)
    latent = shortcut.encode(x)
    torch.testing.assert_close(latent, means.flatten(1) / (0.05 * mean_frame.mean()))

    def between(z):
        return F.interpolate(z, scale_factor=patch, mode="bilinear")[:, 0]

    expected = between(means) / between(F.avg_pool2d(mean_frame[None, None], patch)) if skip else between(means)
    torch.testing.assert_close(shortcut.decode(latent), expected)


@pytest.mark.parametrize("patch", [8, 4])
def test_latents_are_scikit_learns_first_component_of_each_patch(patch):
    movies = recorded()
    shortcut, mean_frame, changes = learned(movies, patch)
    pooled = np.concatenate([in_patches(x - x.mean(0), patch) for x in changes])
    for k in range(pooled.shape[1]):
        component = PCA(1, svd_solver="full").fit(pooled[:, k]).components_[0]
        found = shortcut.filters[:, k].double().numpy()
        assert found.sum() > 0
        assert abs(component @ found) == pytest.approx(np.linalg.norm(found), rel=1e-4)
        # a change of all pixels by 5 % of the mean intensity is a latent of about 1
        assert np.linalg.norm(found) * patch == pytest.approx(1 / (0.05 * mean_frame.mean().item()), rel=1e-4)


def test_images_are_scikit_learns_ridge_on_the_latents_around():
    movies = recorded()
    shortcut, mean_frame, changes = learned(movies)
    grid = (4, 3)
    centred = [x - x.mean(0) for x in changes]
    z = torch.cat([shortcut.encode(x) for x in centred]).double().numpy().reshape(-1, *grid)
    z = np.pad(z, ((0, 0), (1, 1), (1, 1)))
    pixels = np.concatenate([in_patches(x, 8) for x in centred])
    static = in_patches(mean_frame[None].numpy(), 8)[0]
    for k, (i, j) in enumerate(np.ndindex(*grid)):
        near = z[:, i : i + NEAR, j : j + NEAR].reshape(len(z), -1)
        ridge = Ridge(alpha=RIDGE * (near**2).sum(0).mean(), fit_intercept=False).fit(near, pixels[:, k])
        found = shortcut.readout[:, :, k].T.double().numpy() * static[k][:, None]
        np.testing.assert_allclose(found, ridge.coef_, atol=1e-4 * np.abs(ridge.coef_).max())


def test_without_skip_connection_it_draws_the_frames_themselves():
    shortcut, _, frames = learned(recorded(), skip=False)
    drawn = shortcut.decode(shortcut.encode(frames[0]))
    assert (drawn - frames[0]).square().mean() < 0.2 * frames[0].var()


def test_missing_frames_are_left_out():
    movies = recorded()
    gaps = [movie.copy() for movie in movies]
    gaps[1][20:23] = np.nan
    with_gaps, _, _ = learned(gaps, nan="mask")
    # a run's mean is of the frames that are there, wherever the gap is
    shuffled = [movies[0], np.delete(movies[1], [20, 21, 22], axis=0), movies[2]]
    without, _, _ = learned(shuffled)
    torch.testing.assert_close(with_gaps.filters, without.filters, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(with_gaps.readout, without.readout, rtol=1e-3, atol=1e-4)


def test_a_patch_that_never_changes_draws_nothing():
    movies = recorded()
    for movie in movies:
        movie[:, :8, :8] = 0
    shortcut, mean_frame, changes = learned(movies)
    drawn = mean_frame * shortcut.decode(shortcut.encode(changes[0]))
    assert drawn.isfinite().all()
    assert drawn[:, :8, :8].abs().max() < 1e-5


def test_says_how_many_frames_it_has_read():
    prepared = prepare(session_of(recorded()))
    mean_frame = torch.from_numpy(prepared.mean_frame())
    seen = []
    Shortcut(mean_frame).learn(prepared, mean_frame, seen.append)
    assert sum(seen) == 2 * 3 * 70
