"""Restricted label permutations: which runs may trade labels, and what follows from trading them.

A permutation test is exact when, with no true difference, every labeling that it tries was as likely as the
observed one. So the first step is to read off the design *who may trade labels with whom*
(`exchangeable_units`); the second to list or draw those labelings (`permute_labels`); the third to compare a
statistic with its values under them (`pvalue`, `max_t`).

Nothing here knows about images, latents or coefficients.
"""

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from larscope._compute.workers import hand_out
from larscope._errors import LarscopeError

MAX_ENUMERATED = 10_000
"""Up to this many labelings are all visited; beyond it they are drawn."""


@dataclass(frozen=True)
class ExchangeableUnits:
    """Who may trade labels with whom: whole units, within a stratum.

    Attributes
    ----------
    conditions
        Names of the conditions, in order of first appearance.
    label
        The observed condition of each run, as an index into `conditions`.
    unit
        The unit that each run belongs to. The runs of a unit always share one label.
    stratum
        The stratum that each run belongs to. Labels never leave a stratum.
    n_labelings
        Number of distinct labelings that the design allows, the observed one included.
    n_symmetric
        How many of them are the observed one with its conditions renamed. A statistic that does not
        depend on the conditions' names cannot tell these apart.
    noun
        What a unit is: `"runs"`, `"blocks"` or `"subjects"`.
    description
        The above, in words.
    """

    conditions: tuple[str, ...]
    label: Int[np.ndarray, " runs"]
    unit: Int[np.ndarray, " runs"]
    stratum: Int[np.ndarray, " runs"]
    n_labelings: int
    n_symmetric: int
    noun: str
    description: str


@dataclass(frozen=True)
class Labelings:
    """Labelings of a design, equally likely if conditions made no difference.

    Attributes
    ----------
    labels
        One labeling a row, entries index `units.conditions`. The first row is the observed labeling.
    exact
        True when the rows are all labelings of the design, False when they were drawn.
    min_pvalue
        The smallest p-value that a statistic symmetric in the conditions' names can reach.
    units
        The design that the labelings come from.
    """

    labels: Int[np.ndarray, "labelings runs"]
    exact: bool
    min_pvalue: float
    units: ExchangeableUnits


@dataclass(frozen=True)
class MaxT:
    """Differences at many positions, tested together.

    Attributes
    ----------
    difference
        Mean of the first condition minus mean of the second, in the units of the values; with strata (blocks or
        subjects within which labels trade) the difference within them, whatever sets them apart.
    statistic
        Difference of the means of the standardised values (no unit), after each stratum's mean is taken off.
    pvalue
        Probability, if nothing differed anywhere, that the *largest* statistic is at least this large:
        already corrected for the number of positions.
    min_pvalue
        The smallest possible p-value of the design.
    """

    difference: Float[np.ndarray, "*shape"]
    statistic: Float[np.ndarray, "*shape"]
    pvalue: Float[np.ndarray, "*shape"]
    min_pvalue: float


def exchangeable_units(
    condition: Sequence[Hashable],
    block: Sequence[Hashable] | None = None,
    subject: Sequence[Hashable] | None = None,
) -> ExchangeableUnits:
    """Read the exchangeable units of a design: the runs, blocks or subjects that trade labels.

    The rule, from the inside out:

    - conditions vary within blocks: runs trade labels within their block;
    - conditions are constant within every block: whole blocks trade labels;
    - no blocks: runs trade labels;
    - several subjects: all of this within each subject, unless conditions are constant within every subject;
      then whole subjects trade labels.

    A block belongs to one subject: one block name under two subjects is two blocks.

    Parameters
    ----------
    condition
        The condition of each run; at least two different ones.
    block
        The block of each run: runs recorded together (one day, one field of view), which drift together and
        so are only exchangeable together.
    subject
        The animal or person that each run comes from.

    Raises
    ------
    LarscopeError
        If a sequence has the wrong length or a missing entry, or if there are fewer than two conditions.

    Examples
    --------
    >>> units = exchangeable_units(["familiar", "familiar", "novel", "novel"])
    >>> units.n_labelings, units.n_symmetric
    (6, 2)
    >>> print(exchangeable_units(list("aaaabbbb"), block=list("11223344")).description)
    Labels are permuted over whole blocks (2 a, 2 b): 6 labelings.
    """
    label, names = _codes("condition", condition, len(condition))
    if len(names) < 2:
        raise LarscopeError(
            f"`condition` must name at least two conditions: got {names} over {len(label)} runs. "
            "Label the runs by the conditions to compare."
        )
    n_runs = len(label)
    inside = np.zeros(n_runs, int) if subject is None else _codes("subject", subject, n_runs)[0]
    subjects = inside
    unit, stratum, noun = np.arange(n_runs), subjects, "runs"
    where = f"each of {subjects.max() + 1} subjects" if subjects.any() else ""
    if block is not None:
        blocks = _renumber(subjects, _codes("block", block, n_runs)[0])
        if _is_constant_within(blocks, label):
            unit, noun = blocks, "blocks"
        else:
            stratum, where = blocks, f"each of {blocks.max() + 1} blocks"
    if subjects.any() and _is_constant_within(subjects, label):
        unit, stratum, noun, where = subjects, np.zeros(n_runs, int), "subjects", ""

    counts = _units_per_condition(label, unit, stratum, len(names))
    conditions = tuple(str(name) for name in names)
    n_labelings = math.prod(_multinomial(row) for row in counts)
    totals = ", ".join(f"{n} {name}" for n, name in zip(counts.sum(0), conditions, strict=True))
    description = (
        f"Labels are permuted over {'' if noun == 'runs' else 'whole '}{noun} ({totals})"
        f"{' within ' + where if where else ''}: "
        f"{n_labelings:,} labeling{'s' if n_labelings > 1 else ''}."
    )
    columns = Counter(tuple(column) for column in counts.T)
    n_symmetric = math.prod(math.factorial(n) for n in columns.values())
    return ExchangeableUnits(conditions, label, unit, stratum, n_labelings, n_symmetric, noun, description)


