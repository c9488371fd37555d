import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from larscope import SparseVAR
from larscope.penalties import chosen_runs, trace_penalties


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
