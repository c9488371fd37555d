"""How often training with another seed finds the same: each edge, and each pixel of the contribution maps.

Latents of different trainings differ in sign and scale, but a latent's index is its place in the image, so an edge from
one place to another can be looked for in every training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from larscope._dynamics.couplings import fit_couplings
from larscope._dynamics.var import SparseVAR

TOP_PIXELS = 0.05
"""A pixel is found in a condition if its map is among this share of highest pixels there: by chance, as often."""


@dataclass(frozen=True)
class Finding:
    """The findings of one training, in each condition.

    Attributes
    ----------
    edges
        From source (last axis) to target, whatever the lag.
    pixels
        Among the highest 5 % of the condition's mean contribution map.
    """

    edges: Bool[NDArray[np.bool_], "conditions K K"]
    pixels: Bool[NDArray[np.bool_], "conditions height width"]


def find_edges(
    var: SparseVAR, latents: Sequence[Float[NDArray[np.floating], "_T K"]]
) -> Bool[NDArray[np.bool_], "K K"]:
    """Return the edges selected from these runs together, at any lag (see `fit_couplings`): entry (target, source).

    >>> rng = np.random.default_rng(0)
    >>> runs = [rng.normal(size=(200, 2)) for _ in range(2)]
    >>> for latent in runs:
    ...     latent[1:, 1] += latent[:-1, 0]  # latent 0 acts on latent 1
    >>> find_edges(SparseVAR(order=1), runs)
    array([[ True, False],
           [ True,  True]])
    """
    coef = fit_couplings(var, [torch.from_numpy(latent) for latent in latents])[0]  # the same are selected for all
    return np.asarray((coef != 0).any(dim=0))


def find_pixels(contribution_map: Float[NDArray[np.floating], "height width"]) -> Bool[NDArray[np.bool_], "h w"]:
    """Return the pixels that are positive and among the highest 5 % of a map.

    >>> int(find_pixels(np.arange(400.0).reshape(20, 20)).sum())
    20
    """
    threshold = np.quantile(contribution_map, 1 - TOP_PIXELS)
    return np.asarray((contribution_map >= threshold) & (contribution_map > 0))


def find_in_conditions(
    var: SparseVAR,
    latents: Sequence[Float[NDArray[np.floating], "_T K"]],
    maps: Float[NDArray[np.floating], "runs height width"],
    condition: Sequence[str],
) -> Finding:
    """Return the findings of one training in each condition, in order of first appearance."""
    members = [[run for run, at in enumerate(condition) if at == name] for name in dict.fromkeys(condition)]
    return Finding(
        np.stack([find_edges(var, [latents[run] for run in runs]) for runs in members]),
        np.stack([find_pixels(maps[runs].mean(axis=0)) for runs in members]),
    )


def describe_stability(findings: Mapping[int, Finding], conditions: Sequence[str], simulated: bool) -> xr.Dataset:
    """Count how often each edge and pixel was found, for `stability.nc`.

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
            "edge": "selected at any lag by a lasso on the condition's runs together",
            "pixel": f"positive and among the highest {TOP_PIXELS:.0%} of the condition's mean contribution map",
        },
    )
    for name in ("edge_frequency", "pixel_frequency"):
        dataset[name].attrs["units"] = "share of trainings"
    return dataset
