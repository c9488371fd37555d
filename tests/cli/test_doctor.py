"""`larscope doctor`: says what is there, and the command for what is not, also where torch is broken."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

import larscope
from larscope._cli import doctor
from larscope._cli.commands import app
from larscope._cli.doctor import Finding, describe, examine, try_in_process

REQUIRES = [
    "numpy>=1.26",
    "torch>=2.13",
    "pynwb>=3.1 ; extra == 'nwb'",
    "h5py>=3.0 ; extra == 'nwb'",
    "nowhere-to-be-found>=2 ; extra == 'zarr'",
    "tomli>=1 ; python_version < '3'",
]


@pytest.fixture
def installed(monkeypatch):
    """Decide what larscope requires and which versions are installed, and try no import."""

    def pretend(requirements=REQUIRES, **versions):
        def find(name):
            if versions.get(name, "") is None:
                raise PackageNotFoundError(name)
            return versions.get(name) or version(name)

        class Metadata:
            @staticmethod
            def get_all(name):
                assert name == "Provides-Extra"
                return ["nwb", "zarr"]

        monkeypatch.setattr(doctor, "requires", lambda name: requirements)
        monkeypatch.setattr(doctor, "metadata", lambda name: Metadata)
        monkeypatch.setattr(doctor, "version", find)

    monkeypatch.setattr(doctor, "_examine_computing", list)
    return pretend


def find(findings, name) -> Finding:
    [found] = [finding for finding in findings if finding.name == name]
    return found


def test_what_is_there_is_said_with_its_version(installed):
    installed()
    findings = examine()
    assert find(findings, "numpy").value == version("numpy")
    assert find(findings, "larscope").value.startswith(larscope.__version__)
    assert find(findings, "Python").value == f"{platform.python_version()}, {sys.executable}"
    assert find(findings, "nwb").value == "`larscope export --nwb`: there"
    assert not any(finding.broken for finding in findings)
    assert not any(finding.name == "tomli" for finding in findings)  # not for this Python


def test_the_command_installs_exactly_what_an_optional_part_lacks(installed):
    installed(pynwb=None, h5py="2.9")
    found = find(examine(), "nwb")
    assert found.value == "`larscope export --nwb`: pynwb: missing; h5py: 2.9, needs >=3.0"
    assert shlex.split(found.command) == [sys.executable, "-m", "pip", "install", "pynwb>=3.1", "h5py>=3.0"]
    assert not found.broken
    missing = find(examine(), "zarr")
    assert shlex.split(missing.command)[-1] == "nowhere-to-be-found>=2"


def test_pip_takes_the_command(installed):
    installed(pynwb=None)
    command = [*shlex.split(find(examine(), "nwb").command), "--dry-run", "--no-deps", "--no-index", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # it is here: nothing to install


@pytest.mark.parametrize("installed_version", [None, "1.0"])
def test_a_needed_package_that_is_missing_or_old_makes_the_command_fail(installed, installed_version):
    installed(torch=installed_version)
    found = find(examine(), "torch")
    assert found.broken
    assert shlex.split(found.command)[-1] == "torch>=2.13"
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 2
    assert "! torch" in done.stdout
    assert "larscope cannot compute here" in done.stderr


def test_source_that_is_not_installed_is_said(installed, monkeypatch):
    installed()

    def none(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", none)
    assert "runs from its source" in find(examine()[3:], "larscope").value


def run_doctor(tmp_path, **files):
    """Run the command where the named modules are replaced, in a process of its own."""
    for name, code in files.items():
        (tmp_path / f"{name}.py").write_text(code)
    source = str(Path(larscope.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), source]), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-m", "larscope", "doctor"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
    )


def test_says_what_torch_says(tmp_path):
    done = run_doctor(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    threads = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("  threads")]
    assert threads == [str(torch.get_num_threads())]
    assert f"torch {version('torch')}" in " ".join(done.stdout.split())
    for word in ("device", "BLAS", "memory", "disk", "compiler", str(tmp_path)):
        assert word in done.stdout


A_GPU = """
from types import SimpleNamespace as Of
cuda = Of(device_count=lambda: 2, get_device_properties=lambda i: Of(name=f"GPU {i}", total_memory=80 * 2**30))
version, __config__ = Of(cuda="13.0"), Of(show=lambda: "Build settings: BLAS_INFO=mkl, CUDA_VERSION=13.0")
def ones(*shape):
    import numpy
    return numpy.ones(shape)
