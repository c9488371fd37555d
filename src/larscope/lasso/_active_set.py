"""The compiled CPU engine: all targets priced by one matrix product, each solved by a dual active-set method.

For one target, with active set A, signs s and `c = X'(y - X w)/n - l2 w`, the method keeps

    c_i = alpha v_i s_i  and  s_i w_i >= 0   on A,      w = 0 off A,

and lacks only `|c_j| <= alpha v_j` off A. A round prices every unfinished target (one product X'R), collects
the features that violate this most, and lets them join one after the other: w_j grows until c_j is back at
the penalty, while the active coefficients follow, and those that reach zero on the way leave. The dual
objective rises with every step (Goldfarb and Idnani, 1983), so no set comes twice; a column in the span of
the active ones takes a step without changing the residual, so supports saturated at n, duplicates and ties
need no special care.

All this happens in float32 first, which finds nearly every support in half the time. Each is a proposal: the target
is solved again in float64 from its sorted support, refined against the data, and priced once more. That product is
its certificate, or brings violators, which join as before. Where rounding hides whether a column is independent of
the active ones, or makes features come and go without end, the proposal is given up, and the target starts anew in
float64. So the coefficients depend on the support alone, not on the route.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from larscope.lasso._certificate import FLOOR
from larscope.lasso._kernels import (
    CANDIDATES,
    DONE,
    FULL,
    GROUP,
    GUESSED,
    LANES,
    OPEN,
    Data,
    State,
    add_outer,
    follow_grid,
    solve_groups,
    solve_supports,
)
from larscope.lasso._problem import Problem

Array = NDArray[np.float64]

MAX_ROUNDS = 500
# Rounds after which a proposal is given up.
PROPOSING_ROUNDS = 100
# From so many samples, inner products of columns are worth keeping.
TALL = 256
# Bytes of inner products, or of prices, held at once.
MEMORY = 256 * 2**20


def solve(problem: Problem, init: Tensor | None = None) -> tuple[Float[Tensor, "batch p k"], Float[Tensor, "batch k"]]:
    """Solve every target of every design; return coefficients and their defect (see `certificate.defect`)."""
    batch, p, k = problem.weights.shape
    coef, defect = np.zeros((batch, k, p)), np.empty((batch, k))
    X, y, alpha, l2 = (t.detach().cpu() for t in (problem.X, problem.y, problem.alpha, problem.l2))
    for b in range(batch):
        design = Design(X[b], l2[b], problem.positive)
        weights = _rows(problem.weights[b])
        start = None if init is None else _rows(init[b].expand(p, k))
        size = max(1, MEMORY // (8 * p))
        for lo in range(0, k, size):
            part = slice(lo, min(lo + size, k))
            state = _solve_targets(
                design,
                y[b, :, part].T.numpy(),
                alpha[b, part].numpy(),
                _part(weights, part),
                None if start is None else _part(start, part),
            )
            _write(state, coef[b, part])
            defect[b, part] = state.defect
    device = problem.X.device
    return torch.from_numpy(coef).mT.to(device), torch.from_numpy(defect).to(device)


def follow(
    problem: Problem, grid: Float[Tensor, "k steps"]
) -> tuple[Float[Tensor, "k steps p"], Float[Tensor, "k steps"]]:
    """Solve every target of one design at each of its penalties, which fall; return coefficients and their defect.

    Each penalty starts from the active set of the one before. Nothing may be unpenalised.
    """
    design = Design(problem.X[0], problem.l2[0], problem.positive)
    y, alphas = problem.y[0].T.numpy(), np.ascontiguousarray(grid.numpy())
    (k, steps), p = alphas.shape, problem.n_features
    floor = FLOOR * np.linalg.norm(y, axis=1) / design.exact.n
    while True:
        state = _start(design.exact, design.capacity, y, alphas[:, 0], _rows(problem.weights[0]), floor)
        coefs, defect = np.zeros((k, steps, p)), np.full((k, steps), np.inf)
        _in_threads(follow_grid, k, MAX_ROUNDS, design.exact, state, alphas, coefs, defect)
        if not (state.status == FULL).any():
            return torch.from_numpy(coefs), torch.from_numpy(defect)
        design.capacity = min(4 * design.capacity, design.largest)


def pull_back(
    problem: Problem, coef: Float[Tensor, "batch p k"], grad: Float[Tensor, "batch p k"], with_penalties: bool
) -> tuple[Tensor | None, ...] | None:
    """Compute `gradient.pull_back`; None where a support is linearly dependent.

    Weights and l2 get their gradient where it is asked for, `with_penalties`: it takes a dense array.
    """
    X, y, weights = problem.X, problem.y, problem.weights
    dX, dy, dalpha = torch.empty_like(X), torch.empty_like(y), torch.zeros_like(problem.alpha)
    dense = np.zeros(coef.mT.shape) if with_penalties else None
    n, p = X.shape[-2:]
    for b in range(len(X)):
        data = Design(X[b], problem.l2[b], problem.positive).exact
        v = _rows(weights[b])
        w, g = (np.ascontiguousarray(z[b].detach().T.numpy()) for z in (coef, grad))
        # Unpenalised coefficients may be zero by accident: they stay in the support.
        support = (w != 0) if problem.positive else (w != 0) | (v == 0)
        k, width, room = len(w), data.columns.shape[1], int(support.sum(axis=1).max(initial=1))
        targets = np.zeros((k, width))
        targets[:, :n] = y[b].T.numpy()
        A, size = np.zeros((k, room), dtype=np.int64), np.zeros(k, dtype=np.int64)
        q, residual, movement = np.zeros((k, room)), np.empty((k, width)), np.zeros((k, width))
        inputs = (data, support, targets, w, g, v)
        _in_threads(solve_supports, k, *inputs, A, size, q, residual, movement, dalpha[b].numpy())
        if (size < 0).any():
            return None
        dcolumns = np.zeros((p, width))
        add_outer(data, w, A, size, q, residual, movement, dcolumns)
        dX[b] = torch.from_numpy(dcolumns[:, :n]).T
        dy[b] = torch.from_numpy(movement[:, :n]).T / n
        if dense is not None:
            rows, slots = np.nonzero(np.arange(room) < size[:, None])
            dense[b][rows, A[rows, slots]] = q[rows, slots]
    if dense is None:
        return dX, dy, dalpha, None, None
    Q = torch.from_numpy(dense).mT
    return dX, dy, dalpha, -problem.alpha.unsqueeze(-2) * coef.sign() * Q, -(Q * coef).sum(-1)


class Design:
    """The data as the kernels read them, rounded and exact, and how large supports may become."""

    def __init__(self, X: Tensor, l2: Tensor, positive: bool) -> None:
        n, p = X.shape
        samples = np.zeros((-(-n // 4) * 4, p))
        samples[:n] = X.numpy()
        columns = np.zeros((p, -(-n // LANES) * LANES))
        columns[:, :n] = X.T.numpy()
        squares = np.einsum("ij,ij->i", columns, columns)
        ridge = np.ascontiguousarray(l2.detach().numpy())
        ridged = bool((ridge > 0).any())
        self.exact = Data(
            columns,
            samples,
            squares / n + ridge,
            norms=np.sqrt(squares),
            l2=ridge,
            gram=np.zeros((0, 0)),
            n=n,
            ridged=ridged,
            positive=bool(positive),
            violation=1e-10,
            dependent=1e-12,
            exact=True,
        )
        with np.errstate(over="ignore"):  # what float32 cannot hold makes no proposal
            names = ("columns", "samples", "diagonal", "norms", "l2")
            arrays = {name: getattr(self.exact, name) for name in names}
            rounded = {name: array.astype(np.float32) for name, array in arrays.items()}
        self.rounded = self.exact._replace(**rounded, violation=1e-5, dependent=1e-6, exact=False)
        self.largest = p if ridged else min(n, p)
        self.capacity = min(self.largest, 64)

    def worth_a_gram(self, sizes: NDArray[np.int64]) -> bool:
        """Whether X'X / n saves more than it costs: tall designs, many targets, supports not small."""
        p = len(self.exact.columns)
        affordable = p**2 * 8 <= MEMORY and len(sizes) * 16 >= p
        return affordable and self.exact.n >= TALL and not len(self.exact.gram) and sizes.mean() > CANDIDATES

    def add_gram(self) -> None:
        """Hold all inner products of the columns."""
        X = torch.from_numpy(self.exact.samples)
        gram = (X.T @ X / self.exact.n).numpy()
        self.exact, self.rounded = self.exact._replace(gram=gram), self.rounded._replace(gram=gram)


