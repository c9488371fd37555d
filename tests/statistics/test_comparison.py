"""The two comparisons: by hand, against SciPy, statsmodels, scikit-bio and brute force, and calibrated."""

import importlib.util
import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from larscope._dynamics.coefficients import SparseCoefficients
from larscope._dynamics.var import SparseVAR
from larscope._errors import LarscopeError
from larscope._statistics.comparison import ComparisonWarning, compare_pairs
from larscope._statistics.contrasts import contrast_table
from larscope._statistics.influences import influence_distances, influence_test
from larscope._statistics.pairs import (
    PairDistances,
    distance_to_center,
    effect_interval,
    mean_inter_and_intra,
    pairs_to_test,
    permuted_statistics,
)
from larscope._statistics.permutation import comparable_pairs, exchangeable_units, permute_labels, pvalue
from larscope._statistics.pitfalls import condition_imbalances
from larscope._statistics.swap import coefficient_swap_test, swap_deltas, swap_errors

REPRODUCTION = Path(__file__).parents[2] / "reproduction" / "calibration.py"


def load_calibration():
    spec = importlib.util.spec_from_file_location("calibration", REPRODUCTION)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def simulated_session(seed=0, n_runs=8, n_frames=80, n_latents=5, **fit):
    """Simulated autoregressive series of different scale and offset, with their fits."""
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(n_runs, n_frames, n_latents))
    for t in range(1, n_frames):
        latents[:, t] += 0.6 * latents[:, t - 1] + 0.3 * np.roll(latents[:, t - 1], 1, axis=-1)
    latents = latents * rng.uniform(0.5, 3, (n_runs, 1, 1)) + rng.normal(size=(n_runs, 1, n_latents))
    var = SparseVAR(order=2, penalty=0.01, gradient=None, **fit)
    fits = [var(torch.from_numpy(z)) for z in latents]
    return list(latents), np.stack([f.coef.numpy() for f in fits]), fits


def distances(seed=0, sizes=(6, 6), shift=0.0, n_features=4, spread=(1.0, 1.0)):
    rng = np.random.default_rng(seed)
    x = np.concatenate([s * rng.normal(size=(n, n_features)) for n, s in zip(sizes, spread, strict=True)])
    x[sizes[0] :, 0] += shift
    squared = ((x[:, None] - x) ** 2).sum(axis=-1)
    return PairDistances(squared, None, symmetric=True), ["a"] * sizes[0] + ["b"] * sizes[1]


def quiet(call, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ComparisonWarning)
        return call(*arguments, **options)


# ------------------------------------------------------------------------------------------------- by hand


def test_four_runs_by_hand():
    """One latent, lag 1, series (1, a_s + 1): E[s, r] = (a_s + 1 - a_r)^2, so E[s, s] = 1."""
    a = [1.0, 2.0, 4.0, 6.0]
    latents = [np.array([[1.0], [value + 1.0]]) for value in a]
    coefs = [np.full((1, 1, 1), value) for value in a]
    with pytest.warns(ComparisonWarning, match=r"2 x against 2 y no p-value can be below 0\.333"):
        test = coefficient_swap_test(latents, coefs, list("xxyy"), center=False)
    np.testing.assert_allclose(np.sort(test.intra), [-1, 0, 3, 8])
    np.testing.assert_allclose(np.sort(test.inter), [0, 3, 8, 8, 15, 15, 24, 35])
    assert test.statistic == pytest.approx(13.5 - 2.5)
    assert test.pvalue == pytest.approx(2 / 6)  # the other two partitions give -4 and -7
    assert test.min_pvalue == pytest.approx(2 / 6)
    assert test.n_labelings == 6
    assert test.effect_size == pytest.approx(1100)
    raw = quiet(coefficient_swap_test, latents, coefs, list("xxyy"), center=False, relative=False)
    assert raw.statistic == pytest.approx(11)  # since E[s, s] = 1


