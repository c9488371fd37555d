import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from larscope import SparseVAR
from larscope._dynamics.penalty import PenaltyWarning, choose_order, choose_penalty, chosen_runs, trace_penalties


@pytest.fixture(scope="module")
def latent() -> torch.Tensor:
    """A stable VAR of four latents with means that are not zero."""
    rng = np.random.default_rng(0)
    series = np.zeros((150, 4))
    coef = 0.6 * np.eye(4) + np.diag([0.3, 0.3, 0.3], k=-1)
    for t in range(1, len(series)):
        series[t] = coef @ series[t - 1] + rng.normal(size=4)
    return torch.from_numpy(series + np.array([1.0, -2.0, 0.5, 3.0]))


def test_a_curve_is_what_scikit_learn_finds_at_each_penalty(latent):
    """Everything anew in NumPy and scikit-learn: one lag, two penalties, in sample and on the last fifth."""
    curve = trace_penalties(SparseVAR(order=1, penalty=0.02), latent, factors=(1, 4))
    assert curve.penalty == [0.02, 0.08]
    series = latent.numpy()

    def fitted(part: np.ndarray, penalty: float) -> tuple[Lasso, np.ndarray, float]:
        mean = part.mean(0)
        sigma = np.sqrt(((part - mean) ** 2).mean())
        model = Lasso(alpha=penalty * 4, fit_intercept=False, tol=1e-12, max_iter=100_000)
        return model.fit((part[:-1] - mean) / sigma, (part[1:] - mean) / sigma), mean, sigma

    for place, penalty in enumerate(curve.penalty):
        model, mean, _ = fitted(series, penalty)
        error = ((series[1:] - mean) - (series[:-1] - mean) @ model.coef_.T) ** 2
        assert curve.n_active[place] == np.count_nonzero(model.coef_)
        assert curve.explained[place] == pytest.approx(1 - error.sum() / (series[1:].var(0).sum() * 149), abs=1e-6)
        model, mean, _ = fitted(series[:120], penalty)
        error = ((series[120:] - mean) - (series[119:-1] - mean) @ model.coef_.T) ** 2
        expected = 1 - error.sum() / ((series[120:] - mean) ** 2).sum()
        assert curve.explained_heldout[place] == pytest.approx(expected, abs=1e-6)


def test_the_chosen_penalty_is_on_the_curve_and_stays_the_module_s_own(latent):
    var = SparseVAR(order=2, penalty=0.02)
    curve = trace_penalties(var, latent)
    assert var.penalty == 0.02
    assert curve.n_active[curve.penalty.index(0.02)] == int(var(latent).n_active)
    assert curve.n_active[-1] < curve.n_active[0]


def test_a_constant_series_has_nothing_to_explain():
    curve = trace_penalties(SparseVAR(order=1), torch.ones(40, 2), factors=(1,))
    assert curve.n_active == [0]
    assert np.isnan(curve.explained + curve.explained_heldout).all()


def test_masked_frames_are_left_out(latent):
    var, gappy = SparseVAR(order=1, penalty=0.02), latent.clone()
    gappy[40:45] = torch.nan
    curve = trace_penalties(var, gappy, factors=(1,))
    fit = var(gappy, gappy.isnan().any(1))
    assert curve.n_active == [int(fit.n_active)]
    assert 0.2 < curve.explained[0] < 1
    assert np.isfinite(curve.explained_heldout[0])
    gappy[:119] = torch.nan  # nothing is left to fit before the last fifth
    assert np.isnan(trace_penalties(var, gappy, factors=(1,)).explained_heldout[0])


def test_conditions_take_turns():
    assert chosen_runs(["a"] * 10 + ["b"], n_runs=3) == [0, 1, 10]
    assert chosen_runs(["a", "b"]) == [0, 1]


def simulate(n_frames: int, coef: np.ndarray, seed: int) -> np.ndarray:
    """A VAR of one lag, with means that are not zero."""
    rng = np.random.default_rng(seed)
    series = np.zeros((n_frames + 50, len(coef)))
    for t in range(1, len(series)):
        series[t] = coef @ series[t - 1] + rng.normal(size=len(coef))
    return series[50:] + rng.normal(size=len(coef))


def planted(n_latents: int) -> np.ndarray:
    """Each latent remembers itself and is driven by the one before it."""
    return 0.5 * np.eye(n_latents) + 0.3 * np.eye(n_latents, k=-1)