def _start(data: Data, capacity: int, y: Array, alpha: Array, weights: Array, floor: Array) -> State:
    """Start with no active feature."""
    k, number = len(y), data.columns.dtype
    padded = np.zeros((k, data.columns.shape[1]), number)
    padded[:, : data.n] = y
    return State(
        y=padded,
        residual=padded.copy(),
        prices_of_y=np.zeros((1, 0)),
        alpha=alpha.astype(number),
        reached=np.full(k, np.finfo(number).max, number),
        weights=weights.astype(number, copy=False),
        floor=floor,
        active=np.zeros((k, capacity), dtype=np.int64),
        sign=np.zeros((k, capacity), number),
        coef=np.zeros((k, capacity), number),
        size=np.zeros(k, dtype=np.int64),
        status=np.full(k, OPEN),
        defect=np.full(k, np.inf),
        priced=np.zeros(k, dtype=np.int64),
    )


def _grown(state: State, largest: int) -> State:
    """Double the room for active features."""
    capacity = state.active.shape[1]
    wider = ((0, 0), (0, min(2 * capacity, largest) - capacity))
    state.status[state.status == FULL] = OPEN
    return state._replace(
        active=np.pad(state.active, wider), sign=np.pad(state.sign, wider), coef=np.pad(state.coef, wider)
    )


