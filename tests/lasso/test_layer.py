"""The public function against other solvers, its features, and its errors."""

import doctest
import importlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import spams
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import ElasticNet
from sklearn.linear_model import Lasso as SklearnLasso

from larscope.lasso import Lasso, NothingToLearnWarning, _engines, alpha_max, lasso, lasso_path

ENGINES = ["active_set", "path"]


def data(n=30, p=12, k=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(n, p, generator=g, dtype=torch.float64)
    return X, torch.randn(n, k, generator=g, dtype=torch.float64)


def close(ours, theirs, rtol=1e-6):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * np.abs(theirs).max())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("positive", [False, True])
def test_scikit_learn(engine, positive):
    X, Y = data()
    ours, info = lasso(X, Y, 0.1, engine=engine, positive=positive, return_info=True)
    for t in range(3):
        theirs = SklearnLasso(alpha=0.1, fit_intercept=False, tol=1e-12, max_iter=100_000, positive=positive).fit(
            X, Y[:, t]
        )
        close(ours[:, t], theirs.coef_)
    assert info.converged.all()
    assert info.n_active.tolist() == (ours != 0).sum(0).tolist()


@pytest.mark.parametrize("engine", ENGINES)
def test_spams(engine):
    X, Y = data(n=40, p=90, k=5)
    n = len(X)
    theirs = spams.lasso(np.asfortranarray(Y), D=np.asfortranarray(X), lambda1=0.05 * n, mode=2, numThreads=1).toarray()
    close(lasso(X, Y, 0.05, engine=engine), theirs)


@pytest.mark.parametrize("engine", ENGINES)
def test_ridge_is_the_elastic_net(engine):
    X, Y = data(n=20, p=40)
    theirs = ElasticNet(alpha=0.3, l1_ratio=1 / 3, fit_intercept=False, tol=1e-12, max_iter=100_000)
    close(lasso(X, Y[:, 0], 0.1, l2=0.2, engine=engine), theirs.fit(X, Y[:, 0]).coef_)


@pytest.mark.parametrize("engine", ENGINES)
def test_orthogonal_design_is_soft_thresholding(engine):
    Q = torch.linalg.qr(data(n=16, p=16)[0])[0] * 4
    y = data(n=16)[1][:, 0]
    c = Q.mT @ y / 16
    close(lasso(Q, y, 0.2, engine=engine), c.sign() * (c.abs() - 0.2).clamp(min=0), rtol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_scale_columns(engine):
    X, Y = data()
    v = torch.linspace(0.5, 2, 12, dtype=torch.float64)
    close(lasso(X, Y, 0.1, weights=v, engine=engine), lasso(X / v, Y, 0.1, engine=engine) / v[:, None])


@pytest.mark.parametrize("engine", ENGINES)
def test_zero_weight_is_a_regression_on_that_feature(engine):
    X, Y = data()
    v = torch.ones(12).double()
    v[[2, 5]] = 0
    coef = lasso(X, Y, 0.3, weights=v, engine=engine)
    residual = Y - X @ coef
    assert (X[:, [2, 5]].mT @ residual).abs().max() <= 1e-12 * (X.mT @ Y).abs().max()
    large = lasso(X, Y, 1e6, weights=v, engine=engine)
    close(large[[2, 5]], torch.linalg.lstsq(X[:, [2, 5]], Y).solution, rtol=1e-10)
    assert (np.delete(large.numpy(), [2, 5], axis=0) == 0).all()
    entry = alpha_max(X, Y, weights=v)
    assert (lasso(X, Y, entry, weights=v, engine=engine) != 0).sum() == 6
    assert ((lasso(X, Y, 0.99 * entry, weights=v, engine=engine) != 0).sum(0) == 3).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_dependent_unpenalised_columns(engine):
    X, Y = data()
    X = torch.cat([X[:, :2], X[:, :1] + X[:, 1:2], X[:, 3:]], 1)
    v = torch.ones(12).double()
    v[:3] = 0
    coef, info = lasso(X, Y, 0.1, weights=v, engine=engine, return_info=True)
    assert info.converged.all()
    close(X @ coef, X @ lasso(X, Y, 0.1, weights=v[:, None].clone(), engine="path"))


@pytest.mark.parametrize("engine", ENGINES)
def test_infinite_weight_and_mask_exclude(engine):
    X, Y = data()
    mask = torch.rand(12, 3, generator=torch.Generator().manual_seed(1)) > 0.4
    masked = lasso(X, Y, 0.05, mask=mask, engine=engine)
    weighted = lasso(X, Y, 0.05, weights=torch.where(mask, 1.0, torch.inf), engine=engine)
    assert (masked[~mask] == 0).all()
    assert (masked == weighted).all()
    for t in range(3):
        close(masked[mask[:, t], t], lasso(X[:, mask[:, t]], Y[:, t], 0.05), rtol=1e-10)


def test_one_alpha_per_target():
    X, Y = data()
    alphas = torch.tensor([0.3, 0.1, 0.01])
    together = lasso(X, Y, alphas)
    for t in range(3):
        assert (together[:, t] == lasso(X, Y[:, t], alphas[t])).all()


def test_alpha_zero_is_least_squares():
    X, Y = data()
    close(lasso(X, Y, 0.0), torch.linalg.lstsq(X, Y).solution, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 25),
    st.integers(0, 10**6),
    st.floats(0.001, 1.2),
    st.booleans(),
    st.sampled_from([0.0, 0.1]),
)
@example(n=7, p=16, seed=1, fraction=1.0, positive=False, l2=0.0)  # at the knot: nothing of a wrong start remains
def test_engines_and_starts_agree(n, p, seed, fraction, positive, l2):
    X, Y = data(n, p, 2, seed)
    alpha = alpha_max(X, Y, positive=positive) * fraction
    options = {"positive": positive, "l2": l2}
    cold, info = lasso(X, Y, alpha, **options, return_info=True)
    assert info.converged.all()
    close(cold, lasso(X, Y, alpha, engine="path", **options), rtol=1e-8)
    start = torch.randn(p, 2, generator=torch.Generator().manual_seed(seed)).double()
    for init in (start, cold, torch.ones(p).double()):
        assert (lasso(X, Y, alpha, init=init, **options) == cold).all()