def regression(series: np.ndarray, known: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Lagged frames and targets by the mean and scale of another series, without rows that lack a frame."""
    known = known[np.isfinite(known).all(1)]
    mean = known.mean(0)
    scaled = (series - mean) / np.sqrt(((known - mean) ** 2).mean())
    n_frames = len(series)
    design = np.hstack([scaled[order - k : n_frames - k] for k in range(1, order + 1)])
    there = np.isfinite(design).all(1) & np.isfinite(scaled[order:]).all(1)
    return design[there], scaled[order:][there]


def choose_slowly(parts: list[tuple[list, list]], order: int) -> tuple[np.ndarray, np.ndarray]:
    """Every penalty of the grid and what it explains, by one scikit-learn fit after another.

    `parts` holds series that are fitted together, and pairs of a held-out series and that of its mean and scale.
    """
    fits = []
    for fitted, judged in parts:
        rows = [regression(one, one, order) for one in fitted]
        design, target = (np.concatenate(part) for part in zip(*rows, strict=True))
        fits.append((design, target, [regression(*pair, order) for pair in judged]))
    n_latents = fits[0][1].shape[1]
    start = max(np.abs(design.T @ target).max() / len(design) for design, target, _ in fits) / n_latents
    penalties = start * 2.0 ** (-np.arange(41) / 4)
    explained = []
    for penalty in penalties:
        error = spread = 0.0
        for design, target, judged in fits:
            model = Lasso(alpha=penalty * n_latents, fit_intercept=False, tol=1e-7, max_iter=100_000)
            coef = model.fit(design, target).coef_
            error += sum(((late - past @ coef.T) ** 2).sum() for past, late in judged)
            spread += sum((late**2).sum() for _, late in judged)
        explained.append(1 - error / spread)
    return penalties, np.array(explained)


def by_frames(runs: list[np.ndarray], order: int) -> list[tuple[list, list]]:
    splits = [round(0.8 * len(run)) for run in runs]
    return [([run[:at]], [(run[at - order :], run[:at])]) for run, at in zip(runs, splits, strict=True)]


def by_runs(runs: list[np.ndarray]) -> list[tuple[list, list]]:
    return [
        ([run for i, run in enumerate(runs) if i % 3 != fold], [(run, run) for run in runs[fold::3]])
        for fold in range(3)
    ]


@pytest.mark.parametrize(("n_latents", "order"), [(4, 1), (5, 10)], ids=["more frames", "more coefficients"])
@pytest.mark.parametrize("together", [False, True])
def test_the_choice_is_that_of_scikit_learn_fits_at_every_penalty(n_latents, order, together):
    runs = [simulate(length, planted(n_latents), seed) for seed, length in enumerate((90, 70, 80, 75))]
    runs[1][30:32] = np.nan
    if together:
        # three runs of one condition, and the last fifth of the only one of another
        parts, conditions = by_runs(runs[:3]) + by_frames(runs[3:], order), ["a", "a", "a", "b"]
    else:
        parts, conditions = by_frames(runs, order), None
    penalties, explained = choose_slowly(parts, order)
    found = choose_penalty(SparseVAR(order), [torch.from_numpy(run) for run in runs], conditions)
    assert found.tried == sorted(found.tried, reverse=True)
    at = np.abs(np.log(np.divide.outer(found.tried, penalties))).argmin(axis=1)
    np.testing.assert_allclose(found.tried, penalties[at], rtol=1e-6)
    np.testing.assert_allclose(found.explained, explained[at], atol=1e-5)
    assert len(found.tried) < 25
    assert explained[at][found.tried.index(found.penalty)] > explained.max() - 1e-5


def test_of_a_planted_var_the_choice_forecasts_nearly_as_well_as_the_best_penalty():
    """The expected error of forecasts is known: that of the coefficients, in the stationary covariance."""
    coef = planted(10)
    covariance = np.eye(10)
    for _ in range(200):
        covariance = coef @ covariance @ coef.T + np.eye(10)
    run = torch.from_numpy(simulate(300, coef, 3))
    found = choose_penalty(SparseVAR(order=1), [run])
    var, excess = SparseVAR(order=1), {}
    for penalty in found.tried:
        var.penalty = penalty
        wrong = var(run).coef[0].numpy() - coef
        excess[penalty] = np.trace(wrong @ covariance @ wrong.T)
    assert excess[found.penalty] < 1.2 * min(excess.values())
    # far from what a penalty at either end costs
    assert excess[found.penalty] < 0.7 * min(excess[found.tried[0]], excess[found.tried[-1]])


def test_a_livelier_run_counts_no_more_than_others():
    runs = [torch.from_numpy(simulate(120, planted(4), seed)) for seed in (0, 1)]
    found = choose_penalty(SparseVAR(order=1), runs)
    louder = choose_penalty(SparseVAR(order=1), [runs[0], 100 * runs[1]])
    np.testing.assert_allclose(louder.explained, found.explained, atol=1e-9)
    assert louder.penalty == pytest.approx(found.penalty)


def test_where_no_penalty_helps_the_choice_warns_and_leaves_every_run_couplings():
    # held out, every coupling has the other sign
    halves = [(simulate(80, sign * planted(5), 0), simulate(20, -sign * planted(5), 1)) for sign in (1, -1)]
    runs = [torch.from_numpy(np.concatenate(parts)) for parts in halves]
    with pytest.warns(PenaltyWarning, match="better than a fit without couplings.*share coefficients among runs"):
        found = choose_penalty(SparseVAR(order=1), runs)
    with pytest.warns(PenaltyWarning, match="Record longer runs, or pass a number"):
        choose_penalty(SparseVAR(order=1), runs, ["a", "b"])  # which share already
    var = SparseVAR(order=1)
    var.penalty = found.penalty
    assert all(var(run[:80]).n_active > 0 for run in runs)
    # the best of those that do
    for penalty, explained in zip(found.tried, found.explained, strict=True):
        var.penalty = penalty
        if all(var(run[:80]).n_active > 0 for run in runs):
            assert explained <= found.explained[found.tried.index(found.penalty)] + 1e-6


def test_an_unpenalised_own_past_stays_at_every_penalty():
    runs = [torch.from_numpy(simulate(100, planted(4), 0))]
    found = choose_penalty(SparseVAR(order=1, own_weight=0.0), runs)
    assert found.explained[0] > 0.1
    assert max(found.explained) > found.explained[0]


def test_where_nothing_can_be_held_out_the_penalty_stays_and_that_is_said(latent):
    var = SparseVAR(order=1, penalty=0.07)
    gappy = latent.clone()
    gappy[115:] = torch.nan
    for runs in ([torch.ones(40, 2)], [gappy]):
        with pytest.warns(PenaltyWarning, match=r"nothing to choose a penalty by.* 0\.07 is used"):
            found = choose_penalty(var, runs)
        assert (found.penalty, found.tried, found.explained) == (0.07, [], [])


def test_a_run_that_cannot_be_judged_is_left_out(latent):
    gappy = latent.clone()
    gappy[115:] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone, among = (choose_penalty(SparseVAR(order=1), runs) for runs in ([latent], [latent, gappy]))
    assert alone == among


def test_a_penalty_is_chosen_whatever_it_was():
    latents = [torch.randn(80, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0)]
    chosen = [choose_penalty(SparseVAR(order=2, penalty=penalty), latents).penalty for penalty in (0.0, 0.3)]
    assert chosen[0] == chosen[1]


def test_the_chosen_order_explains_most_of_the_held_out_frames_and_is_the_planted_one():
    """Three lags were planted; the share of each candidate is that of fits by the module itself."""
    rng = np.random.default_rng(0)
    series = rng.normal(size=(600, 3))
    for t in range(3, len(series)):
        series[t] += 0.3 * series[t - 1] - 0.5 * series[t - 3]
    latent = torch.from_numpy(series)
    var = SparseVAR(5, 0.5, penalty_scale="residual", scale="latent", own_weight=0.0)
    choice = choose_order(var, [latent], orders=(1, 2, 3, 5, 8))
    assert choice.order == 3
    assert choice.tried == [1, 2, 3, 5, 8]
    for order, share in zip(choice.tried, choice.explained, strict=True):
        assert share == pytest.approx(trace_penalties(var.with_order(order), latent, factors=(1,)).explained_heldout[0])


def test_without_frames_to_hold_out_the_order_stays():
    with pytest.warns(PenaltyWarning, match="nothing to choose an order by"):
        assert choose_order(SparseVAR(order=2), [torch.ones(40, 2)]).order == 2


def test_another_order_keeps_who_may_be_coupled():
    var = SparseVAR(order=2, max_distance=1.0, latent_shape=(1, 3))
    other = var.with_order(4)
    assert other.mask.shape == (12, 3)
    assert torch.equal(other.mask[9:], var.mask[:3])
    assert var.mask.shape == (6, 3)