def test_unequal_groups_count_alike_by_hand():
    """Points 0, 2 | 10, 12, 16: mean squared distances 4, (4 + 36 + 16) / 3 within and 772 / 6 between."""
    x = np.array([0.0, 2.0, 10.0, 12.0, 16.0])
    test = quiet(compare_pairs, PairDistances((x[:, None] - x) ** 2, None, symmetric=True), list("aabbb"))
    between = np.mean([(p - q) ** 2 for p in (0, 2) for q in (10, 12, 16)])
    within = (4 + (4 + 36 + 16) / 3) / 2
    assert test.statistic == pytest.approx(between - within)
    assert test.effect_size == pytest.approx(100 * (between / within - 1))
    assert len(test.intra) == 4
    assert len(test.inter) == 6


# ---------------------------------------------------------------------------------------- swap errors


@pytest.mark.parametrize("scale", ["series", "latent"])
@pytest.mark.parametrize("center", [True, False])
def test_own_errors_are_those_of_the_fit(center, scale):
    latents, coefs, fits = simulated_session(center=center, scale=scale, penalty_scale="target")
    errors = swap_errors(latents, coefs, center=center, scale=scale)
    own = [((z[2:] - f.forecast.numpy()) ** 2).mean() for z, f in zip(latents, fits, strict=True)]
    np.testing.assert_allclose(errors.diagonal(), own, rtol=1e-10)


def test_a_latent_that_is_constant_but_for_rounding_is_scaled_as_in_the_fit():
    """A run in which one latent stays dark, forecast with coefficients of a run in which it was active."""
    rng = np.random.default_rng(0)
    living, dark = rng.normal(size=(2, 300, 3)).astype(np.float32)
    living[1:, 0] += 0.9 * living[:-1, 2]
    dark[:, 2] = np.float32(0.3) * (1 + np.finfo(np.float32).eps * rng.integers(-2, 3, 300))
    var = SparseVAR(order=1, penalty=0.02, scale="latent", penalty_scale="target")
    series = [torch.from_numpy(z) for z in (living, dark)]
    coef = var(series[0]).coef
    assert abs(coef[0, 0, 2]) > 0.3
    expected = (series[1][1:] - var.apply_coef(coef, series[1]).forecast).double().square().mean()
    errors = swap_errors([living, dark], [coef.numpy(), var(series[1]).coef.numpy()], scale="latent")
    assert errors[1, 0] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("density", [0.01, 0.5])
def test_errors_equal_brute_force(density):
    rng = np.random.default_rng(1)
    latents = [rng.normal(size=(n, 12)) for n in (20, 25, 30)]
    coefs = rng.normal(size=(3, 3, 12, 12)) * (rng.random((3, 3, 12, 12)) < density)
    for equal_length in (True, False):
        errors = swap_errors(latents, coefs, equal_length=equal_length)
        for s in range(3):
            z = latents[s][: 20 if equal_length else None]
            z = z - z.mean(axis=0)
            for r in range(3):
                total = 0.0
                for t in range(3, len(z)):
                    forecast = sum(coefs[r, k] @ z[t - k - 1] for k in range(3))
                    total += ((z[t] - forecast) ** 2).sum()
                assert errors[s, r] == pytest.approx(total / (len(z) - 3) / 12)


def test_missing_frames_are_left_out_of_errors_and_of_the_length():
    rng = np.random.default_rng(1)
    latents = [rng.normal(size=(n, 4)) for n in (20, 25, 23)]
    gone = {0: [7], 1: [3, 4, 12], 2: []}
    for run, frames in gone.items():
        latents[run][frames] = np.nan
    coefs = rng.normal(size=(3, 2, 4, 4))
    errors = swap_errors(latents, coefs)
    for s, n_frames in enumerate((20, 22, 19)):  # 19 frames of each are there
        z = latents[s][:n_frames] - np.nanmean(latents[s][:n_frames], axis=0)
        rows = [t for t in range(2, n_frames) if not {t, t - 1, t - 2} & set(gone[s])]
        for r in range(3):
            residuals = [z[t] - coefs[r, 0] @ z[t - 1] - coefs[r, 1] @ z[t - 2] for t in rows]
            assert errors[s, r] == pytest.approx(np.mean(np.square(residuals)))


