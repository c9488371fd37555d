"""Small sessions for every test, and the recorded movies where they are present."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

# The test runner's processes share the cores: more threads than cores wait for each other at every operation. Set
# before torch is imported, and inherited by the commands that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from blinking import blinking_movie, write_session
from hypothesis import settings

from larscope._cli.doctor import BROWSERS
from larscope._movies.session import ArrayMovie, Run, Session

# `make nightly` loads the second; a deadline would fail on a busy machine
settings.register_profile("quick", max_examples=50, deadline=None)
settings.register_profile("nightly", max_examples=2000, deadline=None)
settings.load_profile("quick")

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def recorded() -> Path:
    """The folder of recorded movies."""
    if not DATA.is_dir():
        pytest.skip(f"the recorded movies are not at {DATA}")
    return DATA


CHROMIUM_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("posix") and os.name != "posix":
        pytest.skip("signals are sent as POSIX does")


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Any]:
    """A headless chromium, started once; `get_log("browser")` has its console, `get_log("performance")` its traffic."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium with its chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*CHROMIUM_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture
def visit(browser) -> Callable[..., Any]:
    """Open a page in `browser`, so wide, light or dark, on screen or as printed; what was logged before is dropped."""

    def visit(url: str, width: int = 1280, height: int = 900, dark: bool = False, media: str = "screen") -> Any:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [scheme]})
        for kind in ("browser", "performance"):
            browser.get_log(kind)
        browser.get(url)
        return browser

    return visit


@pytest.fixture(scope="session")
def session() -> Session:
    """Four short runs under two conditions, of different lengths."""
    lengths = (72, 80, 64, 100)
    runs = [
        Run(f"run-{i}", ("familiar", "novel")[i % 2], ArrayMovie(blinking_movie(length, seed=i)))
        for i, length in enumerate(lengths)
    ]
    return Session(tuple(runs))


@pytest.fixture
def table(session, tmp_path) -> Path:
    """The session as files."""
    return write_session(session, tmp_path)


@pytest.fixture(scope="module")
def narrow_table(session, tmp_path_factory) -> Path:
    """The session as files, of 16 rows of pixels: for what is fitted many times."""
    narrow = [replace(run, movie=ArrayMovie(run.movie.array[:, :16])) for run in session]
    return write_session(Session(tuple(narrow)), tmp_path_factory.mktemp("movies"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A dask cluster of two workers on this machine, its dashboard at any free port: tests run side by side."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster
