"""Sparse, interpretable dynamics in cell-imaging video: l1 regression inside a neural network.

The public names are imported when they are first used, so that `import larscope` and the command line's help
do not wait for torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from larscope.comparison import coefficient_swap_test, influence_test
    from larscope.errors import LarscopeError
    from larscope.estimator import LatentVAR, load
    from larscope.influence import influence
    from larscope.io import read_session
    from larscope.lasso import Lasso, alpha_max, lasso, lasso_path
    from larscope.session import Run, Session
    from larscope.simulate import simulate_session
    from larscope.var import SparseVAR

__all__ = [
    "LarscopeError",
    "Lasso",
    "LatentVAR",
    "Run",
    "Session",
    "SparseVAR",
    "alpha_max",
    "coefficient_swap_test",
    "influence",
    "influence_test",
    "lasso",
    "lasso_path",
    "load",
    "read_session",
    "simulate_session",
]

_HOME = {
    "LarscopeError": "errors",
    "Lasso": "lasso",
    "LatentVAR": "estimator",
    "Run": "session",
    "Session": "session",
    "SparseVAR": "var",
    "alpha_max": "lasso",
    "coefficient_swap_test": "comparison",
    "influence": "influence",
    "influence_test": "comparison",
    "lasso": "lasso",
    "lasso_path": "lasso",
    "load": "estimator",
    "read_session": "io",
    "simulate_session": "simulate",
}


class _Package(ModuleType):
    """Finds public names in their modules.

    `lasso` and `influence` are functions in modules of the same name. Python sets a module as an attribute of its
    package once it is imported; a name of `_HOME` stays the function all the same.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'larscope' has no attribute {name!r}")
        value = getattr(import_module(f"larscope.{_HOME[name]}"), name)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
