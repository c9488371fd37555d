"""Table 2: three ways of training at three penalties, and what rules R_var."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from larscope import LatentVAR

from .work import Where, Work

MODES = ("sequential", "embedded", "end-to-end")
COLOURS = {"sequential": "#000000", "embedded": "#0072B2", "end-to-end": "#D55E00"}
PAPER = {  # Table 2: R_var, and L_rec in 1e-3
    ("sequential", 0.005): (0.472, 0.087),
    ("sequential", 0.01): (0.682, 0.087),
    ("sequential", 0.02): (0.853, 0.087),
    ("embedded", 0.005): (0.421, 0.101),
    ("embedded", 0.01): (0.611, 0.106),
    ("embedded", 0.02): (0.791, 0.113),
    ("end-to-end", 0.005): (0.398, 0.103),
    ("end-to-end", 0.01): (0.530, 0.112),
    ("end-to-end", 0.02): (0.699, 0.118),
}
QUIETEST = 0.1


def trained(work: Work, where: Where, seed: int, center: bool, penalty: float) -> Iterator[LatentVAR]:
    """Yield the three models of a cell of the table. The sequential network never sees a penalty nor a centred series:
    it is trained once, and its VAR fitted anew."""
    wanted: dict[str, Any] = {"center": center, "penalty": penalty}
    yield work.simulated_model(where, seed, training="sequential", refit=wanted)
    for mode in MODES[1:]:
        yield work.simulated_model(where, seed, training=mode, **wanted)


def measure(model: LatentVAR) -> pd.DataFrame:
    """One row a run: its scores, and R_var taken apart."""
    rows = [take_apart(*series) for series in zip(model.latents_, model.forecasts_, strict=True)]
    about = {"training": model.training, "penalty": model.penalty, "center": model.center, "seed": model.seed}
    scores = model.scores_.assign(**about, seconds=model.provenance_["seconds"])
    return pd.concat([scores, pd.DataFrame(rows)], axis=1)


def take_apart(
    latent: Float[NDArray[np.float32], "T K"], forecast: Float[NDArray[np.float32], "n K"]
) -> dict[str, float]:
    """Return R_var as printed and on the centred series, both as a mean of frames' ratios and as a ratio of sums; the
    share of the latents' energy that is their constant offset; and what the quietest tenth of frames adds to R_var."""
    latent = latent.astype(np.float64)
    mean = latent.mean(0)
    target = latent[len(latent) - len(forecast) :]
    error = ((target - forecast) ** 2).sum(1)
    raw, centred = (target**2).sum(1), ((target - mean) ** 2).sum(1)
    ratios = error / centred
    quiet = centred <= np.quantile(centred, QUIETEST)
    return {
        "rvar_raw": float((error / raw).mean()),
        "rvar_centred": float(ratios.mean()),
        "pooled_raw": float(error.sum() / raw.sum()),
        "pooled_centred": float(error.sum() / centred.sum()),
        "offset_share": float(len(target) * (mean**2).sum() / raw.sum()),
        "quiet_share": float(ratios[quiet].sum() / ratios.sum()),
    }


def run_half(work: Work, seed: int, center: bool) -> None:
    for penalty in work.size.penalties:
        measure_cell(work, "half", seed, center, penalty)
    if not center and seed == work.size.seeds[0]:
        work.draw("table2-half", lambda _: plot_ratios(work, seed))


def run_paper(work: Work, penalty: float) -> None:
    measure_cell(work, "paper", work.size.seeds[0], True, penalty)


def measure_cell(work: Work, where: Where, seed: int, center: bool, penalty: float) -> None:
    if not work.has(f"table2-{where}", seed=seed, center=center, penalty=penalty):
        work.add(f"table2-{where}", pd.concat(map(measure, trained(work, where, seed, center, penalty))))