def test_zero_from_alpha_max_on():
    X, Y = data()
    X.requires_grad_()
    Y.requires_grad_()
    largest = alpha_max(X, Y).detach()
    for alpha in (largest, 2 * largest):
        with pytest.warns(NothingToLearnWarning, match="every coefficient is zero") as caught:
            coef, info = lasso(X, Y, alpha, return_info=True)
        assert caught[0].filename == __file__
        assert (coef == 0).all()
        assert info.converged.all()
        gradients = torch.autograd.grad(coef.sum(), (X, Y))
        assert all((g == 0).all() for g in gradients)
    assert ((lasso(X, Y, largest * 0.99) != 0).sum(0) == 1).all()
    small = alpha_max(X.float(), Y.float())
    assert (lasso(X.detach().float(), Y.detach().float(), small.detach()) == 0).all()


def test_leading_dimensions_are_loops():
    X, Y = data(n=24)
    X, Y = X.reshape(2, 3, 4, 12), Y.reshape(2, 3, 4, 3)
    for engine in ENGINES:
        batched, info = lasso(X, Y, 0.1, engine=engine, return_info=True)
        assert batched.shape == (2, 3, 12, 3)
        assert info.kkt.shape == (2, 3, 3)
        single = lasso(X, Y[..., 0], 0.1, engine=engine)
        assert single.shape == (2, 3, 12)
        for i in range(2):
            for j in range(3):
                close(batched[i, j], lasso(X[i, j], Y[i, j], 0.1, engine=engine), rtol=1e-12)
        close(batched[..., 0], single, rtol=1e-12)


def test_a_tall_design_uses_its_gram():
    X, Y = data(n=300, p=60, k=40)
    coef, info = lasso(X, Y, 0.005, return_info=True)
    assert info.converged.all()
    close(coef, lasso(X, Y, 0.005, engine="path"), rtol=1e-9)


