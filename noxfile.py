"""What `make` does, for systems without it: `pip install nox`, then `nox` (lint and tests) or `nox -s docs`."""

import nox

nox.options.sessions = ["lint", "test"]
nox.options.default_venv_backend = "uv|virtualenv"

NUMERICAL = [f"tests/{room}" for room in ("lasso", "dynamics", "network", "statistics", "fit")]


def install(session: nox.Session) -> None:
    """Install larscope with all its parts, in the versions that the suite was last run with."""
    # torch comes first and alone: constraints.txt names the version that the others must then leave in place
    session.install("--constraint", "constraints.txt", "torch")
    session.install("--constraint", "constraints.txt", "--editable", ".[dev]")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and types."""
    install(session)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")


@nox.session
def test(session: nox.Session) -> None:
    """Run the test suite; what follows `--` goes to pytest."""
    install(session)
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session
def nightly(session: nox.Session) -> None:
    """Run the slow tests too; then the numerical ones with the instructions of older processors."""
    install(session)
    everything = ("-m", "slow or not slow", "--hypothesis-profile", "nightly", "--timeout", "3600")
    session.run("pytest", "-n", "2", *everything)
    capped = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    session.run("pytest", "-n", "2", *NUMERICAL, env=capped)


@nox.session(venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """Run the test suite on the oldest versions that pyproject.toml allows."""
    session.install("--resolution", "lowest-direct", "--editable", ".[dev]")
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, into site/; any warning is an error."""
    install(session)
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})