def plot_ratios(work: Work, seed: int) -> Figure:
    """Draw a frame's ratio against its energy: what a mean of ratios is ruled by."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    penalty = work.size.penalties[len(work.size.penalties) // 2]
    for axes, center in zip(figure.subplots(1, 2, sharey=True), (True, False), strict=True):
        for model in trained(work, "half", seed, center, penalty):
            energies, ratios = [], []
            for latent, forecast in zip(model.latents_, model.forecasts_, strict=True):
                target = latent[model.order :]
                energy = ((target - (latent.mean(0) if center else 0)) ** 2).sum(1)
                energies.append(energy / energy.mean())
                ratios.append(((target - forecast) ** 2).sum(1) / energy)
            energy, ratio = np.concatenate(energies), np.concatenate(ratios)
            tenth = np.clip(np.searchsorted(np.quantile(energy, np.linspace(0, 1, 11)), energy, "right") - 1, 0, 9)
            axes.plot(
                [np.median(energy[tenth == one]) for one in range(10)],
                [ratio[tenth == one].mean() for one in range(10)],
                "o-",
                color=COLOURS[model.training],
                label=model.training,
                markersize=4,
            )
        axes.axhline(1, color="0.7", linewidth=0.8, zorder=0)
        axes.set(xscale="log", xlabel="energy of a frame's latents / mean of its run")
        axes.set_title("centred" if center else "not centred (as in the paper)", fontsize="medium")
    figure.axes[0].set_ylabel("squared error / energy\n(a point: a tenth of the frames)")
    figure.axes[0].legend(frameon=False)
    figure.suptitle(f"What a mean of ratios is ruled by (simulated, penalty {penalty:g})")
    return figure


def describe(table: pd.DataFrame) -> list[str]:
    """Both ways of centring beside the paper's table, then the orderings and their tests."""
    lines = []
    for center, rows in table.groupby("center", sort=False):
        lines += [
            f"**{'As in the paper, but latents centred' if center else 'As in the paper: latents not centred'}**",
            "",
            "| penalty | training | L_rec, 1e-3 | paper | R_var | paper | held out | pooled ratio | offset's share | "
            "quietest tenth's share of R_var | active |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for (penalty, mode), group in sorted(
            rows.groupby(["penalty", "training"]), key=lambda item: (item[0][0], MODES.index(item[0][1]))
        ):
            rvar, loss = [f"{value:.3f}" for value in PAPER.get((mode, penalty), ())] or ["", ""]
            lines.append(
                f"| {penalty:g} | {mode} | {spread(group['reconstruction_error'] * 1e3)} | {loss} | "
                f"{spread(group['var_error'])} | {rvar} | {spread(group['var_error_heldout'])} | "
                f"{spread(group['pooled_centred'])} | {group['offset_share'].mean():.0%} | "
                f"{group['quiet_share'].mean():.0%} | {group['n_active'].mean():.0f} |"
            )
        lines += ["", *describe_orderings(rows), ""]
    return lines


ORDERINGS = {
    "var_error": "R_var: sequential > embedded > end-to-end",
    "pooled_centred": "pooled ratio: sequential > embedded > end-to-end",
    "var_error_heldout": "held-out R_var: sequential > embedded > end-to-end",
    "reconstruction_error": "L_rec: sequential < embedded < end-to-end",
}


def describe_orderings(rows: pd.DataFrame) -> list[str]:
    lines = [
        "| the paper's ordering | penalty | holds in seeds | p, sequential v embedded | p, embedded v end-to-end |",
        "|---|---|---|---|---|",
    ]
    for column, name in ORDERINGS.items():
        sign = -1 if column == "reconstruction_error" else 1
        for penalty, group in rows.groupby("penalty"):
            wide = sign * group.pivot_table(column, ["seed", "run"], "training")[list(MODES)]
            means = wide.groupby("seed").mean()
            holds = (means.diff(axis=1).iloc[:, 1:] < 0).all(axis=1)
            tests = [
                float(wilcoxon(wide[first], wide[second], alternative="greater").pvalue)
                for first, second in pairwise(MODES)
            ]
            lines.append(
                f"| {name} | {penalty:g} | {holds.sum()} of {len(holds)} | "
                + " | ".join(f"{p:.2g}" for p in tests)
                + " |"
            )
    lines += ["", "p: Wilcoxon's signed-rank test over runs, one-sided for the paper's order, not corrected."]
    return lines


def spread(values: pd.Series) -> str:
    return f"{values.mean():.3f} ± {values.std():.3f}"
