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
from functools import cached_property
from typing import Any, Literal, TypeVar

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
    solve_designs,
    solve_supports,
)
from larscope.lasso._problem import Problem

Array = NDArray[np.float64]
Entries = TypeVar("Entries", Data, State)

MAX_ROUNDS = 500
# Rounds after which a proposal is given up.
PROPOSING_ROUNDS = 100
# Proposals are made where their targets have so many products with numbers of the design to form.
PROPOSED = 2**21
# From so many samples, inner products of columns are worth keeping.
TALL = 256
# Bytes of inner products, or of prices, held at once.
MEMORY = 256 * 2**20


def solve(problem: Problem, init: Tensor | None = None) -> tuple[Float[Tensor, "batch p k"], Float[Tensor, "batch k"]]:
    """Solve every target of every design; return coefficients and their defect (see `certificate.defect`)."""
    batch, p, k = problem.weights.shape
    coef, defect = np.zeros((batch, k, p)), np.empty((batch, k))
    X, y, alpha, l2 = (t.detach().cpu() for t in (problem.X, problem.y, problem.alpha, problem.l2))
    together, most = (max(1, MEMORY // (8 * p * size)) for size in (max(problem.n_samples, k), 1))
    for first in range(0, batch, together):
        some = slice(first, min(first + together, batch))
        design = Design(X[some], l2[some], problem.positive)
        weights = _rows(problem.weights[some])
        start = None if init is None else _rows(init[some].expand(-1, p, k))
        for lo in range(0, k, most):
            part = slice(lo, min(lo + most, k))
            state = _solve_targets(
                design,
                y[some, :, part].mT.numpy(),
                alpha[some, part].numpy(),
                _part(weights, part),
                None if start is None else _part(start, part),
            )
            _write(state, coef[some, part])
            defect[some, part] = state.defect
    device = problem.X.device
    return torch.from_numpy(coef).mT.to(device), torch.from_numpy(defect).to(device)


def follow(
    problem: Problem, grid: Float[Tensor, "k steps"]
) -> tuple[Float[Tensor, "k steps p"], Float[Tensor, "k steps"]]:
    """Solve every target of one design at each of its penalties, which fall; return coefficients and their defect.

    Each penalty starts from the active set of the one before. Nothing may be unpenalised.
    """
    design = Design(problem.X, problem.l2, problem.positive)
    y, alphas = problem.y.mT.numpy(), np.ascontiguousarray(grid.numpy())
    (k, steps), p = alphas.shape, problem.n_features
    weights, floor = _rows(problem.weights), FLOOR * np.linalg.norm(y, axis=-1) / design.exact.n
    while True:
        state = _first(_start(design.exact, design.capacity, y, alphas[None, :, 0], weights, floor))
        coefs, defect = np.zeros((k, steps, p)), np.full((k, steps), np.inf)
        _in_threads(follow_grid, _groups(k), MAX_ROUNDS, _first(design.exact), state, alphas, coefs, defect)
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
        data = _first(Design(X[b : b + 1], problem.l2[b : b + 1], problem.positive).exact)
        v = _rows(weights[b : b + 1])[0]
        w, g = (np.ascontiguousarray(z[b].detach().T.numpy()) for z in (coef, grad))
        # Unpenalised coefficients may be zero by accident: they stay in the support.
        support = (w != 0) if problem.positive else (w != 0) | (v == 0)
        k, width, room = len(w), data.columns.shape[1], int(support.sum(axis=1).max(initial=1))
        targets = np.zeros((k, width))
        targets[:, :n] = y[b].T.numpy()
        A, size = np.zeros((k, room), dtype=np.int64), np.zeros(k, dtype=np.int64)
        q, residual, movement = np.zeros((k, room)), np.empty((k, width)), np.zeros((k, width))
        inputs = (data, support, targets, w, g, v)
        _in_threads(solve_supports, _groups(k), *inputs, A, size, q, residual, movement, dalpha[b].numpy())
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
    """A batch of designs as the kernels read them, rounded and exact, and how large supports may become."""

    def __init__(self, X: Tensor, l2: Tensor, positive: bool) -> None:
        batch, n, p = X.shape
        samples = np.zeros((batch, -(-n // 4) * 4, p))
        samples[:, :n] = X.numpy()
        columns = np.zeros((batch, p, -(-n // LANES) * LANES))
        columns[:, :, :n] = X.mT.numpy()
        squares = np.einsum("bij,bij->bi", columns, columns)
        ridge = np.ascontiguousarray(l2.detach().numpy())
        ridged = bool(ridge.any())
        self.exact = Data(
            columns,
            samples,
            squares / n + ridge,
            norms=np.sqrt(squares),
            l2=ridge,
            gram=np.zeros((batch, 0, 0)),
            n=n,
            ridged=ridged,
            positive=bool(positive),
            violation=1e-10,
            dependent=1e-12,
            exact=True,
        )
        self.largest = p if ridged else min(n, p)
        self.capacity = min(self.largest, 64)

    @cached_property
    def rounded(self) -> Data:
        """The same in float32."""
        with np.errstate(over="ignore"):  # what float32 cannot hold makes no proposal
            names = ("columns", "samples", "diagonal", "norms", "l2")
            arrays = {name: getattr(self.exact, name) for name in names}
            rounded = {name: array.astype(np.float32) for name, array in arrays.items()}
        return self.exact._replace(**rounded, violation=1e-5, dependent=1e-6, exact=False)

    def worth_rounding(self, k: int) -> bool:
        """Whether proposals in float32 save more than they cost, when a process first compiles them too."""
        return bool(k * self.exact.samples[0].size >= PROPOSED)

    def worth_a_gram(self, sizes: NDArray[np.int64]) -> bool:
        """Whether X'X / n saves more than it costs: tall designs, many targets, supports not small."""
        batch, p = self.exact.norms.shape
        affordable = batch * p**2 * 8 <= MEMORY and sizes.shape[1] * 16 >= p
        return affordable and self.exact.n >= TALL and not self.has_gram and sizes.mean() > CANDIDATES

    @property
    def has_gram(self) -> bool:
        """Whether inner products of the columns are held."""
        return bool(self.exact.gram.size)

    def add_gram(self) -> None:
        """Hold all inner products of the columns."""
        X = torch.from_numpy(self.exact.samples)
        gram = (X.mT @ X / self.exact.n).numpy()
        self.exact = self.exact._replace(gram=gram)
        if "rounded" in self.__dict__:
            self.rounded = self.rounded._replace(gram=gram)


def _start(data: Data, capacity: int, y: Array, alpha: Array, weights: Array, floor: Array) -> State:
    """Start with no active feature."""
    shape, number = y.shape[:2], data.columns.dtype
    padded = np.zeros((*shape, data.columns.shape[-1]), number)
    padded[..., : data.n] = y
    return State(
        y=padded,
        residual=padded.copy(),
        prices_of_y=np.zeros((len(y), 1, 0)),
        alpha=alpha.astype(number),
        reached=np.full(shape, np.finfo(number).max, number),
        weights=weights.astype(number, copy=False),
        floor=floor,
        active=np.zeros((*shape, capacity), dtype=np.int64),
        sign=np.zeros((*shape, capacity), number),
        coef=np.zeros((*shape, capacity), number),
        size=np.zeros(shape, dtype=np.int64),
        status=np.full(shape, OPEN),
        defect=np.full(shape, np.inf),
        priced=np.zeros(shape, dtype=np.int64),
    )


def _first(batch: Entries) -> Entries:
    """Take what belongs to the first design."""
    return batch._replace(**{k: v[0] for k, v in batch._asdict().items() if isinstance(v, np.ndarray)})


def _grown(state: State, largest: int) -> State:
    """Double the room for active features."""
    capacity = state.active.shape[-1]
    wider = ((0, 0), (0, 0), (0, min(2 * capacity, largest) - capacity))
    state.status[state.status == FULL] = OPEN
    return state._replace(
        active=np.pad(state.active, wider), sign=np.pad(state.sign, wider), coef=np.pad(state.coef, wider)
    )


def _write(state: State, dense: Array) -> None:
    """Put the active coefficients into rows of zeros."""
    design, row, slot = np.nonzero(np.arange(state.active.shape[-1]) < state.size[..., None])
    dense[design, row, state.active[design, row, slot]] = state.coef[design, row, slot]


def _solve_targets(design: Design, y: Array, alpha: Array, weights: Array, init: Array | None) -> State:
    """Propose active sets in rounded numbers, which takes half the time, then settle and certify them in exact ones."""
    problem = (y, alpha, weights, FLOOR * np.linalg.norm(y, axis=-1) / design.exact.n)
    if not design.worth_rounding(y.shape[1]):
        return _solved(design, "exact", y, _warmed(design, _start(design.exact, design.capacity, *problem), init))
    with np.errstate(over="ignore"):
        proposal = _start(design.rounded, design.capacity, *problem)
    proposal = _solved(design, "rounded", y, _warmed(design, proposal, init))
    state = _start(design.exact, proposal.active.shape[-1], *problem)
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
            _in_threads(solve_designs, _parts(*y.shape[:2]), rounds, getattr(design, numbers), state)
            if design.worth_a_gram(state.size):
                design.add_gram()
            if design.has_gram and not state.prices_of_y.size:
                prices = y @ design.exact.samples[:, : design.exact.n] / design.exact.n
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
    batch, k, _ = state.y.shape
    p = design.exact.norms.shape[1]
    signs = free
    if init is not None:
        guess = np.where(np.isinf(state.weights), 0.0, init)
        signs = np.where(free, 1.0, np.sign(np.maximum(guess, 0.0) if design.exact.positive else guess))
    signs, free = (np.broadcast_to(z, (batch, k, p)).reshape(-1, p) for z in (signs, free))
    rows, columns = np.nonzero(signs)
    # Unpenalised features come first: dependent columns are left out from the end.
    order = np.lexsort((columns, ~free[rows, columns], rows))
    rows, columns = rows[order], columns[order]
    slots = np.arange(len(rows)) - np.searchsorted(rows, rows)
    while state.active.shape[-1] < min(slots.max(initial=0) + 1, design.largest):
        state = _grown(state, design.largest)
    fits = slots < state.active.shape[-1]
    rows, columns, slots = rows[fits], columns[fits], slots[fits]
    target = np.divmod(rows, k)
    state.active[*target, slots], state.sign[*target, slots] = columns, signs[rows, columns]
    state.size[:] = np.bincount(rows, minlength=batch * k).reshape(batch, k)
    state.status[:] = GUESSED
    if init is not None:
        state.reached[:] = state.alpha
    return state


def _groups(count: int) -> list[tuple[int, ...]]:
    """Ranges of targets that share no number they write."""
    return [(lo, min(lo + GROUP, count)) for lo in range(0, count, GROUP)]


def _parts(batch: int, k: int) -> list[tuple[int, ...]]:
    """Ranges of designs and of targets: groups of one design's, or all targets of some designs."""
    if batch == 1:
        return [(0, 1, *group) for group in _groups(k)]
    size = max(1, batch // (4 * torch.get_num_threads()))
    return [(lo, min(lo + size, batch), 0, k) for lo in range(0, batch, size)]


def _in_threads(kernel: Callable[..., None], parts: list[tuple[int, ...]], *arguments: Any) -> None:
    """Run a kernel, which releases the GIL, over parts that share no number they write.

    How targets are grouped does not depend on the number of threads, so neither does the answer.
    """
    threads = min(torch.get_num_threads(), len(parts))
    if threads == 1:
        lows, highs = parts[0][::2], parts[-1][1::2]
        kernel(*(bound for pair in zip(lows, highs, strict=True) for bound in pair), *arguments)
        return
    with ThreadPoolExecutor(threads) as pool:
        runs = [pool.submit(kernel, *part, *arguments) for part in parts]
        for run in runs:
            run.result()


def _rows(values: Tensor) -> Array:
    """One row per target, or a single row where all targets of a design share it."""
    shared = values.shape[-1] == 1 or values.stride(-1) == 0
    rows = values[..., :1] if shared else values
    return np.ascontiguousarray(rows.detach().cpu().mT.numpy())


def _part(rows: Array, part: slice) -> Array:
    return rows if rows.shape[1] == 1 else rows[:, part]
