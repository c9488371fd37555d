"""The arrows between modules: imports run one way (see CONTRIBUTING.md)."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import larscope

SOURCE = Path(larscope.__file__).parent

FLOORS = [
    {"errors"},
    {"schema"},
    {"settings", "lasso", "permutation", "session", "groups"},
    {"var", "io", "simulate", "config", "provenance"},
    {"preprocessing"},
    {"result", "network", "influence", "checkpoints", "penalties", "quality"},
    {"training", "evaluation", "comparison", "stability"},
    {"record", "preflight"},
    {"estimator", "report", "nwb", "doctor"},
    {"view"},
    {"cli", "sklearn"},
    {"__main__", "__init__"},
]
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}

TORCH_FREE = (
    "errors",
    "schema",
    "settings",
    "config",
    "session",
    "preprocessing",
    "io",
    "quality",
    "simulate",
    "result",
    "provenance",
    "permutation",
    "groups",
    "report",
    "nwb",
    "doctor",
    "cli",
)


def imports(path: Path) -> set[str]:
    """Modules of larscope that a file names, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("larscope."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("larscope.")}
    return found


def home(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


MODULES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(SOURCE)) for path in MODULES])
def test_imports_only_from_lower_floors(path):
    here = home(path)
    for other in imports(path) - {here}:
        assert FLOOR[other] < FLOOR[here], f"{here} must not import {other}"


@pytest.mark.parametrize("name", TORCH_FREE)
def test_is_free_of_torch(name):
    code = f"import sys, larscope.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_comparison_and_influence_take_arrays_and_callables():
    for name in ("comparison", "influence"):
        assert not imports(SOURCE / f"{name}.py") & {"training", "estimator", "session", "network"}


def test_report_needs_only_a_result():
    for path in (SOURCE / "report").glob("*.py"):
        assert imports(path) <= {"report", "result", "record"}


@pytest.mark.parametrize("name", larscope.__all__)
def test_public_names_are_what_they_say_whatever_was_imported_before(name):
    importlib.import_module("larscope.lasso.path")
    importlib.import_module("larscope.influence")
    assert getattr(larscope, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'larscope' has no attribute 'lassso'"):
        larscope.lassso  # noqa: B018
