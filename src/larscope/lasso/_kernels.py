"""Compiled kernels of the active-set engine: what happens to one target between two pricing products.

Names are those of the equations: A, s, w are the active features, their signs and coefficients (the first m
entries hold), r the residual, c = X'r/n - l2 w, and `inverse` that of `H = X_A'X_A / n + l2 I`. Features enter
and leave it by rank-one updates: no triangular solve, so that every loop is long and runs over whole vector
registers. Numba infers the types, so that each kernel exists twice: in float32, whose numbers take half the room in
the cache, for proposals, and in float64.
"""
# mypy: ignore-errors

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core.options import DefaultOptions

from larscope._compute.compiler import OPTIONS, compiled
from larscope.lasso._problem import GAP_PER_VIOLATION

# So many features, or a few more, may join a target in one round.
CANDIDATES = 24
# They are found among the largest of so many groups of features.
HEATS = 64
# A round lowers alpha at least by this factor: faster, and more features join that have to leave again.
DESCENT = 0.7
# Supports up to this size are settled without pricing first whether they are complete: that costs more.
SOON_SETTLED = 12

# A difference that leaves so little of the squared length of a column is computed anew, from the residual.
CANCELLED = 1e-4
# Rows of the inner loops are padded with zeros to so many numbers.
LANES = 32
# Targets priced together, and a tile of their product: features, samples.
GROUP = 16
TILE, DEPTH = 384, 64

# A size to begin with: for a 0 written in the code numba would compile what is called with it once more.
ZERO = np.int64(0)

# Where a target stands.
GUESSED, OPEN, SETTLED, DONE, FULL, FAILED = range(6)


class Data(NamedTuple):
    """What all targets share: the design by columns (p, width) and by samples (n, p), in the numbers to compute with.

    Arrays of a batch have one dimension more, the first.
    `norms` are those of the columns, `l2` is the ridge of each. `violation`: relative to the scale of the certificate,
    a correlation is a violation from here. `dependent`: a column whose squared relative distance from the span of the
    active ones is less is in it. Where numbers are not `exact`, active sets are proposals.
    """

    columns: Any
    samples: Any
    diagonal: Any
    norms: Any
    l2: Any
    gram: Any
    n: int
    ridged: bool
    positive: bool
    violation: float
    dependent: float
    exact: bool


class State(NamedTuple):
    """Where each target stands; `prices_of_y` is X'y / n, held where `Data.gram` is.

    `floor`, times the norm of a column, is the part of its scale that does not vanish with the penalty. `defect` is the
    larger of the violation and a thousandth of the duality gap of what is done.
    """

    y: Any
    residual: Any
    prices_of_y: Any
    alpha: Any
    reached: Any
    weights: Any
    floor: Any
    active: Any
    sign: Any
    coef: Any
    size: Any
    status: Any
    defect: Any
    priced: Any


class Scratch(NamedTuple):
    """Room that the kernels of one thread write over: the inverses of a group, and of one target what is named."""

    inverses: Any
    g: Any
    v: Any
    z: Any
    order: Any
    found: Any
    excess: Any
    left: Any


# Private to numba, and without effect on results: where another version has it no more, kernels are slower.
_UNCOUNTED = {"_nrt": False} if hasattr(DefaultOptions, "_nrt") else {}


