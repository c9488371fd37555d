"""Where `penalty="auto"` lands, against the penalty at which most of the planted couplings are found."""

import copy

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from larscope import LatentVAR
from larscope._settings import DEFAULT_PENALTY
from larscope._simulate.truth import Truth

from .truth import cells_of_latents, edge_precision
from .work import Work

PENALTIES = np.geomspace(0.1, 2, 9)


def run(work: Work, seed: int) -> None:
    if not work.has("penalty", seed=seed):
        truth, session = work.truth("half", seed), work.session("half", seed)
        model = work.simulated_model("half", seed, preset="default")
        chosen = model.refit(session, penalty="auto", cache=work.kept / "frames").penalty_
        rows = [
            {"seed": seed, "penalty": penalty, "chosen": bool(penalty == chosen)} | judge(model, truth, penalty)
            for penalty in sorted({*PENALTIES.tolist(), chosen})
        ]
        work.add("penalty", pd.DataFrame(rows))
    work.draw("penalty", plot)


def judge(model: LatentVAR, truth: Truth, penalty: float) -> dict[str, float]:
    var = copy.copy(model.var_)
    var.penalty = penalty
    with torch.no_grad():
        coefs = [var(torch.from_numpy(latent)).coef.numpy() for latent in model.latents_]
    strength = np.mean([cells_of_latents(coef, truth) for coef in coefs], axis=0)
    return {
        "edges": edge_precision(strength, truth),
        "active_share": float(np.mean([np.count_nonzero(coef) / coef.size for coef in coefs])),
    }


def plot(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for seed, rows in table.groupby("seed"):
        (line,) = axes.plot(rows["penalty"], rows["edges"], "-", linewidth=1, label=f"session {seed}")
        chosen = rows[rows["chosen"]]
        axes.plot(chosen["penalty"], chosen["edges"], "o", color=line.get_color(), markersize=8, mfc="none")
    axes.set(xscale="log", xlabel="penalty of the fits after training", ylabel="planted couplings\n(average precision)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize="small")
    axes.set_title('simulated; circles: penalty="auto"', fontsize="medium")
    return figure


def describe(table: pd.DataFrame) -> list[str]:
    lines = [
        f"Networks of the default settings, trained at penalty {DEFAULT_PENALTY:g}, their VARs fitted anew.",
        "",
        "| session | auto chose | active | planted couplings (AP) | best penalty for the truth | AP there |",
        "|---|---|---|---|---|---|",
    ]
    for seed, rows in table.groupby("seed"):
        chosen, best = rows[rows["chosen"]].iloc[0], rows.loc[rows["edges"].idxmax()]
        lines.append(
            f"| {seed} | {chosen['penalty']:.2g} | {chosen['active_share']:.1%} | {chosen['edges']:.2f} | "
            f"{best['penalty']:.2g} | {best['edges']:.2f} |"
        )
    return lines
