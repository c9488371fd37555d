"""What of a series is variance, and what is rounding: the same in fits, in scores and in tests."""

from typing import Any

ROUNDING = 64
"""Rounding errors of a sum or a convolution, in units of the last place: generously."""


def rounding_energy(energy: Any, eps: float) -> Any:
    """Return the square of the rounding errors in numbers of a given mean square.

    A variance that is not larger is that of a constant.

    Parameters
    ----------
    energy
        Square of the numbers, or its mean: of NumPy or torch.
    eps
        Of the type in which they were computed, as `finfo` says it.

    Examples
    --------
    >>> rounding_energy(1.0, eps=2.0**-23) < 1e-10
    True
    """
    return energy * (ROUNDING * eps) ** 2
