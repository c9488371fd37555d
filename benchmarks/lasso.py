"""Time the lasso against other solvers; write benchmarks/lasso.md.

    python benchmarks/lasso.py shared two_threads tall large warm gradient [--repeats 5] [--compare]
    python benchmarks/lasso.py latents own_past --latents FILE [FILE]

Each section measures its solvers in turn, round after round, and reports medians over rounds of the times (CPU
time on one thread, wall time on two) and of the ratios within a round. Sections replace their own part of the
table, so they can be run one by one.
`--latents` are files of arrays (T, K) of an encoder's latents, for the sections "latents" and "own_past".
"""

import argparse
import math
import resource
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import spams
import tables
import torch
from sklearn.linear_model import Lasso as CoordinateDescent
from sklearn.linear_model import lars_path, lars_path_gram
from tables import ratio, run
from threadpoolctl import threadpool_limits

from larscope.lasso import _active_set, _certificate, lasso
from larscope.lasso._problem import canonical

HERE = Path(__file__).parent
ALPHAS = (0.3, 0.1, 0.03, 0.01, 0.003)
SAMPLED = 16  # targets on which scikit-learn is timed, scaled up to all
EXACT = 1e-9  # KKT violation of what counts as a solution


def var_design(n, k, order=5, seed=0):
    """Lagged frames of K autoregressions of unit variance (n x order K), and the frames they forecast."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n + order + 50, k, generator=g, dtype=torch.float64)
    for t in range(1, len(z)):
        z[t] += 0.6 * z[t - 1]
    return lagged((z[50:] - z[50:].mean(0)) / z[50:].std(0, unbiased=False), order)


def lagged(z, order=5):
    n = len(z) - order
    return torch.cat([z[order - lag : order - lag + n] for lag in range(1, order + 1)], 1), z[order:]


def clock():
    """CPU time on one thread, which a busy machine disturbs least, else wall time."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def seconds(function):
    return tables.seconds(function, clock())


def in_turn(solvers, repeats):
    return tables.in_turn(solvers, repeats, clock())


def violation(X, Y, alpha, coef):
    problem, _ = canonical(X, Y, alpha)
    return _certificate.violation(problem, torch.as_tensor(coef).reshape(1, *coef.shape)).max().item()


class Counted:
    """Count the prices of a solve: each is one row of the product X'R."""

    def __enter__(self):
        self.rows, self.original = 0, _active_set._solve_targets

        def solve_targets(*arguments):
            state = self.original(*arguments)
            self.rows += state.priced.sum()
            return state

        _active_set._solve_targets = solve_targets
        return self

    def __exit__(self, *_):
        _active_set._solve_targets = self.original


def spams_solvers(X, Y, alpha, threads):
    D, targets = np.asfortranarray(X.numpy()), np.asfortranarray(Y.numpy())
    options = {"lambda1": alpha * len(X), "mode": 2, "numThreads": threads}
    return {
        f"spams{' cholesky' if cholesky else ''}": lambda cholesky=cholesky: spams.lasso(
            targets, D=D, cholesky=cholesky, **options
        )
        for cholesky in (False, True)
    }