def _internal(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile what only other kernels call.

    These allocate nothing, so that they need not count references to arrays, which takes longer than
    arithmetic on so few numbers, and longer to compile.
    """
    return numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_UNCOUNTED, **OPTIONS)(function)


@_internal
def _padded(m):
    return -(-m // LANES) * LANES


@compiled
def _scratch(data, capacity):
    number = data.columns.dtype
    return Scratch(
        inverses=np.empty((GROUP, capacity, _padded(capacity)), number),
        g=np.empty(_padded(capacity), number),
        v=np.empty(_padded(capacity), number),
        z=np.empty(data.columns.shape[-1], number),
        order=np.arange(capacity),
        found=np.empty(4 * CANDIDATES, dtype=np.int64),
        excess=np.empty(4 * CANDIDATES, number),
        left=np.empty(capacity, dtype=np.int64),
    )


@_internal
def _dot(a, b):
    total = a.dtype.type(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@_internal
def _add(out, scale, x, width):
    a = out.dtype.type(scale)
    for k in range(width):
        out[k] += a * x[k]


@_internal
def _add_to_rows(rows, m, scale, x, width):
    """Add x to each of the first m rows, times the row's scale."""
    for i in range(m):
        a = scale[i]
        for k in range(width):
            rows[i, k] += a * x[k]


@_internal
def _inner(rows, index, m, x, out):
    """Inner products of x with m of the rows; four at a time, which keeps the processor's pipelines full."""
    whole = m - m % 4
    for i in range(0, whole, 4):
        i0, i1, i2, i3 = index[i], index[i + 1], index[i + 2], index[i + 3]
        g0 = g1 = g2 = g3 = out.dtype.type(0)
        for k in range(len(x)):
            g0 += rows[i0, k] * x[k]
            g1 += rows[i1, k] * x[k]
            g2 += rows[i2, k] * x[k]
            g3 += rows[i3, k] * x[k]
        out[i], out[i + 1], out[i + 2], out[i + 3] = g0, g1, g2, g3
    for i in range(whole, m):
        out[i] = _dot(rows[index[i]], x)


@_internal
def _combine(rows, index, scale, m, width, out):
    """Sum of m of the rows, each times its scale."""
    out[:width] = 0.0
    whole = m - m % 4
    for i in range(0, whole, 4):
        i0, i1, i2, i3 = index[i], index[i + 1], index[i + 2], index[i + 3]
        a0, a1, a2, a3 = scale[i], scale[i + 1], scale[i + 2], scale[i + 3]
        for k in range(width):
            out[k] += a0 * rows[i0, k] + a1 * rows[i1, k] + a2 * rows[i2, k] + a3 * rows[i3, k]
    for i in range(whole, m):
        i0, a0 = index[i], scale[i]
        for k in range(width):
            out[k] += a0 * rows[i0, k]


@_internal
def _coefficients(j, data, A, m, inverse, work):
    """Regress column j on the active ones: coefficients v; return the residual's mean square, by a difference."""
    g, v = work.g, work.v
    if len(data.gram) > 0:
        for i in range(m):
            g[i] = data.gram[j, A[i]]
    else:
        _inner(data.columns, A, m, data.columns[j], g)
        for i in range(m):
            g[i] /= data.n
    _combine(inverse, work.order, g, m, _padded(m), v)
    return data.diagonal[j] - _dot(g[:m], v[:m])


@_internal
def _regress(j, data, A, m, inverse, work):
    """Regress column j on the active ones: coefficients v, residual z (none with a Gram), its mean square."""
    square = _coefficients(j, data, A, m, inverse, work)
    if len(data.gram) > 0:
        return square
    x, v, z = data.columns[j], work.v, work.z
    _combine(data.columns, A, v, m, len(x), z)
    for k in range(len(x)):
        z[k] = x[k] - z[k]
    square = _dot(z, z) / data.n
    if data.ridged:
        square += data.l2[j]
        for i in range(m):
            square += data.l2[A[i]] * v[i] * v[i]
    return square


@_internal
def _border(inverse, m, pivot, work):
    """Extend the inverse by a feature with regression v on the active ones."""
    g, v, inverted = work.g, work.v, inverse.dtype.type(1 / pivot)
    for i in range(m):
        g[i] = v[i] * inverted
    _add_to_rows(inverse, m, g, v, _padded(m))
    inverse[m] = 0
    for i in range(m):
        inverse[i, m] = inverse[m, i] = -g[i]
    inverse[m, m] = inverted


@_internal
def _leave(A, s, w, m, inverse, slot, work):
    """Take a feature out of the active set; the last one takes its slot."""
    last, width, row, scale = m - 1, _padded(m), work.g, work.v
    for k in range(width):
        row[k] = inverse[slot, k]
        scale[k] = -inverse[slot, k] / inverse[slot, slot]
    _add_to_rows(inverse, m, scale, row, width)
    A[slot], s[slot], w[slot] = A[last], s[last], w[last]
    for k in range(width):
        inverse[slot, k] = inverse[last, k]
    inverse[slot, slot] = inverse[last, last]
    for i in range(last):
        inverse[i, slot] = inverse[slot, i]
        inverse[i, last] = 0


@_internal
def _invert(data, A, s, m, inverse, work):
    """Invert H on the active set, leaving out columns that earlier ones span; return the new size."""
    kept = ZERO
    for i in range(m):
        pivot = _coefficients(A[i], data, A, kept, inverse, work)
        if pivot <= CANCELLED * data.diagonal[A[i]]:
            pivot = _regress(A[i], data, A, kept, inverse, work)
        if pivot > data.dependent * data.diagonal[A[i]]:
            _border(inverse, kept, pivot, work)
            A[kept], s[kept] = A[i], s[i]
            kept += 1
    return kept


@_internal
def _first_to_vanish(A, s, w, m, v, side, weights, positive, limit):
    """First coefficient to reach zero as w moves along `-side v`, by at most `limit`: the step, and its slot or -1."""
    step, slot = limit, -1
    for i in range(m):
        rate, room = side * v[i] * s[i], max(s[i] * w[i], 0.0)
        if room < step * rate and (weights[A[i]] > 0 or positive):
            step, slot = room / rate, i
    return step, slot


@_internal
def _lower(data, r, start, stop, weights, A, s, w, m, inverse, work):
    """Lower alpha from `start` to `stop` on the active set; return the new size."""
    g, v, z = work.g, work.v, work.z
    while m > 0 and start > stop:
        for i in range(m):
            g[i] = weights[A[i]] * s[i]
        _combine(inverse, work.order, g, m, _padded(m), v)
        step, leaving = _first_to_vanish(A, s, w, m, v, -1.0, weights, data.positive, start - stop)
        _add(w, step, v, m)
        if len(data.gram) == 0:
            _combine(data.columns, A, v, m, len(r), z)
            _add(r, -step, z, len(r))
        if leaving < 0:
            break
        start -= step
        _leave(A, s, w, m, inverse, leaving, work)
        m -= 1
    return m


@_internal
def _join(j, side, excess, data, r, weights, A, s, w, m, inverse, work):
    """Let feature j join: grow w_j until its correlation, now `excess` above the penalty, is back at it.

    Returns the new size and the number of features that left on the way. A size of -1 says that no step
    can be taken for sure: rounding hides how far the column is from the span of the active ones.
    """
    n_left, wj = 0, 0.0
    while True:
        pivot = _regress(j, data, A, m, inverse, work)
        saturated, dependent = m == len(A), pivot <= data.dependent * data.diagonal[j]
        if dependent and not saturated and not data.exact:
            return -1, n_left
        enough = np.inf if saturated or dependent else excess / pivot
        step, leaving = _first_to_vanish(A, s, w, m, work.v, side, weights, data.positive, enough)
        if step == np.inf:
            return -1, n_left
        wj += side * step
        excess = max(excess - step * pivot, 0.0)
        _add(w, -side * step, work.v, m)
        if len(data.gram) == 0:
            _add(r, -side * step, work.z, len(r))
        if leaving < 0:
            break
        work.left[n_left] = A[leaving]
        n_left += 1
        _leave(A, s, w, m, inverse, leaving, work)
        m -= 1
    _border(inverse, m, pivot, work)
    A[m], s[m], w[m] = j, side, wj
    return m + 1, n_left


@_internal
def _residual(data, y, r, A, w, m, z):
    """Compute r = y - X w afresh."""
    _combine(data.columns, A, w, m, len(r), z)
    for k in range(len(r)):
        r[k] = y[k] - z[k]


@_internal
def _tolerance(j, t, data, state, weights):
    """Compute what the correlation of feature j may exceed its penalty by: a share of the scale of the certificate."""
    return data.violation * (state.alpha[t] * weights[j] + state.floor[t] * data.norms[j])


@_internal
def _settle(t, data, state, work):
    """Solve on the sorted active set, refined against the data.

    Coefficients of the wrong sign leave, and those that would not have joined: the correlation without them, above
    the penalty by w_i / (H^-1)_ii, is within the tolerance.
    """
    y, r, alpha, inverse = state.y[t], state.residual[t], state.alpha[t], work.inverses[t % GROUP]
    A, s, w, m = state.active[t], state.sign[t], state.coef[t], state.size[t]
    weights = state.weights[min(t, len(state.weights) - 1)]
    g, v = work.g, work.v
    for i in range(1, m):
        a, b, k = A[i], s[i], i
        while k > 0 and A[k - 1] > a:
            A[k], s[k] = A[k - 1], s[k - 1]
            k -= 1
        A[k], s[k] = a, b
    while True:
        m = _invert(data, A, s, m, inverse, work)
        w[:m] = 0.0
        for k in range(len(r)):
            r[k] = y[k]
        for _ in range(3):
            _inner(data.columns, A, m, r, g)
            for i in range(m):
                g[i] = g[i] / data.n - data.l2[A[i]] * w[i] - alpha * weights[A[i]] * s[i]
            _combine(inverse, work.order, g, m, _padded(m), v)
            _add(w, 1.0, v, m)
            _residual(data, y, r, A, w, m, work.z)
        kept = 0
        for i in range(m):
            free = weights[A[i]] == 0 and not data.positive
            if free or w[i] * s[i] > _tolerance(A[i], t, data, state, weights) * inverse[i, i]:
                A[kept], s[kept], w[kept] = A[i], s[i], w[i]
                kept += 1
        if kept == m:
            break
        m = kept
    state.size[t] = m


@_internal
def _resume(t, data, state, work):
    """Invert H of a target that was left unfinished; solve on its active set where that is only a guess."""
    A, s, m = state.active[t], state.sign[t], state.size[t]
    if state.status[t] == GUESSED:
        _settle(t, data, state, work)
        state.status[t] = SETTLED if data.exact and state.reached[t] <= state.alpha[t] else OPEN
    elif _invert(data, A, s, m, work.inverses[t % GROUP], work) < m:
        # In another order rounding found the columns dependent.
        _settle(t, data, state, work)
        state.status[t], state.reached[t] = OPEN, state.alpha[t]


@_internal
def _relative(value, scale):
    """Divide; what is not a number counts as infinite."""
    if value <= 0:
        return 0.0
    return value / scale if value < np.inf and scale > 0 else np.inf


@_internal
def _violation(c, t, data, state):
    """Largest violation of the optimality conditions over all features, each relative to its own scale."""
    alpha, weights, floor = state.alpha[t], state.weights[min(t, len(state.weights) - 1)], state.floor[t]
    A, s, w, m = state.active[t], state.sign[t], state.coef[t], state.size[t]
    size, drawn, worst = np.sqrt(_dot(state.y[t], state.y[t])), 0.0, 0.0
    for i in range(m):
        drawn += data.norms[A[i]] * abs(w[i])
    if size > 0:
        floor *= 1 + drawn / size
    for i in range(m):
        j = A[i]
        penalty = alpha * weights[j]
        beyond = abs(c[j] - data.l2[j] * w[i] - penalty * s[i])
        worst = max(worst, _relative(beyond, penalty + floor * data.norms[j]))
        c[j] = 0
    for j in range(len(data.columns)):
        penalty = alpha * weights[j]
        beyond = (c[j] if data.positive else abs(c[j])) - penalty
        if not beyond <= 0 and weights[j] < np.inf:
            worst = max(worst, _relative(beyond, penalty + floor * data.norms[j]))
    return worst


@_internal
def _gap(t, data, state, violation):
    """Duality gap relative to the objective at zero; its dual point is the residual, within the violation feasible."""
    y, r, weights = state.y[t], state.residual[t], state.weights[min(t, len(state.weights) - 1)]
    fit, energy, size, penalty = _dot(y, r), _dot(r, r), _dot(y, y), 0.0
    for i in range(state.size[t]):
        j, w = state.active[t, i], state.coef[t, i]
        energy += data.n * data.l2[j] * w * w
        penalty += state.alpha[t] * weights[j] * abs(w)
    scale = min(max(fit, 0.0) / energy, 1 / (1 + violation)) if energy > 0 else 0.0
    gap = energy / 2 + data.n * penalty - scale * fit + scale * scale * energy / 2
    return _relative(2 * gap, size) if size > 0 else 0.0


@_internal
def _propose(c, t, data, state, work):
    """Find the violators that would join first as alpha falls: how many, and the alpha at which all of them violate.

    Of the prices c, each heat keeps its largest. The winner of rank CANDIDATES bounds that rank among all of them
    from below, so that a second look at few heats finds those above. Behind the prices, c has room for the heats.
    """
    p = len(data.columns)
    alpha, floor = c.dtype.type(state.alpha[t]), c.dtype.type(data.violation * state.floor[t])
    share = c.dtype.type(data.violation) * alpha
    weights, c, best = state.weights[min(t, len(state.weights) - 1)], c[:p], c[p:]
    for i in range(state.size[t]):
        c[state.active[t, i]] = 0
    for j in range(p):
        c[j] = ((c[j] if data.positive else abs(c[j])) - floor * data.norms[j]) / weights[j] - share
    best[:] = alpha
    whole = p - p % HEATS
    for start in range(0, whole, HEATS):
        for heat in range(HEATS):
            best[heat] = c[start + heat] if c[start + heat] > best[heat] else best[heat]
    for heat in range(p - whole):
        best[heat] = max(best[heat], c[whole + heat])
    above = 0
    for heat in range(HEATS):
        above += best[heat] > alpha
    bar, count = alpha, 0
    if above >= CANDIDATES:
        bar = c.dtype.type(np.inf)
        for heat in range(HEATS):
            better = 0
            for other in range(HEATS):
                better += best[other] > best[heat]
            if better < CANDIDATES:
                bar = min(bar, best[heat])
    for heat in range(HEATS):
        if best[heat] >= bar and best[heat] > alpha:
            for j in range(heat, p, HEATS):
                if c[j] >= bar and c[j] > alpha and count < 2 * CANDIDATES:
                    work.found[count] = j
                    count += 1
    return count, bar


@_internal
def _excess(level, count, data, prices_of_y, r, weights, A, w, m, share, floor, work):
    """Find the candidate with the largest correlation above its penalty: which, how far above, and its sign.

    None, -1, where no correlation is above its penalty by more than rounding.
    """
    found, c = work.found, work.excess
    if len(data.gram) == 0:
        _inner(data.columns, found, count, r, c)
    best, largest, side = -1, -np.inf, 1.0
    for i in range(count):
        if len(data.gram) == 0:
            c[i] /= data.n
        else:
            # With a Gram matrix r is not kept up.
            c[i] = prices_of_y[found[i]]
            row = data.gram[found[i]]
            for k in range(m):
                c[i] -= row[A[k]] * w[k]
        j = found[i]
        beyond = (c[i] if data.positive else abs(c[i])) - level * weights[j]
        if beyond > largest and beyond > share * weights[j] + floor * data.norms[j]:
            best, largest, side = i, beyond, 1.0 if c[i] > 0 else -1.0
    return best, largest, side


@_internal
def _advance(t, count, level, data, state, work):
    """Lower alpha to `level` and let the features found join, steepest first; return how many did."""
    A, s, w, m = state.active[t], state.sign[t], state.coef[t], state.size[t]
    r, inverse, capacity = state.residual[t], work.inverses[t % GROUP], len(A)
    weights = state.weights[min(t, len(state.weights) - 1)]
    prices_of_y = state.prices_of_y[min(t, len(state.prices_of_y) - 1)]
    largest = len(data.diagonal) if data.ridged else min(data.n, len(data.diagonal))
    share, floor = data.violation * state.alpha[t], data.violation * state.floor[t]
    found = work.found

    if level < state.reached[t]:
        m = _lower(data, r, state.reached[t], level, weights, A, s, w, m, inverse, work)
        state.reached[t] = level
    joined, most = 0, (20 if data.exact else 4) * CANDIDATES + 4 * capacity
    while joined < most:
        best, excess, side = _excess(level, count, data, prices_of_y, r, weights, A, w, m, share, floor, work)
        if best < 0:
            break
        if m == capacity and capacity < largest:
            state.status[t] = FULL
            break
        j = found[best]
        count -= 1
        found[best] = found[count]
        m, n_left = _join(j, side, excess, data, r, weights, A, s, w, m, inverse, work)
        if m < 0:
            state.status[t] = FAILED
            m = 0
            break
        joined += 1
        if joined == most and not data.exact:
            state.status[t] = FAILED
        for i in range(min(n_left, len(found) - count)):
            found[count] = work.left[i]
            count += 1
    if len(data.gram) > 0:
        _residual(data, state.y[t], r, A, w, m, work.z)
    state.size[t] = m
    return joined


@_internal
def _price(samples, residual, pending, count, n, rows, prices):
    """Compute X'r / n of the pending targets, four of them by four samples at a time, in tiles that stay in cache."""
    depth, p = samples.shape
    for i in range(GROUP):
        for k in range(depth):
            rows[i, k] = residual[pending[i], k] / n if i < count and k < n else 0.0
    for i in range(GROUP):
        for j in range(p):
            prices[i, j] = 0.0
    for deep in range(0, depth, DEPTH):
        for start in range(0, p, TILE):
            stop = min(start + TILE, p)
            for i in range(0, count, 4):
                c0, c1 = prices[i, start:stop], prices[i + 1, start:stop]
                c2, c3 = prices[i + 2, start:stop], prices[i + 3, start:stop]
                for k in range(deep, min(deep + DEPTH, depth), 4):
                    x0, x1 = samples[k, start:stop], samples[k + 1, start:stop]
                    x2, x3 = samples[k + 2, start:stop], samples[k + 3, start:stop]
                    r00, r01, r02, r03 = rows[i, k], rows[i, k + 1], rows[i, k + 2], rows[i, k + 3]
                    r10, r11, r12, r13 = rows[i + 1, k], rows[i + 1, k + 1], rows[i + 1, k + 2], rows[i + 1, k + 3]
                    r20, r21, r22, r23 = rows[i + 2, k], rows[i + 2, k + 1], rows[i + 2, k + 2], rows[i + 2, k + 3]
                    r30, r31, r32, r33 = rows[i + 3, k], rows[i + 3, k + 1], rows[i + 3, k + 2], rows[i + 3, k + 3]
                    for j in range(stop - start):
                        a0, a1, a2, a3 = x0[j], x1[j], x2[j], x3[j]
                        c0[j] += r00 * a0 + r01 * a1 + r02 * a2 + r03 * a3
                        c1[j] += r10 * a0 + r11 * a1 + r12 * a2 + r13 * a3
                        c2[j] += r20 * a0 + r21 * a1 + r22 * a2 + r23 * a3
                        c3[j] += r30 * a0 + r31 * a1 + r32 * a2 + r33 * a3


@_internal
def _visit(c, t, certify, data, state, work):
    """Move an open target on by its prices, or certify a settled one, which may open it again."""
    alpha, reached = state.alpha[t], state.reached[t]
    worst = _violation(c, t, data, state) if certify else np.inf
    count, level = _propose(c, t, data, state, work)
    level = max(alpha, min(level, DESCENT * reached))
    state.status[t] = OPEN
    joined = _advance(t, count, level, data, state, work)
    if state.status[t] != OPEN or level > alpha:
        return
    unmoved = joined == 0 and reached <= alpha
    if certify and unmoved:
        state.defect[t] = max(worst, _gap(t, data, state, worst) / GAP_PER_VIOLATION)
        state.status[t] = DONE
    elif unmoved or (not certify and state.size[t] <= SOON_SETTLED):
        if data.exact:
            _settle(t, data, state, work)
        state.status[t] = SETTLED if data.exact else DONE


@compiled
def solve_designs(first, last, start, stop, rounds, data, state):
    """Solve targets start to stop of designs first to last, which are entries of every array.

    Pricing and advancing alternate, group by group, until no target is open, or a full one needs more room. Exact
    targets are settled and certified before they count as done.
    """
    work = _scratch(data, state.active.shape[2])
    depth, p = data.samples.shape[1], data.samples.shape[2]
    pending = np.empty(GROUP, dtype=np.int64)
    rows, prices = np.empty((GROUP, depth), data.samples.dtype), np.empty((GROUP, p + HEATS), data.samples.dtype)
    for b in range(first, last):
        _solve_groups(start, stop, rounds, _data(data, b), _state(state, b), work, pending, rows, prices)


@compiled
def _data(data, b):
    return Data(
        data.columns[b],
        data.samples[b],
        data.diagonal[b],
        data.norms[b],
        data.l2[b],
        data.gram[b],
        data.n,
        data.ridged,
        data.positive,
        data.violation,
        data.dependent,
        data.exact,
    )


@compiled
def _state(state, b):
    return State(
        state.y[b],
        state.residual[b],
        state.prices_of_y[b],
        state.alpha[b],
        state.reached[b],
        state.weights[b],
        state.floor[b],
        state.active[b],
        state.sign[b],
        state.coef[b],
        state.size[b],
        state.status[b],
        state.defect[b],
        state.priced[b],
    )


@_internal
def _solve_groups(start, stop, rounds, data, state, work, pending, rows, prices):
    for lo in range(start, stop, GROUP):
        hi = min(lo + GROUP, stop)
        for t in range(lo, hi):
            if state.status[t] < DONE:
                _resume(t, data, state, work)
        for _ in range(rounds):
            priced = 0
            for certify in (False, True):
                count = ZERO
                for t in range(lo, hi):
                    if state.status[t] == (SETTLED if certify else OPEN):
                        pending[count] = t
                        state.priced[t] += 1
                        count += 1
                if count > 0:
                    _price(data.samples, state.residual, pending, count, data.n, rows, prices)
                for i in range(count):
                    _visit(prices[i], pending[i], certify, data, state, work)
                priced += count
            if priced == 0:
                break


@compiled
def follow_grid(start, stop, rounds, data, state, grid, coefs, defect):
    """Solve targets at one penalty of `grid` (k, steps) after the other, from the largest down.

    Active sets and inverses stay from penalty to penalty. Answers go to `coefs` (k, steps, p) and `defect`; what is not
    solved keeps an infinite defect, and a target that needs more room the status FULL.
    """
    work = _scratch(data, state.active.shape[1])
    depth, p = data.samples.shape
    pending = np.empty(GROUP, dtype=np.int64)
    rows, prices = np.empty((GROUP, depth), data.samples.dtype), np.empty((GROUP, p + HEATS), data.samples.dtype)
    for lo in range(start, stop, GROUP):
        hi = min(lo + GROUP, stop)
        for step in range(grid.shape[1]):
            for t in range(lo, hi):
                state.alpha[t] = grid[t, step]
                if state.status[t] == DONE:
                    state.status[t] = OPEN
            for trial in range(rounds):
                count = ZERO
                for t in range(lo, hi):
                    if state.status[t] < DONE:
                        pending[count] = t
                        count += 1
                if count == 0:
                    break
                _price(data.samples, state.residual, pending, count, data.n, rows, prices)
                for i in range(count):
                    t = pending[i]
                    _visit(prices[i], t, True, data, state, work)
                    if state.status[t] == DONE and state.defect[t] > data.violation and trial < rounds - 1:
                        # Updates have added up their rounding.
                        if defect[t, step] == np.inf:
                            _settle(t, data, state, work)
                            state.status[t] = SETTLED
                        defect[t, step] = state.defect[t]
            for t in range(lo, hi):
                if state.status[t] == DONE:
                    defect[t, step] = state.defect[t]
                    for i in range(state.size[t]):
                        coefs[t, step, state.active[t, i]] = state.coef[t, i]
                elif state.status[t] < DONE:
                    state.status[t] = FAILED


@compiled
def solve_supports(lo, hi, data, support, y, coef, grad, weights, A, size, q, residual, movement, dalpha):
    """Solve `H q = g` on the support of each target: q, the residual, X_A q and the gradient of alpha.

    A size of -1 says that the support is linearly dependent.
    """
    capacity = A.shape[1]
    work = _scratch(data, capacity)
    inverse, s = work.inverses[0], np.empty(capacity)
    for t in range(lo, hi):
        m = 0
        for j in range(support.shape[1]):
            if support[t, j]:
                A[t, m] = j
                m += 1
        if _invert(data, A[t], s, m, inverse, work) < m:
            size[t] = -1
            continue
        size[t] = m
        v = weights[min(t, len(weights) - 1)]
        _support_gradient(data, y[t], coef[t], grad[t], A[t], m, inverse, q[t], residual[t], movement[t], work)
        for i in range(m):
            dalpha[t] -= v[A[t, i]] * np.sign(coef[t, A[t, i]]) * q[t, i]


@_internal
def _support_gradient(data, y, coef, grad, A, m, inverse, q, residual, movement, work):
    """Solve `H q = g`, refined once; the residual and X_A q."""
    g, v, width = work.g, work.v, len(residual)
    for i in range(m):
        g[i] = coef[A[i]]
    _residual(data, y, residual, A, g, m, work.z)
    for i in range(m):
        q[i], g[i] = 0.0, grad[A[i]]
    for _ in range(2):
        _combine(inverse, work.order, g, m, _padded(m), v)
        _add(q, 1.0, v, m)
        _combine(data.columns, A, q, m, width, movement)
        _inner(data.columns, A, m, movement, g)
        for i in range(m):
            g[i] = grad[A[i]] - g[i] / data.n - data.l2[A[i]] * q[i]


@compiled
def add_outer(data, coef, A, size, q, residual, movement, dcolumns):
    """Add up `(r q' - X_A q w_A') / n` over targets, by columns of the design."""
    for t in range(len(size)):
        for i in range(size[t]):
            j = A[t, i]
            a, b = q[t, i] / data.n, coef[t, j] / data.n
            for k in range(dcolumns.shape[1]):
                dcolumns[j, k] += a * residual[t, k] - b * movement[t, k]
