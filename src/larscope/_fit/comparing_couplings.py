"""The coupling test: whether couplings between latents differ, whatever the latents' activity."""

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from larscope._dynamics.couplings import find_couplings, measure_couplings
from larscope._dynamics.var import SparseVAR
from larscope._errors import LarscopeError
from larscope._statistics.comparison import Comparison, compare_pairs, warned
from larscope._statistics.couplings import NOTHING_TO_COMPARE, coupling_distances
from larscope._statistics.permutation import exchangeable_units
from larscope._statistics.pitfalls import condition_imbalances
from larscope._statistics.swap import equally_long


def coupling_test(
    latents: Sequence[Float[np.ndarray, "_frames K"]],
    condition: Sequence[Hashable],
    block: Sequence[Hashable] | None = None,
    order: int = 5,
    n_permutations: int = 9999,
    seed: int = 0,
    *,
    subject: Sequence[Hashable] | None = None,
    position: Sequence[float] | None = None,
) -> Comparison:
    r"""Test whether the couplings between latents differ between conditions.

    Couplings are found in all runs together, conditions unseen, and those beyond chance are measured in each run by
    least squares, not shrunk, in units of the whole session. Runs then differ by

    .. math:: d(s, r) = \sum_e (b_{s,e} - b_{r,e})^2 / \overline{\sigma^2_e}

    over couplings e alone, with :math:`\overline{\sigma^2_e}` the mean squared standard error. A latent's own past,
    its variance and its mean are no part of it: a condition in which some latents are livelier is not another one in
    its couplings.

    Parameters
    ----------
    latents
        One series (frames, K) a run; a frame that is NaN in all latents is missing. Every run is measured on as many
        frames as the shortest has.
    condition, block, subject
        Design of the session, one entry a run: see `larscope._statistics.permutation.exchangeable_units`.
    order
        Lags at which latents may be coupled, in frames.
    n_permutations, seed
        How many labelings to draw where there are more than 10,000, and from which seed.
    position
        When each run was recorded: see `larscope._statistics.comparison.compare_pairs`.

    Returns
    -------
    comparison
        See `Comparison`. `effect_size`: how much larger squared distances are between conditions than within them.

    Raises
    ------
    LarscopeError
        If shapes do not match, a run is too short, or no condition has two runs.

    Warns
    -----
    ComparisonWarning
        If no couplings are beyond chance, the design cannot reach p = 0.05, or run length or signal-to-noise differ by
        condition.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> latents = rng.normal(size=(10, 200, 6))
    >>> for z, strength in zip(latents, [0.6] * 5 + [0.1] * 5):
    ...     z[1:, 1] += strength * z[:-1, 0]  # latent 0 acts on latent 1, less in the last five runs
    >>> round(coupling_test(latents, ["a"] * 5 + ["b"] * 5, order=2).pvalue, 3)
    0.008
    """
    exchangeable_units(condition, block, subject)
    _check_latents(latents, len(condition), order)
    found = compare_couplings(SparseVAR(order), latents, condition, block, subject, n_permutations, seed, position)
    return warned(found)


def compare_couplings(
    var: SparseVAR,
    latents: Sequence[Float[np.ndarray, "_frames K"]],
    condition: Sequence[Hashable],
    block: Sequence[Hashable] | None = None,
    subject: Sequence[Hashable] | None = None,
    n_permutations: int = 9999,
    seed: int = 0,
    position: Sequence[float] | None = None,
) -> Comparison:
    """Return the outcome of `coupling_test` without warnings; `var` has the order and who may be coupled."""
    series = [torch.from_numpy(np.asarray(latent)) for latent in equally_long(latents)]
    found = find_couplings(var, series)
    effect, error = measure_couplings(var, series, found)
    pairs = coupling_distances(effect, error)
    outcome = compare_pairs(pairs, condition, block, subject, n_permutations, seed, position=position, warn=False)
    noticed = condition_imbalances(latents, condition, block, subject)
    if effect.shape[1]:
        return replace(outcome, warnings=outcome.warnings + noticed)
    return replace(outcome, effect_size=0.0, warnings=(NOTHING_TO_COMPARE, *noticed))


def _check_latents(latents: Sequence[Float[np.ndarray, "_frames K"]], n_runs: int, order: int) -> None:
    if len(latents) != n_runs:
        raise LarscopeError(
            f"`condition` must have one entry a run: got {n_runs} entries for {len(latents)} series. Pass one for each."
        )
    shapes = [np.shape(latent) for latent in latents]
    for run, shape in enumerate(shapes):
        if len(shape) != 2 or shape[1] != shapes[0][1] or shape[0] < order + 2:
            raise LarscopeError(
                f"`latents` must be series (frames, K) of one K and at least order + 2 = {order + 2} frames: got shape "
                f"{shape} for run {run}. Drop the run, or lower `order`."
            )
        missing = np.isnan(latents[run]).all(axis=1)
        if not np.isfinite(np.asarray(latents[run])[~missing]).all():
            raise LarscopeError(
                f"`latents` must be finite, or NaN in all latents of a missing frame: got others in run {run}. "
                "Drop those frames or the run."
            )
