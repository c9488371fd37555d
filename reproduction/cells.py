"""Are cells the better latents? On simulated sessions whose seeds chose nothing but, for seed 0, the settings.

    python reproduction/cells.py [--suite2p PYTHON]

PYTHON is the interpreter of an environment with suite2p 1.1.0; without it, what suite2p finds is left out. Five kinds
of sessions, five seeds each, 96 x 64 pixels, 12 runs of 300 frames. Every method's series go into the same couplings
(those of `find_couplings`, ranked by their evidence), so that what differs is the series. Finished rows are kept in
`cells.csv`, so it can be stopped and started. Then writes `cells.md`.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import average_precision_score

from larscope import SparseVAR, simulate_session
from larscope._dynamics.couplings import _evidence, _strongest_lags
from larscope._movies.preprocessing import PreparedSession, prepare
from larscope._movies.session import ArrayMovie, Run
from larscope._network.autoencoder import Autoencoder
from larscope._network.cells import CellNetwork
from larscope._network.footprints import find_parts
from larscope._simulate.session import SimulatedSession
from larscope._simulate.truth import Truth

HERE = Path(__file__).parent
SEEDS = (0, 5, 6, 7, 8)
CHOSEN_ON = 0
KINDS: Mapping[str, Mapping[str, Any]] = {
    "sparse": {},
    "dense": {"n_cells": 22, "overlapping": 0.5},
    "overlapping": {"overlapping": 0.5, "haze": 2.5},
    "hard": {"noise": 4e-4, "motion": 0.7, "bleaching": 0.2, "drift": 0.3, "haze": 2.0},
    "flickering": {},
}
FLICKER = 1500
"""Counts that unpredictable blobs over a third of the cells add at their brightest, about as much as a cell's spike."""
MATCHED = 0.7
"""A cell is found where a footprint correlates with the planted one at least so well."""
SUITE2P = {"suite2p, all regions": False, "suite2p, its cells": True}
"""Whether those are left out that its classifier does not call cells."""
METHODS = ("cells", *SUITE2P, "grid, before training", "masks known", "masks known, demixed")

Series = list[Float[NDArray[np.float32], "T K"]]
Strength = Float[NDArray[np.float64], "cells cells"]


def simulate(kind: str, seed: int) -> SimulatedSession:
    session = simulate_session(n_runs=12, n_frames=300, frame_shape=(96, 64), seed=seed, **KINDS[kind])
    return flicker(session, seed) if kind == "flickering" else session


