"""Couplings over all runs: selection, chance, measurement."""

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import torch

from larscope._dynamics.chance import Shift, count_by_chance
from larscope._dynamics.couplings import FDR, condense, find_couplings, fit_couplings, share_of_chance
from larscope._dynamics.var import SparseVAR, lag_matrix, to_design_layout


def simulate(n_frames: int, coef: np.ndarray, seed: int = 0) -> torch.Tensor:
    """A VAR run forward, coefficient by coefficient."""
    order, n_latents = coef.shape[:2]
    noise = np.random.default_rng(seed).standard_normal((n_frames + 50, n_latents))
    series = np.zeros_like(noise)
    for t in range(order, len(series)):
        series[t] = noise[t] + sum(coef[k] @ series[t - k - 1] for k in range(order))
    return torch.from_numpy(series[50:])


PLANTED = np.zeros((2, 3, 3))
PLANTED[0, 1, 0] = 0.8  # latent 0 drives latent 1 at lag 1
PLANTED[1, 2, 1] = -0.7  # latent 1 damps latent 2 at lag 2


def test_couplings_are_least_squares_of_each_run_on_what_all_runs_select():
    """Planted couplings are selected, and measured in units of the latents' standard deviations without shrinking."""
    runs = [simulate(300, strength * PLANTED, seed) for seed, strength in enumerate((1.0, 1.0, 0.5))]
    couplings = fit_couplings(SparseVAR(order=2), runs)
    selected = couplings[0] != 0
    assert all(torch.equal(coef != 0, selected) for coef in couplings)
    planted = torch.from_numpy(PLANTED != 0) & ~torch.eye(3, dtype=torch.bool)
    assert selected[planted].all()
    assert selected.diagonal(dim1=1, dim2=2).all()  # a latent's own past is always there
    for latent, coef in zip(runs, couplings, strict=True):
        unit = (latent - latent.mean(0)) / latent.std(0, correction=0)
        design, allowed = lag_matrix(unit, 2).numpy(), to_design_layout(selected)
        for j in range(3):
            columns = allowed[:, j].numpy()
            expected = np.linalg.lstsq(design[:, columns], unit[2:, j].numpy(), rcond=None)[0]
            np.testing.assert_allclose(to_design_layout(coef)[columns, j], expected, atol=1e-10)
    assert couplings[2][0, 1, 0] < 0.7 * couplings[0][0, 1, 0]


def test_couplings_do_not_depend_on_sign_and_scale_of_the_latents():
    runs = [simulate(200, PLANTED, seed) for seed in range(2)]
    factor = torch.tensor([-3.0, 0.1, 20.0])
    sign = factor.sign()[:, None] * factor.sign()
    for one, other in zip(*(fit_couplings(SparseVAR(2), z) for z in (runs, [factor * z for z in runs])), strict=True):
        np.testing.assert_allclose(other, sign * one, atol=1e-9)


@pytest.mark.parametrize("kind", ["white", "autoregressive", "calcium"])
def test_chance_finds_as_many_couplings_of_independent_latents_whatever_they_are(kind):
    """By the penalty's rule each of n candidates is found with probability P(|z| > sqrt(2 log p))."""
    rng = np.random.default_rng(1)
    drive = rng.poisson(0.1, (400, 40)) if kind == "calcium" else rng.normal(size=(400, 40))
    decay = {"white": 0.0, "autoregressive": 0.6, "calcium": 0.8}[kind]
    latent = torch.from_numpy(scipy.signal.lfilter([1], [1, -decay], drive, axis=0))
    n_candidates = 5 * 40 * 39
    expected = n_candidates * 2 * scipy.stats.norm.sf(np.sqrt(2 * np.log(200)))
    var = SparseVAR(5, 1.0, penalty_scale="residual", scale="latent", own_weight=0.0)
    found = [int(var(latent).n_coupled), count_by_chance(var, latent)]
    # twice the spread of a count: spikes are not normal, and a latent's lags are alike
    assert np.all(np.abs(np.array(found) - expected) < 2 * scipy.stats.poisson.interval(0.99, expected)[1] - expected)


def test_a_shift_keeps_each_latent_and_its_gaps():
    latent = torch.randn(50, 3)
    latent[10:12] = float("nan")
    shifted = Shift.draw(3, np.random.default_rng(0)).apply(latent)
    assert torch.equal(shifted.isnan(), latent.isnan())
    there = ~latent.isnan().any(1)
    assert torch.equal(shifted[there].sort(0).values, latent[there].sort(0).values)
    assert not torch.equal(shifted[there], latent[there])


