"""The test of couplings: its level where activity differs, its power, against permutation by hand."""

import itertools
import warnings

import numpy as np
import pytest
import scipy.stats
import torch

from larscope import LarscopeError, SparseVAR, coupling_test
from larscope._dynamics.couplings import FDR, find_couplings, measure_couplings
from larscope._statistics.comparison import ComparisonWarning

EDGES = ((1, 0), (2, 0), (3, 1), (5, 4))


def simulate(seed: int, n_runs: int = 8, activity: float = 1.0, second: float = 1.0, n: int = 6) -> list[np.ndarray]:
    """Sessions of two conditions, half of the latents livelier in each; couplings of the second are multiplied."""
    rng = np.random.default_rng(seed)
    latents = []
    for run in range(n_runs):
        coef = 0.4 * np.eye(n)
        for target, source in EDGES:
            coef[target, source] = 0.3 * (second if run >= n_runs // 2 else 1)
        scale = np.where((np.arange(n) < n // 2) == (run < n_runs // 2), activity, 1.0)
        z = scale * rng.standard_normal((200, n))
        for t in range(1, len(z)):
            z[t] += coef @ z[t - 1]
        latents.append(z[40:])
    return latents


CONDITION = ["a"] * 4 + ["b"] * 4


def quiet(latents, condition=CONDITION, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ComparisonWarning)
        return coupling_test(latents, condition, order=2, **how)


def test_it_keeps_its_level_where_activity_differs():
    """Innovations twice as large in half the latents of each condition, the same couplings."""
    p = [quiet(simulate(seed, activity=2.0)).pvalue for seed in range(16)]
    level = 2 / 70  # the largest not above 0.05 that 4 against 4 runs can attain
    assert np.sum(np.array(p) <= level + 1e-9) <= scipy.stats.binom.ppf(0.999, 16, level)


def test_it_sees_weaker_couplings():
    p = [quiet(simulate(seed, second=0.2)).pvalue for seed in range(6)]
    assert np.median(p) <= 2 / 70 + 1e-9


def test_it_is_the_permutation_of_labels_over_distances_of_couplings():
    latents = simulate(3, second=0.6)
    series = [torch.from_numpy(z) for z in latents]
    effect, error = measure_couplings(SparseVAR(2), series, find_couplings(SparseVAR(2), series))
    scaled = effect / np.sqrt((error**2).mean(axis=0))
    distance = ((scaled[:, None] - scaled) ** 2).sum(axis=-1)

    def statistic(first):
        second = [run for run in range(8) if run not in first]
        within = [np.mean([distance[s, r] for s, r in itertools.combinations(group, 2)]) for group in (first, second)]
        return np.mean([distance[s, r] for s in first for r in second]) - np.mean(within)

    every = np.array([statistic(first) for first in itertools.combinations(range(8), 4)])
    found = quiet(latents)
    assert found.pvalue == pytest.approx(np.mean(every >= statistic((0, 1, 2, 3)) - 1e-9))
    assert found.min_pvalue == pytest.approx(2 / 70)


def test_couplings_are_measured_as_least_squares_does_in_units_of_the_session():
    latents = simulate(0, activity=3.0)
    series = [torch.from_numpy(z) for z in latents]
    found = find_couplings(SparseVAR(1), series)
    effect, error = measure_couplings(SparseVAR(1), series, found)
    kept = found.qvalue <= FDR
    target, source = found.target[kept], found.source[kept]
    assert {(int(j), int(i)) for j, i in zip(target, source, strict=True)} >= set(EDGES)
    unit = np.sqrt(np.mean([z.var(axis=0) for z in latents], axis=0))
    z = (latents[5] - latents[5].mean(axis=0)) / unit
    j = 1
    mine = np.flatnonzero(target == j)
    design = z[:-1][:, [*source[mine], j]]
    weights, left, _, _ = np.linalg.lstsq(design, z[1:, j], rcond=None)
    variance = left[0] / (len(design) - design.shape[1]) * np.linalg.inv(design.T @ design).diagonal()
    np.testing.assert_allclose(effect[5, mine], weights[:-1], rtol=1e-6)
    np.testing.assert_allclose(error[5, mine], np.sqrt(variance)[:-1], rtol=1e-6)


def test_without_couplings_nothing_is_distinguishable():
    latents = [np.random.default_rng(run).normal(size=(60, 3)) for run in range(8)]
    with pytest.warns(ComparisonWarning, match="No couplings beyond chance in these runs"):
        found = coupling_test(latents, CONDITION, order=1)
    assert (found.pvalue, found.statistic, found.effect_size) == (1.0, 0.0, 0.0)


def test_blocks_and_missing_frames():
    latents = simulate(1)
    latents[2][10:13] = np.nan
    assert "whole blocks" in quiet(latents, block=[1, 1, 2, 2, 3, 3, 4, 4]).units


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda z: z[:-1], "one entry a run: got 8 entries for 7 series"),
        (lambda z: [z[0][:, :2], *z[1:]], r"got shape \(160, 6\) for run 1"),
        (lambda z: [z[0][:3], *z[1:]], r"at least order \+ 2 = 4 frames: got shape \(3, 6\)"),
        (lambda z: [np.where(np.arange(6) == 2, np.nan, z[0]), *z[1:]], "must be finite, .* run 0"),
    ],
)
def test_what_it_cannot_take(change, said):
    with pytest.raises(LarscopeError, match=said):
        quiet(change(simulate(0)))
