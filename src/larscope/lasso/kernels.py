"""Compiled kernels of the active-set engine: what happens to one target between two pricing products.

Names are those of the equations: A, s, w are the active features, their signs and coefficients (the first m
entries hold), R the upper Cholesky factor of `H = X_A'X_A / n + l2 I`, r the residual, c = X'r/n - l2 w.
Columns of the design are rows of `columns`. Numba infers the types.
"""
# mypy: ignore-errors

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

# Features that may join a target in one round.
CANDIDATES = 24
# A round lowers alpha at least by this factor: faster, and more features join that have to leave again.
DESCENT = 0.7
# A correlation counts as a violation from here, relative to the scale of the certificate.
VIOLATION = 1e-10
# Squared relative distance from the span of the active columns, below which a column is in it.
DEPENDENT = 1e-12

# Targets priced together, and numbers in one tile of that product: BLAS keeps so small a one on one thread.
GROUP = 16
TILE = 262_144

# Where a target stands.
OPEN, SETTLED, DONE, FULL, FAILED = range(5)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile; keep the machine code on disk where a place for it can be written."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz", "arcp"}}
    try:
        kernel: Callable[..., Any] = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        kernel = numba.njit(**options)(function)
    return kernel


@_compiled
def _dot(a, b):
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@_compiled
def _solve_lower(R, m, z):
    """Solve R'z = z in place."""
    for k in range(m):
        z[k] /= R[k, k]
        zk = z[k]
        for i in range(k + 1, m):
            z[i] -= zk * R[k, i]


@_compiled
def _solve_upper(R, m, z):
    """Solve R z = z in place."""
    for k in range(m - 1, -1, -1):
        total = z[k]
        for i in range(k + 1, m):
            total -= R[k, i] * z[i]
        z[k] = total / R[k, k]


@_compiled
def _append(R, m, z, pivot):
    """Extend the factor by a column whose forward-solved cross products are z."""
    for k in range(m):
        R[k, m] = z[k]
    R[m, m] = np.sqrt(pivot)


@_compiled
def _remove(R, m, gone):
    """Delete column `gone` from the factor and rotate it back to a triangle."""
    for k in range(m):
        for i in range(max(gone, k - 1), m - 1):
            R[k, i] = R[k, i + 1]
    for k in range(gone, m - 1):
        a, b = R[k, k], R[k + 1, k]
        length = np.hypot(a, b)
        c, s = a / length, b / length
        R[k, k] = length
        for i in range(k + 1, m - 1):
            upper, lower = R[k, i], R[k + 1, i]
            R[k, i] = c * upper + s * lower
            R[k + 1, i] = c * lower - s * upper


@_compiled
def _highest_levels(c, alpha, weights, tolerance, positive, is_active, found, level):
    """Collect the violators that would join first as alpha falls, by |c_j| / v_j.

    Returns how many, and the alpha at which all of them violate: `alpha` itself if there are no others.
    """
    count, least, bar = 0, 0, alpha
    for j in range(len(c)):
        size = c[j] if positive else abs(c[j])
        if size - bar * weights[j] > tolerance and not is_active[j]:
            slot = least
            if count < len(found):
                slot = count
                count += 1
            found[slot] = j
            level[slot] = size / weights[j] if weights[j] > 0 else np.inf
            if count == len(found):
                least = np.argmin(level)
                bar = max(level[least], alpha)
    return count, bar


@_compiled
def _first_to_vanish(A, s, w, m, velocity, weights, positive, limit):
    """First coefficient to reach zero within a step of `limit`: the step, and its slot or -1."""
    step, slot = limit, -1
    for i in range(m):
        rate = -velocity[i] * s[i]
        if rate > 0 and (weights[A[i]] > 0 or positive):
            reach = max(s[i] * w[i], 0.0) / rate
            if reach < step:
                step, slot = reach, i
    return step, slot


