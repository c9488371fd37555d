"""Bytes flipped, overwritten, deleted, inserted: frames of a well-formed reading or a LarscopeError, nothing else."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from corrupt_movies import corrupt
from written_movies import KINDS

N_MUTATIONS = 500
MOST_MEMORY = 600 << 10
"""Kilobytes: a damaged header may ask for any number of frames."""


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_refused_or_read_as_something_well_formed(tmp_path: Path, name: str) -> None:
    outcomes = Counter(corrupt(tmp_path, name, number) for number in range(25))
    assert set(outcomes) <= {"refused", "frames"}
    assert outcomes["refused"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_damage_neither_crashes_nor_hangs_nor_exhausts_the_memory(tmp_path: Path, name: str) -> None:
    """In a process of its own, which a decoder that crashes takes down."""
    command = [sys.executable, Path(__file__).with_name("corrupt_movies.py"), tmp_path, name, "0", str(N_MUTATIONS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env={**os.environ})
    *lines, peak = done.stdout.splitlines()
    assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])
    outcomes = Counter(line.split(" ", 1)[1] for line in lines)
    assert outcomes.total() == N_MUTATIONS
    assert set(outcomes) <= {"refused", "frames"}, outcomes
    assert int(peak.split()[1]) < MOST_MEMORY
