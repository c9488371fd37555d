"""Distances between the couplings of runs, in units of their uncertainty."""

import numpy as np
from jaxtyping import Float

from larscope._statistics.pairs import PairDistances

NOTHING_TO_COMPARE = (
    "No couplings beyond chance in these runs, so there is nothing to compare: p is 1 whatever the conditions. "
    "Record longer or more runs; `coefficient_swap_test` asks whether coefficients or activity differ at all."
)


def coupling_distances(
    effect: Float[np.ndarray, "runs couplings"], error: Float[np.ndarray, "runs couplings"]
) -> PairDistances:
    r"""Squared distances between the couplings of every two runs.

    .. math:: d(s, r) = \sum_e (b_{s,e} - b_{r,e})^2 / \overline{\sigma^2_e}

    with :math:`b_{s,e}` coupling e in run s, and :math:`\overline{\sigma^2_e}` the mean over runs of its squared
    standard error: a coupling that no run tells precisely weighs little. The mean is over all runs, whatever their
    condition, so that no difference in noise becomes one in distance.

    Parameters
    ----------
    effect, error
        Each coupling in each run, not shrunk, and its standard error.

    Examples
    --------
    >>> coupling_distances(np.array([[0.0, 0.0], [0.2, 3.0]]), np.array([[0.1, 1.0], [0.1, 1.0]])).value
    array([[ 0., 13.],
           [13.,  0.]])
    """
    variance = np.mean(np.square(error), axis=0)
    known = variance > 0
    scaled = effect[:, known] / np.sqrt(variance[known])
    return PairDistances(np.stack([((scaled - run) ** 2).sum(axis=1) for run in scaled]), None, symmetric=True)
