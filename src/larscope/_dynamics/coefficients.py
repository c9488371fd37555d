"""The coefficients of several runs, stored as their non-zero entries."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray


class SparseCoefficients(Sequence[Float[NDArray[np.floating[Any]], "order K K"]]):
    """The coefficients of several runs, stored as their non-zero entries; indexing densifies one run.

    Parameters
    ----------
    shape
        Runs, order, K, K.
    nonzero
        For every non-zero entry: run, lag - 1, target latent, source latent.
    value
        Its coefficient.

    Examples
    --------
    >>> dense = np.zeros((2, 1, 3, 3)); dense[0, 0, 1, 2] = 0.5
    >>> coefs = SparseCoefficients.from_dense(dense)
    >>> len(coefs), coefs.n_active.tolist(), float(coefs[0][0, 1, 2])
    (2, [1, 0], 0.5)
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        nonzero: Shaped[NDArray[np.integer[Any]], "4 entries"],
        value: Float[NDArray[np.floating[Any]], " entries"],
    ) -> None:
        self.shape = shape
        self.nonzero = np.asarray(nonzero, dtype=np.int32).reshape(4, -1)
        self.value = np.asarray(value)
        if (np.diff(self.nonzero[0]) < 0).any():
            order = np.argsort(self.nonzero[0], kind="stable")
            self.nonzero, self.value = self.nonzero[:, order], self.value[order]
        self._starts = np.searchsorted(self.nonzero[0], np.arange(shape[0] + 1))

    @classmethod
    def from_dense(cls, coefs: Iterable[Float[NDArray[np.floating[Any]], "order K K"]]) -> "SparseCoefficients":
        """Collect the non-zero entries of each run, one run in memory at a time."""
        indices, values, shapes = [], [], []
        for run, coef in enumerate(coefs):
            entries = np.nonzero(coef)
            indices.append(np.stack([np.full(len(entries[0]), run), *entries]))
            values.append(coef[entries])
            shapes.append(coef.shape)
        return cls((len(shapes), *shapes[0]), np.concatenate(indices, axis=1), np.concatenate(values))

    @classmethod
    def join(cls, parts: Sequence["SparseCoefficients"]) -> "SparseCoefficients":
        """Put the runs of several one after the other."""
        first = np.cumsum([0, *(len(part) for part in parts)])
        shift = [np.array([[start], [0], [0], [0]]) for start in first[:-1]]
        nonzero = [part.nonzero + by for part, by in zip(parts, shift, strict=True)]
        shape = (int(first[-1]), *parts[0].shape[1:])
        return cls(shape, np.concatenate(nonzero, axis=1), np.concatenate([part.value for part in parts]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, run: Any) -> Any:
        if isinstance(run, slice):
            return [self[i] for i in range(*run.indices(len(self)))]
        if not -len(self) <= run < len(self):
            raise IndexError(f"run {run} of {len(self)}")
        entries = slice(*self._starts[run % len(self) :][:2])
        coef = np.zeros(self.shape[1:], self.value.dtype)
        coef[tuple(self.nonzero[1:, entries])] = self.value[entries]
        return coef

    def __iter__(self) -> Iterator[Float[NDArray[np.floating[Any]], "order K K"]]:
        return (self[run] for run in range(len(self)))

    @property
    def n_active(self) -> Shaped[NDArray[np.integer[Any]], " runs"]:
        """Number of non-zero coefficients of each run."""
        return np.bincount(self.nonzero[0], minlength=len(self))
