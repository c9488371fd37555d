"""Do the tests react to what they are not about?

Sessions in which couplings are the same in both conditions, while activity, common input or kinetics are not; and
sessions in which couplings differ. Beside larscope's three tests stand two that a user would try. Everything is
simulated. Writes `calibration_activity.csv`, and the last section of `calibration.md`.

    python reproduction/calibration_activity.py                 60 sessions a row, 20 at 48 latents
    python reproduction/calibration_activity.py --sessions 500  as many as you have time for
"""

import argparse
import csv
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.stats
import torch

from larscope import SparseVAR, coefficient_swap_test, coupling_test, influence_test
from larscope._statistics.comparison import compare_pairs
from larscope._statistics.pairs import PairDistances

HERE = Path(__file__).parent
TABLE = HERE / "calibration_activity.csv"
ORDER, LEVEL, N_PERMUTATIONS = 5, 0.05, 999
TESTS = ("coupling", "swap", "influence", "edge by edge", "covariance")
MARK = "## Activity, common input, kinetics\n"


@dataclass(frozen=True)
class Scenario:
    """One session: half the latents are livelier in one condition, the others in the other."""

    name: str
    activity: float = 1.0
    common_input: float = 0.0  # standard deviation of white noise that all latents share in one condition
    memory: float = 1.0  # a latent's own coefficient in one condition, relative to the other
    difference: float = 0.0  # share that a third of the couplings lose in one condition
    n_latents: int = 8
    n_couplings: int = 12
    size: float = 0.2
    n_runs: int = 16
    n_frames: int = 300


SCENARIOS = (
    Scenario("no difference"),
    Scenario("activity x 1.3", activity=1.3),
    Scenario("activity x 2", activity=2.0),
    Scenario("common input in one condition", common_input=0.7),
    Scenario("common input in one condition, no couplings", common_input=0.7, n_couplings=0),
    Scenario("kinetics differ: own past x 0.8", memory=0.8),
    Scenario("a third of the couplings lose 30 %", difference=0.3),
    Scenario("a third of the couplings lose 50 %", difference=0.5),
    Scenario("48 latents: activity x 2", activity=2.0, n_latents=48, n_couplings=60, size=0.15, n_frames=384),
    Scenario("48 latents: a third lose 50 %", difference=0.5, n_latents=48, n_couplings=60, size=0.15, n_frames=384),
)


