"""How often training with another seed finds the same: each edge, and each pixel of the contribution maps.

Latents of different trainings differ in sign and scale, but a latent's index is its place in the image, so an edge from
one place to another can be looked for in every training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from larscope.influence import Coefs

MIN_RUNS = 0.5
"""An edge is found in a condition if at least this share of its runs have it, at any lag."""
TOP_PIXELS = 0.05
"""A pixel is found in a condition if its map is among this share of highest pixels there: by chance, as often."""


@dataclass(frozen=True)
class Finding:
    """What one training found, in each condition.

    Attributes
    ----------
    edges
        From source (last axis) to target, whatever the lag.
    pixels
        Among the highest 5 % of the condition's mean contribution map.
    """

    edges: Bool[NDArray[np.bool_], "conditions K K"]
    pixels: Bool[NDArray[np.bool_], "conditions height width"]


def find_edges(coefs: Coefs) -> Bool[NDArray[np.bool_], "K K"]:
    """Say which edges at least half of the runs have, at any lag: entry (target, source).

    >>> coefs = np.zeros((4, 2, 2, 2)); coefs[:2, 0, 1, 0] = 1.0; coefs[0, 0, 0, 1] = 1.0
    >>> find_edges(coefs)
    array([[False, False],
           [ True, False]])
    """
    having = np.mean([np.any(np.asarray(coef) != 0, axis=0) for coef in coefs], axis=0)
    return np.asarray(having >= MIN_RUNS)


def find_pixels(contribution_map: Float[NDArray[np.floating], "height width"]) -> Bool[NDArray[np.bool_], "h w"]:
    """Say which pixels are positive and among the highest 5 % of a map.

    >>> int(find_pixels(np.arange(400.0).reshape(20, 20)).sum())
    20
    """
    threshold = np.quantile(contribution_map, 1 - TOP_PIXELS)
    return np.asarray((contribution_map >= threshold) & (contribution_map > 0))


def find_in_conditions(
    coefs: Coefs, maps: Float[NDArray[np.floating], "runs height width"], condition: Sequence[str]
) -> Finding:
    """Say what one training found in each condition, in order of their first appearance."""
    members = [[run for run, at in enumerate(condition) if at == name] for name in dict.fromkeys(condition)]
    return Finding(
        np.stack([find_edges([coefs[run] for run in runs]) for runs in members]),
        np.stack([find_pixels(maps[runs].mean(axis=0)) for runs in members]),
    )


def describe_stability(findings: Mapping[int, Finding], conditions: Sequence[str], simulated: bool) -> xr.Dataset:
    """Count how often each edge and pixel was found: what `stability.nc` holds.

    Parameters
    ----------
    findings
        For each seed, what its training found.
    conditions
        Names of the conditions.
    simulated
        Kept as an attribute.

    Returns
    -------
    dataset
        `edge_frequency` and `pixel_frequency`, shares of the trainings. `edges_found`: edges between different latents
        of each training; `edges_in_all`: those that every training found, beside `edges_in_all_by_chance`, the
        number to expect if each training had placed as many edges at random.
    """
    edges = np.stack([finding.edges for finding in findings.values()])
    pixels = np.stack([finding.pixels for finding in findings.values()])
    n_latents = edges.shape[-1]
    between = edges & ~np.eye(n_latents, dtype=bool)
    n_found = between.sum(axis=(2, 3))
    n_pairs = max(n_latents * (n_latents - 1), 1)
    dataset = xr.Dataset(
        {
            "edge_frequency": (("condition", "target", "source"), edges.mean(axis=0, dtype=np.float32)),
            "pixel_frequency": (("condition", "row", "column"), pixels.mean(axis=0, dtype=np.float32)),
            "edges_found": (("seed", "condition"), n_found),
            "edges_in_all": ("condition", between.all(axis=0).sum(axis=(1, 2))),
            "edges_in_all_by_chance": ("condition", n_pairs * (n_found / n_pairs).prod(axis=0)),
        },
        coords={"seed": list(findings), "condition": np.array(list(conditions), dtype=object)},
        attrs={
            "title": "larscope stability over training seeds" + (" of a simulated session" if simulated else ""),
            "simulated": int(simulated),
            "edge": f"non-zero at any lag in at least {MIN_RUNS:.0%} of the condition's runs",
            "pixel": f"positive and among the highest {TOP_PIXELS:.0%} of the condition's mean contribution map",
        },
    )
    for name in ("edge_frequency", "pixel_frequency"):
        dataset[name].attrs["units"] = "share of trainings"
    return dataset