def permute_labels(
    units: ExchangeableUnits, n_permutations: int = 9999, seed: int | np.random.Generator = 0
) -> Labelings:
    """List all labelings of a design, or draw some if there are more than 10,000.

    Drawn labelings are independent and come after the observed one, which counts as one of them; so
    `n_permutations` draws make `n_permutations + 1` rows, and no p-value is zero.

    Parameters
    ----------
    units
        The design, from `exchangeable_units`.
    n_permutations
        How many labelings to draw where they cannot all be listed.
    seed
        Seed or generator of the draws.

    Raises
    ------
    LarscopeError
        If `n_permutations` is not positive.

    Examples
    --------
    >>> units = exchangeable_units(["a", "a", "b"])
    >>> permute_labels(units).labels
    array([[0, 0, 1],
           [0, 1, 0],
           [1, 0, 0]])
    """
    if n_permutations < 1:
        raise LarscopeError(
            f"`n_permutations` must be at least 1: got {n_permutations}. The usual choice, 9999, "
            "gives p-values down to 0.0001."
        )
    exact = units.n_labelings <= MAX_ENUMERATED
    labels = _all_labelings(units) if exact else _drawn_labelings(units, n_permutations, np.random.default_rng(seed))
    smallest = units.n_symmetric / units.n_labelings
    return Labelings(labels, exact, smallest if exact else 1 / (n_permutations + 1), units)


def pvalue(statistic: Float[np.ndarray, " labelings"]) -> float:
    """Share of labelings with a statistic at least as large as the observed one, the first.

    Values that differ from the observed one by rounding alone count as equal to it.

    Examples
    --------
    >>> pvalue(np.array([2.0, 1.0, 2.0, 0.0]))
    0.5
    """
    rounding = 1e-9 * np.abs(statistic).max()
    return float(np.mean(statistic >= statistic[0] - rounding))


