"""The examination of `larscope doctor`: versions, devices, memory, and the command to install each missing package.

Needs the standard library and `packaging` only, and tries torch in a separate process. So it still reports after a
failed or crashed import. Without psutil it cannot tell the memory.
"""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from itertools import groupby
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from larscope._results.provenance import git_commit

PURPOSE = {
    "sklearn": "the lasso as a scikit-learn estimator",
    "nwb": "`larscope export --nwb`",
    "zarr": "movies in Zarr",
    "video": "movies in AVI and MP4",
    "formats": "all file formats",
    "view": "`larscope view`",
    "cluster": "`larscope sweep --scheduler`",
    "docs": "building the documentation",
    "dev": "the tests",
}

TORCH = """
import json, torch
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
blas = [part.split("=")[1] for part in torch.__config__.show().split(", ") if "BLAS_INFO=" in part]
torch.ones(8, 8) @ torch.ones(8, 8)
print(json.dumps({
    "device": "; ".join(f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus) or "CPU; torch sees no GPU",
    "CUDA": torch.version.cuda or "not built into this torch",
    "threads": f"{torch.get_num_threads()}",
    "BLAS": f"{blas[0] if blas else 'unknown'} in torch",
}))
"""

NUMPY = """
import json, numpy
blas = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]
print(json.dumps({"BLAS": f"{blas['name']} {blas['version']} in numpy"}))
"""

NUMBA = """
import json, numba
numba.njit(lambda x: x + 1)(1)
from larscope._compute.compiler import describe_cache
print(json.dumps({"compiler": f"numba {numba.__version__}", "compiled code": describe_cache()}))
"""

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

WIDTH = 79
WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes
    ----------
    section, name, value
        Its heading, its subject and the outcome.
    command
        Command to install a missing package, or empty.
    broken
        larscope cannot compute without it.
    """

    section: str
    name: str
    value: str
    command: str = ""
    broken: bool = False


def examine(folder: Path | None = None) -> list[Finding]:
    """Look at this machine and installation.

    Parameters
    ----------
    folder
        Folder on the disk to measure; the current one by default.
    """
    return [*_examine_machine(folder or Path.cwd()), *_examine_computing(), *_examine_packages()]


def describe(findings: Iterable[Finding]) -> str:
    """Return the findings as text: good packages in a few lines, each command on its own line."""
    lines = []
    for section, group in groupby(findings, key=lambda finding: finding.section):
        lines += ["", section]
        members = list(group)
        if section == "Packages":
            good = [f"{found.name} {found.value}" for found in members if not found.command]
            lines += textwrap.wrap(", ".join(good), WIDTH, initial_indent="  ", subsequent_indent="  ", **WHOLE_WORDS)
            members = [found for found in members if found.command]
        for found in members:
            mark = "! " if found.broken else "- " if found.command else "  "
            text = f"{mark}{found.name:<17}{found.value}"
            lines += textwrap.wrap(text, WIDTH, subsequent_indent=" " * 19, **WHOLE_WORDS)
            lines += [f"    {found.command}"] if found.command else []
    return "\n".join(lines[1:])


def _examine_machine(folder: Path) -> Iterable[Finding]:
    commit = git_commit()
    yield Finding("This machine", "larscope", version("larscope") + (f", commit {commit}" if commit else ""))
    yield Finding("This machine", "Python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("This machine", "system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield Finding("This machine", "cores", _cores())
    yield Finding("This machine", "memory", _memory())
    disk = shutil.disk_usage(folder)
    yield Finding("This machine", "disk", f"{_gib(disk.free)} free of {_gib(disk.total)} in {folder}")


def _examine_computing() -> Iterable[Finding]:
    for package, code in (("torch", TORCH), ("numpy", NUMPY), ("numba", NUMBA)):
        found, failure = try_in_process(code)
        if failure:
            yield Finding("Computing", package, f"does not work: {failure}", _install([package]), broken=True)
        for name, value in found.items():
            yield Finding("Computing", name, value)
    yield Finding("Computing", "OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "not set"))


def try_in_process(code: str, timeout: float = 120.0) -> tuple[dict[str, str], str]:
    """Run Python code in a new process; return its printed JSON and its error."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return {}, f"it did not answer within {timeout:.0f} s"
    if done.returncode < 0:
        return {}, f"it was killed by signal {-done.returncode}"
    if done.returncode:
        return {}, (done.stderr.strip().splitlines() or ["no message"])[-1]
    return json.loads(done.stdout), ""


def _examine_packages() -> Iterable[Finding]:
    try:
        needed = [Requirement(text) for text in requires("larscope") or []]
        extras = metadata("larscope").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        yield Finding("Packages", "larscope", "runs from its source, not installed", _install(["larscope"]))
        return
    always = [part for part in needed if part.marker is None or part.marker.evaluate({"extra": ""})]
    yield from map(_examine_package, always)
    for extra in extras:
        parts = [
            part for part in needed if part not in always and part.marker and part.marker.evaluate({"extra": extra})
        ]
        lacking = [part for part in parts if _lack(part)]
        value = "; ".join(f"{part.name}: {_lack(part)}" for part in lacking) or "there"
        about = PURPOSE.get(extra, ", ".join(part.name for part in parts))
        yield Finding("Optional parts", extra, f"{about}: {value}", _install(map(_plain, lacking)) if lacking else "")
    browser = any(map(shutil.which, BROWSERS)) and shutil.which("chromedriver")
    command = "" if browser or not shutil.which("apt-get") else "sudo apt-get install chromium chromium-driver"
    yield Finding(
        "Optional parts", "chromium", f"the tests of the report: {'there' if browser else 'missing'}", command
    )


def _examine_package(part: Requirement) -> Finding:
    lack = _lack(part)
    if lack:
        return Finding("Packages", part.name, lack, _install([_plain(part)]), broken=True)
    return Finding("Packages", part.name, version(part.name))


def _lack(part: Requirement) -> str:
    """Return the fault of an installed package, or nothing."""
    try:
        installed = version(part.name)
    except PackageNotFoundError:
        return "missing"
    return "" if part.specifier.contains(installed, prereleases=True) else f"{installed}, needs {part.specifier}"


def _plain(part: Requirement) -> str:
    return f"{part.name}{part.specifier}"


def _install(packages: Iterable[str]) -> str:
    """Return the command to install packages into this Python, quoted for the shell of this system."""
    command = [sys.executable, "-m", "pip", "install", *packages]
    return subprocess.list2cmdline(command) if platform.system() == "Windows" else shlex.join(command)


def _cores() -> str:
    """Return how many cores this process may use; macOS does not say, and all count."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} usable of {os.cpu_count()}"


def _memory(read: Callable[[Path], str] = Path.read_text) -> str:
    """Return free memory of the machine, or of its container if that allows less: psutil does not know containers."""
    try:
        import psutil
    except ImportError:
        return "unknown"
    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    try:
        limit, used = (int(read(Path(f"/sys/fs/cgroup/memory.{name}"))) for name in ("max", "current"))
        free, total = min(free, limit - used), min(total, limit)
    except (OSError, ValueError):
        pass  # no limit
    return f"{_gib(free)} free of {_gib(total)}"


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"