@_compiled
def _cross(columns, gram, n, j, A, m, g):
    """X_A'X_j / n, into g; four columns at a time, which keeps the processor's pipelines full."""
    if len(gram) > 0:
        for i in range(m):
            g[i] = gram[j, A[i]]
        return
    x = columns[j]
    for i in range(0, m - m % 4, 4):
        x0, x1, x2, x3 = columns[A[i]], columns[A[i + 1]], columns[A[i + 2]], columns[A[i + 3]]
        g0, g1, g2, g3 = 0.0, 0.0, 0.0, 0.0
        for k in range(len(x)):
            g0 += x0[k] * x[k]
            g1 += x1[k] * x[k]
            g2 += x2[k] * x[k]
            g3 += x3[k] * x[k]
        g[i], g[i + 1], g[i + 2], g[i + 3] = g0 / n, g1 / n, g2 / n, g3 / n
    for i in range(m - m % 4, m):
        g[i] = _dot(columns[A[i]], x) / n


@_compiled
def _correlation(j, columns, gram, n, b, r, A, w, m):
    """X_j'r / n of an inactive feature; with a Gram matrix r is not kept up, and b = X'y / n serves."""
    if len(gram) == 0:
        return _dot(columns[j], r) / n
    total = b[j]
    row = gram[j]
    for i in range(m):
        total -= row[A[i]] * w[i]
    return total


@_compiled
def _move(columns, gram, r, A, w, m, velocity, step):
    """Move the active coefficients, and the residual with them."""
    for i in range(m):
        w[i] += step * velocity[i]
    if len(gram) > 0:
        return
    for i in range(0, m - m % 4, 4):
        x0, x1, x2, x3 = columns[A[i]], columns[A[i + 1]], columns[A[i + 2]], columns[A[i + 3]]
        v0, v1, v2, v3 = velocity[i], velocity[i + 1], velocity[i + 2], velocity[i + 3]
        for k in range(len(r)):
            r[k] -= step * (v0 * x0[k] + v1 * x1[k] + v2 * x2[k] + v3 * x3[k])
    for i in range(m - m % 4, m):
        _subtract(r, step * velocity[i], columns[A[i]])


@_compiled
def _subtract(r, scale, x):
    for k in range(len(r)):
        r[k] -= scale * x[k]


@_compiled
def _residual(columns, y, r, A, w, m):
    """Compute r = y - X w afresh."""
    r[:] = y
    for i in range(m):
        _subtract(r, w[i], columns[A[i]])


@_compiled
def _leave(A, s, w, m, R, slot):
    """Take a feature out of the active set."""
    _remove(R, m, slot)
    for i in range(slot, m - 1):
        A[i], s[i], w[i] = A[i + 1], s[i + 1], w[i + 1]


@_compiled
def _lower(columns, gram, positive, r, start, stop, weights, A, s, w, m, R, velocity):
    """Lower alpha from `start` to `stop` on the active set; return the new size."""
    while m > 0 and start > stop:
        for i in range(m):
            velocity[i] = weights[A[i]] * s[i]
        _solve_lower(R, m, velocity)
        _solve_upper(R, m, velocity)
        step, leaving = _first_to_vanish(A, s, w, m, velocity, weights, positive, start - stop)
        _move(columns, gram, r, A, w, m, velocity, step)
        if leaving < 0:
            break
        start -= step
        _leave(A, s, w, m, R, leaving)
        m -= 1
    return m


@_compiled
def _join(j, side, excess, columns, diagonal, gram, n, positive, r, weights, A, s, w, m, R, g, z, velocity, left):
    """Let feature j join: grow w_j until its correlation, now `excess` above the penalty, is back at it.

    Returns the new size and the number of features that left on the way. A size of -1 says that no step
    exists, which only rounding can cause.
    """
    n_left = 0
    _cross(columns, gram, n, j, A, m, g)
    wj = 0.0
    while True:
        z[:m] = g[:m]
        _solve_lower(R, m, z)
        pivot = diagonal[j] - _dot(z[:m], z[:m])
        for i in range(m):
            velocity[i] = -side * z[i]
        _solve_upper(R, m, velocity)

        dependent = m == len(A) or pivot <= DEPENDENT * diagonal[j]
        enough = np.inf if dependent else max(excess, 0.0) / pivot
        step, leaving = _first_to_vanish(A, s, w, m, velocity, weights, positive, enough)
        if step == np.inf:
            return -1, n_left
        wj += side * step
        excess -= step * pivot
        if len(gram) == 0:
            _subtract(r, side * step, columns[j])
        _move(columns, gram, r, A, w, m, velocity, step)
        if leaving < 0:
            break
        if n_left < len(left):
            left[n_left] = A[leaving]
            n_left += 1
        _leave(A, s, w, m, R, leaving)
        m -= 1
        for i in range(leaving, m):
            g[i] = g[i + 1]
    _append(R, m, z, pivot)
    A[m], s[m], w[m] = j, side, wj
    return m + 1, n_left