def test_sparse_storage_gives_the_same_result():
    latents, coefs, _ = simulated_session()
    dense = quiet(coefficient_swap_test, latents, coefs, list("aaaabbbb"))
    sparse = quiet(coefficient_swap_test, latents, SparseCoefficients.from_dense(coefs), list("aaaabbbb"))
    assert dense.pvalue == sparse.pvalue
    assert dense.statistic == pytest.approx(sparse.statistic)
    assert quiet(influence_test, SparseCoefficients.from_dense(coefs), list("aaaabbbb")).pvalue == pytest.approx(
        quiet(influence_test, coefs, list("aaaabbbb")).pvalue
    )


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=8, max_size=8))
def test_relative_deltas_do_not_change_when_runs_are_rescaled(scales):
    latents, coefs, _ = simulated_session()
    rescaled = [scale * z + 3 for scale, z in zip(scales, latents, strict=True)]
    np.testing.assert_allclose(
        swap_deltas(rescaled, coefs).value, swap_deltas(latents, coefs).value, rtol=1e-6, atol=1e-8
    )


def test_raw_deltas_are_errors_minus_own_errors():
    latents, coefs, _ = simulated_session()
    errors = swap_errors(latents, coefs)
    np.testing.assert_allclose(
        swap_deltas(latents, coefs, relative=False).value, errors - np.diag(errors)[:, None], atol=1e-12
    )


def test_influence_distances_equal_scipy():
    _, coefs, _ = simulated_session()
    c = np.abs(coefs).sum(axis=1)
    c[:, range(5), range(5)] = 0
    expected = scipy.spatial.distance.cdist(c.sum(axis=1), c.sum(axis=1), "sqeuclidean")
    np.testing.assert_allclose(influence_distances(coefs).value, expected, atol=1e-12)


# ------------------------------------------------------------------------------------------------- oracles


@pytest.mark.parametrize("symmetric", [True, False])
def test_ranksum_is_the_papers(symmetric):
    pairs, condition = distances(shift=0.5)
    value = pairs.value + (0 if symmetric else np.random.default_rng(0).random(pairs.value.shape))
    test = quiet(compare_pairs, PairDistances(value, None, symmetric), condition)
    intra, inter = [], []
    for s in range(12):
        for r in range(s + 1 if symmetric else 0, 12):
            if s != r:
                (intra if condition[s] == condition[r] else inter).append(value[s, r])
    assert test.pvalue_ranksum == scipy.stats.mannwhitneyu(inter, intra, alternative="greater").pvalue


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_anosim_and_permanova_agree_with_scikit_bio(shift):
    skbio = pytest.importorskip("skbio.stats.distance")
    pairs, condition = distances(3, sizes=(5, 5), shift=shift)
    test = quiet(compare_pairs, pairs, condition)
    matrix = skbio.DistanceMatrix(np.sqrt(pairs.value))
    anosim = skbio.anosim(matrix, condition, permutations=0)
    assert test.anosim_r == pytest.approx(anosim["test statistic"])
    # in groups of equal size pseudo-F and mean(inter) - mean(intra) order the labelings alike
    permanova = skbio.permanova(matrix, condition, permutations=9999, seed=1)
    assert test.pvalue == pytest.approx(permanova["p-value"], abs=4 * np.sqrt(test.pvalue / 9999))


def test_dispersion_agrees_with_scikit_bio():
    skbio = pytest.importorskip("skbio.stats.distance")
    pairs, condition = distances(4, sizes=(7, 7), shift=2.0, spread=(1.0, 2.0))
    permdisp = skbio.permdisp(skbio.DistanceMatrix(np.sqrt(pairs.value)), condition, test="centroid", permutations=0)
    ours = distance_to_center(pairs.value, np.repeat([0, 1], 7))
    assert scipy.stats.f_oneway(ours[:7], ours[7:]).statistic == pytest.approx(permdisp["test statistic"])
    assert quiet(compare_pairs, pairs, condition).permdisp_pvalue < 0.05
    same_spread, _ = distances(4, sizes=(7, 7), shift=2.0)
    assert compare_pairs(same_spread, condition).permdisp_pvalue > 0.05


