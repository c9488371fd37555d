"""The compiled CPU engine: all targets priced by one matrix product, each solved by a dual active-set method.

For one target, with active set A, signs s and `c = X'(y - X w)/n - l2 w`, the method keeps

    c_i = alpha v_i s_i  and  s_i w_i >= 0   on A,      w = 0 off A,

and lacks only `|c_j| <= alpha v_j` off A. A round prices every unfinished target (one product X'R), collects
the features that violate this most, and lets them join one after the other: w_j grows until c_j is back at
the penalty, while the active coefficients follow, and those that reach zero on the way leave. The dual
objective rises with every step (Goldfarb and Idnani, 1983), so no set comes twice; a column in the span of
the active ones takes a step without changing the residual, so supports saturated at n, duplicates and ties
need no special care.

A target without violators is solved again from its sorted support, refined against the data, and priced once
more: that product is its certificate, and its coefficients depend on the support alone, not on the route.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from larscope.lasso.kernels import CANDIDATES, FULL, GROUP, OPEN, solve_group, warm_start
from larscope.lasso.problem import Problem

Array = NDArray[np.float64]

FLOOR = 1e-6
MAX_ROUNDS = 500
# From so many samples, inner products of columns are worth keeping.
TALL = 256
# Bytes of factors and prices held at once.
MEMORY = 256 * 2**20


def solve(problem: Problem, init: Tensor | None = None) -> tuple[Float[Tensor, "batch p k"], Float[Tensor, "batch k"]]:
    """Solve every target of every design; return coefficients and their relative KKT violation."""
    batch, p, k = problem.weights.shape
    coef, kkt = np.zeros((batch, k, p)), np.empty((batch, k))
    X, y, alpha = (t.detach().cpu() for t in (problem.X, problem.y, problem.alpha))
    for b in range(batch):
        design = Design(X[b], problem.l2, problem.positive)
        weights = _rows(problem.weights[b])
        start = None if init is None else _rows(init[b].expand(p, k))
        size = _targets_at_once(p, k, design.capacity)
        for lo in range(0, k, size):
            part = slice(lo, min(lo + size, k))
            state = _solve_targets(
                design,
                y[b, :, part].T.numpy(),
                alpha[b, part].numpy(),
                _part(weights, part),
                None if start is None else _part(start, part),
            )
            state.write(coef[b, part])
            kkt[b, part] = state.kkt
    device = problem.X.device
    return torch.from_numpy(coef).mT.to(device), torch.from_numpy(kkt).to(device)


class Design:
    """Columns as contiguous rows, padded with zeros to whole vector registers."""

    def __init__(self, X: Tensor, l2: float, positive: bool) -> None:
        n, p = X.shape
        self.n, self.p, self.l2, self.positive = n, p, l2, positive
        self.columns = np.zeros((p, -(-n // 8) * 8))
        self.columns[:, :n] = X.T.numpy()
        self.tensor = torch.from_numpy(self.columns)[:, :n].T
        self.diagonal = (self.columns**2).sum(axis=1) / n + l2
        self.largest = p if l2 > 0 else min(n, p)
        self.capacity = min(self.largest, 64)
        self.gram = np.zeros((0, 0))

    def worth_a_gram(self, sizes: NDArray[np.int64]) -> bool:
        """Whether X'X / n saves more than it costs: tall designs, many targets, supports not small."""
        affordable = self.p**2 * 8 <= MEMORY and len(sizes) * 16 >= self.p
        return affordable and self.n >= TALL and not len(self.gram) and sizes.mean() > CANDIDATES

    def add_gram(self) -> None:
        """Hold all inner products of the columns."""
        self.gram = (self.tensor.T @ self.tensor / self.n).numpy()