def flicker(session: SimulatedSession, seed: int) -> SimulatedSession:
    """Add blobs over a third of the cells whose brightness is another in every frame: nothing can forecast them."""
    rng = np.random.default_rng([seed, 1])
    at = session.truth.positions[rng.permutation(len(session.truth.positions))[: len(session.truth.positions) // 3]]
    rows, columns = np.ogrid[:96, :64]
    blobs = np.stack([np.exp(-((rows - r) ** 2 + (columns - c) ** 2) / (2 * 4.0**2)) for r, c in at])

    def lit(run: Run) -> Run:
        light = FLICKER * np.abs(rng.standard_normal((run.n_frames, len(at)))) @ blobs.reshape(len(at), -1)
        frames = run.read(0, run.n_frames) + light.reshape(-1, 96, 64)
        return replace(run, movie=ArrayMovie(np.minimum(np.rint(frames), 65535).astype(np.uint16)))

    return replace(session, runs=tuple(lit(run) for run in session))


def series_of(prepared: PreparedSession, weights: Float[NDArray[Any], "K pixels"]) -> Series:
    """Weigh the pixels of all frames."""
    return [
        prepared.frames(run).reshape(about.n_frames, -1) @ weights.T.astype(np.float32)
        for run, about in enumerate(prepared.runs)
    ]


def couple(series: Series) -> Float[NDArray[np.float64], "K K"]:
    """Return the evidence (absolute t) for each coupling over all runs, before any threshold; 0 where none is."""
    var = SparseVAR(order=5)
    found = _strongest_lags(*_evidence(var, [torch.from_numpy(one) for one in series]), var.order)
    evidence = np.zeros((series[0].shape[1], series[0].shape[1]))
    evidence[found.target, found.source] = found.evidence
    np.fill_diagonal(evidence, 0)
    return evidence


def judge(strength: Strength, truth: Truth) -> dict[str, float]:
    """Average precision of the planted couplings among all pairs, and of the driving cells by their outflow."""
    planted = truth.couplings["familiar"].sum(0) > 0
    pairs = ~np.eye(len(planted), dtype=bool)
    return {
        "couplings": average_precision_score(planted[pairs], strength[pairs]),
        "driving": average_precision_score(truth.driving, (strength * pairs).sum(0)),
    }


def match(footprints: Float[NDArray[Any], "K height width"], truth: Truth) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return of each planted cell its footprint, one to one, and their correlation; -1 where there is none left."""
    flat = [images.reshape(len(images), -1) for images in (footprints, truth.footprints)]
    correlation = np.corrcoef(*flat)[: len(footprints), len(footprints) :]
    found, planted = linear_sum_assignment(-correlation)
    who, how_well = np.full(len(truth.footprints), -1), np.full(len(truth.footprints), -1.0)
    who[planted], how_well[planted] = found, correlation[found, planted]
    return who, how_well


def judge_cells(prepared: PreparedSession, truth: Truth) -> dict[str, float]:
    mean_frame = torch.from_numpy(prepared.mean_frame())
    network = CellNetwork(mean_frame, find_parts(prepared, mean_frame))
    series = [network.encode(torch.from_numpy(prepared.frames(run)))[0].numpy() for run in range(len(prepared.runs))]
    return judge_footprints(network.footprints, series, truth)


class Suite2p:
    """What suite2p finds in a session: all runs one after the other, motion corrected where there is any."""

    def __init__(self, python: Path, session: SimulatedSession, register: bool) -> None:
        script = Path(__file__).with_name("suite2p_rois.py")
        with tempfile.TemporaryDirectory() as folder:
            movie, found = Path(folder) / "movie.tif", Path(folder) / "rois.npz"
            tifffile.imwrite(movie, np.concatenate([run.read(0, run.n_frames) for run in session]))
            command = [python, script, movie, found, *(["--register"] if register else [])]
            started = time.monotonic()
            subprocess.run(command, check=True, capture_output=True, cwd=folder)
            self.seconds = time.monotonic() - started
            with np.load(found) as file:
                self.footprints, self.is_cell, traces = (file[name] for name in ("footprints", "is_cell", "traces"))
        ends = np.cumsum([run.n_frames for run in session])
        self.series = np.split(traces.astype(np.float32), ends[:-1])

    def judge(self, truth: Truth, cells_alone: bool) -> dict[str, float]:
        kept = self.is_cell if cells_alone else np.ones(len(self.is_cell), bool)
        return judge_footprints(self.footprints[kept], [one[:, kept] for one in self.series], truth)


def judge_footprints(
    footprints: Float[NDArray[Any], "K height width"], series: Series, truth: Truth
) -> dict[str, float]:
    who, how_well = match(footprints, truth)
    strength, there = couple(series), how_well > MATCHED / 2
    cells = np.zeros((len(who), len(who)))
    cells[np.ix_(there, there)] = strength[np.ix_(who[there], who[there])]
    n_found = np.count_nonzero(how_well >= MATCHED)
    return {
        **judge(cells, truth),
        "recall": n_found / len(who),
        "precision": n_found / len(footprints),
        "latents": len(footprints),
    }


def judge_grid(prepared: PreparedSession, truth: Truth) -> dict[str, float]:
    """Return what the grid's linear start gives, by the patches that a cell's mask covers."""
    mean_frame = torch.from_numpy(prepared.mean_frame())
    network = Autoencoder(mean_frame, shortcut=True)
    assert network.shortcut is not None
    network.shortcut.learn(prepared, mean_frame)
    encode = network.shortcut.encode
    series = [encode(torch.from_numpy(prepared.frames(run)) - mean_frame).numpy() for run in range(len(prepared.runs))]
    masks = truth.masks
    share = masks.reshape(len(masks), 12, 8, 8, 8).mean((2, 4)).reshape(len(masks), -1)
    share = share / share.max(1, keepdims=True)
    return {**judge(share @ couple(series) @ share.T, truth), "latents": network.n_latents}


def judge_masks(prepared: PreparedSession, truth: Truth, demixed: bool) -> dict[str, float]:
    masks = truth.masks.reshape(len(truth.masks), -1).astype(float)
    footprints = truth.footprints.reshape(len(masks), -1).astype(float)
    weights = np.linalg.pinv(footprints).T if demixed else masks / masks.sum(1, keepdims=True)
    return {**judge(couple(series_of(prepared, weights)), truth), "latents": len(masks)}


def measure(method: str, prepared: PreparedSession, truth: Truth) -> dict[str, float]:
    if method == "cells":
        return judge_cells(prepared, truth)
    if method == "grid, before training":
        return judge_grid(prepared, truth)
    return judge_masks(prepared, truth, demixed="demixed" in method)


def describe(table: pd.DataFrame) -> str:
    """Write one table of couplings a kind of session, and one of cells."""
    unseen = table[table["seed"] != CHOSEN_ON]
    lines = [
        "# Cells as latents: planted truth",
        "",
        f"Simulated. Means over {unseen['seed'].nunique()} seeds that chose nothing (lowest in brackets); made by "
        "`python reproduction/cells.py`.",
        "",
        "Average precision of planted couplings:",
        "",
        "| session | " + " | ".join(METHODS) + " |",
        "|---|" + "---|" * len(METHODS),
    ]
    for kind in KINDS:
        values = [unseen[(unseen["kind"] == kind) & (unseen["method"] == method)]["couplings"] for method in METHODS]
        lines.append(
            f"| {kind} | "
            + " | ".join(f"{one.mean():.2f} ({one.min():.2f})" if len(one) else "" for one in values)
            + " |"
        )
    lines += [
        "",
        "Average precision of driving cells, by the evidence of their couplings to others; the share of cells found",
        f"(correlation with the planted footprint at least {MATCHED}); of what was found, the share that is a cell:",
        "",
        "| session | method | driving cells | recall | precision | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        for method in ("cells", *SUITE2P):
            rows = unseen[(unseen["kind"] == kind) & (unseen["method"] == method)]
            shown = [f"{rows[name].mean():.2f} ({rows[name].min():.2f})" for name in ("driving", "recall", "precision")]
            if len(rows):
                lines.append(f"| {kind} | {method} | {' | '.join(shown)} | {rows['seconds'].mean():.0f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--suite2p", type=Path, metavar="PYTHON")
    given = parser.parse_args()
    out = given.out
    methods = [method for method in METHODS if given.suite2p or method not in SUITE2P]
    path = out / "cells.csv"
    rows = pd.read_csv(path).to_dict("records") if path.is_file() else []
    done = {(row["kind"], row["seed"], row["method"]) for row in rows}
    for seed in SEEDS:
        for kind in KINDS:
            left = [method for method in methods if (kind, seed, method) not in done]
            if not left:
                continue
            session = simulate(kind, seed)
            prepared = prepare(session)
            suite2p = None
            for method in left:
                started = time.monotonic()
                if method in SUITE2P:
                    suite2p = suite2p or Suite2p(given.suite2p, session, register="motion" in KINDS[kind])
                    found = suite2p.judge(session.truth, SUITE2P[method])
                    started -= suite2p.seconds
                else:
                    found = measure(method, prepared, session.truth)
                seconds = round(time.monotonic() - started, 1)
                rows.append({"kind": kind, "seed": seed, "method": method, **found, "seconds": seconds})
                pd.DataFrame(rows).round(4).to_csv(path, index=False, lineterminator="\n")
    (out / "cells.md").write_text(describe(pd.read_csv(path)), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