def simulate(scenario: Scenario, seed: int) -> tuple[list[np.ndarray], list[str]]:
    """Return the series of one session and their conditions."""
    rng = np.random.default_rng(seed)
    n, half = scenario.n_latents, scenario.n_runs // 2
    coef = np.zeros((3, n, n))
    coef[0] = np.diag(rng.uniform(0.2, 0.7, n))
    pairs = [(j, i) for j in range(n) for i in range(n) if i != j]
    chosen = [pairs[at] for at in rng.permutation(len(pairs))[: scenario.n_couplings]]
    for j, i in chosen:
        coef[rng.integers(3), j, i] = scenario.size * rng.choice([-1, 1]) * rng.uniform(0.7, 1.3)
    other = coef.copy()
    for j, i in chosen[: max(1, len(chosen) // 3)]:
        other[:, j, i] *= 1 - scenario.difference
    other[0][np.diag_indices(n)] *= scenario.memory
    lively = rng.permutation(n) < n // 2
    latents = []
    for run in range(scenario.n_runs):
        second = run >= half
        matrices = _stable(other if second else coef)
        scale = np.where(lively != second, scenario.activity, 1.0)
        noise = scale * rng.standard_normal((scenario.n_frames + 60, n))
        noise += second * scenario.common_input * rng.standard_normal((len(noise), 1))
        for t in range(3, len(noise)):
            noise[t] += sum(matrices[k] @ noise[t - 1 - k] for k in range(3))
        latents.append(noise[60:])
    return latents, ["a"] * half + ["b"] * (scenario.n_runs - half)


def _stable(coef: np.ndarray) -> np.ndarray:
    n_lags, n, _ = coef.shape
    companion = np.eye(n_lags * n, k=-n)
    companion[:n] = np.concatenate(list(coef), axis=1)
    shrink = min(1.0, 0.95 / np.abs(np.linalg.eigvals(companion)).max())
    return coef * (shrink ** np.arange(1, n_lags + 1))[:, None, None]


def pvalues(latents: Sequence[np.ndarray], condition: Sequence[str], seed: int) -> dict[str, float]:
    """Return what each test makes of a session."""
    var = SparseVAR(ORDER, 1.0, penalty_scale="residual", scale="latent", own_weight=0.0, gradient=None)
    coefs = np.stack([var(torch.from_numpy(latent)).coef.numpy() for latent in latents])
    how = {"n_permutations": N_PERMUTATIONS, "seed": seed}
    return {
        "coupling": coupling_test(latents, condition, order=ORDER, **how).pvalue,
        "swap": coefficient_swap_test(latents, coefs, condition, scale="latent", **how).pvalue,
        "influence": influence_test(coefs, condition, **how).pvalue,
        "edge by edge": _edge_by_edge(latents, condition),
        "covariance": _covariance(latents, condition, seed),
    }


def _edge_by_edge(latents: Sequence[np.ndarray], condition: Sequence[str]) -> float:
    """Regress each target on its own past and one source at a time; t-tests, corrected by Benjamini and Hochberg."""
    n = latents[0].shape[1]
    first, found = np.array(condition) == condition[0], []
    units = np.sqrt(np.mean([latent.var(axis=0) for latent in latents], axis=0))
    for latent in latents:
        z = (latent - latent.mean(axis=0)) / units
        past, weights = [z[ORDER - k : len(z) - k] for k in range(1, ORDER + 1)], np.zeros((ORDER, n, n))
        for j in range(n):
            own = np.stack([lagged[:, j] for lagged in past], axis=1)
            projection, _ = np.linalg.qr(own)
            left = z[ORDER:, j] - projection @ (projection.T @ z[ORDER:, j])
            for k, lagged in enumerate(past):
                other = lagged - projection @ (projection.T @ lagged)
                size = (other**2).sum(axis=0)
                weights[k, j] = np.divide(other.T @ left, size, out=np.zeros(n), where=size > 1e-9 * len(z))
        found.append(weights[:, ~np.eye(n, dtype=bool)].ravel())
    values = np.array(found)
    p = scipy.stats.ttest_ind(values[first], values[~first], equal_var=False).pvalue
    return float(scipy.stats.false_discovery_control(p).min())


def _covariance(latents: Sequence[np.ndarray], condition: Sequence[str], seed: int) -> float:
    """Permute labels over squared distances between the runs' correlations, as one would without a model."""
    values = np.stack([np.corrcoef(latent.T)[np.triu_indices(latent.shape[1], 1)] for latent in latents])
    distance = ((values[:, None] - values) ** 2).sum(axis=-1)
    pairs = PairDistances(distance, None, symmetric=True)
    return compare_pairs(pairs, condition, n_permutations=N_PERMUTATIONS, seed=seed, warn=False).pvalue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=60)
    parser.add_argument("--rows", type=int, nargs="*", default=range(len(SCENARIOS)), help="only these, from 0")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = {row["scenario"]: row for row in csv.DictReader(TABLE.open())} if TABLE.exists() else {}
    for scenario in (SCENARIOS[row] for row in options.rows):
        n_sessions = options.sessions if scenario.n_latents < 20 else max(options.sessions // 3, 1)
        found = [pvalues(*simulate(scenario, seed), seed) for seed in range(n_sessions)]
        share = {name: f"{np.mean([p[name] <= LEVEL for p in found]):.2f}" for name in TESTS}
        rows[scenario.name] = {"scenario": scenario.name, "sessions": str(n_sessions), **share}
        print(rows[scenario.name], flush=True)
        _write(rows)


def _write(rows: Mapping[str, Mapping[str, str]]) -> None:
    """Write what there is so far: the table, and the last section of the page."""
    ordered = [rows[scenario.name] for scenario in SCENARIOS if scenario.name in rows]
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["scenario", "sessions", *TESTS])
        writer.writeheader()
        writer.writerows(ordered)
    body = "".join("| " + " | ".join(row.values()) + " |\n" for row in ordered)
    header = f"| scenario | sessions | {' | '.join(TESTS)} |\n" + "|---" * (2 + len(TESTS)) + "|\n"
    page = HERE / "calibration.md"
    before = page.read_text(encoding="utf-8").partition(MARK)[0].rstrip()
    page.write_text(f"{before}\n\n{MARK}\n{TEXT}{header}{body}", encoding="utf-8", newline="\n")


TEXT = """Written by `python reproduction/calibration_activity.py`. **All data are simulated**: 8 latents, 8 runs of 300
frames a condition; in the last rows 48 latents and 384 frames. Each figure is the share of sessions with p at most
0.05. In the rows where couplings lose strength it is power. In all others couplings are the same in both conditions,
and it should be 0.05: with 24 sessions, at most 0.13 (3 of them).

- **coupling** asks whether couplings differ, and is what `compare` answers with.
- **swap** and **influence**, the paper's, ask whether coefficients or activity differ: they react to both.
- **edge by edge**: one source at a time beside a target's own past, Welch's t-tests, the smallest p after Benjamini and
  Hochberg. **covariance**: labels permuted over distances between the runs' correlations.

"""


if __name__ == "__main__":
    main()