def test_module_is_the_function():
    X, Y = data()
    layer = Lasso(0.1, positive=True)
    assert (layer(X, Y) == lasso(X, Y, 0.1, positive=True)).all()
    assert not list(layer.parameters())
    assert "alpha=0.1, positive=True" in repr(layer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": torch.zeros(3)}, r"`X` must have shape.*got \(3,\)"),
        ({"y": torch.zeros(4, 2).double()}, r"`y` must have shape.*got \(4, 2\)"),
        ({"y": torch.zeros(30, 3)}, "both be float32 or both float64"),
        ({"y": torch.full((30, 3), torch.nan).double()}, "`y` must be finite: got 90"),
        ({"alpha": -1.0}, "`alpha` must be finite and >= 0: got -1"),
        ({"alpha": torch.ones(2)}, r"`alpha` must be a number or broadcast to \(3,\).*got shape \(2,\)"),
        ({"alpha": torch.ones(2, 3)}, r"`alpha` must be a number or broadcast to \(3,\).*got shape \(2, 3\)"),
        ({"l2": -1.0}, "`l2` must be finite and >= 0: got -1"),
        ({"weights": torch.ones(5)}, r"`weights` must broadcast to \(p, K\) = \(12, 3\): got shape \(5,\)"),
        ({"weights": -torch.ones(12)}, "`weights` must be >= 0: got -1"),
        ({"mask": torch.ones(12)}, "`mask` must be boolean"),
        ({"mask": torch.ones(12, 4) > 0}, "`mask` must broadcast"),
        ({"init": torch.ones(5)}, "`init` must broadcast"),
        ({"gradient": "exact"}, "`gradient` must be"),
        ({"gradient": torch.ones(2)}, "`gradient` must be"),
        ({"engine": None}, "`engine` must be"),
        ({"l2": torch.ones(2)}, r"`l2` must be one number: got shape \(2,\)"),
        ({"l2": torch.nan}, "`l2` must be finite"),
        ({"X": torch.ones(30, 12).double().to_sparse()}, "`X` must be dense"),
        ({"engine": "fast"}, "`engine` must be"),
        ({"gradient": "unrolled", "engine": "active_set"}, "must follow the path"),
    ],
)
def test_errors_say_what_to_do(change, message):
    X, Y = data()
    arguments = {"X": X, "y": Y, "alpha": 0.1} | change
    with pytest.raises(ValueError, match=message):
        lasso(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": None}, "`alpha` must be a number or a torch.Tensor: got NoneType"),
        ({"alpha": "0.1"}, "`alpha` must be a number or a torch.Tensor: got str"),
        ({"alpha": np.ones(3)}, "`alpha` must be a number or a torch.Tensor: got ndarray"),
        ({"l2": None}, "`l2` must be a number"),
        ({"positive": torch.tensor(True)}, "`positive` must be True or False: got Tensor"),
        ({"weights": [1.0] * 12}, "`weights` must be a torch.Tensor: got list"),
        ({"mask": np.ones(12, dtype=bool)}, "`mask` must be a torch.Tensor: got ndarray"),
        ({"init": "warm"}, "`init` must be a torch.Tensor: got str"),
    ],
)
def test_wrong_types_are_refused_at_the_door(change, message):
    X, Y = data()
    with pytest.raises(TypeError, match=message):
        lasso(**{"X": X, "y": Y, "alpha": 0.1} | change)


def test_alpha_max_refuses_what_lasso_refuses():
    X, Y = data()
    Y[0, 0] = torch.nan
    with pytest.raises(ValueError, match="`y` must be finite: got 1"):
        alpha_max(X, Y)


def test_alpha_max_with_a_ridge_on_free_features():
    X, Y = data()
    v = torch.ones(12).double()
    v[:2] = 0
    entry = alpha_max(X, Y, weights=v, l2=0.5)
    assert (lasso(X, Y, entry, weights=v, l2=0.5)[2:] == 0).all()
    assert ((lasso(X, Y, 0.999 * entry, weights=v, l2=0.5)[2:] != 0).sum(0) == 1).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_one_value_for_each_target_of_a_batch(engine):
    X, Y = data(n=40)
    X, Y = X.reshape(5, 8, 12), Y.reshape(5, 8, 3)
    for y in (Y[..., 0], Y[..., :1], Y):
        alpha = 0.3 * alpha_max(X, y)
        assert alpha.shape == (y[:, 0]).shape
        coef = lasso(X, y, alpha, engine=engine)
        for b in range(5):
            close(coef[b], lasso(X[b], y[b], alpha[b], engine=engine), rtol=1e-12)
    each = torch.linspace(0.01, 0.1, 5, dtype=torch.float64)[:, None]
    coef = lasso(X, Y, each, engine=engine)
    assert (coef == lasso(X, Y, each.expand(5, 3), engine=engine)).all()
    close(coef[..., 0], lasso(X, Y[..., 0], each[:, 0], engine=engine), rtol=1e-12)
    close(coef[..., 0], lasso(X, Y[..., 0], each, engine=engine), rtol=1e-12)
    assert (lasso_path(X, Y, each).alphas[..., -1] == each).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_one_design_for_a_batch_of_targets(engine):
    X, Y = data(n=30, k=12)
    Y = Y.reshape(30, 2, 2, 3).movedim(0, 2)
    alpha = 0.3 * alpha_max(X, Y)
    assert alpha.shape == (2, 2, 3)
    g = torch.Generator().manual_seed(1)
    for shape in ((12,), (12, 3), (2, 2, 12, 3), (2, 1, 12, 1)):
        weights = 0.5 + torch.rand(shape, generator=g).double()
        shared, info = lasso(X, Y, alpha, weights=weights, engine=engine, return_info=True)
        assert shared.shape == (2, 2, 12, 3)
        assert info.kkt.shape == (2, 2, 3)
        copied = lasso(X.expand(2, 2, 30, 12), Y, alpha, weights=weights, engine=engine)
        torch.testing.assert_close(shared, copied, rtol=1e-10, atol=1e-12)
    assert lasso_path(X, Y).coefs.shape[:-1] == (2, 2, 3, 12)