@dataclass
class State:
    """Where each target stands. `factor` is the upper Cholesky factor of H on the active set."""

    y: Array
    residual: Array
    alpha: Array
    reached: Array
    weights: Array
    scale: Array
    active: NDArray[np.int64]
    sign: Array
    coef: Array
    size: NDArray[np.int64]
    factor: Array
    status: NDArray[np.int64]
    kkt: Array
    priced: NDArray[np.int64]
    prices_of_y: Array

    @classmethod
    def empty(cls, design: Design, y: Array, alpha: Array, weights: Array) -> State:
        """Start with no active feature."""
        k, capacity = len(y), design.capacity
        padded = np.zeros((k, design.columns.shape[1]))
        padded[:, : design.n] = y
        finite = np.where(np.isinf(weights), 0.0, weights).max(axis=1)
        norm = np.sqrt((design.diagonal.max() - design.l2) * design.n)
        floor = FLOOR * norm * np.linalg.norm(padded, axis=1) / design.n
        return cls(
            y=padded,
            residual=padded.copy(),
            alpha=np.ascontiguousarray(alpha),
            reached=np.full(k, np.inf),
            weights=weights,
            scale=np.maximum(alpha * finite, floor),
            active=np.zeros((k, capacity), dtype=np.int64),
            sign=np.zeros((k, capacity)),
            coef=np.zeros((k, capacity)),
            size=np.zeros(k, dtype=np.int64),
            factor=np.zeros((k, capacity, capacity)),
            status=np.full(k, OPEN),
            kkt=np.full(k, np.inf),
            priced=np.zeros(k, dtype=np.int64),
            prices_of_y=np.zeros((1, 0)),
        )

    def grow(self, largest: int) -> None:
        """Double the room for active features."""
        extra = min(2 * self.active.shape[1], largest) - self.active.shape[1]
        self.active = np.pad(self.active, ((0, 0), (0, extra)))
        self.sign = np.pad(self.sign, ((0, 0), (0, extra)))
        self.coef = np.pad(self.coef, ((0, 0), (0, extra)))
        self.factor = np.pad(self.factor, ((0, 0), (0, extra), (0, extra)))
        self.status[self.status == FULL] = OPEN

    def write(self, dense: Array) -> None:
        """Put the active coefficients into rows of zeros."""
        rows, slots = np.nonzero(np.arange(self.active.shape[1]) < self.size[:, None])
        dense[rows, self.active[rows, slots]] = self.coef[rows, slots]


def _solve_targets(design: Design, y: Array, alpha: Array, weights: Array, init: Array | None) -> State:
    state = State.empty(design, y, alpha, weights)
    _begin(design, state, init)
    # A first look at how large supports become decides whether inner products are worth keeping.
    for rounds in (5, MAX_ROUNDS):
        _in_threads(solve_group, len(y), rounds, *_arguments(design, state))
        while (state.status == FULL).any():
            state.grow(design.largest)
            _in_threads(solve_group, len(y), rounds, *_arguments(design, state))
        if design.worth_a_gram(state.size):
            design.add_gram()
            state.prices_of_y = (state.y[:, : design.n] @ design.tensor.numpy()) / design.n
    return state


def _begin(design: Design, state: State, init: Array | None) -> None:
    """Start from the unpenalised features and the support of `init`; a wrong guess only costs time."""
    free = (state.weights == 0) if not design.positive else np.zeros_like(state.weights, dtype=bool)
    if init is None and not free.any():
        return
    k = len(state.y)
    guess = np.zeros((1, design.p)) if init is None else np.where(np.isinf(state.weights), 0.0, init)
    if design.positive:
        guess = np.maximum(guess, 0.0)
    signs = np.broadcast_to(np.where(free, 1.0, np.sign(guess)), (k, design.p))
    needed = int((signs != 0).sum(axis=1).max(initial=1))
    while state.active.shape[1] < min(needed, design.largest):
        state.grow(design.largest)
    state.reached[:] = state.alpha if init is not None else np.inf
    _in_threads(warm_start, k, np.ascontiguousarray(signs), *_arguments(design, state))


def _arguments(design: Design, state: State) -> tuple[Any, ...]:
    return (
        *(design.columns, design.diagonal, design.gram, state.prices_of_y),
        *(design.n, design.l2, design.positive),
        *(state.y, state.residual, state.alpha, state.reached, state.weights, state.scale),
        *(state.active, state.sign, state.coef, state.size, state.factor, state.status, state.kkt, state.priced),
    )


def _in_threads(kernel: Callable[..., None], count: int, *arguments: Any) -> None:
    """Run a kernel, which releases the GIL, over groups of targets. Groups share no number they write.

    Groups do not depend on the number of threads, so neither does the answer.
    """
    groups = [(lo, min(lo + GROUP, count)) for lo in range(0, count, GROUP)]
    threads = min(torch.get_num_threads(), len(groups))
    if threads == 1:
        for lo, hi in groups:
            kernel(lo, hi, *arguments)
        return
    with ThreadPoolExecutor(threads) as pool:
        runs = [pool.submit(kernel, lo, hi, *arguments) for lo, hi in groups]
        for run in runs:
            run.result()


def _targets_at_once(p: int, k: int, capacity: int) -> int:
    return max(1, min(k, MEMORY // (8 * (p + capacity**2))))


def _rows(values: Tensor) -> Array:
    """One row per target, or a single row where all targets share it."""
    shared = values.shape[1] == 1 or values.stride(1) == 0
    rows = values[:, :1] if shared else values
    return np.ascontiguousarray(rows.detach().cpu().T.numpy())


def _part(rows: Array, part: slice) -> Array:
    return rows if len(rows) == 1 else rows[part]
