"""Do contribution maps show the cells that drive others? On simulated sessions that were used for nothing else.

    python reproduction/maps.py

Trains end to end with default settings on five sessions with planted couplings, and briefly on five whose conditions do
not differ (`novel_strength=1.0`): how often something false is found does not depend on how good the network is.
Models are kept in `--models` and finished rows in `maps.csv`, so it can be stopped and started. Then writes `maps.md`
and `maps.png`.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import average_precision_score

from larscope import LatentVAR, load, simulate_session
from larscope.comparison import ComparisonWarning
from larscope.provenance import describe_versions
from larscope.simulate import SimulatedSession
from larscope.training import ShortTrainingWarning

HERE = Path(__file__).parent
SEEDS = (101, 102, 103, 104, 105)
STRENGTH = {"planted": 0.4, "null": 1.0}
EPOCHS = {"planted": None, "null": 2}
RADII = (0.0, 1.5)
REACH = 8
"""A cell's value is the largest one this near to its mask, in pixels: the width of a latent's patch."""
LEVEL = 0.05
N_DRAWS = 10_000


def simulate(kind: str, seed: int) -> SimulatedSession:
    return simulate_session(n_runs=8, n_frames=192, frame_shape=(96, 64), novel_strength=STRENGTH[kind], seed=seed)


def trained(folder: Path, session: SimulatedSession, epochs: int | None) -> LatentVAR:
    if not folder.is_dir():
        LatentVAR(epochs=epochs).fit(session, progress=True).save(folder)
    return load(folder)


def near(masks: np.ndarray) -> np.ndarray:
    """Pixels within REACH of each mask."""
    return np.stack([distance_transform_edt(~mask) <= REACH for mask in masks])


def cell_values(image: np.ndarray, reach: np.ndarray) -> np.ndarray:
    return np.array([image[pixels].max() for pixels in reach])


def trace_variance(session: SimulatedSession) -> np.ndarray:
    """Variance over time of each cell's mean intensity, averaged over runs."""
    masks = session.truth.masks.reshape(len(session.truth.masks), -1)
    weights = masks / masks.sum(axis=1, keepdims=True)
    movies = (run.read(0, run.n_frames).reshape(run.n_frames, -1).astype(float) for run in session)
    return np.mean([(movie @ weights.T).var(axis=0) for movie in movies], axis=0)


def chance_precision(n_driving: int, n_cells: int, rng: np.random.Generator, n_draws: int = N_DRAWS) -> np.ndarray:
    """Average precision of cells in random order: the mean over driving cells of (driving cells up to it) / rank."""
    ranks = np.sort(1 + np.argsort(rng.random((n_draws, n_cells)), axis=1)[:, :n_driving], axis=1)
    return (np.arange(1, n_driving + 1) / ranks).mean(axis=1)


def measure(kind: str, seed: int, models: Path) -> list[dict[str, object]]:
    session = simulate(kind, seed)
    model = trained(models / f"{kind}-{seed}", session, EPOCHS[kind])
    driving, reach = session.truth.driving, near(session.truth.masks)
    edges = model.edge_differences("familiar", "novel")
    tests = {test: model.compare("familiar", "novel", test=test) for test in ("swap", "influence")}
    rows = []
    for radius in RADII if kind == "planted" else RADII[:1]:
        how = {"exclude_radius": radius, "session": session} if radius else {}
        image = np.mean([model.contribution_map(name, **how) for name in session.conditions], axis=0)
        difference = model.difference_map("familiar", "novel", **how)
        mask = difference.pvalue <= LEVEL
        rows.append(
            {
                "kind": kind,
                "seed": seed,
                "exclude_radius": radius,
                "cells": len(driving),
                "driving": int(driving.sum()),
                "precision_map": average_precision_score(driving, cell_values(image, reach)),
                "precision_variance": average_precision_score(driving, trace_variance(session)),
                "precision_chance": chance_precision(
                    int(driving.sum()), len(driving), np.random.default_rng(seed)
                ).mean(),
                "pixels": mask.size,
                "pixels_different": int(mask.sum()),
                "pixels_near_driving": int((mask & reach[driving].any(axis=0)).sum()),
                "share_near_driving": float(reach[driving].any(axis=0).mean()),
                "smallest_pvalue": float(difference.pvalue.min()),
                "edges_tested": len(edges.lag),
                "edges_different": int((edges.pvalue <= LEVEL).sum()),
                "pvalue_swap": tests["swap"].pvalue,
                "pvalue_influence": tests["influence"].pvalue,
                "min_pvalue": difference.min_pvalue,
                "var_explained": float(model.scores_["var_explained"].mean()),
                "seconds": model.provenance_["seconds"],
            }
        )
    return rows