def test_table_is_corrected_as_statsmodels_does():
    pairs, _ = distances(5, sizes=(12, 12), shift=1.5)
    groups = {name: np.arange(24) // 6 == k for k, name in enumerate("pqrs")}
    table = quiet(contrast_table, pairs, groups)
    assert [(row.first, row.second) for row in table][:4] == [("p", "q"), ("p", "r"), ("p", "s"), ("q", "r")]
    p = [row.comparison.pvalue for row in table]
    for method, name in (("bonferroni", "bonferroni"), ("holm", "holm"), ("fdr_bh", "fdr")):
        corrected = [getattr(row, f"pvalue_{name}") for row in table]
        np.testing.assert_allclose(corrected, multipletests(p, method=method)[1])
    alone = quiet(compare_pairs, pairs.of(np.r_[0:6, 12:18]), ["p"] * 6 + ["r"] * 6)
    assert table[1].comparison.pvalue == alone.pvalue
    chosen = quiet(contrast_table, pairs, groups, [("s", "p")])
    assert (chosen[0].first, chosen[0].pvalue_holm) == ("s", chosen[0].comparison.pvalue)


def test_blocked_pvalue_equals_brute_force():
    """Whole blocks, unequal sizes: every way of choosing two blocks of five, pairs within blocks left out."""
    rng = np.random.default_rng(6)
    block = np.repeat(range(5), [1, 3, 2, 2, 2])
    condition = np.where(block < 2, "a", "b")
    value = rng.random((10, 10))
    test = quiet(compare_pairs, PairDistances(value, None, symmetric=False), condition.tolist(), block.tolist())

    def statistic(chosen):
        first = np.isin(block, chosen)
        within, between = {True: [], False: []}, []
        for s in range(10):
            for r in range(10):
                if block[s] != block[r]:
                    (within[first[s]] if first[s] == first[r] else between).append(value[s, r])
        return np.mean(between) - np.mean([np.mean(within[True]), np.mean(within[False])])

    permuted = [statistic((i, j)) for i in range(5) for j in range(i)]
    assert test.statistic == pytest.approx(statistic((0, 1)))
    assert test.pvalue == pytest.approx(np.mean(np.array(permuted) >= test.statistic - 1e-12))


def test_three_conditions_equal_brute_force():
    """Means over conditions and over pairs of conditions, under all 210 ways to label seven runs."""
    rng = np.random.default_rng(7)
    value = rng.random((7, 7))
    test = quiet(compare_pairs, PairDistances(value, None, symmetric=False), list("aabbccc"))

    def statistic(labels):
        def mean(p, q):
            return np.mean(
                [value[s, r] for s in range(7) for r in range(7) if s != r and {labels[s], labels[r]} == {p, q}]
            )

        between = np.mean([mean("a", "b"), mean("a", "c"), mean("b", "c")])
        return between - np.mean([mean(c, c) for c in "abc"])

    permuted = np.array([statistic(labels) for labels in set(itertools.permutations("aabbccc"))])
    assert len(permuted) == test.n_labelings == 210
    assert test.statistic == pytest.approx(statistic("aabbccc"))
    assert test.pvalue == pytest.approx(np.mean(permuted >= test.statistic - 1e-12))
    assert test.min_pvalue == pytest.approx(2 / 210)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([1, 2, 3]), st.sampled_from("xy")), min_size=3, max_size=8
    )
)
def test_every_labeling_of_every_design_has_pairs_to_compare(runs):
    condition, block, subject = zip(*runs, strict=True)
    if len(set(condition)) < 2 or len(set(condition)) == len(condition):
        return
    value = np.random.default_rng(0).random((len(runs), len(runs)))
    for blocks, subjects in itertools.product((None, block), (None, subject)):
        labelings = permute_labels(exchangeable_units(condition, blocks, subjects))
        inter, intra = mean_inter_and_intra(value, comparable_pairs(labelings.units), labelings.labels)
        assert np.isfinite(inter).all()
        assert np.isfinite(intra).all()


# ----------------------------------------------------------------------------------------- effect sizes


def test_effect_is_zero_on_average_when_blocks_drift():
    """Simulated: conditions the same, runs of one block alike. Pairs within blocks would give a false effect."""
    effects = {"whole": [], "within": []}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        block = np.repeat(range(8), 4)
        x = 2 * rng.normal(size=(8, 3))[block] + rng.normal(size=(32, 3))
        squared = ((x[:, None] - x) ** 2).sum(axis=-1)
        pairs = PairDistances(squared, squared, symmetric=True)
        for name, condition in (("whole", block % 2), ("within", np.arange(32) % 2)):
            test = quiet(compare_pairs, pairs, condition.tolist(), block.tolist(), n_permutations=10)
            effects[name].append(test.effect_size)
    for values in effects.values():
        assert abs(np.mean(values)) < 3.5 * np.std(values) / np.sqrt(len(values))


