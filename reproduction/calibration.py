"""Do the comparison's p-values keep their promise?

Sessions of latent series are simulated from sparse VARs, fitted run by run with `SparseVAR`, and compared. Where
the conditions' dynamics do not differ, a test at level a must reject a share a of sessions. The rows in
`BROKEN` break an assumption on purpose. Everything is simulated; nothing here is recorded data.

    python reproduction/calibration.py            full version: calibration.csv, .png and .md beside this file
    python reproduction/calibration.py --quick    a tenth of the sessions, to see that it runs
"""

import argparse
import csv
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import scipy.stats
import torch
from matplotlib.patches import Rectangle

from larscope._dynamics.var import SparseVAR
from larscope._statistics.comparison import Comparison, ComparisonWarning, compare_pairs
from larscope._statistics.influences import influence_distances
from larscope._statistics.pitfalls import condition_imbalances
from larscope._statistics.swap import swap_deltas

HERE = Path(__file__).parent
N_LATENTS = 10
ORDER = 2
PENALTY = 0.005
LEVEL = 0.05
SEEDS = {"null": 1_000_000, "broken": 2_000_000, "power": 3_000_000}


STYLES: dict[str, dict[str, Any]] = {
    "swap": dict(marker="o", color="tab:blue", label="coefficient swap, permutation"),
    "influence": dict(marker="s", color="tab:green", label="influence, permutation"),
    "swap_ranksum": dict(marker="o", color="tab:red", mfc="none", label="coefficient swap, rank-sum (paper)"),
    "influence_ranksum": dict(marker="s", color="tab:orange", mfc="none", label="influence, rank-sum (paper)"),
}


@dataclass(frozen=True)
class Scenario:
    """How the runs of one session are made, and how they are compared."""

    name: str
    runs: tuple[int, int] = (20, 20)
    frames: tuple[int, int] = (200, 200)
    innovation: tuple[float, float] = (1.0, 1.0)  # standard deviation of the innovations, by condition
    observation: tuple[float, float] = (0.0, 0.0)  # standard deviation of white noise added to the series
    run_spread: tuple[float, float] = (0.05, 0.05)  # how much couplings vary from run to run
    block_size: int = 0  # runs in a block; 0: no blocks
    block_spread: float = 0.0  # how much couplings vary from block to block
    conditions_within_blocks: bool = False
    difference: float = 0.0  # what the second condition adds to six couplings
    equal_length: bool = True
    use_blocks: bool = True
    relative: bool = True


NULL = (
    Scenario("i.i.d. runs, 20 v 20"),
    Scenario("unbalanced, 10 v 30", runs=(10, 30)),
    Scenario("innovation noise x 2, 20 v 20", innovation=(1, 2)),
    Scenario("5 noisy v 15 quiet runs (innovations x 2)", runs=(5, 15), innovation=(2, 1)),
    Scenario("300 v 400 frames, 10 v 10", runs=(10, 10), frames=(300, 400)),
    Scenario("300 v 400 frames, 5 v 15", runs=(5, 15), frames=(300, 400)),
    Scenario("drifting blocks, 4 v 4 blocks of 4", runs=(16, 16), block_size=4, block_spread=0.1),
    Scenario(
        "drifting blocks, both conditions in each",
        runs=(16, 16),
        block_size=4,
        block_spread=0.1,
        conditions_within_blocks=True,
    ),
)

BROKEN = (
    replace(NULL[3], name="5 noisy v 15 quiet runs, raw Deltas", relative=False),
    replace(NULL[5], name="300 v 400 frames, 5 v 15, lengths left unequal", equal_length=False),
    replace(NULL[6], name="drifting blocks, 4 v 4, blocks ignored", use_blocks=False),
    Scenario("observation noise differs, 20 v 20", observation=(0.0, 0.7)),
    Scenario("couplings vary more in one condition, 20 v 20", run_spread=(0.02, 0.1)),
    Scenario("couplings vary more in the smaller, 10 v 30", runs=(10, 30), run_spread=(0.1, 0.02)),
)

POWER = tuple(
    Scenario(f"couplings differ by {d}, 10 v 10", runs=(10, 10), difference=d) for d in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
)


@dataclass
class Session:
    """Simulated series with their coefficients and design."""

    latents: list[np.ndarray]
    coefs: np.ndarray
    condition: list[str]
    block: list[int] | None = None


