"""The planted truth of a simulated session."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy.typing import NDArray

CONDITIONS = ("familiar", "novel")


@dataclass(frozen=True)
class Truth:
    """The planted truth of a simulated session.

    Parameters
    ----------
    couplings
        For each condition, spikes of cell j at lag k caused by one spike of cell l: `couplings[k-1, j, l]`.
    positions
        Row and column of each cell's centre, in pixels.
    footprints
        Each cell's image, 1 at its brightest.
    driving
        The driving cells.
    decay
        Share of each cell's calcium left after one frame.
    traces
        For each run, calcium without noise; one spike adds 1.
    spikes
        For each run, spikes in each frame.
    parameters
        The arguments of `simulate_session`.
    """

    couplings: Mapping[str, Float[NDArray[np.float64], "order cells cells"]]
    positions: Float[NDArray[np.float64], "cells 2"]
    footprints: Float32[NDArray[np.float32], "cells height width"]
    driving: Bool[NDArray[np.bool_], "cells"]
    decay: Float[NDArray[np.float64], "cells"]
    traces: tuple[Float32[NDArray[np.float32], "_frames cells"], ...]
    spikes: tuple[UInt8[NDArray[np.uint8], "_frames cells"], ...]
    parameters: Mapping[str, Any]

    @property
    def masks(self) -> Bool[NDArray[np.bool_], "cells height width"]:
        """Pixels of each cell: at least half as bright as its brightest."""
        return self.footprints >= 0.5

    def trace_coef(self, condition: str) -> Float[NDArray[np.float64], "order cells cells"]:
        """Return the VAR coefficients of a condition's traces.

        With C the couplings and g the decay, `s[t, l] = c[t, l] - g[l] c[t-1, l]` gives
        `A_k[j, l] = C_k[j, l] - C_{k-1}[j, l] g[l]`, and g on the diagonal of A_1.
        """
        planted = self.couplings[condition]
        coef = planted.copy()
        coef[1:] -= planted[:-1] * self.decay
        coef[0] += np.diag(self.decay)
        return coef