def sklearn_solvers(X, Y, alpha):
    """Each of scikit-learn's solvers for a few of the targets, which are returned with them."""
    some = Y.numpy()[:, :: max(1, Y.shape[1] // SAMPLED)][:, :SAMPLED]
    X = X.numpy()
    gram, n = X.T @ X, len(X)

    def by_gram(y):
        return lars_path_gram(X.T @ y, gram, n_samples=n, alpha_min=alpha, method="lasso", return_path=False)[2]

    def by_path(y):
        return lars_path(X, y, alpha_min=alpha, method="lasso", return_path=False)[2]

    def by_descent(y):
        model = CoordinateDescent(alpha, precompute=gram, fit_intercept=False, tol=1e-10, max_iter=3000)
        return model.fit(X, y).coef_

    def of_all(solve):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.stack([solve(y) for y in some.T], 1)

    named = {"lars_path_gram": by_gram, "lars_path": by_path, "Lasso(precompute)": by_descent}
    return {name: lambda solve=solve: of_all(solve) for name, solve in named.items()}, torch.from_numpy(some)


def against_sklearn(X, Y, alpha, repeats):
    """The fastest of scikit-learn's solvers that is exact on the targets tried; the fastest of all where none is."""
    torch.set_num_threads(1)
    others, some = sklearn_solvers(X, Y, alpha)
    kkt = {name: violation(X, some, alpha, solve()) for name, solve in others.items()}
    ours = {"larscope": lambda: lasso(X, Y, alpha, gradient=None), "gram": lambda: X.T @ X}
    with threadpool_limits(1):
        times = in_turn(ours | others, repeats)
    scale = Y.shape[1] / some.shape[1]
    for name in others:
        setup = [0.0] * repeats if name == "lars_path" else times["gram"]
        times[name] = [before + scale * each for before, each in zip(setup, times[name], strict=True)]
    exact = [name for name in others if kkt[name] <= EXACT] or list(others)
    best = min(exact, key=lambda name: statistics.median(times[name]))
    return {
        "scikit-learn (s)": f"{statistics.median(times[best]):.1f}",
        "which": best,
        "KKT  ": f"{kkt[best]:.0e}",
        "scikit-learn / larscope": f"{ratio(times, best, 'larscope'):.0f}",
    }


def against_spams(X, Y, alpha, threads, repeats):
    torch.set_num_threads(threads)
    others = spams_solvers(X, Y, alpha, threads)
    times = in_turn({"larscope": lambda: lasso(X, Y, alpha, gradient=None), **others}, repeats)
    best = min(others, key=lambda name: statistics.median(times[name]))
    coef = lasso(X, Y, alpha, gradient=None)
    with Counted() as counted:
        lasso(X, Y, alpha, gradient=None)
    residual = Y.T.contiguous()
    one_product = statistics.median(seconds(lambda: residual @ X)[0] for _ in range(20))
    products = counted.rows / Y.shape[1]
    ours = statistics.median(times["larscope"])
    return {
        "threads": threads,
        "alpha": alpha,
        "active": f"{(coef != 0).sum(0).double().mean():.1f}",
        "larscope (s)": f"{ours:.3f}",
        "KKT": f"{violation(X, Y, alpha, coef):.0e}",
        "SPAMS (s)": f"{statistics.median(times[best]):.3f}",
        "KKT ": f"{violation(X, Y, alpha, others[best]().toarray()):.0e}",
        "SPAMS / larscope": f"{ratio(times, best, 'larscope'):.1f}",
        "products": f"{products:.1f}",
        "time / products": f"{ours / (products * one_product):.1f}",
    }


def shared(arguments):
    """K = 384 targets, n = 59, p = 1920: one training window; one thread."""
    X, Y = var_design(59, 384)
    rows = []
    for alpha in ALPHAS:
        row = against_spams(X, Y, alpha, 1, arguments.repeats)
        rows.append(row | against_sklearn(X, Y, alpha, arguments.repeats))
        print(rows[-1], flush=True)
    return rows


def two_threads(arguments):
    """The same on two threads, for both."""
    X, Y = var_design(59, 384)
    return [against_spams(X, Y, alpha, 2, arguments.repeats) for alpha in ALPHAS]


def tall(arguments):
    """K = 384 targets, n = 1195, p = 1920: a whole run."""
    X, Y = var_design(1195, 384)
    return [against_spams(X, Y, alpha, 1, max(1, arguments.repeats // 3)) for alpha in (0.1, 0.03)]


def large(arguments):
    """K = 4096 targets, n = 59, p = 20480, alpha = .1, two threads."""
    torch.set_num_threads(2)
    X, Y = var_design(59, 4096)
    lasso(X[:, :100], Y[:, :4], 0.1)
    busy = time.process_time()
    elapsed, coef = seconds(lambda: lasso(X, Y, 0.1, gradient=None))
    busy = time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    part = torch.arange(0, 4096, 16)
    kkt = violation(X, Y[:, part], 0.1, coef[:, part])
    return [
        {
            "larscope (s)": f"{elapsed:.2f}",
            "CPU time (s)": f"{busy:.2f}",
            "peak memory (GiB)": f"{peak:.2f}",
            "KKT": f"{kkt:.0e}",
        }
    ]


def latents(arguments):
    """Latents of a trained encoder, penalties as in training (alpha = penalty K), centred, one thread."""
    rows = []
    for path in arguments.latents:
        z = torch.as_tensor(np.load(path)).double()[:64]
        X, Y = lagged(z - z.mean(0))
        for penalty in (0.003, 0.01, 0.032):
            row = against_spams(X, Y, penalty * Y.shape[1], 1, arguments.repeats)
            rows.append({"K": Y.shape[1], "penalty": penalty} | row)
    return rows


def own_past(arguments):
    """One training window as trained by default: a latent's own past is free, alpha = .75 sqrt(2 log(p) / n) and twice,
    half of it; beside no free features, and beside lars_path on what each target's own past leaves; one thread."""
    torch.set_num_threads(1)
    rows = []
    latents = [torch.as_tensor(np.load(path)).double()[:64] for path in arguments.latents or []]
    for name, (X, Y) in {
        "random": var_design(59, 384),
        **{f"trained, K = {z.shape[1]}": lagged((z - z.mean(0)) / z.std(0, unbiased=False)) for z in latents},
    }.items():
        (n, p), k = X.shape, Y.shape[1]
        free = torch.eye(k, dtype=torch.bool).repeat(p // k, 1)
        weights = (~free).double()
        some = range(0, k, max(1, k // SAMPLED))[:SAMPLED]
        for times_default in (2, 1, 0.5):
            alpha = times_default * 0.75 * math.sqrt(2 * math.log(p) / n)
            solvers = {
                "larscope": lambda X=X, Y=Y, a=alpha, w=weights: lasso(X, Y, a, weights=w, gradient=None),
                "none free": lambda X=X, Y=Y, a=alpha: lasso(X, Y, a, gradient=None),
                "lars_path": lambda X=X, Y=Y, a=alpha, f=free, s=some: [
                    path_without(X[:, f[:, j]], X[:, ~f[:, j]], Y[:, j], a) for j in s
                ],
            }
            with threadpool_limits(1):
                times = in_turn(solvers, arguments.repeats)
            times["lars_path"] = [k / len(some) * each for each in times["lars_path"]]
            coef = solvers["larscope"]()
            apart = max(
                (coef[~free[:, j], j] - torch.as_tensor(found)).abs().max().item()
                for j, found in zip(some, solvers["lars_path"](), strict=True)
            )
            rows.append(
                {
                    "latents": name,
                    "alpha": f"{alpha:.3f}",
                    "active": f"{(coef != 0).sum().item() / k:.1f}",
                    "larscope (s)": f"{statistics.median(times['larscope']):.3f}",
                    "to none free": f"{ratio(times, 'larscope', 'none free'):.2f}",
                    "lars_path (s)": f"{statistics.median(times['lars_path']):.2f}",
                    "lars_path / larscope": f"{ratio(times, 'lars_path', 'larscope'):.0f}",
                    "apart": f"{apart:.0e}",
                }
            )
    return rows


def path_without(free, X, y, alpha):
    """The lasso on what the free features leave of design and target, by scikit-learn: coefficients of the others."""
    basis = torch.linalg.qr(free)[0]
    X, y = (z - basis @ (basis.T @ z) for z in (X, y))
    return lars_path(X.numpy(), y.numpy(), alpha_min=alpha, method="lasso", return_path=False)[2]


def warm(arguments):
    """Start from the solution of data that differ by noise of 1 % or 10 %; one thread."""
    torch.set_num_threads(1)
    X, Y = var_design(59, 384)
    g = torch.Generator().manual_seed(1)
    rows = []
    for change in (0.01, 0.1):
        noisy = [z + change * torch.randn(z.shape, generator=g, dtype=z.dtype) for z in (X, Y)]
        for alpha in (0.3, 0.03, 0.003):
            before = lasso(X, Y, alpha, gradient=None)
            solvers = {
                "larscope": lambda a=alpha, noisy=noisy: lasso(*noisy, a, gradient=None),
                "warm": lambda a=alpha, w=before, noisy=noisy: lasso(*noisy, a, gradient=None, init=w),
            }
            times = in_turn(solvers, arguments.repeats)
            same = bool((solvers["larscope"]() == solvers["warm"]()).all())
            rows.append(
                {
                    "change": f"{change:.0%}",
                    "alpha": alpha,
                    "cold (s)": f"{statistics.median(times['larscope']):.3f}",
                    "warm (s)": f"{statistics.median(times['warm']):.3f}",
                    "warm / cold": f"{ratio(times, 'warm', 'larscope'):.2f}",
                    "same bits": same,
                }
            )
    return rows


def gradient(arguments):
    """Backward against forward, unrolled steps (16 targets) and cvxpylayers (a batch of 16); one thread."""
    torch.set_num_threads(1)
    rows = []
    X, Y = (z.requires_grad_() for z in var_design(59, 384))
    for alpha in ALPHAS:
        pairs = []
        for _ in range(arguments.repeats + 1):
            forward, coef = seconds(lambda a=alpha: lasso(X, Y, a))
            loss = coef.square().sum()
            backward, _ = seconds(lambda loss=loss: torch.autograd.grad(loss, (X, Y)))
            pairs.append((forward, backward))
        forward, backward = (statistics.median(z) for z in zip(*pairs[1:], strict=True))
        rows.append(
            {
                "case": f"K=384 alpha={alpha}",
                "forward (s)": f"{forward:.3f}",
                "backward (s)": f"{backward:.3f}",
                "backward / forward": f"{backward / forward:.2f}",
            }
        )
    few = Y[:, :16]
    rows.append(versus("unrolled, 16 targets", X, few, 0.1, unrolled, max(1, arguments.repeats // 2)))
    for latents in (40, 100):
        p = 5 * latents
        try:
            other = cvxpy_layer(59, p, 0.1)
        except ImportError:
            return rows
        X, Y = var_design(59, latents)
        rows.append(versus(f"cvxpylayers, n=59 p={p} K=16", X, Y[:, :16], 0.1, other, 1))
    return rows


def versus(name, X, y, alpha, other, repeats):
    def both_ways(solve):
        inputs = [z.detach().requires_grad_() for z in (X, y)]
        return torch.autograd.grad(solve(*inputs, alpha).square().sum(), inputs)

    solvers = {"larscope": lambda: both_ways(lasso), "other": lambda: both_ways(other)}
    times = in_turn(solvers, repeats)
    difference = max(
        ((a - b).abs().max() / a.abs().max()).item()
        for a, b in zip(*(solve() for solve in solvers.values()), strict=True)
    )
    return {
        "case": name,
        "forward + backward (s)": f"{statistics.median(times['larscope']):.4f}",
        "other (s)": f"{statistics.median(times['other']):.3f}",
        "other / larscope": f"{ratio(times, 'other', 'larscope'):.0f}",
        "gradients differ by": f"{difference:.0e}",
    }


def unrolled(X, y, alpha):
    return lasso(X, y, alpha, gradient="unrolled")


def cvxpy_layer(n, p, alpha):
    import cvxpy
    from cvxpylayers.torch import CvxpyLayer

    X, y, w = cvxpy.Parameter((n, p)), cvxpy.Parameter(n), cvxpy.Variable(p)
    objective = cvxpy.sum_squares(y - X @ w) / (2 * n) + alpha * cvxpy.norm1(w)
    layer = CvxpyLayer(cvxpy.Problem(cvxpy.Minimize(objective)), parameters=[X, y], variables=[w])
    return lambda X, Y, alpha: layer(X.expand(Y.shape[1], n, p), Y.mT)[0].mT


SECTIONS = {f.__name__: f for f in (shared, two_threads, tall, large, latents, own_past, warm, gradient)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], default=[])
    parser.add_argument("--latents", type=Path, nargs="+")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compare", action="store_true", help="write nothing; print ratios to the committed times")
    arguments = parser.parse_args()
    run(
        "Lasso benchmark",
        SECTIONS,
        arguments,
        HERE / "lasso.json",
        "python benchmarks/lasso.py shared two_threads tall large latents own_past warm gradient --latents SMALL.npy "
        "PAPER.npy",
        "Medians over alternating rounds; CPU time on one thread, wall time on two. `products` counts pricing "
        "products X'R (all targets), most of them in float32; `time / products` is how far a solve ends from their "
        f"cost in float64. scikit-learn is timed on {SAMPLED} targets and scaled: the fastest of its solvers whose KKT "
        f"violation is at most {EXACT:g} on each of them, or the fastest of all where none is that exact. "
        "The committed table: two cores, otherwise idle, `--repeats 5`, `OMP_WAIT_POLICY=PASSIVE`. The latents: run 1 "
        'of `LatentVAR(training="end-to-end").fit(session)`, `session = simulate_session(n_runs=8, n_frames=192, '
        "frame_shape=SHAPE, novel_strength=0.4, seed=1)`, SHAPE (96, 64) and (192, 128).",
    )


if __name__ == "__main__":
    main()