def max_t(values: Float[np.ndarray, "runs *shape"], labelings: Labelings, chunk: int = 1024) -> MaxT:
    r"""Test two conditions for a difference at every position, with familywise control by max-T.

    Every position is standardised once, over all runs whatever their label,
    :math:`u = (v - \bar v) / (sd + sd_{med})`, where :math:`\bar v` is the mean of the run's stratum and
    :math:`sd_{med}`, the median over positions of the non-zero standard deviations, keeps positions that hardly
    vary from dominating (Tusher et al. 2001). The statistic is the difference of the conditions' means of u.
    Without :math:`sd_{med}`, and for fixed group sizes, it is a monotone function of Student's t, the same at
    every position. A position's p-value is the share of labelings whose largest absolute statistic over *all*
    positions is at least the position's own (Westfall & Young 1993, single step).

    Parameters
    ----------
    values
        One map (or any array) a run.
    labelings
        From `permute_labels`, of exactly two conditions.
    chunk
        Positions handled at once; bounds the memory at `chunk` x labelings numbers.

    Raises
    ------
    LarscopeError
        If there are more than two conditions, `values` has another number of runs than the labelings, or a value is
        not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> maps = rng.normal(size=(10, 4, 6))
    >>> maps[:5, 2, 3] += 10
    >>> test = max_t(maps, permute_labels(exchangeable_units(["a"] * 5 + ["b"] * 5)))
    >>> np.argwhere(test.pvalue < 0.05)
    array([[2, 3]])
    """
    labels, conditions = labelings.labels, labelings.units.conditions
    if len(conditions) != 2:
        raise LarscopeError(
            f"`max_t` compares exactly two conditions: got {len(conditions)}, {conditions}. "
            "Pass the runs of two of them."
        )
    if len(values) != labels.shape[1]:
        raise LarscopeError(
            f"`values` must have one entry a run: got {len(values)} for {labels.shape[1]} labeled runs. "
            "Pass values and labels of the same runs, in the same order."
        )
    flat, stratum = np.asarray(values).reshape(len(values), -1), labelings.units.stratum
    for run in np.flatnonzero(~np.isfinite(flat).all(axis=1)):
        raise LarscopeError(f"`values` must be finite: got NaN or infinite ones for run {run}. Leave this run out.")
    blocks = [slice(start, start + chunk) for start in range(0, flat.shape[1], chunk)]

    def centred(block: slice) -> Float[np.ndarray, "runs positions"]:
        return _centre_strata(flat[:, block].astype(float), stratum)

    spread = np.concatenate([centred(block).std(axis=0) for block in blocks] or [np.empty(0)])
    offset = np.median(spread[spread > 0]) if spread.any() else 1.0
    contrast = _mean_difference_weights(labels)
    parts = (centred(block) / (spread[block] + offset) for block in blocks)
    largest = np.zeros(len(labels))
    for found in hand_out(partial(_largest, contrast), parts):
        np.maximum(largest, found, out=largest)
    observed = np.concatenate([contrast[0] @ centred(block) for block in blocks] or [np.empty(0)])
    statistic = observed / (spread + offset)
    reached = np.sort(largest + 1e-9 * largest.max())
    share = (len(labels) - np.searchsorted(reached, np.abs(statistic), side="left")) / len(labels)
    # what is left of a difference of 1 when each stratum's mean is taken off
    left = contrast[0] @ _centre_strata((labels[0] == 0).astype(float)[:, None], stratum)
    shape = np.shape(values)[1:]
    return MaxT(
        difference=(observed / left).reshape(shape),
        statistic=statistic.reshape(shape),
        pvalue=share.reshape(shape),
        min_pvalue=labelings.min_pvalue,
    )


def _largest(
    contrast: Float[np.ndarray, "labelings runs"], standard: Float[np.ndarray, "runs positions"]
) -> Float[np.ndarray, " labelings"]:
    return np.asarray(np.abs(contrast @ standard).max(axis=1))


def comparable_pairs(units: ExchangeableUnits) -> Bool[np.ndarray, "runs runs"]:
    """Choose comparable pairs of runs: only chance and condition can separate them.

    Two runs of one block are alike because they share the block, and two runs of different subjects differ because
    of the subjects. Mixing such pairs with others would bias a comparison of pairs between conditions with
    pairs within them. So a pair is two runs of different units

    - of the same stratum, where strata hold pairs within conditions;
    - of different strata, where they do not (matched pairs);
    - or any two runs, where a condition has but one unit and neither can be had.

    Examples
    --------
    >>> units = exchangeable_units(list("aaaabbbb"), block=[1, 1, 2, 2, 3, 3, 4, 4])
    >>> comparable_pairs(units)[0].astype(int)
    array([0, 0, 1, 1, 1, 1, 1, 1])
    """

    def differs(code: Int[np.ndarray, " runs"]) -> Bool[np.ndarray, "runs runs"]:
        return np.asarray(code[:, None] != code)

    other_unit, other_stratum, same_label = differs(units.unit), differs(units.stratum), ~differs(units.label)
    inside = other_unit & ~other_stratum
    has_pairs = inside.any(axis=1)
    strata = np.unique(units.stratum[has_pairs])
    if strata.size and all((inside & same_label)[units.stratum == s].any() for s in strata):
        return np.asarray(inside)
    across = other_unit & other_stratum
    return across if (across & same_label).any() else differs(np.arange(len(units.label)))


