"""Influence vectors, contribution maps and their differences: closed forms and invariances."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from larscope.influence import (
    brightening,
    contribution_map,
    difference_map,
    edge_differences,
    influence,
    latent_positions,
)

GRID = (3, 4)


def random_coef(seed=0, order=2, n=12):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(order, n, n)) * (rng.random((order, n, n)) < 0.3)


def test_a_single_coupling_by_hand():
    coef = np.zeros((2, 3, 3))
    coef[0, 2, 0] = -0.5  # latent 0 acts on latent 2
    coef[1, 2, 0] = 0.25
    coef[0, 1, 1] = 9.0  # on itself: not counted
    np.testing.assert_array_equal(influence(coef), [0.75, 0, 0])
    np.testing.assert_array_equal(influence(coef, direction="inflow"), [0, 0, 0.75])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_total_outflow_is_total_inflow_and_transposing_exchanges_them(seed):
    coef = random_coef(seed)
    outflow, inflow = influence(coef), influence(coef, direction="inflow")
    np.testing.assert_allclose(outflow.sum(), inflow.sum())
    np.testing.assert_allclose(influence(coef.transpose(0, 2, 1)), inflow)
    loops = sum(abs(coef[k, j, i]) for k in range(2) for j in range(12) for i in range(12) if i != j)
    np.testing.assert_allclose(outflow.sum(), loops)


def test_exclude_radius_leaves_out_neighbours():
    coef = random_coef()
    expected = np.zeros(12)
    for j in range(12):
        for i in range(12):
            if np.hypot(j // 4 - i // 4, j % 4 - i % 4) > 1.5:
                expected[i] += abs(coef[:, j, i]).sum()
    np.testing.assert_allclose(influence(coef, exclude_radius=1.5, grid=GRID), expected)


def test_positions_are_patch_centres():
    position = latent_positions((2, 3), (16, 24))
    image = np.zeros((16, 24))
    for k, (row, column) in enumerate(position):
        patch = image.copy()
        patch[8 * (k // 3) : 8 * (k // 3) + 8, 8 * (k % 3) : 8 * (k % 3) + 8] = 1
        np.testing.assert_allclose(scipy.ndimage.center_of_mass(patch), (row, column))


def nonlinear_decoder(flip=1.0, shift=0.0):
    """Upsamples by 8 and bends; `flip` and `shift` undo what was done to the latents before the last layer."""

    def decode(z):
        maps = ((z - shift) * flip).reshape(-1, *GRID)
        up = np.kron(maps, np.ones((8, 8)))
        return np.where(up > 0, up, 0.01 * up) + 0.1 * np.tanh(up)

    return decode


@pytest.mark.parametrize("factor", [-1.0, 3.0, -0.2])
def test_map_does_not_change_when_latents_are_flipped_or_rescaled(factor):
    rng = np.random.default_rng(0)
    latent = rng.exponential(size=(200, 12)) + 0.4
    mean_frame = rng.random((24, 32))
    c = influence(random_coef())

    def map_of(z, decode):
        mean, sigma = z.mean(axis=0), np.sqrt(((z - z.mean(axis=0)) ** 2).mean())
        sign = np.sign(brightening(decode, mean_frame, mean, sigma))
        return contribution_map(c, decode, mean_frame, mean, sigma, sign, gain=0.7)

    original = map_of(latent, nonlinear_decoder())
    np.testing.assert_allclose(map_of(factor * latent, nonlinear_decoder(1 / factor)), original, atol=1e-12)
    assert original.max() > 0.1


def test_default_map_is_zero_without_influence_and_paper_map_is_the_mean_frame():
    mean_frame = np.full((24, 32), 0.3)
    none = np.zeros(12)
    assert not contribution_map(none, nonlinear_decoder(), mean_frame, np.ones(12)).any()
    np.testing.assert_allclose(contribution_map(none, nonlinear_decoder(), mean_frame, preset="paper"), mean_frame)


def test_paper_map_is_the_printed_formula():
    c, mean_frame = influence(random_coef(), direction="inflow"), np.random.default_rng(1).random((24, 32))
    expected = (nonlinear_decoder()(2.0 * c[None])[0] + 1) * mean_frame
    np.testing.assert_allclose(contribution_map(c, nonlinear_decoder(), mean_frame, gain=2.0, preset="paper"), expected)


def test_brightening_is_the_change_of_the_image_and_turns_with_the_latents():
    decode, mean_frame = nonlinear_decoder(), np.random.default_rng(0).random((24, 32))
    mean = np.linspace(-1, 1, 12)
    change = decode(mean + 0.3)[0] - decode(mean - 0.3)[0]
    expected = sum(change[i, j] * mean_frame[i, j] for i in range(24) for j in range(32))
    assert brightening(decode, mean_frame, mean, 0.3) == pytest.approx(expected)
    assert brightening(nonlinear_decoder(flip=-1), mean_frame, -mean, 0.3) == pytest.approx(-expected)


def test_difference_map_finds_a_planted_patch_and_little_else():
    """Simulated maps: smooth noise, and a patch that is brighter in one condition."""
    condition, found, false = ["novel"] * 10 + ["familiar"] * 10, [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        maps = scipy.ndimage.gaussian_filter(rng.normal(size=(20, 24, 32)), (0, 2, 2))
        maps /= maps.std()
        maps[:10, 4:8, 20:26] += 3
        test = difference_map(maps, condition, n_permutations=499, seed=seed)
        np.testing.assert_allclose(test.difference, maps[:10].mean(axis=0) - maps[10:].mean(axis=0))
        mask = test.pvalue <= 0.05
        found.append(mask[4:8, 20:26].mean())
        mask[4:8, 20:26] = False
        false.append(mask.any())
    assert np.mean(found) > 0.9
    assert np.mean(false) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)


def test_masks_of_maps_without_a_difference_are_empty_19_times_in_20():
    """Simulated maps of smooth noise: familywise error by max-T at most 5 %."""
    rng = np.random.default_rng(6)
    found = 0
    for _ in range(200):
        maps = scipy.ndimage.gaussian_filter(rng.standard_t(3, size=(8, 8, 10)), (0, 1, 1))
        found += (difference_map(maps, list("aaaabbbb")).pvalue <= 0.05).any()
    assert found / 200 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def planted_coefs(seed, n_runs=16, change=0.4):
    """Simulated coefficients: sparse, varying from run to run; one edge differs between conditions."""
    rng = np.random.default_rng(seed)
    shared = random_coef(seed)
    coefs = shared + 0.05 * rng.normal(size=(n_runs, *shared.shape)) * (shared != 0)
    coefs += 0.1 * rng.normal(size=coefs.shape) * (rng.random(coefs.shape) < 0.05)
    coefs[: n_runs // 2, 1, 3, 7] += change  # lag 2, from latent 7 to latent 3
    return coefs


def test_edge_differences_name_the_planted_edge_and_its_place():
    edges = edge_differences(planted_coefs(0), ["a"] * 8 + ["b"] * 8, GRID, (24, 32))
    columns = edges.columns()
    assert (columns["lag"][0], columns["source"][0], columns["target"][0]) == (2, 7, 3)
    assert (columns["source_row"][0], columns["source_column"][0]) == (11.5, 27.5)
    assert (columns["target_row"][0], columns["target_column"][0]) == (3.5, 27.5)
    assert columns["difference"][0] == pytest.approx(0.4, abs=0.1)
    assert (columns["pvalue"] <= 0.05).sum() == 1
    assert len({len(column) for column in columns.values()}) == 1


def test_edges_found_in_one_run_only_are_not_tested():
    coefs = np.zeros((6, 1, 2, 2))
    coefs[0, 0, 0, 1] = 1
    coefs[:2, 0, 1, 0] = 1
    edges = edge_differences(coefs, list("aaabbb"), (1, 2), (8, 16))
    assert (edges.source.tolist(), edges.target.tolist()) == ([0], [1])
    np.testing.assert_allclose(edges.mean_first - edges.mean_second, [2 / 3])


def test_edge_differences_control_the_familywise_error():
    condition = ["a"] * 5 + ["b"] * 5
    found = [
        (edge_differences(planted_coefs(s, 10, 0.0), condition, GRID, (24, 32)).pvalue <= 0.05).any()
        for s in range(150)
    ]
    assert np.mean(found) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: influence(np.zeros((3, 3))), r"got \(3, 3\) for run 0"),
        (lambda: influence(np.zeros((1, 3, 2))), r"got \(1, 3, 2\) for run 0"),
        (lambda: influence(np.zeros((1, 3, 3)), direction="out"), "`direction` must be 'outflow' or 'inflow'"),
        (lambda: influence(np.zeros((1, 3, 3)), exclude_radius=1.0), "got grid=None"),
        (lambda: influence(np.zeros((1, 3, 3)), exclude_radius=1.0, grid=(2, 2)), r"got grid=\(2, 2\)"),
        (lambda: contribution_map(np.zeros(12), nonlinear_decoder(), np.zeros((2, 2))), r"got \(2, 24, 32\)"),
        (
            lambda: contribution_map(np.zeros(12), nonlinear_decoder(), np.zeros((24, 32)), preset="papr"),
            "`preset` must be",
        ),
        (lambda: edge_differences(np.zeros((2, 1, 4, 4)), "ab", (1, 2), (8, 8)), "`grid` must be"),
        (lambda: edge_differences(np.zeros((3, 1, 4, 4)), "ab", (2, 2), (8, 8)), "got 3 for 2 runs"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