def measure_all(wanted: list[tuple[str, int]], models: Path) -> pd.DataFrame:
    path = HERE / "maps.csv"
    table = pd.read_csv(path, keep_default_na=False) if path.is_file() else pd.DataFrame()
    for kind, seed in wanted:
        if len(table) and ((table["kind"] == kind) & (table["seed"] == seed)).any():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ComparisonWarning)
            warnings.simplefilter("ignore", ShortTrainingWarning)
            table = pd.concat([table, pd.DataFrame(measure(kind, seed, models))], ignore_index=True)
        table.to_csv(path, index=False, float_format="%.6g")
    return table


def pooled(rows: pd.DataFrame, column: str) -> tuple[float, float]:
    """Mean precision over sessions, and the share of random orders of every session's cells with as high a mean."""
    rng = np.random.default_rng(0)
    drawn = np.zeros(N_DRAWS)
    for row in rows.itertuples():
        drawn += chance_precision(row.driving, row.cells, rng) / len(rows)
    mean = rows[column].mean()
    return mean, (1 + (drawn >= mean - 1e-12).sum()) / (1 + N_DRAWS)


def plot(table: pd.DataFrame, models: Path) -> Figure:
    """Draw the mean map of each planted session, with its cells."""
    seeds = sorted(table.loc[table["kind"] == "planted", "seed"].unique())
    figure = Figure(figsize=(3 * len(seeds), 5), layout="constrained")
    for axes, seed in zip(figure.subplots(1, len(seeds), squeeze=False)[0], seeds, strict=True):
        truth, model = simulate("planted", seed).truth, load(models / f"planted-{seed}")
        image = 1e3 * np.mean([model.contribution_map(name) for name in ("familiar", "novel")], axis=0)
        limit = np.abs(image).max()
        drawn = axes.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit)
        for mask, drives in zip(truth.masks, truth.driving, strict=True):
            axes.contour(mask, levels=[0.5], colors="#009E73" if drives else "0.4", linewidths=2 if drives else 0.8)
        row = table[(table["kind"] == "planted") & (table["seed"] == seed) & (table["exclude_radius"] == 0)].iloc[0]
        axes.set_title(
            f"seed {seed}\nprecision {row['precision_map']:.2f}, chance {row['precision_chance']:.2f}",
            fontsize="medium",
        )
        axes.set_xlabel("column (pixels)")
        figure.colorbar(drawn, ax=axes, location="bottom", label="intensity added, 1e-3")
    figure.axes[0].set_ylabel("row (pixels)")
    figure.suptitle("Mean contribution maps (simulated); green: cells that drive others, grey: cells that do not")
    return figure


