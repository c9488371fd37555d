"""Influence vectors, contribution maps and their differences: closed forms and invariances."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from larscope._network.autoencoder import Decoder, EncoderBlock
from larscope._statistics.differences import difference_map, edge_differences
from larscope._statistics.maps import contribution_map, decoder_response, influence, latent_positions, printed_map

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


def nonlinear_decoder(factor=1.0, shift=0.0):
    """Upsamples by 8, spreads by up to 7 pixels and bends; `factor` and `shift` undo what was done to the latents."""

    def decode(z):
        maps = ((z - shift) * factor).reshape(-1, *GRID)
        spread = scipy.ndimage.uniform_filter(np.kron(maps, np.ones((8, 8))), (0, 15, 15), mode="constant")
        return np.where(spread > 0, spread, 0.01 * spread) + 0.1 * np.tanh(spread)

    return decode


def responses_one_by_one(decode, mean, sigma):
    return np.stack([(decode(mean + one) - decode(mean - one))[0] / 2 for one in np.diag(sigma)])


def test_nine_pairs_of_images_show_every_latent():
    rng = np.random.default_rng(2)
    mean, sigma, c = rng.normal(size=12), rng.uniform(0.1, 3, 12), rng.random(12)
    found = contribution_map(c, decoder_response(nonlinear_decoder(), mean, sigma, GRID), GRID)
    energy = responses_one_by_one(nonlinear_decoder(), mean, sigma) ** 2
    np.testing.assert_allclose(found, np.tensordot(c, energy, 1) / energy.sum(0), rtol=1e-9)


def test_a_latent_of_the_network_reaches_no_further_than_the_patches_around_it():
    """What `decoder_response` relies on, for the real decoder."""
    torch.manual_seed(0)
    indices, x = [], torch.randn(1, 1, 40, 40)
    for channels in (1, 32, 32):
        x, index = EncoderBlock(channels).eval()(x)
        indices.append(index)
    decoder, z = Decoder().eval(), torch.randn(1, 1, 5, 5)
    moved = z.clone()
    moved[0, 0, 2, 2] += 3
    with torch.no_grad():
        changed = (decoder(moved, indices) - decoder(z, indices)).abs()[0, 0]
    assert changed[16:24, 16:24].max() > 0
    changed[8:32, 8:32] = 0
    assert not changed.any()


@pytest.mark.parametrize("factor", [-1.0, 3.0, -0.2])
def test_map_does_not_change_when_latents_are_flipped_or_rescaled(factor):
    rng = np.random.default_rng(0)
    latent = rng.exponential(size=(200, 12)) + 0.4
    c = influence(random_coef())

    def map_of(z, decode):
        return contribution_map(c, decoder_response(decode, z.mean(axis=0), z.std(axis=0), GRID, gain=0.7), GRID)

    original = map_of(latent, nonlinear_decoder())
    np.testing.assert_allclose(map_of(factor * latent, nonlinear_decoder(1 / factor)), original, atol=1e-12)
    assert np.ptp(original) > 0.1


def test_map_does_not_depend_on_how_bright_or_lively_a_place_is():
    """Two latents of equal influence show equally, though one has a hundred times the variance of the other."""
    mean, sigma = np.zeros(12), np.ones(12)
    sigma[5] = 10
    c = np.zeros(12)
    c[[0, 5]] = 0.8
    image = contribution_map(
        c, decoder_response(lambda z: np.kron(z.reshape(-1, *GRID), np.ones((8, 8))), mean, sigma, GRID), GRID
    )
    np.testing.assert_allclose(image, np.kron(c.reshape(GRID), np.ones((8, 8))))


def test_map_is_zero_without_influence_and_where_nothing_shows():
    response = decoder_response(nonlinear_decoder(), np.ones(12), np.ones(12), GRID)
    assert not contribution_map(np.zeros(12), response, GRID).any()
    response[:, :8] = 0
    assert not contribution_map(np.ones(12), response, GRID)[:8].any()
    np.testing.assert_allclose(contribution_map(np.ones(12), response, GRID)[8:], 1)


def test_printed_map_is_the_printed_formula():
    c, mean_frame = influence(random_coef(), direction="inflow"), np.random.default_rng(1).random((24, 32))
    expected = (nonlinear_decoder()(2.0 * c[None])[0] + 1) * mean_frame
    np.testing.assert_allclose(printed_map(c, nonlinear_decoder(), mean_frame, gain=2.0), expected)
    np.testing.assert_allclose(printed_map(0 * c, nonlinear_decoder(), mean_frame), mean_frame)


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
        (lambda: printed_map(np.zeros(12), nonlinear_decoder(), np.zeros((2, 2))), r"got \(1, 24, 32\)"),
        (lambda: contribution_map(np.zeros(12), np.zeros((9, 25, 32)), GRID), r"got shapes \(9, 25, 32\) and \(12,\)"),
        (lambda: contribution_map(np.zeros(9), np.zeros((9, 24, 32)), GRID), r"got shapes \(9, 24, 32\) and \(9,\)"),
        (lambda: edge_differences(np.zeros((2, 1, 4, 4)), "ab", (1, 2), (8, 8)), "`grid` must be"),
        (lambda: edge_differences(np.zeros((3, 1, 4, 4)), "ab", (2, 2), (8, 8)), "got 3 for 2 runs"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