def test_latents_that_share_their_innovations_are_no_more_coupled_by_chance():
    """Shifted by nearly equal amounts, they would forecast each other: such pairs do not count."""
    common = np.random.default_rng(0).normal(size=(300, 1))
    latent = torch.from_numpy(common + 0.1 * np.random.default_rng(1).normal(size=(300, 30)))
    var = SparseVAR(2, 1.0, penalty_scale="residual", scale="latent", own_weight=0.0)
    expected = 2 * 30 * 29 * 2 * scipy.stats.norm.sf(np.sqrt(2 * np.log(60)))
    assert count_by_chance(var, latent) < 3 * expected


def test_a_share_of_chance_is_that_of_benjamini_and_hochberg_where_the_null_is_known():
    """With p-values from very many draws of the null, q-values are those of the step-up procedure."""
    rng = np.random.default_rng(0)
    strength = np.sort(np.abs(np.r_[rng.normal(size=180), rng.normal(4, 1, size=20)]))[::-1]
    n_shifts = 4000
    ours = share_of_chance(strength, np.abs(rng.normal(size=200 * n_shifts)), n_shifts)
    theirs = scipy.stats.false_discovery_control(2 * scipy.stats.norm.sf(strength))
    np.testing.assert_allclose(ours, theirs, rtol=0.05, atol=2e-3)


def test_planted_couplings_are_found_and_few_others():
    """24 latents, 20 couplings, 8 sessions: the share of false ones is that which the q-value promises."""
    n_true = n_false = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        coef = np.diag(rng.uniform(0.2, 0.7, 24))
        pairs = rng.permutation([(j, i) for j in range(24) for i in range(24) if i != j])[:20]
        coef[tuple(pairs.T)] = rng.choice([-0.15, 0.15], 20)
        runs = [simulate(300, coef[None], 10 * seed + run) for run in range(4)]
        found = find_couplings(SparseVAR(2), runs)
        kept = found.qvalue <= FDR
        hit = coef[found.target[kept], found.source[kept]] != 0
        n_true, n_false = n_true + hit.sum(), n_false + (~hit).sum()
    assert n_true > 0.8 * 8 * 20
    assert n_false <= scipy.stats.binom.ppf(0.99, n_true + n_false, FDR)


def test_without_couplings_hardly_any_session_has_one_beyond_chance():
    own = 0.7 * np.eye(20)[None]
    n_sessions = 12
    sessions = ([simulate(150, own, 10 * n + run) for run in range(2)] for n in range(n_sessions))
    any_found = sum(bool((find_couplings(SparseVAR(2), runs).qvalue <= FDR).any()) for runs in sessions)
    assert any_found <= scipy.stats.binom.ppf(0.99, n_sessions, FDR)


def test_couplings_of_series_with_gaps_constants_and_walls():
    runs = [torch.cat([simulate(120, PLANTED, seed), torch.full((120, 1), 2.0)], dim=1) for seed in range(2)]
    runs[0][50:53] = float("nan")
    near = fit_couplings(SparseVAR(2, max_distance=1.0, latent_shape=(1, 4)), runs)
    assert all(coef.isfinite().all() for coef in near)
    assert near[0][0, 1, 0] > 0.3
    assert not near[0][:, [0, 2], [2, 0]].any()  # two apart
    assert not near[0][:, 3].any()
    assert not near[0][:, :, 3].any()


@pytest.mark.parametrize("lengths", [[200], [7, 9], [9, 40, 7, 100, 12], [30] * 7])
def test_a_condensed_regression_has_the_solutions_of_all_its_rows(lengths):
    torch.manual_seed(0)
    var = SparseVAR(2, 0.1, penalty_scale="residual", scale="latent")
    runs = [torch.randn(length, 4, dtype=torch.float64).cumsum(0) for length in lengths]
    rows = var.stack(runs)
    design, target, n_rows = condense(var.stack([run]) for run in runs)
    assert n_rows == len(rows[0])
    assert len(design) == min(n_rows, 12)
    torch.testing.assert_close(var.solve(design, target, n_rows=n_rows), var.solve(*rows), rtol=1e-6, atol=1e-9)