def test_statistic_estimates_the_squared_shift_whatever_the_spreads():
    """Simulated: shift 1, spreads 0.5 and 2, groups of 5 and 15."""
    found = [
        quiet(compare_pairs, *distances(seed, (5, 15), 1.0, spread=(2.0, 0.5)), n_permutations=1).statistic
        for seed in range(400)
    ]
    assert np.mean(found) == pytest.approx(1.0, abs=3.5 * np.std(found) / 20)


@pytest.mark.parametrize(("n_runs", "shift"), [(10, 1.5), (20, 1.5), (10, 0.0)])
@pytest.mark.parametrize("design", ["free", "blocks", "subjects"])
def test_interval_covers_the_effect(n_runs, shift, design):
    """Simulated relative Deltas with a known effect: 95 %, and more without any difference, where no squared distance
    lies on the other side of zero."""
    covered, block = [], None
    if design != "free":
        block = np.tile(np.arange(n_runs) % (2 if design == "subjects" else n_runs // 2), 2)
    for seed in range(200):
        pairs, condition = distances(seed, (n_runs, n_runs), shift, n_features=10)
        units = exchangeable_units(condition, block)
        relative = PairDistances(pairs.value, pairs.value, True)
        low, high = effect_interval(relative, comparable_pairs(units), units)
        covered.append(low <= 100 * shift**2 <= high)
    assert np.mean(covered) >= 0.95 - 3.5 * np.sqrt(0.05 * 0.95 / 200)
    if shift:
        assert np.mean(covered) <= 0.99


def test_fewer_than_five_units_a_side_give_no_interval():
    for sizes, known in (((4, 8), False), ((5, 5), True)):
        test = quiet(compare_pairs, *distances(0, sizes))
        assert np.isfinite(test.effect_interval).all() == known
    pairs, condition = distances(0, (8, 8))  # four blocks a side, of two runs
    assert np.isnan(quiet(compare_pairs, pairs, condition, np.repeat(range(8), 2).tolist()).effect_interval).all()


# ------------------------------------------------------------------------------------ conditions inside blocks


def blocked(seed, shift, n_blocks=5, n_features=5):
    """Simulated: two runs of each condition in each block, and blocks that differ."""
    rng = np.random.default_rng(seed)
    block, second = np.repeat(range(n_blocks), 4), np.tile([0, 0, 1, 1], n_blocks)
    x = rng.normal(size=(len(block), n_features)) + rng.normal(size=(n_blocks, n_features))[block]
    x[:, 0] += shift * second
    return x, np.array(list("ab"))[second].tolist(), block.tolist()


def test_within_blocks_the_pvalue_is_that_of_the_difference_of_centred_means():
    """What PERMANOVA orders the labelings by, after blocks: in equal groups, brute force over all 1,296 labelings."""
    x, condition, block = blocked(1, 1.0, n_blocks=4)
    pairs = PairDistances(((x[:, None] - x) ** 2).sum(axis=-1), None, symmetric=True)
    test = quiet(compare_pairs, pairs, condition, block)
    centred = x - np.repeat(x.reshape(4, 4, -1).mean(axis=1), 4, axis=0)
    found = []
    for chosen in itertools.product(itertools.combinations(range(4), 2), repeat=4):
        first = np.zeros(16, bool)
        first[[4 * b + i for b, pair in enumerate(chosen) for i in pair]] = True
        found.append((np.square(centred[first].mean(axis=0) - centred[~first].mean(axis=0)).sum(), first))
    observed = next(value for value, first in found if (first == (np.array(condition) == "a")).all())
    assert test.n_labelings == len(found) == 1296
    assert test.pvalue == pytest.approx(np.mean([value >= observed - 1e-9 for value, _ in found]))


def test_within_blocks_level_is_held_and_power_is_more_than_of_pairs_within_blocks():
    """100 simulated sessions: without a shift at most 11 reject (else 1 in 200 cases), with it many more than alone."""
    rejected = {}
    for shift in (0.0, 1.0):
        ps = []
        for seed in range(100):
            x, condition, block = blocked(seed, shift, n_blocks=6)
            pairs = PairDistances(((x[:, None] - x) ** 2).sum(axis=-1), None, symmetric=True)
            units = exchangeable_units(condition, block)
            labelings = permute_labels(units, 199, seed)
            ps.append(
                [
                    pvalue(permuted_statistics(*pairs_to_test(pairs.value, units), labelings)),
                    pvalue(permuted_statistics(pairs.value, comparable_pairs(units), labelings)),
                ]
            )
        rejected[shift] = np.mean(np.array(ps) <= 0.05, axis=0)
    assert rejected[0.0][0] <= 0.11
    assert rejected[1.0][0] > rejected[1.0][1] + 0.1


def test_the_centred_statistic_estimates_the_squared_shift():
    """Blocks of unequal size, and one of a single condition: on average, 1 is found."""
    block, condition = np.repeat(range(4), [2, 4, 6, 2]), list("ab" + "aabb" + "aaabbb" + "aa")
    found = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(14, 3)) + 3 * rng.normal(size=(4, 3))[block]
        x[:, 0] += np.array(condition) == "b"
        pairs = PairDistances(((x[:, None] - x) ** 2).sum(axis=-1), None, symmetric=True)
        found.append(quiet(compare_pairs, pairs, condition, block.tolist(), n_permutations=1).statistic)
    assert np.mean(found) == pytest.approx(1.0, abs=3.5 * np.std(found) / 20)


# --------------------------------------------------------------------------------------------- order of the runs


def test_a_drift_is_warned_of_and_its_absence_hardly_ever():
    """Simulated: 16 runs, eight of each condition in turn; a drift of 0.3 a run, or none."""
    condition, warned = list("aaaabbbb" * 2), {0.0: 0, 0.3: 0}
    for drift in warned:
        for seed in range(60):
            x = np.random.default_rng(seed).normal(size=(16, 4))
            x[:, 0] += drift * np.arange(16)
            pairs = PairDistances(((x[:, None] - x) ** 2).sum(axis=-1), None, symmetric=True)
            found = quiet(compare_pairs, pairs, condition, n_permutations=1)
            warned[drift] += any("further apart" in text for text in found.warnings)
    assert warned[0.0] <= 5  # 1.2 of 60 expected, more than 5 in 1 of 400 cases
    assert warned[0.3] >= 50


def test_the_position_of_runs_is_what_counts():
    x = np.random.default_rng(0).normal(size=(12, 2)) + np.arange(12)[:, None]
    pairs = PairDistances(((x[:, None] - x) ** 2).sum(axis=-1), None, symmetric=True)
    shuffled = np.random.default_rng(1).permutation(12)
    moved, condition = pairs.of(shuffled), list("ab" * 6)

    def drift(position):
        found = quiet(compare_pairs, moved, [condition[i] for i in shuffled], position=position)
        return any("further apart" in text for text in found.warnings)

    assert drift(shuffled.tolist())
    assert not drift(None)


@pytest.mark.parametrize(("condition", "streaky"), [("aabb", True), ("abab", False), ("aaabbbaaabbb", False)])
def test_conditions_in_streaks_are_warned_of_unless_blocks_are_named(condition, streaky):
    x = np.random.default_rng(3).normal(size=(len(condition), 3))
    pairs = PairDistances(((x[:, None] - x) ** 2).sum(axis=-1), None, symmetric=True)
    order = list(range(len(condition)))
    found = quiet(compare_pairs, pairs, list(condition), position=order)
    assert any("streaks" in text for text in found.warnings) == streaky
    blocks = [i % 2 for i in order]
    named = quiet(compare_pairs, pairs, list(condition), blocks, position=order)
    assert not any("streaks" in text for text in named.warnings)


# -------------------------------------------------------------------------------- warnings and errors


def test_numbers_that_are_not_finite_are_refused():
    rng = np.random.default_rng(0)
    coefs, latents = rng.normal(size=(6, 1, 3, 3)), rng.normal(size=(6, 50, 3))
    coefs[4, 0, 1, 2] = np.nan
    for test in (lambda: influence_test(coefs, "aaabbb"), lambda: coefficient_swap_test(latents, coefs, "aaabbb")):
        with pytest.raises(LarscopeError, match=r"Coefficients must be finite.*for run 4"):
            test()
    pairs, condition = distances()
    pairs.value[2, 3] = np.nan
    with pytest.raises(LarscopeError, match=r"finite numbers.*for run 2"):
        compare_pairs(pairs, condition)


def test_runs_without_couplings_are_said_to_have_no_influence():
    coefs = np.random.default_rng(0).normal(size=(10, 1, 3, 3))
    coefs[7] = 0.5 * np.eye(3)
    test = quiet(influence_test, coefs, "aaaaabbbbb")
    assert any("Runs [7] (counted from 0) have no couplings" in warning for warning in test.warnings)


def test_two_blocks_against_two_blocks_cannot_reach_a_twentieth():
    pairs, condition = distances(sizes=(4, 4), shift=50)
    with pytest.warns(ComparisonWarning, match="cannot reach 0.05") as caught:
        test = compare_pairs(pairs, condition, block=[1, 1, 2, 2, 3, 3, 4, 4])
    assert "With 2 a against 2 b no p-value can be below 0.333" in str(caught[0].message)
    assert test.warnings == (str(caught[0].message),)
    assert test.pvalue == test.min_pvalue == pytest.approx(1 / 3)


def test_one_block_a_side_still_gives_an_answer():
    pairs, condition = distances(sizes=(4, 4), shift=50)
    with pytest.warns(ComparisonWarning, match="no p-value can be below 1"):
        assert compare_pairs(pairs, condition, block=[1] * 4 + [2] * 4).pvalue == 1


def test_shared_coefficients_are_refused():
    latents, coefs, _ = simulated_session()
    coefs[1] = coefs[0]
    with pytest.raises(ValueError, match="identical ones for runs 0 and 1 of condition 'a'"):
        coefficient_swap_test(latents, coefs, list("aaaabbbb"))
    with pytest.raises(ValueError, match="fit each run"):
        influence_test(coefs, list("aaaabbbb"))
    assert quiet(influence_test, coefs, list("abababab")).pvalue > 0  # identical across conditions is data


def test_silent_runs_are_named():
    latents, coefs, _ = simulated_session()
    coefs[[2, 3]] = 0
    with pytest.warns(ComparisonWarning, match=r"Runs \[2, 3\] .* have no coefficients"):
        coefficient_swap_test(latents, coefs, list("aaaabbbb"))


def test_differing_lengths_are_told():
    latents, coefs, _ = simulated_session()
    latents[:4] = [z[:60] for z in latents[:4]]
    with pytest.warns(ComparisonWarning, match="Runs differ in length by condition .a 60, b 80 frames"):
        coefficient_swap_test(latents, coefs, list("aaaabbbb"))
    assert not condition_imbalances(latents, list("abababab"))


def test_differing_noise_is_told():
    rng = np.random.default_rng(0)
    slow = np.cumsum(rng.normal(size=(10, 300, 4)), axis=1)
    noise = rng.normal(size=slow.shape)
    assert not condition_imbalances(list(slow + 3 * noise), list("aaaaabbbbb"))
    slow[5:] += 9 * noise[5:]
    slow[:5] += 1 * noise[:5]
    (message,) = condition_imbalances(list(slow), list("aaaaabbbbb"))
    assert "Signal-to-noise differs by condition (a " in message


def test_differing_spread_is_told_when_it_may_explain_the_result():
    pairs, condition = distances(4, sizes=(9, 9), shift=3.0, spread=(1.0, 3.0))
    with pytest.warns(ComparisonWarning, match="vary more in one condition"):
        compare_pairs(pairs, condition)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, c: (z[:3], c), "got 3 series and 8 arrays"),
        (lambda z, c: ([*z[:7], z[7][:2]], c), r"got shape \(2, 5\) for run 7"),
        (lambda z, c: ([*z[:7], z[7][:, :4]], c), r"got shape \(80, 4\) for run 7"),
        (lambda z, c: ([*z[:7], z[7] * [np.nan, 1, 1, 1, 1]], c), "got NaN or infinity in run 7"),
        (lambda z, c: ([*z[:7], z[7] * np.inf], c), "got NaN or infinity in run 7"),
        (lambda z, c: ([*z[:7], z[7] * np.nan], c), "run 7 has too many missing"),
        (lambda z, c: (z, c[:5]), "got 5 for 8 runs"),
        (lambda z, c: (z, c[..., :4]), r"got \(2, 5, 4\) for run 0"),
        (lambda z, c: ([*z[:7], z[7] * 0], c), "got error 0.0 in run 7"),
    ],
)
def test_wrong_input_is_refused(change, message):
    latents, coefs, _ = simulated_session()
    latents, coefs = change(latents, coefs)
    with pytest.raises(ValueError, match=message):
        coefficient_swap_test(latents, coefs, list("aaaabbbb"))


