"""Which network a fit has: of a grid of latents, to be trained; or of cells, found in the movie and kept as found."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from larscope._movies.preprocessing import PreparedSession
from larscope._network.autoencoder import Autoencoder
from larscope._network.cells import CellNetwork
from larscope._network.footprints import PASSES, find_parts
from larscope._settings import Settings

Network = Autoencoder | CellNetwork


def begin_network(settings: Settings, prepared: PreparedSession, progress: bool) -> Network:
    """Return the network that a session gives, before any training.

    Raises
    ------
    LarscopeError
        `latents="cells"`, and there are none.
    """
    mean_frame = torch.from_numpy(prepared.mean_frame())
    n_frames = sum(run.n_frames for run in prepared.runs)
    with Progress(disable=not progress) as bar:
        if settings.latents == "cells":
            task = bar.add_task("Finding cells", total=(PASSES + 1) * n_frames)
            parts = find_parts(prepared, mean_frame, settings.cell_diameter, lambda n: bar.advance(task, n))
            cells = CellNetwork(mean_frame, parts, forecasts=settings.pooling == "previous")
            if settings.adaptive_skip:
                cells.follow(prepared, lambda n: bar.advance(task, n))
            return cells
        network = _new_autoencoder(settings, mean_frame)
        if network.shortcut is not None:
            task = bar.add_task("Learning the shortcut", total=2 * n_frames)
            network.shortcut.learn(prepared, mean_frame, lambda n: bar.advance(task, n))
        return network


def restore_network(
    settings: Settings, mean_frame: Float[NDArray[Any], "height width"], weights: Mapping[str, Tensor]
) -> Network:
    """Return the network with these weights, ready to be used."""
    image = torch.from_numpy(mean_frame)
    if settings.latents == "cells":
        return CellNetwork.from_weights(image, weights, forecasts=settings.pooling == "previous").eval()
    network = _new_autoencoder(settings, image)
    # before version 4 of results a shortcut was what it is before it learns
    begun = {name: value for name, value in network.state_dict().items() if name.startswith("shortcut.")}
    network.load_state_dict({**begun, **weights})
    return network.eval()


def _new_autoencoder(settings: Settings, mean_frame: Float[Tensor, "height width"]) -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return Autoencoder(
            mean_frame,
            skip=settings.skip,
            output=settings.output,
            batch_norm=settings.batch_norm,
            precision=settings.precision,
            patch=settings.patch,
            shortcut=settings.shortcut,
        )
