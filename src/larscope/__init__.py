"""Sparse, interpretable dynamics in cell-imaging video: l1 regression inside a neural network.

The public names are imported when you first use them: `import larscope` and the command line's help do not wait for
torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from larscope._compute.processes import LostProcessError
    from larscope._compute.workers import open_workers
    from larscope._dynamics.coefficients import SparseCoefficients
    from larscope._dynamics.penalty import PenaltyChoice, PenaltyWarning, TinyPenaltyWarning
    from larscope._dynamics.var import SparseVAR, VARFit
    from larscope._errors import LarscopeError
    from larscope._fit.comparing_couplings import coupling_test
    from larscope._fit.estimator import LatentVAR, load
    from larscope._fit.to_folder import fit_to_folder
    from larscope._fit.training import EmptyFitWarning, ShortTrainingWarning
    from larscope._movies.checks.check import MovieWarning, check_session
    from larscope._movies.checks.findings import Finding, describe_findings
    from larscope._movies.readers.reader import Reader, Request
    from larscope._movies.session import Movie, Run, Session
    from larscope._movies.table import BrokenRun, read_runs, read_session
    from larscope._report.page import write_report
    from larscope._results.comparison import ComparisonRecord
    from larscope._results.nwb import write_nwb
    from larscope._settings import Settings
    from larscope._simulate.files import read_truth
    from larscope._simulate.session import SimulatedSession, simulate_session
    from larscope._simulate.truth import Truth
    from larscope._statistics.comparison import Comparison, ComparisonWarning
    from larscope._statistics.contrasts import Contrast
    from larscope._statistics.differences import EdgeDifferences
    from larscope._statistics.groups import select_runs
    from larscope._statistics.influences import influence_test
    from larscope._statistics.maps import influence
    from larscope._statistics.permutation import MaxT
    from larscope._statistics.swap import coefficient_swap_test
    from larscope.lasso import Lasso, alpha_max, lasso, lasso_path

__all__ = [
    "BrokenRun",
    "Comparison",
    "ComparisonRecord",
    "ComparisonWarning",
    "Contrast",
    "EdgeDifferences",
    "EmptyFitWarning",
    "Finding",
    "LarscopeError",
    "Lasso",
    "LatentVAR",
    "LostProcessError",
    "MaxT",
    "Movie",
    "MovieWarning",
    "PenaltyChoice",
    "PenaltyWarning",
    "Reader",
    "Request",
    "Run",
    "Session",
    "Settings",
    "ShortTrainingWarning",
    "SimulatedSession",
    "SparseCoefficients",
    "SparseVAR",
    "TinyPenaltyWarning",
    "Truth",
    "VARFit",
    "alpha_max",
    "check_session",
    "coefficient_swap_test",
    "coupling_test",
    "describe_findings",
    "fit_to_folder",
    "influence",
    "influence_test",
    "lasso",
    "lasso_path",
    "load",
    "open_workers",
    "read_runs",
    "read_session",
    "read_truth",
    "select_runs",
    "simulate_session",
    "write_nwb",
    "write_report",
]

_HOME = {
    "BrokenRun": "_movies.table",
    "Comparison": "_statistics.comparison",
    "ComparisonRecord": "_results.comparison",
    "ComparisonWarning": "_statistics.comparison",
    "Contrast": "_statistics.contrasts",
    "EdgeDifferences": "_statistics.differences",
    "EmptyFitWarning": "_fit.training",
    "Finding": "_movies.checks.findings",
    "LarscopeError": "_errors",
    "Lasso": "lasso",
    "LatentVAR": "_fit.estimator",
    "LostProcessError": "_compute.processes",
    "MaxT": "_statistics.permutation",
    "Movie": "_movies.session",
    "MovieWarning": "_movies.checks.check",
    "PenaltyChoice": "_dynamics.penalty",
    "PenaltyWarning": "_dynamics.penalty",
    "Reader": "_movies.readers.reader",
    "Request": "_movies.readers.reader",
    "Run": "_movies.session",
    "Session": "_movies.session",
    "Settings": "_settings",
    "ShortTrainingWarning": "_fit.training",
    "SimulatedSession": "_simulate.session",
    "SparseCoefficients": "_dynamics.coefficients",
    "SparseVAR": "_dynamics.var",
    "TinyPenaltyWarning": "_dynamics.penalty",
    "Truth": "_simulate.truth",
    "VARFit": "_dynamics.var",
    "alpha_max": "lasso",
    "check_session": "_movies.checks.check",
    "coefficient_swap_test": "_statistics.swap",
    "coupling_test": "_fit.comparing_couplings",
    "describe_findings": "_movies.checks.findings",
    "fit_to_folder": "_fit.to_folder",
    "influence": "_statistics.maps",
    "influence_test": "_statistics.influences",
    "lasso": "lasso",
    "lasso_path": "lasso",
    "load": "_fit.estimator",
    "open_workers": "_compute.workers",
    "read_runs": "_movies.table",
    "read_session": "_movies.table",
    "read_truth": "_simulate.files",
    "select_runs": "_statistics.groups",
    "simulate_session": "_simulate.session",
    "write_nwb": "_results.nwb",
    "write_report": "_report.page",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'larscope' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"larscope.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