def get_num_threads():
    return 7
"""


def test_names_the_devices(tmp_path):
    """A stand-in for torch on a machine with two GPUs."""
    done = run_doctor(tmp_path, torch=A_GPU)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  ")]
    assert ["device", "GPU 0, 80 GiB; GPU 1, 80 GiB"] in lines
    assert ["CUDA", "13.0"] in lines
    assert ["threads", "7"] in lines
    assert ["BLAS", "mkl in torch"] in lines


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ImportError('libcudart.so.12: cannot open shared object file')", "libcudart.so.12: cannot open"),
        pytest.param("import os; os.kill(os.getpid(), 4)", "it was killed by signal 4", marks=pytest.mark.posix),
        ("raise ModuleNotFoundError(\"No module named 'torch'\")", "No module named 'torch'"),
    ],
)
def test_works_where_torch_does_not(tmp_path, code, message):
    done = run_doctor(tmp_path, torch=code)
    assert done.returncode == 2
    text = " ".join(done.stdout.split())
    assert "! torch does not work:" in text
    assert message in text
    assert f"{shlex.quote(sys.executable)} -m pip install torch" in done.stdout
    assert "numba" in text
    assert "Traceback" not in done.stderr


def test_an_answer_that_does_not_come_is_said():
    assert try_in_process("import time; time.sleep(60)", timeout=0.2)[1] == "it did not answer within 0 s"


def test_lines_fit_a_terminal_and_commands_are_whole():
    command = f"/a/very/long/path/to/python -m pip install {'package ' * 20}".strip()
    findings = [
        Finding("Packages", "numpy", "1"),
        *(Finding("Packages", f"package-{i}", "1.2.3") for i in range(30)),
        Finding("Packages", "torch", "missing", command, broken=True),
        Finding("Optional parts", "nwb", "word " * 40, command),
    ]
    lines = describe(findings).splitlines()
    assert sum(line.strip() == command for line in lines) == 2
    assert all(len(line) <= 80 for line in lines if line.strip() != command)
    assert [line for line in lines if line and not line.startswith(" ")][:1] == ["Packages"]


def test_memory_is_that_of_the_container_where_it_allows_less(monkeypatch):
    machine = SimpleNamespace(available=16 << 30, total=32 << 30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: machine)
    files = {"/sys/fs/cgroup/memory.max": str(4 << 30), "/sys/fs/cgroup/memory.current": str(1 << 30)}
    assert doctor._memory(lambda path: files[path.as_posix()]) == "3.0 GiB free of 4.0 GiB"
    files["/sys/fs/cgroup/memory.max"] = "max"
    assert doctor._memory(lambda path: files[path.as_posix()]) == "16.0 GiB free of 32.0 GiB"

    def none(path):
        raise FileNotFoundError(path)

    assert doctor._memory(none) == "16.0 GiB free of 32.0 GiB"  # a system without cgroups
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert doctor._memory(none) == "unknown"


def test_all_cores_are_usable_where_the_system_does_not_say_which(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert doctor._cores() == "6 usable of 6"


def test_commands_are_quoted_as_the_shell_of_the_system_does(monkeypatch):
    monkeypatch.setattr(sys, "executable", "C:/Program Files/python.exe")
    monkeypatch.setattr("platform.system", lambda: "Windows")
    assert doctor._install(["numpy>=2"]) == '"C:/Program Files/python.exe" -m pip install numpy>=2'
