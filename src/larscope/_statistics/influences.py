"""The influence test: distances between the runs' influence vectors."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from larscope._statistics.comparison import Comparison, compare_pairs, warned
from larscope._statistics.maps import Coefs, check_coefs, influence
from larscope._statistics.pairs import PairDistances
from larscope._statistics.permutation import exchangeable_units
from larscope._statistics.pitfalls import check_fitted_separately, uncoupled_runs


def influence_test(
    coefs: Coefs,
    condition: Sequence[Hashable],
    block: Sequence[Hashable] | None = None,
    direction: Literal["outflow", "inflow"] = "outflow",
    n_permutations: int = 9999,
    seed: int = 0,
    *,
    subject: Sequence[Hashable] | None = None,
    position: Sequence[float] | None = None,
    exclude_radius: float = 0.0,
    grid: tuple[int, int] | None = None,
) -> Comparison:
    r"""Test whether influence vectors differ between conditions.

    :math:`\|c_s - c_r\|^2` over unordered pairs of runs, with c from `larscope._statistics.maps.influence`
    (section 2.4).

    Parameters
    ----------
    coefs
        One array (order, K, K) a run, as in `coefficient_swap_test`, which raises the same errors.
    condition, block, subject
        Design of the session, one entry a run: see `larscope._statistics.permutation.exchangeable_units`.
    direction, exclude_radius, grid
        What counts as influence: see `larscope._statistics.maps.influence`.
    n_permutations, seed, position
        As in `coefficient_swap_test`.

    Returns
    -------
    comparison
        See `Comparison`.

    Warns
    -----
    ComparisonWarning
        If the design cannot reach p = 0.05, or a run has no couplings between latents. Whether signal-to-noise differs
        by condition cannot be seen in coefficients: `coefficient_swap_test` and `LatentVAR.compare` say so.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> coefs = rng.normal(0, 0.05, (10, 1, 4, 4))
    >>> coefs[5:, 0, :, 0] += 0.5
    >>> round(influence_test(coefs, ["a"] * 5 + ["b"] * 5).pvalue, 3)
    0.008
    """
    units = exchangeable_units(condition, block, subject)
    check_coefs(coefs, len(units.label))
    check_fitted_separately(coefs, units)
    pairs = influence_distances(coefs, direction, exclude_radius, grid)
    found = compare_pairs(pairs, condition, block, subject, n_permutations, seed, position=position, warn=False)
    return warned(replace(found, warnings=found.warnings + uncoupled_runs(coefs)))


def influence_distances(
    coefs: Coefs,
    direction: Literal["outflow", "inflow"] = "outflow",
    exclude_radius: float = 0.0,
    grid: tuple[int, int] | None = None,
) -> PairDistances:
    """Squared Euclidean distances between the runs' influence vectors.

    Parameters as in `larscope._statistics.maps.influence`, for one array (order, K, K) a run.

    Examples
    --------
    >>> coefs = np.zeros((2, 1, 2, 2))
    >>> coefs[1, 0, 1, 0] = 3.0
    >>> influence_distances(coefs).value
    array([[0., 9.],
           [9., 0.]])
    """
    c = np.stack([influence(coef, direction, exclude_radius, grid) for coef in coefs])
    distance = np.stack([((c - c_r) ** 2).sum(axis=1) for c_r in c])
    return PairDistances(distance, None, symmetric=True)
