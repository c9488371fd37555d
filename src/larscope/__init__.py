"""Sparse, interpretable dynamics in cell-imaging video: l1 regression inside a neural network.

The public names are imported when you first use them: `import larscope` and the command line's help do not wait for
torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from larscope._dynamics.var import SparseVAR
    from larscope._errors import LarscopeError
    from larscope._fit.coupling_test import coupling_test
    from larscope._fit.estimator import LatentVAR, load
    from larscope._movies.session import Run, Session
    from larscope._movies.table import read_session
    from larscope._simulate.session import simulate_session
    from larscope._statistics.influences import influence_test
    from larscope._statistics.maps import influence
    from larscope._statistics.swap import coefficient_swap_test
    from larscope.lasso import Lasso, alpha_max, lasso, lasso_path

__all__ = [
    "LarscopeError",
    "Lasso",
    "LatentVAR",
    "Run",
    "Session",
    "SparseVAR",
    "alpha_max",
    "coefficient_swap_test",
    "coupling_test",
    "influence",
    "influence_test",
    "lasso",
    "lasso_path",
    "load",
    "read_session",
    "simulate_session",
]

_HOME = {
    "LarscopeError": "_errors",
    "Lasso": "lasso",
    "LatentVAR": "_fit.estimator",
    "Run": "_movies.session",
    "Session": "_movies.session",
    "SparseVAR": "_dynamics.var",
    "alpha_max": "lasso",
    "coefficient_swap_test": "_statistics.swap",
    "coupling_test": "_fit.coupling_test",
    "influence": "_statistics.maps",
    "influence_test": "_statistics.influences",
    "lasso": "lasso",
    "lasso_path": "lasso",
    "load": "_fit.estimator",
    "read_session": "_movies.table",
    "simulate_session": "_simulate.session",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'larscope' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"larscope.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
