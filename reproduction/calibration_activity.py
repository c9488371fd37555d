"""Do the tests react to what they are not about?

Sessions in which couplings are the same in both conditions, while activity, common input, kinetics or the days are not;
and sessions in which couplings differ. Beside larscope's three tests stand three that a user would try. Everything is
simulated. Writes `calibration_activity.csv`, and the last sections of `calibration.md`.

    python reproduction/calibration_activity.py                 60 sessions a row, 20 at 48 latents
    python reproduction/calibration_activity.py --sessions 500  as many as you have time for
"""

import argparse
import csv
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import scipy.stats
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import cross_val_predict

from larscope import SparseVAR, coefficient_swap_test, coupling_test, influence_test
from larscope._statistics.comparison import compare_pairs
from larscope._statistics.pairs import PairDistances, effect_interval
from larscope._statistics.permutation import comparable_pairs, exchangeable_units

HERE = Path(__file__).parent
TABLE = HERE / "calibration_activity.csv"
ORDER, LEVEL, N_PERMUTATIONS = 5, 0.05, 999
TESTS = ("coupling", "swap", "influence", "edge by edge", "covariance", "classifier")
N_INTERVALS = 200
MARK = "## Activity, common input, kinetics\n"


@dataclass(frozen=True)
class Scenario:
    """One session: half the latents are livelier in one condition, the others in the other."""

    name: str
    activity: float = 1.0
    common_input: float = 0.0  # standard deviation of white noise that all latents share in one condition
    memory: float = 1.0  # a latent's own coefficient in one condition, relative to the other
    difference: float = 0.0  # share that a third of the couplings lose in one condition
    trend: float = 0.0  # share that the same couplings lose from the first to the last run, whatever the condition
    day: float = 0.0  # spread of activity and couplings over days, as a share
    order: str = "AB"  # conditions along the session, each letter as often as it takes
    blocks: int = 0  # days, each with both conditions
    named: bool = True  # whether the tests know the days
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
    Scenario("trend: a third lose 50 % over the session, A before B", trend=0.5),
    Scenario("the same trend, A and B in turn", trend=0.5, order="ABBAABBAABBAABBA"),
    Scenario("two days that differ by 30 %, named", day=0.3, blocks=2),
    Scenario("two days that differ by 30 %, not named", day=0.3, blocks=2, named=False),
    Scenario("two days, named, a third lose 30 %", day=0.3, blocks=2, difference=0.3),
    Scenario("two days, not named, a third lose 30 %", day=0.3, blocks=2, difference=0.3, named=False),
    Scenario("48 latents: activity x 2", activity=2.0, n_latents=48, n_couplings=60, size=0.15, n_frames=384),
    Scenario("48 latents: a third lose 50 %", difference=0.5, n_latents=48, n_couplings=60, size=0.15, n_frames=384),
)


def design(scenario: Scenario) -> tuple[list[str], list[int] | None]:
    """Return condition and day of each run, in the order of recording."""
    days = max(scenario.blocks, 1)
    each = scenario.n_runs // days
    stretch = each // len(scenario.order)
    condition = [name for name in scenario.order for _ in range(stretch)] * days
    return condition, np.repeat(range(days), each).tolist() if scenario.blocks else None