@_compiled
def _factorise(columns, diagonal, gram, n, A, s, m, R, z):
    """Factor H on the active set, leaving out columns that earlier ones span; return the new size."""
    kept = 0
    for i in range(m):
        _cross(columns, gram, n, A[i], A, kept, z)
        _solve_lower(R, kept, z)
        pivot = diagonal[A[i]] - _dot(z[:kept], z[:kept])
        if pivot > DEPENDENT * diagonal[A[i]]:
            _append(R, kept, z, pivot)
            A[kept], s[kept] = A[i], s[i]
            kept += 1
    return kept


@_compiled
def _settle(columns, diagonal, gram, n, l2, positive, y, r, alpha, weights, A, s, w, m, R, z):
    """Solve on the sorted active set, refined against the data; coefficients of the wrong sign leave."""
    for i in range(1, m):
        a, b, k = A[i], s[i], i
        while k > 0 and A[k - 1] > a:
            A[k], s[k] = A[k - 1], s[k - 1]
            k -= 1
        A[k], s[k] = a, b
    while True:
        m = _factorise(columns, diagonal, gram, n, A, s, m, R, z)
        w[:m] = 0.0
        r[:] = y
        for _ in range(3):
            for i in range(m):
                z[i] = _dot(columns[A[i]], r) / n - l2 * w[i] - alpha * weights[A[i]] * s[i]
            _solve_lower(R, m, z)
            _solve_upper(R, m, z)
            for i in range(m):
                w[i] += z[i]
            _residual(columns, y, r, A, w, m)
        kept = 0
        for i in range(m):
            free = weights[A[i]] == 0 and not positive
            if free or w[i] * s[i] > 0:
                A[kept], s[kept], w[kept] = A[i], s[i], w[i]
                kept += 1
        if kept == m:
            return m
        m = kept


@_compiled
def _violation(c, alpha, weights, positive, is_active, A, s, m):
    """Largest violation of the optimality conditions over all features."""
    worst = 0.0
    for j in range(len(c)):
        excess = (c[j] if positive else abs(c[j])) - alpha * weights[j]
        if excess > worst and not is_active[j]:
            worst = excess
    for i in range(m):
        worst = max(worst, abs(c[A[i]] - alpha * weights[A[i]] * s[i]))
    return worst


# Long argument lists, one topic a line, are the price of compiled functions without objects.
# fmt: off
@_compiled
def warm_start(
    lo, hi, signs, columns, diagonal, gram, prices_of_y, n, l2, positive, y, residual, alpha, reached,
    weights, scale, active, sign, coef, size, factor, status, kkt, priced,
):
    """Take the features with a sign as a first active set, as far as they are consistent."""
    z = np.empty(active.shape[1])
    for t in range(lo, hi):
        v = weights[min(t, len(weights) - 1)]
        m = 0
        # Unpenalised features come first: dependent columns are left out from the end.
        for first in (True, False):
            for j in range(len(diagonal)):
                if signs[t, j] != 0 and (v[j] == 0) == first and m < active.shape[1]:
                    active[t, m], sign[t, m] = j, signs[t, j]
                    m += 1
        m = _factorise(columns, diagonal, gram, n, active[t], sign[t], m, factor[t], z)
        size[t] = _settle(
            columns, diagonal, gram, n, l2, positive, y[t], residual[t], alpha[t], v, active[t], sign[t],
            coef[t], m, factor[t], z,
        )