def test_wrong_designs_are_refused():
    pairs, condition = distances()
    with pytest.raises(ValueError, match="got 11 entries for 12 runs"):
        compare_pairs(pairs, condition[:-1])
    with pytest.raises(ValueError, match="must have two runs"):
        compare_pairs(pairs.of(np.array([0, 6])), ["a", "b"])
    groups = {"early": np.arange(12) < 6, "late": np.arange(12) >= 5}
    with pytest.raises(ValueError, match=r"with runs \[5\] in both"):
        contrast_table(pairs, groups)
    with pytest.raises(ValueError, match="got 6 entries for 'late'"):
        contrast_table(pairs, groups | {"late": [True] * 6})
    with pytest.raises(ValueError, match=r"Unknown group 'erly'. Did you mean 'early'"):
        contrast_table(pairs, groups, [("erly", "late")])


# --------------------------------------------------------------------------------------------- calibration


@pytest.fixture(scope="module")
def calibration():
    if not REPRODUCTION.exists():
        pytest.skip("the reproduction folder is not part of this installation")
    return load_calibration()


N_SESSIONS = 60


@pytest.mark.parametrize("which", range(8))
def test_level_is_kept_without_a_difference(calibration, which):
    """Simulated sessions, fitted by SparseVAR: the share of p <= a within the 99.9 % binomial bounds of a."""
    scenario = calibration.NULL[which]
    results = [calibration.compare(scenario, seed, n_permutations=199) for seed in range(N_SESSIONS)]
    for kind in (0, 1):
        p = np.array([result[kind].pvalue for result in results])
        for level in (calibration.attainable_level(results[0][kind].min_pvalue), 0.5):
            low, high = scipy.stats.binom.interval(0.999, N_SESSIONS, level)
            assert low <= (p <= level + 1e-9).sum() <= high


