"""Does the share of trainings that find an edge, or a pixel, tell what was planted from the rest?

    python reproduction/stability.py

Simulates a session, trains three times by `larscope fit --seeds 3` (in `--work`; give the same command again to go on),
and compares what `stability.nc` counts with the planted couplings. Writes `stability.md`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import xarray as xr

from larscope import simulate_session
from larscope._results.provenance import describe_versions
from larscope._simulate.truth import Truth

HERE = Path(__file__).parent
SHAPE, SEED, SEEDS, EPOCHS = (64, 48), 3, 3, 9
OVERLAP = 8
"""Pixels of a cell's mask that a latent's patch holds at least for the latent to count as the cell's."""


def fit(work: Path) -> Path:
    """Simulate and train unless that is done, and return the result folder."""
    work.mkdir(parents=True, exist_ok=True)
    table, result = work / "session" / "session.csv", work / "result"
    if not table.is_file():
        simulated().write(table.parent)
    command = [
        sys.executable,
        "-m",
        "larscope",
        "fit",
        str(table),
        "--out",
        str(result),
        "--preset",
        "paper",
        "--center",
    ]
    subprocess.run([*command, "--seeds", str(SEEDS), "--epochs", str(EPOCHS)], check=True)
    return result


def simulated():
    return simulate_session(n_runs=8, n_frames=192, frame_shape=SHAPE, novel_strength=0.4, seed=SEED)


def latents_of_cells(truth: Truth) -> np.ndarray:
    """For each cell, which latents' patches hold enough of it."""
    rows, columns = (size // 8 for size in SHAPE)
    held = truth.masks.reshape(-1, rows, 8, columns, 8).sum(axis=(2, 4))
    return held.reshape(len(held), -1) >= OVERLAP


def edge_table(frequency: np.ndarray, truth: Truth) -> list[str]:
    """Count, for each number of trainings, edges that join a latent of a driving cell to one of a cell it drives."""
    member = latents_of_cells(truth)
    couplings = truth.couplings["familiar"].sum(axis=0) > 0
    planted = np.zeros_like(frequency, bool)
    for driven, driver in np.argwhere(couplings):
        planted |= np.outer(member[driven], member[driver])
    same_cell = (member.T.astype(int) @ member.astype(int)) > 0
    tested = ~same_cell & ~np.eye(len(frequency), dtype=bool)
    base = planted[tested].mean()
    lines = ["| trainings that find it | edges | planted | times chance |", "|---|---|---|---|"]
    for times in range(SEEDS + 1):
        found = tested & (np.rint(frequency * SEEDS) == times)
        share = planted[found].mean() if found.any() else np.nan
        lines.append(
            f"| {times} of {SEEDS} | {found.sum()} | {planted[found].sum()} ({share:.1%}) | {share / base:.1f} |"
        )
    seen = [(np.rint(frequency * SEEDS) >= 2)[np.outer(member[j], member[i])].any() for j, i in np.argwhere(couplings)]
    return [*lines, "", f"{sum(seen)} of {len(seen)} planted couplings have an edge that at least two trainings find."]


def pixel_table(frequency: np.ndarray, truth: Truth) -> list[str]:
    """Say where the pixels lie that so many trainings find."""
    driving, other = (truth.masks[which].any(axis=0) for which in (truth.driving, ~truth.driving))
    lines = ["| trainings that find it | pixels | in driving cells | in other active cells |", "|---|---|---|---|"]
    for times in range(SEEDS + 1):
        found = np.rint(frequency * SEEDS) == times
        inside = [f"{where[found].mean():.0%}" if found.any() else "" for where in (driving, other)]
        lines.append(f"| {times} of {SEEDS} | {found.sum()} | {inside[0]} | {inside[1]} |")
    return lines


def write_page(result: Path) -> None:
    truth = simulated().truth
    data = xr.load_dataset(result / "stability.nc", engine="h5netcdf").sel(condition="familiar")
    versions = ", ".join(f"{name} {version}" for name, version in describe_versions().items())
    lines = [
        "# Do trainings agree on what was planted?",
        "",
        f"Written by `python reproduction/stability.py`. **Simulated data**: 8 runs of 192 frames of {SHAPE[0]} x "
        f"{SHAPE[1]} pixels with {int(truth.driving.sum())} driving cells of {len(truth.driving)}; {SEEDS} trainings "
        f"of {EPOCHS} epochs, end to end, otherwise with the paper's settings, but latents centred; condition "
        "*familiar*.",
        "",
        "## Edges",
        "",
        "Edges between latents that share no cell. *Planted*: from a latent of a driving cell to one of a cell that it "
        f"drives (a latent is a cell's if its patch holds {OVERLAP} pixels of the mask or more).",
        "",
        *edge_table(data["edge_frequency"].to_numpy(), truth),
        "",
        f"{int(data['edges_in_all'])} edges between different latents, neighbours included, are found by all "
        f"trainings; by chance, {float(data['edges_in_all_by_chance']):.2g} would be.",
        "",
        "## Pixels of the contribution map",
        "",
        *pixel_table(data["pixel_frequency"].to_numpy(), truth),
        "",
        f"Versions: {versions}.",
    ]
    (HERE / "stability.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=HERE / "stability-work", help="where the session and result are kept"
    )
    write_page(fit(parser.parse_args().work))