def simulate_session(scenario: Scenario, seed: int) -> Session:
    """Simulate the series of one session and fit each."""
    rng = np.random.default_rng(seed)
    n_runs = sum(scenario.runs)
    condition = np.repeat([0, 1], scenario.runs)
    block = np.arange(n_runs) // scenario.block_size if scenario.block_size else None
    if block is not None and scenario.conditions_within_blocks:
        condition = np.arange(n_runs) % 2
    couplings = true_couplings(scenario, condition, block, rng)
    frames = np.array(scenario.frames)[condition]
    series = simulate_var(couplings, np.array(scenario.innovation)[condition], max(frames), rng)
    series += np.array(scenario.observation)[condition, None, None] * rng.standard_normal(series.shape)
    latents = [z[:n] for z, n in zip(series, frames, strict=True)]
    kept = [min(frames)] * n_runs if scenario.equal_length else frames
    coefs = fit([z[:n] for z, n in zip(latents, kept, strict=True)])
    blocks = None if block is None or not scenario.use_blocks else block.tolist()
    return Session(latents, coefs, [("a", "b")[c] for c in condition], blocks)


def true_couplings(
    scenario: Scenario, condition: np.ndarray, block: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Draw one sparse stable matrix a session and vary its entries by condition, block and run: (runs, order, K, K)."""
    present = rng.random((N_LATENTS, N_LATENTS)) < 0.15
    np.fill_diagonal(present, False)
    shared = np.zeros((ORDER, N_LATENTS, N_LATENTS))
    shared[0] = np.eye(N_LATENTS) * 0.5 + present * rng.choice([-0.2, 0.2], present.shape)
    shared[1] = np.eye(N_LATENTS) * 0.1
    varies = shared[0] != 0
    couplings = np.repeat(shared[None], len(condition), axis=0)
    spread = np.array(scenario.run_spread)[condition, None, None]
    couplings[:, 0] += varies * spread * rng.standard_normal((len(condition), N_LATENTS, N_LATENTS))
    if block is not None:
        drift = scenario.block_spread * rng.standard_normal((block.max() + 1, N_LATENTS, N_LATENTS))
        couplings[:, 0] += varies * drift[block]
    free = np.flatnonzero(~varies)
    changed = np.zeros(varies.size)
    changed[rng.choice(free, 6, replace=False)] = scenario.difference
    couplings[:, 0] += condition[:, None, None] * changed.reshape(varies.shape)
    return np.stack([shrink_to_stable(coupling) for coupling in couplings])


def shrink_to_stable(coupling: np.ndarray) -> np.ndarray:
    """Scale a VAR's matrices so that its largest root is at most 0.9."""
    n_lags, n, _ = coupling.shape
    companion = np.eye(n_lags * n, k=-n)
    companion[:n] = np.concatenate(list(coupling), axis=1)
    largest = np.abs(np.linalg.eigvals(companion)).max()
    shrink = min(1.0, 0.9 / largest) ** np.arange(1, n_lags + 1)
    return coupling * shrink[:, None, None]


def simulate_var(
    couplings: np.ndarray, innovation: np.ndarray, n_frames: int, rng: np.random.Generator, warm_up: int = 50
) -> np.ndarray:
    """Run all the VARs side by side: (runs, frames, K)."""
    n_runs, n_lags, n, _ = couplings.shape
    series = innovation[:, None, None] * rng.standard_normal((n_runs, warm_up + n_frames, n))
    for t in range(n_lags, warm_up + n_frames):
        past = series[:, t - n_lags : t][:, ::-1]
        series[:, t] += np.einsum("rkjl,rkl->rj", couplings, past)
    return series[:, warm_up:]


def fit(latents: Sequence[np.ndarray]) -> np.ndarray:
    """Fit `SparseVAR` to each series alone; series of one length go through together."""
    var = SparseVAR(order=ORDER, penalty=PENALTY, gradient=None)
    coefs = np.empty((len(latents), ORDER, N_LATENTS, N_LATENTS))
    lengths = np.array([len(z) for z in latents])
    with torch.no_grad():
        for length in np.unique(lengths):
            runs = np.flatnonzero(lengths == length)
            coefs[runs] = var(torch.from_numpy(np.stack([latents[run] for run in runs]))).coef.numpy()
    return coefs


def compare(scenario: Scenario, seed: int, n_permutations: int = 999) -> tuple[Comparison, Comparison, bool]:
    """Simulate a session and compare it both ways; say whether signal-to-noise was found to differ."""
    session = simulate_session(scenario, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ComparisonWarning)
        swap = compare_pairs(
            swap_deltas(session.latents, session.coefs, scenario.relative),
            session.condition,
            session.block,
            n_permutations=n_permutations,
            seed=seed,
        )
        outflow = compare_pairs(
            influence_distances(session.coefs),
            session.condition,
            session.block,
            n_permutations=n_permutations,
            seed=seed,
        )
    found = condition_imbalances(session.latents, session.condition, session.block)
    return swap, outflow, any("Signal-to-noise" in message for message in found)


def attainable_level(min_pvalue: float) -> float:
    """Return the largest level not above 0.05 that a test with this smallest p-value can have."""
    return min_pvalue * np.floor(LEVEL / min_pvalue + 1e-9)


def calibrate(scenario: Scenario, n_sessions: int, first_seed: int = 0) -> dict[str, float | str]:
    """Compare many sessions; one row of the table."""
    results = [compare(scenario, first_seed + i) for i in range(n_sessions)]
    swap, outflow, noticed = zip(*results, strict=True)
    level = attainable_level(swap[0].min_pvalue)
    low, high = scipy.stats.binom.interval(0.95, n_sessions, level)

    effect = float(np.mean([c.effect_size for c in swap]))

    def share(values: Sequence[float], at: float) -> float:
        return float(np.mean(np.array(values) <= at + 1e-12))

    return {
        "scenario": scenario.name,
        "sessions": n_sessions,
        "level": level,
        "bound_low": low / n_sessions,
        "bound_high": high / n_sessions,
        "swap": share([c.pvalue for c in swap], level),
        "swap_ranksum": share([c.pvalue_ranksum for c in swap], level),
        "influence": share([c.pvalue for c in outflow], level),
        "influence_ranksum": share([c.pvalue_ranksum for c in outflow], level),
        "permdisp": share([c.permdisp_pvalue for c in outflow], level),
        "noise_warning": float(np.mean(noticed)),
        "effect_percent": effect,
        "difference": scenario.difference,
    }


def write_table(rows: Sequence[Mapping[str, float | str]]) -> None:
    with (HERE / "calibration.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({name: f"{v:.4g}" if isinstance(v, float) else v for name, v in row.items()})


def draw(rows: Sequence[Mapping[str, Any]]) -> None:
    """Left: how often each test rejects, scenario by scenario. Right: power."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 6.2), width_ratios=[1.5, 1], layout="constrained")
    scenarios = [row for row in rows if row["kind"] != "power"]
    n_null = sum(row["kind"] == "null" for row in scenarios)
    height = np.array([-i - (i >= n_null) for i in range(len(scenarios))], float)
    for y, row in zip(height, scenarios, strict=True):
        band = Rectangle((row["bound_low"], y - 0.42), row["bound_high"] - row["bound_low"], 0.84, color="0.86")
        left.add_patch(band)
        left.plot([row["level"]] * 2, [y - 0.42, y + 0.42], color="0.45", lw=1)
    for (column, style), offset in zip(STYLES.items(), (0.24, 0.08, -0.08, -0.24), strict=True):
        left.plot([row[column] for row in scenarios], height + offset, ls="", clip_on=False, zorder=3, **style)
    left.set_yticks(height, [row["scenario"] for row in scenarios])
    left.axhline(-n_null, color="0.3", lw=0.8)
    left.text(0.98, -n_null + 0.12, "no difference, assumptions hold", ha="right", va="bottom", fontsize=9, color="0.3")
    left.text(0.98, -n_null - 0.12, "an assumption is broken on purpose", ha="right", va="top", fontsize=9, color="0.3")
    left.set_xscale("function", functions=(lambda x: np.sqrt(np.abs(x)), np.square))
    left.set(xlim=(0, 1.03), ylim=(height[-1] - 0.7, 0.7), xlabel="share of simulated sessions that are rejected")
    left.set_xticks([0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1])
    left.set_title("Level: line, what it should be; grey, 95 % binomial bounds", fontsize=11, loc="left")
    left.grid(axis="x", color="0.93")
    left.set_axisbelow(True)

    power = [row for row in rows if row["kind"] == "power"]
    for (column, style), offset in zip(STYLES.items(), (-0.003, -0.001, 0.001, 0.003), strict=True):
        counts = [round(row[column] * row["sessions"]) for row in power]
        tests = [scipy.stats.binomtest(k, row["sessions"]) for k, row in zip(counts, power, strict=True)]
        share = np.array([test.statistic for test in tests])
        bars = np.abs(np.array([test.proportion_ci(method="wilson") for test in tests]).T - share)
        right.errorbar([row["difference"] + offset for row in power], share, bars, lw=1.2, **style)
    right.axhline(LEVEL, color="0.45", lw=1)
    right.set(xlabel="difference planted in six couplings", ylabel="share rejected at 0.05", ylim=(0, 1.03))
    right.set_title("Power, 10 v 10 runs (bars: 95 %)", fontsize=11, loc="left")
    effects = right.secondary_xaxis(-0.14)
    effects.set_xticks([row["difference"] for row in power], [f"{row['effect_percent']:.1f}" for row in power])
    effects.set_xlabel("mean effect size, % of the error")
    right.grid(color="0.93")
    right.spines[["top", "right"]].set_visible(False)
    left.spines[["top", "right"]].set_visible(False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(HERE / "calibration.png", dpi=130)


def describe(rows: Sequence[Mapping[str, Any]], minutes: float) -> None:
    """Write the numbers for a reader, with what they mean."""
    header = (
        "| scenario | sessions | level (95 % bounds) | swap | influence | swap, rank-sum | influence, rank-sum "
        "| PERMDISP | noise warning | effect, % |\n" + "|---" * 10 + "|\n"
    )
    tables = {
        kind: header
        + "".join(
            f"| {r['scenario']} | {r['sessions']} | {r['level']:.3f} ({r['bound_low']:.3f} to {r['bound_high']:.3f}) "
            f"| {r['swap']:.3f} | {r['influence']:.3f} | {r['swap_ranksum']:.3f} | {r['influence_ranksum']:.3f} "
            f"| {r['permdisp']:.3f} | {r['noise_warning']:.2f} | {r['effect_percent']:.2f} |\n"
            for r in rows
            if r["kind"] == kind
        )
        for kind in ("null", "broken", "power")
    }
    null = [row for row in rows if row["kind"] == "null"]
    inside = sum(r["bound_low"] <= r[test] <= r["bound_high"] for r in null for test in ("swap", "influence"))
    text = TEXT.format(
        inside=inside, of=2 * len(null), minutes=minutes, latents=N_LATENTS, order=ORDER, penalty=PENALTY, **tables
    )
    (HERE / "calibration.md").write_text(text)


TEXT = """# Calibration of the comparison

Written by `python reproduction/calibration.py` ({minutes:.0f} minutes on one core). **All data are simulated**:
series of {latents} latents from sparse stable VARs whose couplings vary a little from run to run, fitted run by run
with `SparseVAR(order={order}, penalty={penalty})`, then compared. Each figure is the share of sessions
with p at most the level. The level is the largest one not above 0.05 that the design can attain.

![How often each test rejects](calibration.png)

## No difference, assumptions hold

{inside} of {of} permutation entries (swap, influence) lie within the 95 % binomial bounds.

{null}
## An assumption is broken on purpose

{broken}
- **Raw Deltas** grow with the noise of the run they are measured on: use relative ones (the default).
- **Unequal lengths** change lasso coefficients: fit every run on the same number of frames (the default).
- **Blocks ignored**: runs of a block are alike, so permuting single runs rejects; name the blocks.
- **Observation noise** that differs by condition changes lasso coefficients under the same dynamics. No
  permutation of labels can tell the two apart; the column "noise warning" is how often `compare` says so.
- **Spread** that differs by condition: permutations are not exact then. PERMDISP, reported beside each test,
  sees it. It estimates the centres that it measures from, and so itself rejects a little too often without a
  difference (column "PERMDISP" of the first table).

## Power

{power}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the sessions")
    part = 10 if parser.parse_args().quick else 1
    torch.set_num_threads(1)
    start, rows = time.monotonic(), []
    for kind, scenarios, n_sessions in (("null", NULL, 500), ("broken", BROKEN, 100), ("power", POWER, 100)):
        for i, scenario in enumerate(scenarios):
            rows.append({"kind": kind, **calibrate(scenario, n_sessions // part, SEEDS[kind] + 10_000 * i)})
            print(f"{scenario.name}: {rows[-1]['swap']:.3f} {rows[-1]['influence']:.3f}", flush=True)
    write_table(rows)
    draw(rows)
    describe(rows, (time.monotonic() - start) / 60)


if __name__ == "__main__":
    main()
