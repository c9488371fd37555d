"""The arrows between modules: imports run one way (see CONTRIBUTING.md)."""

import ast
import importlib
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import larscope

SOURCE = Path(larscope.__file__).parent

FLOORS = [
    {"_errors"},
    {"_settings", "_storage", "_compute"},
    {"lasso", "_statistics"},
    {"_dynamics"},
    {"_movies"},
    {"_simulate", "_network", "_results"},
    {"_report"},
    {"_fit"},
    {"_view"},
    {"_cli"},
    {"__main__", "__init__"},
]
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}

TORCH_FREE = ("_errors", "_storage", "_settings", "_statistics", "_movies", "_simulate", "_results", "_report")


MODULES = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}


def modules(path: Path) -> set[str]:
    """Modules of larscope that a file names, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{name.name}" for name in node.names}
            found |= inner & MODULES.keys() or {node.module}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name.startswith("larscope.")}


def imports(path: Path) -> set[str]:
    """What stands on a floor: modules and packages directly below larscope."""
    return {name.split(".")[1] for name in modules(path)}


def home(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_imports_only_from_lower_floors(path):
    here = home(path)
    for other in imports(path) - {here}:
        assert FLOOR[other] < FLOOR[here], f"{here} must not import {other}"


def test_imports_inside_a_package_run_one_way():
    inside = {name: path for name, path in MODULES.items() if name != "larscope"}  # whose names wait to be used
    TopologicalSorter({name: modules(path) for name, path in inside.items()}).prepare()  # raises where there is a cycle


@pytest.mark.parametrize("name", TORCH_FREE)
def test_is_free_of_torch(name):
    code = f"import sys, larscope.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_statistics_take_arrays_and_callables():
    paths = [path for path in MODULES.values() if home(path) == "_statistics"]
    assert set().union(*map(imports, paths)) <= {"_statistics", "_errors", "_compute"}


def test_report_needs_only_a_result():
    for path in (SOURCE / "_report").glob("*.py"):
        assert imports(path) <= {"_report", "_results", "_storage"}


@pytest.mark.parametrize("name", larscope.__all__)
def test_public_names_are_what_they_say_whatever_was_imported_before(name):
    importlib.import_module("larscope.lasso._path")
    importlib.import_module("larscope._statistics.maps")
    assert getattr(larscope, name).__name__.rpartition(".")[2] == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'larscope' has no attribute 'lassso'"):
        larscope.lassso  # noqa: B018


def test_the_three_lists_of_public_names_are_one():
    block = next(node for node in ast.parse((SOURCE / "__init__.py").read_text()).body if isinstance(node, ast.If))
    homes = {name.name: node.module.removeprefix("larscope.") for node in block.body for name in node.names}
    assert homes == larscope._HOME
    assert sorted(homes) == larscope.__all__


def test_public_names_are_in_the_reference():
    reference = (SOURCE.parents[1] / "docs" / "api.md").read_text()
    documented = {line.rpartition(".")[2] for line in reference.splitlines() if line.startswith(":::")}
    assert {*larscope.__all__, *larscope.lasso.__all__} <= documented


def test_all_else_is_private():
    public = {name for name in MODULES if not any(part.startswith("_") for part in name.split(".")[1:])}
    assert public == {"larscope", "larscope.lasso", "larscope.lasso.sklearn"}


def test_no_function_bears_the_name_of_its_module():
    for name, path in MODULES.items():
        functions = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        assert name.rpartition(".")[2] not in functions
