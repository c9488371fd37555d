"""l1 regression as a differentiable layer: many targets, exact, certified.

`lasso` and `lasso_path` know tensors, nothing of time or images.
"""

import sys

from larscope.lasso._engines import NothingToLearnWarning
from larscope.lasso._layer import Lasso, LassoInfo, alpha_max, lasso
from larscope.lasso._path import ConvergenceWarning, LassoPath, lasso_path

__all__ = [
    "ConvergenceWarning",
    "Lasso",
    "LassoInfo",
    "LassoPath",
    "NothingToLearnWarning",
    "alpha_max",
    "lasso",
    "lasso_path",
]

# `larscope.lasso` is the function and the door to the names beside it: `larscope.lasso(X, y, alpha)` works, and so does
# `from larscope.lasso import LassoInfo`, whichever comes first. A module that can be called would serve Python as well,
# but torch.compile cannot trace one.
lasso.__dict__.update(globals())
lasso.__name__ = __name__
sys.modules[__name__] = lasso  # type: ignore[assignment]