def _codes(name: str, values: Sequence[Hashable], n_runs: int) -> tuple[Int[np.ndarray, " runs"], list[Hashable]]:
    """Replace values by numbers, in order of first appearance."""
    values = list(values)
    if len(values) != n_runs:
        raise LarscopeError(
            f"`{name}` must have one entry a run: got {len(values)} entries for {n_runs} runs. "
            "Pass one entry for every run, in the order of the runs."
        )
    for run, value in enumerate(values):
        if value is None or value is pd.NA or value != value:  # NaN is the one value that differs from itself
            raise LarscopeError(
                f"`{name}` must be known for every run: got {value!r} for run {run}. Fill it in, or leave the run out."
            )
    names = list(dict.fromkeys(values))
    index = {value: code for code, value in enumerate(names)}
    return np.array([index[value] for value in values], int), names


def _renumber(outer: Int[np.ndarray, " runs"], inner: Int[np.ndarray, " runs"]) -> Int[np.ndarray, " runs"]:
    """Replace pairs (outer, inner) by numbers, in order of first appearance."""
    return _codes("block", list(zip(outer.tolist(), inner.tolist(), strict=True)), len(outer))[0]


def _is_constant_within(group: Int[np.ndarray, " runs"], label: Int[np.ndarray, " runs"]) -> bool:
    return all(len(np.unique(label[group == g])) == 1 for g in np.unique(group))


def _units_per_condition(
    label: Int[np.ndarray, " runs"],
    unit: Int[np.ndarray, " runs"],
    stratum: Int[np.ndarray, " runs"],
    n_conditions: int,
) -> Int[np.ndarray, "strata conditions"]:
    _, first = np.unique(unit, return_index=True)
    counts = np.zeros((stratum.max() + 1, n_conditions), int)
    np.add.at(counts, (stratum[first], label[first]), 1)
    return counts


def _multinomial(counts: Int[np.ndarray, " conditions"]) -> int:
    """Count the labelings, in Python integers, without overflow."""
    ways = math.factorial(int(counts.sum()))
    for count in counts:
        ways //= math.factorial(int(count))
    return ways


def _strata(units: ExchangeableUnits) -> list[tuple[Int[np.ndarray, " units"], Int[np.ndarray, " units"]]]:
    """For each stratum its units and their observed labels."""
    unit, first = np.unique(units.unit, return_index=True)
    stratum, label = units.stratum[first], units.label[first]
    return [(unit[stratum == s], label[stratum == s]) for s in np.unique(stratum)]


def _all_labelings(units: ExchangeableUnits) -> Int[np.ndarray, "labelings runs"]:
    strata = _strata(units)
    order = np.concatenate([unit for unit, _ in strata])
    per_stratum = (list(_arrangements(sorted(label.tolist()))) for _, label in strata)
    rows = np.array([list(itertools.chain(*rows)) for rows in itertools.product(*per_stratum)], int)
    by_unit = np.empty((len(rows), order.max() + 1), int)
    by_unit[:, order] = rows
    labels = by_unit[:, units.unit]
    observed = int(np.flatnonzero((labels == units.label).all(axis=1))[0])
    labels[[0, observed]] = labels[[observed, 0]]
    return labels


def _arrangements(labels: list[int]) -> Iterator[list[int]]:
    """All distinct orders of a list with repeated entries, each once."""
    if not labels:
        yield []
    for label in sorted(set(labels)):
        rest = labels.copy()
        rest.remove(label)
        for tail in _arrangements(rest):
            yield [label, *tail]


def _drawn_labelings(
    units: ExchangeableUnits, n_permutations: int, rng: np.random.Generator
) -> Int[np.ndarray, "labelings runs"]:
    by_unit = np.empty((n_permutations, units.unit.max() + 1), int)
    for unit, label in _strata(units):
        by_unit[:, unit] = rng.permuted(np.tile(label, (n_permutations, 1)), axis=1)
    return np.vstack([units.label, by_unit[:, units.unit]])


def _centre_strata(
    values: Float[np.ndarray, "runs positions"], stratum: Int[np.ndarray, " runs"]
) -> Float[np.ndarray, "runs positions"]:
    centred = values.copy()
    for s in np.unique(stratum):
        centred[stratum == s] -= values[stratum == s].mean(axis=0)
    return centred


def _mean_difference_weights(
    labels: Int[np.ndarray, "labelings runs"],
) -> Float[np.ndarray, "labelings runs"]:
    """Weights for the mean of condition 0 minus the mean of condition 1."""
    first: Bool[np.ndarray, "labelings runs"] = labels == 0
    n_first = first.sum(axis=1, keepdims=True)
    return np.asarray(np.where(first, 1 / n_first, -1 / (labels.shape[1] - n_first)))