def test_the_module_checks_its_penalty_and_keeps_weights_as_buffers():
    with pytest.raises(ValueError, match="`alpha` must be finite and >= 0: got -1"):
        Lasso(-1.0)
    with pytest.raises(TypeError, match="`alpha` must be a number"):
        Lasso(None)
    with pytest.raises(ValueError, match="`engine` must be"):
        Lasso(0.1, engine="fast")
    X, Y = data()
    weights, mask = torch.ones(12).double(), torch.ones(12, dtype=torch.bool)
    layer = Lasso(torch.nn.Parameter(torch.tensor(0.1).double()), weights=weights, mask=mask)
    assert sorted(dict(layer.named_buffers())) == ["mask", "weights"]
    assert [name for name, _ in layer.named_parameters()] == ["alpha"]
    layer(X, Y).sum().backward()
    assert layer.alpha.grad.isfinite()
    other = Lasso(0.1, weights=2 * weights)
    assert "weights" in other.state_dict()


def test_autocast_is_solved_in_full_precision():
    X, Y = (t.float() for t in data())
    expected = lasso(X.bfloat16().float(), Y, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (lasso(X.bfloat16(), Y, 0.1) == expected).all()
        grown = X.clone().requires_grad_()
        coef = lasso(grown @ torch.eye(12), Y, 0.1)
        assert coef.dtype == torch.float32
        coef.sum().backward()
    assert grown.grad.isfinite().all()
    with pytest.raises(ValueError, match="both be float32 or both float64"):
        lasso(X.bfloat16(), Y, 0.1)


def test_arrays_are_refused():
    with pytest.raises(TypeError, match=r"`X` must be a torch.Tensor: got ndarray"):
        lasso(np.zeros((3, 2)), torch.zeros(3), 0.1)


def test_calls_from_several_threads_do_not_meet():
    problems = [data(n=40, p=80, k=40, seed=seed) for seed in range(6)]
    alone = [lasso(X, Y, 0.05) for X, Y in problems]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda z: lasso(*z, 0.05), problems))
    assert all((a == b).all() for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("module", ["lasso._engines", "lasso._layer", "lasso._path", "lasso.sklearn"])
def test_docstring_examples(module):
    result = doctest.testmod(importlib.import_module(f"larscope.{module}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_the_documentation_runs():
    page = (Path(__file__).parents[2] / "docs" / "lasso.md").read_text()
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, re.S)), {})


def test_tensors_of_another_device_are_solved_there(monkeypatch):
    X, Y = data()
    expected = lasso(X, Y, 0.1)
    choose = _engines.choose_engine
    monkeypatch.setattr(_engines, "choose_engine", lambda engine, device: choose(engine, torch.device("cuda")))
    monkeypatch.setattr(_engines, "_active_set", None)  # which would take them to the CPU
    close(lasso(X, Y, 0.1), expected)
    assert choose("active_set", torch.device("cuda")) == "active_set"


@pytest.mark.parametrize("k", [1, 20])
def test_a_batch_has_the_bits_of_its_entries(k):
    g = torch.Generator().manual_seed(3)
    X, Y = torch.randn(7, 30, 12, generator=g).double(), torch.randn(7, 30, k, generator=g).double()
    weights = torch.rand(12, generator=g).double()
    alpha = 0.1 * alpha_max(X, Y, weights=weights)
    together = lasso(X, Y, alpha, weights=weights)
    for x, y, a, coef in zip(X, Y, alpha, together, strict=True):
        assert (coef == lasso(x, y, a, weights=weights)).all()
    torch.testing.assert_close(together, lasso(X, Y, alpha, weights=weights, engine="path"), rtol=1e-8, atol=1e-10)