def simulate(scenario: Scenario, seed: int) -> tuple[list[np.ndarray], list[str]]:
    """Return the series of one session and their conditions."""
    rng = np.random.default_rng(seed)
    n = scenario.n_latents
    condition, day = design(scenario)
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
    weaker = [chosen[at] for at in range(max(1, len(chosen) // 3))] if chosen else []
    of_day = 1 + scenario.day * rng.standard_normal((max(scenario.blocks, 1), 2, n))
    latents = []
    for run, name in enumerate(condition):
        second = name == "B"
        matrices = (other if second else coef).copy()
        for j, i in weaker:
            matrices[:, j, i] *= 1 - scenario.trend * run / (scenario.n_runs - 1)
        scale = np.where(lively != second, scenario.activity, 1.0)
        if day is not None:
            between = ~np.eye(n, dtype=bool)
            matrices[:, between] *= np.broadcast_to(of_day[day[run], 0][:, None], (n, n))[between]
            scale = scale * np.abs(of_day[day[run], 1])
        matrices = _stable(matrices)
        noise = scale * rng.standard_normal((scenario.n_frames + 60, n))
        noise += second * scenario.common_input * rng.standard_normal((len(noise), 1))
        for t in range(3, len(noise)):
            noise[t] += sum(matrices[k] @ noise[t - 1 - k] for k in range(3))
        latents.append(noise[60:])
    return latents, condition


def _stable(coef: np.ndarray) -> np.ndarray:
    n_lags, n, _ = coef.shape
    companion = np.eye(n_lags * n, k=-n)
    companion[:n] = np.concatenate(list(coef), axis=1)
    shrink = min(1.0, 0.95 / np.abs(np.linalg.eigvals(companion)).max())
    return coef * (shrink ** np.arange(1, n_lags + 1))[:, None, None]


def pvalues(
    latents: Sequence[np.ndarray], condition: Sequence[str], seed: int, block: Sequence[int] | None = None
) -> tuple[dict[str, float], bool]:
    """Return what each test makes of a session, and whether a drift or streaks were warned of."""
    var = SparseVAR(ORDER, 1.0, penalty_scale="residual", scale="latent", own_weight=0.0, gradient=None)
    coefs = np.stack([var(torch.from_numpy(latent)).coef.numpy() for latent in latents])
    how = {"n_permutations": N_PERMUTATIONS, "seed": seed, "block": block, "position": range(len(condition))}
    coupling = coupling_test(latents, condition, order=ORDER, **how)
    told = any("further apart" in text or "in streaks" in text for text in coupling.warnings)
    return {
        "coupling": coupling.pvalue,
        "swap": coefficient_swap_test(latents, coefs, condition, scale="latent", **how).pvalue,
        "influence": influence_test(coefs, condition, **how).pvalue,
        "edge by edge": _edge_by_edge(latents, condition),
        "covariance": _covariance(latents, condition, seed, block),
        "classifier": _classifier(latents, condition),
    }, told


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


def _covariance(
    latents: Sequence[np.ndarray], condition: Sequence[str], seed: int, block: Sequence[int] | None
) -> float:
    """Permute labels over squared distances between the runs' correlations, as one would without a model."""
    values = np.stack([np.corrcoef(latent.T)[np.triu_indices(latent.shape[1], 1)] for latent in latents])
    distance = ((values[:, None] - values) ** 2).sum(axis=-1)
    pairs = PairDistances(distance, None, symmetric=True)
    return compare_pairs(pairs, condition, block, n_permutations=N_PERMUTATIONS, seed=seed, warn=False).pvalue


def _classifier(latents: Sequence[np.ndarray], condition: Sequence[str]) -> float:
    """Tell the condition of each run by the others, from correlations at lags 0 and 1; binomial test of the hits."""
    values = []
    for latent in latents:
        z = (latent - latent.mean(axis=0)) / latent.std(axis=0)
        values.append(np.concatenate([(z.T @ z).ravel(), (z[1:].T @ z[:-1]).ravel()]) / len(z))
    told = cross_val_predict(RidgeClassifier(), np.array(values), np.array(condition), cv=8)
    hits = int((told == np.array(condition)).sum())
    return float(scipy.stats.binomtest(hits, len(condition), 0.5, alternative="greater").pvalue)


@cache
def coverage() -> list[tuple[str, int, list[float]]]:
    """Return how often the interval of an effect covers it: Gaussian vectors of 10 numbers, squared distances."""
    rows = []
    for name, n_blocks in (("no blocks", 0), ("blocks of 2 + 2 runs", -2), ("matched pairs", -1), ("two subjects", 2)):
        for n in (5, 10, 20):
            k = n_blocks if n_blocks >= 0 else n // -n_blocks
            block = np.tile(np.arange(n) % k, 2) if k else None
            units = exchangeable_units(["A"] * n + ["B"] * n, block)
            comparable = comparable_pairs(units)
            found = []
            for shift in (0.0, 1.0, 1.5, 2.0):
                covered = []
                for seed in range(N_INTERVALS):
                    rng = np.random.default_rng(seed)
                    x = rng.standard_normal((2 * n, 10))
                    x += 0 if block is None else rng.standard_normal((max(k, 1), 10))[block]
                    x[:n, 0] += shift
                    distance = ((x[:, None] - x) ** 2).sum(axis=-1)
                    low, high = effect_interval(PairDistances(distance, distance, symmetric=True), comparable, units)
                    covered.append(np.nan if np.isnan(low) else low <= 100 * shift**2 <= high)
                found.append(float(np.mean(covered)))
            rows.append((name, n, found))
    return rows


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
        block = design(scenario)[1] if scenario.named else None
        found = [pvalues(*simulate(scenario, seed), seed, block) for seed in range(n_sessions)]
        share = {name: _with_bounds([p[name] <= LEVEL for p, _ in found]) for name in TESTS}
        told = f"{np.mean([told for _, told in found]):.2f}"
        rows[scenario.name] = {"scenario": scenario.name, "sessions": str(n_sessions), **share, "warned": told}
        print(rows[scenario.name], flush=True)
        _write(rows)


def _with_bounds(rejected: Sequence[bool]) -> str:
    """Write a share with its 95 % interval, by Clopper and Pearson."""
    interval = scipy.stats.binomtest(sum(rejected), len(rejected)).proportion_ci()
    return f"{np.mean(rejected):.2f} ({interval.low:.2f}-{interval.high:.2f})"


def _write(rows: Mapping[str, Mapping[str, str]]) -> None:
    """Write what there is so far: the table, and the last section of the page."""
    ordered = [rows[scenario.name] for scenario in SCENARIOS if scenario.name in rows]
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["scenario", "sessions", *TESTS, "warned"])
        writer.writeheader()
        writer.writerows(ordered)
    body = "".join("| " + " | ".join(row.values()) + " |\n" for row in ordered)
    header = f"| scenario | sessions | {' | '.join(TESTS)} | warned |\n" + "|---" * (3 + len(TESTS)) + "|\n"
    page = HERE / "calibration.md"
    before = page.read_text(encoding="utf-8").partition(MARK)[0].rstrip()
    known = "".join(
        f"| {name} | {n} | {' | '.join('none' if np.isnan(share) else f'{share:.2f}' for share in shares)} |\n"
        for name, n, shares in coverage()
    )
    intervals = f"## Intervals\n\n{INTERVALS}{known}"
    page.write_text(f"{before}\n\n{MARK}\n{TEXT}{header}{body}\n{intervals}", encoding="utf-8", newline="\n")


TEXT = """Written by `python reproduction/calibration_activity.py`. **All data are simulated**: 8 latents, 8 runs of 300
frames a condition; in the last rows 48 latents and 384 frames. Each figure is the share of sessions with p at most
0.05, with its 95 % binomial interval. In the rows where a third of the couplings lose strength *in one condition* it is
power. In all others couplings are the same in both conditions, and it should be 0.05.

- **coupling** asks whether couplings differ, and is what `compare` answers with.
- **swap** and **influence**, the paper's, ask whether coefficients or activity differ: they react to both.
- **edge by edge**: one source at a time beside a target's own past, Welch's t-tests, the smallest p after Benjamini and
  Hochberg. **covariance**: labels permuted over distances between the runs' correlations, within days where these are
  named. **classifier**: ridge classification of runs by their correlations at lags 0 and 1, eight-fold, binomial test
  of the hits.
- **warned**: share of sessions in which the coupling test warned of a drift, or of conditions in streaks without
  blocks. Runs are A before B unless it is said otherwise, in days too, so without blocks every session is warned of.
- **48 latents**: the coupling test is above its level there if activity differs twofold. Weak couplings that it does
  not select may shift those that it does.
- **trend**: couplings weaken along the session, whatever the condition. With A before B no test can tell that from a
  difference. **days**: each day has its own activity and strength of couplings, and four runs of each condition.

"""

INTERVALS = """How often the 95 % interval of `effect_size` covers the true effect: 200 sessions a figure, vectors of 10
Gaussian numbers, conditions 0, 1, 1.5 or 2 standard deviations apart. An entry of .95 has binomial bounds of .91 to
.98. Without a difference more is covered, since a squared distance cannot lie on the other side of zero. Below five
units a side (two subjects: below five runs of each condition in each) there is none.

| design | runs a side | 0 | 1 | 1.5 | 2 |
|---|---|---|---|---|---|
"""


if __name__ == "__main__":
    main()
