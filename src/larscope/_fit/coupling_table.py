"""`couplings_`: the couplings of each condition, over all of its runs, each with its share of chance."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from larscope._dynamics.coefficients import SparseCoefficients
from larscope._dynamics.couplings import find_couplings
from larscope._dynamics.var import SparseVAR

COLUMNS = ("condition", "source", "target", "lag", "effect", "n_runs", "qvalue")


def tabulate_couplings(
    var: SparseVAR,
    latents: Sequence[Float[NDArray[np.floating], "_T K"]],
    conditions: Sequence[str],
    coefs: SparseCoefficients,
) -> pd.DataFrame:
    """Find the couplings of each condition (`find_couplings`), and count the runs whose own fit has them too.

    Parameters
    ----------
    var, latents
        As in `find_couplings`.
    conditions
        The condition of each run.
    coefs
        What each run's own fit found.

    Returns
    -------
    table
        One row a pair of latents and condition, strongest evidence first: the effect of latent `source` on `target`,
        `lag` frames later, in standard deviations, not shrunk; `n_runs` of the condition's runs have a coupling of the
        pair in `coefs`; `qvalue`, the share of chance among rows of the condition with at least as much evidence.
    """
    tables = []
    of_run, _, target, source = coefs.nonzero
    for condition in dict.fromkeys(conditions):
        runs = [run for run, name in enumerate(conditions) if name == condition]
        found = find_couplings(var, [torch.from_numpy(latents[run]) for run in runs])
        there = np.zeros((len(conditions), *coefs.shape[2:]), dtype=bool)
        there[of_run, target, source] = True
        n_runs = there[runs].sum(axis=0)[found.target, found.source]
        values = (condition, found.source, found.target, found.lag, found.effect, n_runs, found.qvalue)
        tables.append(pd.DataFrame(dict(zip(COLUMNS, values, strict=True)), columns=list(COLUMNS)))
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