def _write(state: State, dense: Array) -> None:
    """Put the active coefficients into rows of zeros."""
    rows, slots = np.nonzero(np.arange(state.active.shape[1]) < state.size[:, None])
    dense[rows, state.active[rows, slots]] = state.coef[rows, slots]


def _solve_targets(design: Design, y: Array, alpha: Array, weights: Array, init: Array | None) -> State:
    """Propose active sets in rounded numbers, which takes half the time, then settle and certify them in exact ones."""
    problem = (y, alpha, weights, FLOOR * np.linalg.norm(y, axis=1) / design.exact.n)
    with np.errstate(over="ignore"):
        proposal = _start(design.rounded, design.capacity, *problem)
    proposal = _solved(design, "rounded", y, _warmed(design, proposal, init))
    state = _start(design.exact, proposal.active.shape[1], *problem)
    made = proposal.status == DONE
    if not made.all():
        state = _warmed(design, state, init)
    state.status[made], state.reached[made] = GUESSED, alpha[made]
    for ours, theirs in ((state.active, proposal.active), (state.sign, proposal.sign), (state.size, proposal.size)):
        ours[made] = theirs[made]
    state = state._replace(prices_of_y=proposal.prices_of_y, priced=proposal.priced)
    return _solved(design, "exact", y, state)


def _solved(design: Design, numbers: Literal["rounded", "exact"], y: Array, state: State) -> State:
    # Of tall designs, a first look at how large supports become decides whether inner products are worth keeping.
    most = MAX_ROUNDS if numbers == "exact" else PROPOSING_ROUNDS
    for rounds in (5, most) if design.exact.n >= TALL else (most,):
        full = bool((state.status < DONE).any())
        while full:
            _in_threads(solve_groups, len(y), rounds, getattr(design, numbers), state)
            if design.worth_a_gram(state.size):
                design.add_gram()
            if len(design.exact.gram) and not state.prices_of_y.size:
                prices = y @ design.exact.samples[: design.exact.n] / design.exact.n
                state = state._replace(prices_of_y=prices)
            full = bool((state.status == FULL).any())
            if full:
                state = _grown(state, design.largest)
    return state


def _warmed(design: Design, state: State, init: Array | None) -> State:
    """Start from the unpenalised features and the support of `init`; a wrong guess only costs time."""
    free = np.zeros_like(state.weights, dtype=bool) if design.exact.positive else state.weights == 0
    if init is None and not free.any():
        return state
    k, p = len(state.y), len(design.exact.columns)
    signs = free
    if init is not None:
        guess = np.where(np.isinf(state.weights), 0.0, init)
        signs = np.where(free, 1.0, np.sign(np.maximum(guess, 0.0) if design.exact.positive else guess))
    signs = np.broadcast_to(signs, (k, p))
    rows, columns = np.nonzero(signs)
    # Unpenalised features come first: dependent columns are left out from the end.
    penalised = ~np.broadcast_to(free, (k, p))[rows, columns]
    order = np.lexsort((columns, penalised, rows))
    rows, columns = rows[order], columns[order]
    slots = np.arange(len(rows)) - np.searchsorted(rows, rows)
    while state.active.shape[1] < min(slots.max(initial=0) + 1, design.largest):
        state = _grown(state, design.largest)
    fits = slots < state.active.shape[1]
    rows, columns, slots = rows[fits], columns[fits], slots[fits]
    state.active[rows, slots], state.sign[rows, slots] = columns, signs[rows, columns]
    state.size[:] = np.bincount(rows, minlength=k)
    state.status[:] = GUESSED
    if init is not None:
        state.reached[:] = state.alpha
    return state


def _in_threads(kernel: Callable[..., None], count: int, *arguments: Any) -> None:
    """Run a kernel, which releases the GIL, over groups of targets. Groups share no number they write.

    Groups do not depend on the number of threads, so neither does the answer.
    """
    groups = [(lo, min(lo + GROUP, count)) for lo in range(0, count, GROUP)]
    threads = min(torch.get_num_threads(), len(groups))
    if threads == 1:
        kernel(0, count, *arguments)
        return
    with ThreadPoolExecutor(threads) as pool:
        runs = [pool.submit(kernel, lo, hi, *arguments) for lo, hi in groups]
        for run in runs:
            run.result()


def _rows(values: Tensor) -> Array:
    """One row per target, or a single row where all targets share it."""
    shared = values.shape[1] == 1 or values.stride(1) == 0
    rows = values[:, :1] if shared else values
    return np.ascontiguousarray(rows.detach().cpu().T.numpy())


def _part(rows: Array, part: slice) -> Array:
    return rows if len(rows) == 1 else rows[part]
