"""l1 regression as a differentiable layer: many targets, exact, certified.

`lasso` and `lasso_path` know tensors, nothing of time or images.
"""

from larscope.lasso.engines import NothingToLearnWarning
from larscope.lasso.layer import Lasso, LassoInfo, alpha_max, lasso
from larscope.lasso.path import ConvergenceWarning, LassoPath, lasso_path

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
