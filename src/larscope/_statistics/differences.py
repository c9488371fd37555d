"""Differences between conditions, pixel by pixel and edge by edge."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from larscope._errors import LarscopeError
from larscope._statistics.maps import Coefs, check_coefs, latent_positions
from larscope._statistics.permutation import MaxT, exchangeable_units, max_t, permute_labels


@dataclass(frozen=True)
class EdgeDifferences:
    """Coefficients compared between two conditions, one entry per edge.

    Attributes
    ----------
    lag, source, target
        The edge: effect of latent `source` on latent `target`, `lag` frames later.
    source_position, target_position
        Row and column of the two latents in the image, in input pixels.
    mean_first, mean_second
        Mean coefficient in each condition, over all its runs.
    difference
        First minus second, which is tested: of these means; with blocks or subjects within which labels trade, within
        them, whatever sets them apart (`larscope._statistics.permutation.MaxT`).
    statistic, pvalue
        Standardised difference and its p-value, corrected for the number of edges by max-T.
    conditions
        Names of the first and the second condition.
    """

    lag: Int[np.ndarray, " edges"]
    source: Int[np.ndarray, " edges"]
    target: Int[np.ndarray, " edges"]
    source_position: Float[np.ndarray, "edges 2"]
    target_position: Float[np.ndarray, "edges 2"]
    mean_first: Float[np.ndarray, " edges"]
    mean_second: Float[np.ndarray, " edges"]
    difference: Float[np.ndarray, " edges"]
    statistic: Float[np.ndarray, " edges"]
    pvalue: Float[np.ndarray, " edges"]
    conditions: tuple[str, str]

    def columns(self) -> dict[str, np.ndarray]:
        """Return the table's columns by name, most significant edge first; `pandas.DataFrame` takes them."""
        order = np.lexsort((-np.abs(self.statistic), self.pvalue))
        columns = {
            "lag": self.lag,
            "source": self.source,
            "target": self.target,
            "source_row": self.source_position[:, 0],
            "source_column": self.source_position[:, 1],
            "target_row": self.target_position[:, 0],
            "target_column": self.target_position[:, 1],
            f"mean_{self.conditions[0]}": self.mean_first,
            f"mean_{self.conditions[1]}": self.mean_second,
            "difference": self.difference,
            "statistic": self.statistic,
            "pvalue": self.pvalue,
        }
        return {name: column[order] for name, column in columns.items()}


def difference_map(
    maps: Float[np.ndarray, "runs height width"],
    condition: Sequence[Hashable],
    block: Sequence[Hashable] | None = None,
    subject: Sequence[Hashable] | None = None,
    n_permutations: int = 9999,
    seed: int = 0,
) -> MaxT:
    """Difference of two conditions' mean contribution maps, with its significance.

    Parameters
    ----------
    maps
        One map a run, from `larscope._statistics.maps.contribution_map`.
    condition, block, subject, n_permutations, seed
        As in `coefficient_swap_test`; exactly two conditions. The difference is that of the condition of the
        first run minus the other.

    Returns
    -------
    test
        `test.difference` is the map, within blocks or subjects where labels trade within them; `test.pvalue <= 0.05`
        is its significance mask: if the conditions do not differ anywhere, it is empty with probability 0.95
        (`larscope._statistics.permutation.max_t`).

    Raises
    ------
    LarscopeError
        If there are more than two conditions or the numbers of runs do not match.

    Examples
    --------
    >>> maps = np.random.default_rng(0).normal(size=(12, 8, 8))
    >>> maps[6:, 4, 4] += 8
    >>> np.argwhere(difference_map(maps, ["a"] * 6 + ["b"] * 6).pvalue <= 0.05)
    array([[4, 4]])
    """
    units = exchangeable_units(condition, block, subject)
    return max_t(np.asarray(maps), permute_labels(units, n_permutations, seed))


def edge_differences(
    coefs: Coefs,
    condition: Sequence[Hashable],
    grid: tuple[int, int] | Float[np.ndarray, "K 2"],
    frame_shape: tuple[int, int],
    block: Sequence[Hashable] | None = None,
    subject: Sequence[Hashable] | None = None,
    n_permutations: int = 9999,
    seed: int = 0,
    *,
    offset: tuple[int, int] = (0, 0),
    min_runs: int = 2,
) -> EdgeDifferences:
    """Test every coefficient for a difference between two conditions, corrected for their number by max-T.

    Parameters
    ----------
    coefs
        One array (order, K, K) a run; `SparseCoefficients` will do.
    condition, block, subject, n_permutations, seed
        As in `coefficient_swap_test`; exactly two conditions. The difference is that of the condition of the
        first run minus the other.
    grid
        Height and width of the latent map; or row and column of each latent, in input pixels, where they are not on a
        grid.
    frame_shape, offset
        Height and width of the part of the frames that was analysed, and where it begins, in input pixels: see
        `latent_positions`.
    min_runs
        Test only coefficients that are non-zero in at least this many runs, whatever their condition.

    Returns
    -------
    edges
        See `EdgeDifferences`.

    Raises
    ------
    LarscopeError
        If shapes do not match or there are more than two conditions.

    Examples
    --------
    >>> coefs = np.random.default_rng(0).normal(0, 0.1, (12, 1, 2, 2))
    >>> coefs[:6, 0, 1, 0] += 2.0  # latent 0 acts on latent 1 in the first six runs
    >>> edges = edge_differences(coefs, ["a"] * 6 + ["b"] * 6, grid=(1, 2), frame_shape=(8, 16))
    >>> found = edges.pvalue <= 0.05
    >>> edges.source[found], edges.target[found], edges.source_position[found]
    (array([0]), array([1]), array([[3.5, 3.5]]))
    """
    units = exchangeable_units(condition, block, subject)
    check_coefs(coefs, len(units.label))
    n_lags, n_latents, _ = coefs[0].shape
    if (grid[0] * grid[1] if isinstance(grid, tuple) else len(grid)) != n_latents:
        raise LarscopeError(
            f"`grid` must be the height and width of the map of {n_latents} latents: got {grid}. "
            "Pass the shape of the encoder's output."
        )
    values, position = _values_by_edge(coefs, min_runs)
    lag, target, source = np.unravel_index(position, (n_lags, n_latents, n_latents))
    test = max_t(values, permute_labels(units, n_permutations, seed))
    place = latent_positions(grid, frame_shape, offset) if isinstance(grid, tuple) else np.asarray(grid)
    return EdgeDifferences(
        lag=lag + 1,
        source=source,
        target=target,
        source_position=place[source],
        target_position=place[target],
        mean_first=values[units.label == 0].mean(axis=0),
        mean_second=values[units.label == 1].mean(axis=0),
        difference=test.difference,
        statistic=test.statistic,
        pvalue=test.pvalue,
        conditions=(units.conditions[0], units.conditions[1]),
    )


def _values_by_edge(coefs: Coefs, min_runs: int) -> tuple[Float[np.ndarray, "runs edges"], Int[np.ndarray, " edges"]]:
    """Coefficients non-zero in at least `min_runs` runs, and their place in the flattened array."""
    found = np.zeros(np.size(coefs[0]), int)
    for coef in coefs:
        found += np.ravel(coef) != 0
    place = np.flatnonzero(found >= min_runs)
    values = np.empty((len(coefs), len(place)), np.asarray(coefs[0]).dtype)
    for row, coef in zip(values, coefs, strict=True):
        row[:] = np.ravel(coef)[place]
    return values, place