@_compiled
def _advance(
    t, c, g, z, velocity, candidates, levels, left, is_active,
    columns, diagonal, gram, prices_of_y, n, l2, positive, y, residual, alpha, reached, weights, scale,
    active, sign, coef, size, factor, status, kkt, priced,
):
    """Advance one target given its prices c: lower alpha, let violators join, or certify."""
    p, capacity = len(diagonal), active.shape[1]
    largest = p if l2 > 0 else min(n, p)
    r, R = residual[t], factor[t]
    A, s, w, m = active[t], sign[t], coef[t], size[t]
    v = weights[min(t, len(weights) - 1)]
    b = prices_of_y[min(t, len(prices_of_y) - 1)]
    tolerance = VIOLATION * scale[t]
    for i in range(m):
        is_active[A[i]] = True
        c[A[i]] -= l2 * w[i]
    count, level = _highest_levels(c, alpha[t], v, tolerance, positive, is_active, candidates[:CANDIDATES], levels)
    worst = _violation(c, alpha[t], v, positive, is_active, A, s, m) if count == 0 else np.inf
    for i in range(m):
        is_active[A[i]] = False

    if reached[t] < np.inf:
        level = max(alpha[t], min(level, DESCENT * reached[t]))
    if count == 0 and status[t] == SETTLED:
        kkt[t] = worst / scale[t] if scale[t] > 0 else worst
        status[t] = DONE
        return
    if count == 0 and reached[t] <= alpha[t]:
        size[t] = _settle(columns, diagonal, gram, n, l2, positive, y[t], r, alpha[t], v, A, s, w, m, R, z)
        status[t] = SETTLED
        return

    status[t] = OPEN
    if level < reached[t]:
        m = _lower(columns, gram, positive, r, reached[t], level, v, A, s, w, m, R, z)
        reached[t] = level
    for _ in range(20 * CANDIDATES + 4 * capacity):
        best, excess, side = -1, tolerance, 1.0
        for i in range(count):
            cj = _correlation(candidates[i], columns, gram, n, b, r, A, w, m)
            beyond = (cj if positive else abs(cj)) - level * v[candidates[i]]
            if beyond > excess:
                best, excess, side = i, beyond, 1.0 if cj > 0 else -1.0
        if best < 0:
            break
        if m == capacity and capacity < largest:
            status[t] = FULL
            break
        j = candidates[best]
        count -= 1
        candidates[best] = candidates[count]
        m, n_left = _join(
            j, side, excess, columns, diagonal, gram, n, positive, r, v, A, s, w, m, R, g, z, velocity,
            left,
        )
        if m < 0:
            status[t] = FAILED
            m = 0
            break
        for i in range(min(n_left, len(candidates) - count)):
            candidates[count] = left[i]
            count += 1
    if len(gram) > 0:
        _residual(columns, y[t], r, A, w, m)
    size[t] = m


@_compiled
def _price(columns, residual, pending, n, prices):
    """Compute X'r / n of the pending targets, in tiles small enough to stay in cache and on one thread."""
    p, width = columns.shape
    count = len(pending)
    rows = residual[pending] / n
    tile = max(4, TILE // (count * width))
    for start in range(0, p, tile):
        stop = min(p, start + tile)
        prices[:count, start:stop] = np.dot(rows, columns[start:stop].T)


@_compiled
def solve_group(
    lo, hi, rounds,
    columns, diagonal, gram, prices_of_y, n, l2, positive, y, residual, alpha, reached, weights, scale,
    active, sign, coef, size, factor, status, kkt, priced,
):
    """Alternate pricing and advancing until no target of `lo:hi` is open, or a full one needs more room."""
    p, capacity = len(diagonal), active.shape[1]
    g, z, velocity = np.empty(capacity), np.empty(capacity), np.empty(capacity)
    candidates = np.empty(4 * CANDIDATES, dtype=np.int64)
    levels = np.empty(CANDIDATES)
    left = np.empty(capacity, dtype=np.int64)
    is_active = np.zeros(p, dtype=np.bool_)
    prices = np.empty((hi - lo, p))
    for _ in range(rounds):
        pending = lo + np.flatnonzero(status[lo:hi] < DONE)
        if len(pending) == 0:
            break
        priced[pending] += 1
        _price(columns, residual, pending, n, prices)
        for row in range(len(pending)):
            _advance(
                pending[row], prices[row], g, z, velocity, candidates, levels, left, is_active,
                columns, diagonal, gram, prices_of_y, n, l2, positive, y, residual, alpha, reached, weights,
                scale, active, sign, coef, size, factor, status, kkt, priced,
            )
