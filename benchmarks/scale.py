"""Measure comparisons of many runs: time and peak memory of each test, on simulated latents.

    python benchmarks/scale.py --runs 60 120 240 500 --jobs 1 2

Prints one row a test. Latents are noise that sparse coefficients shape, two thirds of them common to all runs. Each
test has a process of its own, with its workers; memory is the sum over these, pages they share counted once. Nothing is
left on the disk.
"""

import argparse
import subprocess
import sys
import time
import warnings

import numpy as np
import psutil

TESTS = ("coupling", "swap", "influence", "edges")


def simulate(n_runs: int, n_latents: int, order: int, n_frames: int, seed: int = 0):
    """Return latents and coefficients: own past, and 8 sources a target in each run."""
    from larscope._dynamics.coefficients import SparseCoefficients

    rng = np.random.default_rng(seed)
    target = np.repeat(np.arange(n_latents), 8)
    lag, source = rng.integers(order, size=target.shape), rng.integers(n_latents, size=target.shape)
    series = []

    def draw():
        for _ in range(n_runs):
            own = rng.random(target.shape) < 1 / 3
            coef = np.zeros((order, n_latents, n_latents), np.float32)
            coef[0, range(n_latents), range(n_latents)] = 0.5
            at = np.where(own, rng.integers(n_latents, size=own.shape), source)
            coef[lag, target, at] += rng.normal(0, 0.03, own.shape) + 0.04
            latent = rng.normal(size=(n_frames, n_latents)).astype(np.float32)
            for t in range(order, n_frames):
                for k in range(order):
                    latent[t] += coef[k] @ latent[t - 1 - k]
            series.append(latent)
            yield coef

    coefs = SparseCoefficients.from_dense(draw())
    return series, coefs


def run_test(name: str, n_runs: int, n_latents: int, order: int, n_frames: int, jobs: int) -> None:
    """Time one test, without the simulation."""
    from larscope._compute.workers import open_workers
    from larscope._fit.comparing_couplings import coupling_test
    from larscope._statistics.differences import edge_differences
    from larscope._statistics.influences import influence_test
    from larscope._statistics.swap import coefficient_swap_test

    latents, coefs = simulate(n_runs, n_latents, order, n_frames)
    label = ["a"] * (n_runs // 2) + ["b"] * (n_runs - n_runs // 2)
    print("start", int(np.mean(coefs.n_active)), flush=True)
    begun = time.perf_counter()
    with warnings.catch_warnings(), open_workers(jobs):
        warnings.simplefilter("ignore")
        if name == "coupling":
            coupling_test(latents, label, order=order)
        elif name == "swap":
            coefficient_swap_test(latents, coefs, label)
        elif name == "influence":
            influence_test(coefs, label)
        else:
            edge_differences(coefs, label, (n_latents, 1), (8 * n_latents, 8))
    print(time.perf_counter() - begun)


def measure(name: str, n_runs: int, n_latents: int, order: int, n_frames: int, jobs: int) -> tuple[float, float, int]:
    """Return seconds, peak GiB and coefficients a run of one test in a process of its own."""
    shape = [str(number) for number in (n_runs, n_latents, order, n_frames, jobs)]
    child = subprocess.Popen([sys.executable, __file__, "--one", name, *shape], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    n_active = int(child.stdout.readline().split()[1])
    peak = 0
    while child.poll() is None:
        peak = max(peak, _memory(child.pid))
        time.sleep(0.1)
    return float(child.stdout.read()), peak / 2**30, n_active


def _memory(process: int) -> int:
    total = 0
    try:
        for one in (psutil.Process(process), *psutil.Process(process).children(recursive=True)):
            total += one.memory_full_info().pss
    except psutil.NoSuchProcess:
        pass  # it has just ended
    return total


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", nargs="+", choices=TESTS, default=TESTS)
    parser.add_argument("--runs", nargs="+", type=int, default=[60, 120, 240])
    parser.add_argument("--latents", type=int, default=384)
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--frames", type=int, default=435)
    parser.add_argument("--jobs", nargs="+", type=int, default=[1])
    parser.add_argument("--one", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, *shape = given.one
        run_test(name, *map(int, shape))
        return
    print("| test | runs | K | coefficients a run | jobs | seconds | peak GiB |\n|---|---|---|---|---|---|---|")
    for jobs in given.jobs:
        for name in given.tests:
            for n_runs in given.runs:
                shape = (n_runs, given.latents, given.order, given.frames, jobs)
                seconds, peak, active = measure(name, *shape)
                print(
                    f"| {name} | {n_runs} | {given.latents} | {active} | {jobs} | {seconds:.1f} | {peak:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
