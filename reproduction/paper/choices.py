"""Choices where the paper is silent: each changed alone from its settings with centred latents, on unseen runs."""

from typing import Any

import pandas as pd

from larscope._settings import DEFAULT_PENALTY

from .truth import driving_precision, judge_model
from .work import Work, folds_of, score_unseen, subset

PENALTY = 0.01
CENTRED = "as in the paper, but centred"
CHOICES: dict[str, dict[str, Any]] = {
    CENTRED: {},
    "not centred: as in the paper": {"center": False},
    "penalty: alpha = penalty": {"penalty_scale": "target"},
    "each latent to unit variance": {"penalty_scale": "target", "scale": "latent", "penalty": 0.3},
    "pooling indices of the frame before": {"pooling": "previous"},
    "batch norm of each window": {"batch_norm": "window"},
    "linear output": {"output": "linear"},
    "no skip connection": {"skip": False},
    "latents begin as principal components (shortcut)": {"shortcut": True},
    "own past not penalised": {"own_weight": 0.0},
    "neighbours only (3 latents)": {"max_distance": 3.0},
    "larscope's default": {"preset": "default", "penalty": DEFAULT_PENALTY},
}
COLUMNS = {
    "reconstruction_error": ("L_rec, 1e-3", 1e3, 3),
    "var_error": ("R_var", 1, 3),
    "var_explained": ("latents explained, in sample", 1, 3),
    "var_error_heldout": ("R_var held out", 1, 3),
    "n_active": ("active", 1, 0),
    "forecast_explained": ("forecast explained, unseen runs", 1, 3),
    "ceiling_explained": ("ceiling", 1, 3),
    "edges": ("planted couplings (AP)", 1, 2),
    "driving": ("driving cells (AP)", 1, 2),
}


def run(work: Work, seed: int) -> None:
    session, truth = work.session("half", seed), work.truth("half", seed)
    left_out = folds_of(session.runs)[0]
    seen = [run for run in range(len(session)) if run not in left_out]
    for choice, settings in CHOICES.items():
        if work.has("choices", choice=choice, seed=seed):
            continue
        model = work.simulated_model("half", seed, runs=seen, **{"penalty": PENALTY, "center": True, **settings})
        unseen = subset(session, left_out)
        row = {
            "choice": choice,
            "seed": seed,
            **{name: model.scores_[name].mean() for name in list(COLUMNS)[:5]},
            **score_unseen(model, unseen)[["forecast_explained", "ceiling_explained"]].mean(),
            **judge_model(model, truth),
        }
        if choice == CENTRED:
            inflow = sum(
                model.contribution_map(name, direction="inflow", session=subset(session, seen))
                for name in session.conditions
            )
            row["driving_inflow"] = driving_precision(inflow, truth)
        work.add("choices", pd.DataFrame([row]))


def describe(table: pd.DataFrame) -> list[str]:
    means = table.groupby("choice", sort=False).mean(numeric_only=True)
    n_sessions = table["seed"].nunique()
    lines = [
        f"Means of {n_sessions} session{'s' if n_sessions > 1 else ''}, trained end to end on three quarters of the "
        f"blocks at penalty {PENALTY:g} ({DEFAULT_PENALTY:g} by default, 0.3 in the row of unit variance alone).",
        "",
        "| choice | " + " | ".join(name for name, *_ in COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for choice, row in means.iterrows():
        cells = [f"{row[name] * scale:.{digits}f}" for name, (_, scale, digits) in COLUMNS.items()]
        lines.append(f"| {choice} | " + " | ".join(cells) + " |")
    base = means.loc[CENTRED]
    lines += [
        "",
        f"Direction of influence (first row): driving cells are found with precision {base['driving']:.2f} from "
        f"outflow, {base['driving_inflow']:.2f} from inflow, the printed formula.",
    ]
    return lines
