"""Compiled code that is kept: what is damaged or cannot be written is compiled again, and said once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from larscope._compute.compiler import compiled, describe_cache

KERNELS = """
from larscope._compute.compiler import compiled

@compiled
def double(x):
    return 2 * x

@compiled
def quadruple(x):
    return double(double(x))
"""

CALLING = """
import shutil, sys, warnings
from pathlib import Path
warnings.simplefilter("always")
from kernels import double, quadruple
if sys.argv[1:] == ["vanishing"]:
    folder = Path(double._cache.cache_path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("not a folder any more")
print(double(3.0), quadruple(3.0), sum(double.stats.cache_hits.values()) + sum(quadruple.stats.cache_hits.values()))
"""


@pytest.fixture
def call(tmp_path):
    (tmp_path / "kernels.py").write_text(KERNELS)

    def call(cache: Path, *how: str) -> tuple[str, str]:
        """Call two kernels, one of which calls the other, in a new process; return what it prints and warns of."""
        paths = [str(tmp_path), *filter(None, sys.path)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "NUMBA_CACHE_DIR": str(cache)}
        done = subprocess.run([sys.executable, "-c", CALLING, *how], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), done.stderr

    return call


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_damaged_code_is_made_again_and_said_once(call, tmp_path):
    cache = tmp_path / "cache"
    assert call(cache) == ("6.0 12.0 0", "")
    assert call(cache)[0] == "6.0 12.0 2"
    for damage, suffix in ((empty, ".nbi"), (empty, ".nbc"), (truncate, ".nbi"), (truncate, ".nbc"), (flip, ".nbc")):
        files = list(cache.rglob(f"*{suffix}"))
        assert len(files) == 2
        for file in files:
            damage(file)
        printed, warned = call(cache)
        assert printed == "6.0 12.0 0"
        assert warned.count("UserWarning") == 1
        assert str(cache) in warned
        assert call(cache) == ("6.0 12.0 2", "")


def test_a_place_that_cannot_be_used_any_more_is_said_once(call, tmp_path):
    printed, warned = call(tmp_path / "cache", "vanishing")
    assert printed == "6.0 12.0 0"
    assert warned.count("UserWarning") == 1
    assert str(tmp_path / "cache") in warned


def test_where_code_is_kept_is_said(tmp_path, monkeypatch):
    assert describe_cache().startswith("kept in ")

    def find_nowhere(function):
        raise RuntimeError("no locator available")

    with monkeypatch.context() as patch:
        patch.setattr("larscope._compute.compiler._MachineCode", find_nowhere)
        assert "no folder for it can be written. Set NUMBA_CACHE_DIR" in describe_cache()
        assert compiled(abs_of)(-2.0) == 2.0

    def refuse(locator):
        raise PermissionError("read-only")

    monkeypatch.setattr("numba.core.caching._CacheLocator.ensure_cache_path", refuse)
    assert "made anew by every process: " in describe_cache()


def abs_of(x):
    return abs(x)