def test_broken_assumptions_show(calibration):
    """Raw Deltas under unequal noise, blocks ignored, observation noise: rejected far too often, as documented."""
    blocks_ignored, noise = calibration.BROKEN[2], calibration.BROKEN[3]
    rejected = [calibration.compare(blocks_ignored, seed, 199)[0].pvalue <= 0.05 for seed in range(15)]
    assert np.mean(rejected) > 0.5
    results = [calibration.compare(noise, seed, 199) for seed in range(10)]
    assert np.mean([swap.pvalue <= 0.05 for swap, _, _ in results]) > 0.8
    assert all(noticed for _, _, noticed in results)


def test_power_grows_with_the_difference(calibration):
    power = []
    for scenario in (calibration.POWER[1], calibration.POWER[3]):
        results = [calibration.compare(scenario, seed, 199)[0] for seed in range(25)]
        power.append(np.mean([result.pvalue <= 0.05 for result in results]))
    assert power[0] < power[1]
    assert power[1] > 0.8


def test_ranksum_is_not_calibrated_when_blocks_drift(calibration):
    """The reason for the permutation test: the paper's rank-sum on the same simulated sessions."""
    results = [calibration.compare(calibration.NULL[6], seed, 199)[0] for seed in range(20)]
    assert np.mean([result.pvalue_ranksum <= 0.05 for result in results]) > 0.5


@pytest.mark.slow
def test_forty_runs_at_the_papers_size_take_seconds():
    import time

    rng = np.random.default_rng(0)
    latents = [rng.normal(size=(435, 384)) for _ in range(40)]
    dense = (rng.normal(size=(5, 384, 384)) * 0.02 * (rng.random((5, 384, 384)) < 0.02) for _ in range(40))
    coefs = SparseCoefficients.from_dense(dense)
    start = time.perf_counter()
    quiet(coefficient_swap_test, latents, coefs, ["a"] * 20 + ["b"] * 20)
    assert time.perf_counter() - start < 60