def write_page(table: pd.DataFrame) -> None:
    planted, null = (table[table["kind"] == kind] for kind in ("planted", "null"))
    lines = [
        "# Do contribution maps show the cells that drive others?",
        "",
        "Written by `python reproduction/maps.py`. **All data are simulated**: 8 runs of 192 frames of 96 x 64 pixels, "
        "four under each of two conditions, trained end to end with default settings. These seeds were used for "
        "nothing else, but for one thing: the maps' sign was at first taken from the latents' skewness, was found "
        "wrong on 101, and has since come from the decoder. A cell's value is the largest value of the map, averaged "
        "over both conditions, within "
        f"{REACH} pixels of the cell's mask; its rank tells driving from other active cells. Average precision, 1 is "
        "perfect. *Variance*: cells ranked by the variance of their own intensity. *Chance*: cells in random order.",
        "",
        "![The maps and the cells](maps.png)",
        "",
        "| seed | driving cells | map | map, neighbours left out | variance | chance |",
        "|---|---|---|---|---|---|",
    ]
    for seed, rows in planted.groupby("seed"):
        whole, apart = (rows[rows["exclude_radius"] == radius].iloc[0] for radius in RADII)
        lines.append(
            f"| {seed} | {whole['driving']} of {whole['cells']} | {whole['precision_map']:.2f} | "
            f"{apart['precision_map']:.2f} | {whole['precision_variance']:.2f} | {whole['precision_chance']:.2f} |"
        )
    whole, apart = (planted[planted["exclude_radius"] == radius] for radius in RADII)
    means = [pooled(whole, "precision_map"), pooled(apart, "precision_map"), pooled(whole, "precision_variance")]
    cells = " | ".join(f"{mean:.2f} (p = {p:.2g})" for mean, p in means)
    lines += [
        f"| **mean** | | {cells} | {whole['precision_chance'].mean():.2f} |",
        "",
        f"p: share of {N_DRAWS:,} random orders of every session's cells whose mean precision is as high. So maps tell "
        "driving cells from others better than chance, "
        + ("and" if whole["precision_map"].mean() > whole["precision_variance"].mean() + 0.05 else "but not")
        + " better than the cells' variance does. Some of a map's highest values lie between cells.",
        "",
        "## Where the conditions differ",
        "",
        f"Pixels and coefficients with p <= {LEVEL} after max-T. In *planted* sessions couplings are weaker in the "
        "second condition (0.4 times); in *null* sessions nothing differs, and whatever is found is false (networks "
        f"trained for {EPOCHS['null']} epochs). Four runs against four: no p-value can be below "
        f"{table['min_pvalue'].min():.3f}.",
        "",
        "| session | seed | pixels that differ | of them near a driving cell | smallest p of a pixel | "
        "edges that differ | p, coefficient swap | p, influence |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table[table["exclude_radius"] == 0].itertuples():
        lines.append(
            f"| {row.kind} | {row.seed} | {row.pixels_different} of {row.pixels} | {row.pixels_near_driving} | "
            f"{row.smallest_pvalue:.2f} | {row.edges_different} of {row.edges_tested} | {row.pvalue_swap:.3f} | "
            f"{row.pvalue_influence:.3f} |"
        )
    false = null[null["exclude_radius"] == 0]
    lines += [
        "",
        f"False discoveries: a mask was not empty in {int((false['pixels_different'] > 0).sum())} of {len(false)} null "
        f"sessions, an edge was found in {int((false['edges_different'] > 0).sum())}. That few sessions say little "
        "about a rate of 5 %; on simulated maps and coefficients, hundreds of draws are part of the tests "
        "(`tests/test_influence.py`).",
        "",
        f"Driving cells and what lies within {REACH} pixels of them make up "
        f"{planted['share_near_driving'].mean():.0%} of the image.",
        "",
        f"VARs explained {planted['var_explained'].mean():.0%} of the latents' variance in sample. Trainings took "
        f"{planted['seconds'].min():.0f} to {planted['seconds'].max():.0f} s each on one or two threads of a busy "
        "machine. Versions: " + ", ".join(f"{name} {number}" for name, number in describe_versions().items()) + ".",
        "",
    ]
    (HERE / "maps.md").write_text("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=HERE / "maps-models", help="where trained models are kept")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS), help="of planted sessions")
    parser.add_argument("--null-seeds", type=int, nargs="*", default=list(SEEDS), help="of null sessions")
    arguments = parser.parse_args()
    wanted = [("planted", seed) for seed in arguments.seeds] + [("null", seed) for seed in arguments.null_seeds]
    measured = measure_all(wanted, arguments.models)
    write_page(measured)
    plot(measured, arguments.models).savefig(HERE / "maps.png", dpi=110)
