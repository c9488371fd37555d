"""The viewer: movies found again and decoded, exact paths, and the page in a real browser."""

import asyncio
import gc
import http.client
import json
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("panel", reason="the extra `view` is not installed")

from blinking import blinking_movie

from larscope import LatentVAR, read_session
from larscope._cli.commands import app
from larscope._dynamics.var import lag_matrix
from larscope._errors import LarscopeError
from larscope._movies.session import ArrayMovie, Run, Session
from larscope._view.background import Background
from larscope._view.couplings import couplings_of, follow_path
from larscope._view.frames import Screen, changed_files, find_runs
from larscope._view.open_result import Exhibit
from larscope._view.server import make_server
from larscope.lasso import lasso

LENGTHS = (72, 90)


def write_movies(folder: Path) -> Path:
    """A session table of two recordings, of which the second run leaves out the first 10 frames."""
    folder.mkdir()
    for i, length in enumerate(LENGTHS):
        np.save(folder / f"movie-{i}.npy", blinking_movie(length, seed=i))
    table = folder / "session.csv"
    table.write_text(
        "run,path,condition,start,frame_rate\n<b>one</b>,movie-0.npy,familiar,0,10\ntwo,movie-1.npy,novel,10,10\n"
    )
    return table


def fit(session: Session, **settings) -> LatentVAR:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a short training
        return LatentVAR(latents="grid", order=2, window=32, penalty=0.002, **settings).fit(session)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_movies(tmp_path_factory.mktemp("view") / "movies")


@pytest.fixture(scope="module")
def model(table) -> LatentVAR:
    return fit(read_session(table), epochs=3)


@pytest.fixture(scope="module")
def result(model, table) -> Path:
    return model.save(table.parent.parent / "result")


@pytest.fixture(scope="module")
def exhibit(result) -> Exhibit:
    return Exhibit(result)


# movies


def test_every_frame_is_shown_beside_the_forecast_of_the_fit(model, exhibit, table):
    session = read_session(table)
    for run, forecast in enumerate(model.forecast(session)):
        observed = model._prepare_new(session).frames(run)
        for frame, image in enumerate(observed):
            stretch = exhibit.screen.render(run, frame)
            at = frame - stretch.start
            np.testing.assert_array_equal(stretch.observed[at], image)
            if frame < model.order:
                assert np.isnan(stretch.forecast[at]).all()
            else:
                np.testing.assert_allclose(stretch.forecast[at], forecast[frame - model.order], atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"pooling": "previous"}, {"batch_norm": "window"}, {"nan": "mask"}, {"nan": "interpolate"}],
    ids=lambda settings: str(next(iter(settings.values()))),
)
def test_forecasts_are_those_of_the_fit_in_every_setting(settings):
    movie = blinking_movie(80).astype(np.float32)
    if "nan" in settings:
        movie[40, 3, 3] = np.nan
    session = Session((Run("a", "x", ArrayMovie(movie)),))
    model = fit(session, epochs=1, **settings)
    screen = Screen(model, list(session))
    shown = np.concatenate(
        [screen.render(0, frame).forecast[frame - screen.range_of(0, frame)[0], None] for frame in range(80)]
    )
    [expected] = model.forecast(session)
    np.testing.assert_allclose(shown[2:], expected, atol=1e-5)
    assert np.isnan(expected[38]).all() == (settings.get("nan") == "mask")


def test_only_frames_that_are_looked_at_are_read_and_kept_frames_are_not_read_again(model, exhibit):
    class Watched(ArrayMovie):
        def read(self, start, stop):
            read.append((start, stop))
            return super().read(start, stop)

    read: list[tuple[int, int]] = []
    one = exhibit.screen.runs[0]
    screen = Screen(model, [Run("a", "x", Watched(one.movie.read(0, 72)))])
    assert screen.kept(0, 50) is None
    stretch = screen.render(0, 50)
    # and the frame before, whose pooling indices decode the first
    assert read == [(stretch.start - 1, stretch.start + len(stretch.observed))]
    assert len(stretch.observed) <= 16
    assert screen.kept(0, 50) is stretch is screen.render(0, 50)
    assert len(read) == 1


def test_a_movie_that_is_gone_is_named_and_found_through_a_session_table(model, result, table, tmp_path):
    moved = write_movies(tmp_path / "moved")
    path = table.parent / "movie-0.npy"
    path.rename(path.with_suffix(".away"))
    try:
        first, second = find_runs(model, result)
        assert isinstance(first, LarscopeError)
        assert str(path) in str(first)
        assert "--session" in str(first)
        assert second.path == table.parent / "movie-1.npy"
        assert [run.path.parent for run in find_runs(model, result, moved)] == [moved.parent] * 2
    finally:
        path.with_suffix(".away").rename(path)


def test_relative_paths_are_found_beside_the_result(model, result, table, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model, "runs_", model.runs_.assign(path=[f"movies/movie-{i}.npy" for i in range(2)]))
    assert all(isinstance(run, Run) for run in find_runs(model, result))


def test_another_movie_under_the_same_name_is_refused(model, result, tmp_path):
    other = write_movies(tmp_path / "other")
    np.save(other.parent / "movie-0.npy", blinking_movie(LENGTHS[0], seed=7))
    np.save(other.parent / "movie-1.npy", blinking_movie(LENGTHS[1] - 1, seed=1))
    first, second = find_runs(model, result, other)
    assert "must be the fitted movie: frame" in str(first)
    assert "must have the 80 frames of the fit; it has 79" in str(second)


def test_a_session_table_without_a_run_is_refused(model, result, tmp_path):
    table = write_movies(tmp_path / "less")
    table.write_text("\n".join(table.read_text().splitlines()[:2]))
    assert "run 'two' is not among <b>one</b>" in str(find_runs(model, result, table)[1])


def test_a_file_whose_content_has_changed_is_said(model, result, tmp_path):
    inputs = model.provenance_["inputs"]
    assert changed_files(find_runs(model, result), inputs) == []
    other = write_movies(tmp_path / "other")
    movie = np.load(other.parent / "movie-1.npy")
    movie[0, 0, 0] += 1  # before the run begins
    np.save(other.parent / "movie-1.npy", movie)
    [sentence] = changed_files(find_runs(model, result, other), inputs)
    assert str(other.parent / "movie-1.npy") in sentence


def test_the_demo_leaves_its_movies_for_the_viewer(tmp_path):
    from larscope._simulate.session import simulate_session

    session = simulate_session(n_runs=2, n_frames=60, frame_shape=(48, 48), seed=0)
    model = fit(session, epochs=1)
    folder = model.save(tmp_path / "demo")
    assert "made in memory" in str(find_runs(model, folder)[0])
    session.write(folder / "movies")
    assert all(isinstance(run, Run) for run in find_runs(model, folder))


# couplings


def test_couplings_are_all_coefficients_of_a_latent_strongest_first(model):
    dense = model.coef_[1]
    for latent in range(dense.shape[1]):
        table = couplings_of(model, 1, latent)
        own = np.count_nonzero(dense[:, latent, latent])
        assert len(table) == np.count_nonzero(dense[:, latent]) + np.count_nonzero(dense[:, :, latent]) - own
        for source, target, lag, coef in table.itertuples(index=False):
            assert dense[lag - 1, target, source] == coef
        assert (np.diff(np.abs(table["coef"])) <= 0).all()


@pytest.mark.parametrize("share", [0.9, 0.3, 0.05])
def test_the_path_gives_the_lasso_at_every_penalty(model, share):
    path = follow_path(model, 0, latent=3)
    penalty = share * path.penalties[0]
    series = torch.from_numpy(model.latents_[0]).double()
    mean, sigma = model.var_.mean_and_scale(series)
    scaled = (series - mean) / sigma
    free = torch.where(torch.arange(2 * series.shape[1]) % series.shape[1] == 3, 0.0, 1.0).double()
    coef = lasso(lag_matrix(scaled, 2), scaled[2:, 3], penalty * path.alpha_per_penalty, weights=free)
    table = path.at(penalty)
    found = np.zeros(len(coef))
    found[(table["lag"] - 1) * series.shape[1] + table["source"]] = table["coef"]
    np.testing.assert_allclose(found, coef.numpy(), atol=1e-8)
    assert (table["target"] == 3).all()


@pytest.mark.parametrize(
    "settings", [{}, {"own_weight": 1.0}, {"own_weight": 0.5, "max_distance": 1.0}, {"nan": "mask"}]
)
def test_the_path_passes_through_the_fit(settings):
    movies = [blinking_movie(72).astype(np.float32), blinking_movie(90, seed=1).astype(np.float32)]
    if "nan" in settings:
        movies[1][40] = np.nan
    runs = tuple(Run(f"run {i}", "x", ArrayMovie(movie)) for i, movie in enumerate(movies))
    model = fit(Session(runs), epochs=1, **settings)
    assert model.coef_.n_active[1] > 10
    for latent in range(model.latents_[0].shape[1]):
        path, every = follow_path(model, 1, latent), couplings_of(model, 1, latent)
        key = ["source", "target", "lag"]
        fitted = every[every["target"] == latent].set_index(key)["coef"].sort_index()
        pd.testing.assert_series_equal(
            path.at(model.penalty).set_index(key)["coef"].sort_index(),
            fitted,
            check_dtype=False,
            check_index_type=False,
            atol=1e-5,
        )


def test_events_are_told_where_the_active_set_changes(model):
    path = follow_path(model, 0, latent=3)
    assert path.last_event(1.01 * path.penalties[0]) is None
    penalty, events = path.last_event(path.penalties[0] * 0.9999)
    assert penalty == path.penalties[0]
    assert len(events) == 1
    assert events[0].endswith("appears")
    assert "latent 3 " not in events[0]  # its own past is free, so it was there before


def test_a_constant_latent_has_an_empty_path(model, monkeypatch):
    constant = model.latents_[0].copy()
    constant[:, 2] = 0.5
    monkeypatch.setattr(model, "latents_", [constant])
    assert len(follow_path(model, 0, latent=2).at(1e-9)) == 0


# background


class OneThread:
    """A page's document whose callbacks run when the test says so."""

    def __init__(self):
        self.callbacks: queue.Queue = queue.Queue()

    def add_next_tick_callback(self, callback):
        self.callbacks.put(callback)

    def tick(self):
        self.callbacks.get(timeout=5)()


def test_of_requests_that_pile_up_only_the_last_is_computed_and_shown():
    page, gate, said, computed, shown = OneThread(), threading.Event(), [], [], []
    with ThreadPoolExecutor(1) as executor:
        work = Background(page, executor, said.append)
        for number in range(4):
            work.ask(f"number {number}", lambda n=number: (gate.wait(5), computed.append(n), n)[-1], shown.append)
        assert work.busy
        gate.set()
        page.tick()
        assert shown == []  # the first was computed, and is not wanted any more
        page.tick()
    assert computed == [0, 3]
    assert shown == [3]
    assert said == ["number 0", "number 3", None]
    assert not work.busy


def test_what_is_forgotten_is_not_shown_and_errors_are():
    page, shown = OneThread(), []

    def fail():
        raise LarscopeError("no frame")

    with ThreadPoolExecutor(1) as executor:
        work = Background(page, executor, lambda what: None)
        work.ask("a", lambda: 1, shown.append)
        work.forget()
        page.tick()
        work.ask("b", fail, shown.append)
        page.tick()
        work.ask("c", lambda: 1 / 0, shown.append)
        with pytest.raises(ZeroDivisionError):
            page.tick()
    assert [str(item) for item in shown] == ["no frame"]
    assert not work.busy


# the server


@pytest.fixture(scope="module")
def url(exhibit):
    """The page, served from a thread."""
    started: queue.Queue = queue.Queue()

    def run() -> None:
        asyncio.set_event_loop(asyncio.new_event_loop())
        server = make_server(exhibit, 0)
        server.start()
        started.put(server)
        server.io_loop.start()
        server.io_loop.close(all_fds=True)

    thread = threading.Thread(target=run)
    thread.start()
    server = started.get(timeout=20)
    yield f"http://localhost:{server.port}/"

    def stop() -> None:
        server.stop()
        server.io_loop.stop()

    server.io_loop.add_callback(stop)
    thread.join(10)
    exhibit.close()


@pytest.mark.parametrize("path", ["", "report.html", "ws"])
@pytest.mark.parametrize("host", ["evil.com", "localhost.evil.com", "evil.com:{port}", "127.0.0.1.evil.com"])
def test_a_page_of_a_stranger_whose_name_leads_here_gets_nothing(url, result, path, host):
    port = int(url.split(":")[2].strip("/"))
    connection = http.client.HTTPConnection("localhost", port, timeout=20)
    connection.request("GET", f"/{path}", headers={"Host": host.format(port=port)})
    assert connection.getresponse().status == 403
    connection.close()


@pytest.mark.parametrize("host", ["localhost", "localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}"])
def test_this_machine_gets_the_report_by_any_of_its_own_names(url, result, host):
    port = int(url.split(":")[2].strip("/"))
    connection = http.client.HTTPConnection("localhost", port, timeout=20)
    connection.request("HEAD", "/report.html", headers={"Host": host.format(port=port)})
    assert connection.getresponse().status != 403
    connection.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # tornado leaves its socket open then
def test_a_taken_port_is_said(exhibit):
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        with pytest.raises(LarscopeError, match=r"its own port: \d+ is not available .* Pass another `--port`"):
            make_server(exhibit, taken.getsockname()[1])
    gc.collect()


def test_without_panel_the_command_says_what_to_install(result, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.setattr("larscope._cli.commands.find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["view", str(result)])
    assert done.exit_code == 2
    assert "pip install 'larscope[view]'" in done.stderr


@pytest.mark.posix
def test_the_command_serves_this_machine_only_until_ctrl_c(result):
    command = [sys.executable, "-m", "larscope", "view", str(result), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert line.startswith("Serving http://localhost:"), line + process.stderr.read()
        port = int(line.split(":")[2].split("/")[0])
        for host in ("localhost", socket.gethostname()):
            address = socket.gethostbyname(host)
            with socket.socket() as client:
                assert (client.connect_ex((address, port)) == 0) == address.startswith("127.")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert errors == ""


# the page, in a browser

FIND = """
const [css] = arguments, found = [];
const walk = (root) => root.querySelectorAll("*").forEach((element) => {
  if (element.matches(css)) found.push(element);
  if (element.shadowRoot) walk(element.shadowRoot);
});
walk(document);
return found;
"""
SAID = FIND.replace("return found;", "return found.map((element) => element.textContent);")


class Visit:
    """What a visitor sees and does; widgets are found through the shadow roots that they live in."""

    def __init__(self, browser):
        self.browser = browser

    def all(self, css):
        return self.browser.execute_script(FIND, css)

    def said(self, css="p"):
        return self.browser.execute_script(SAID, css)

    def sentence(self, start):
        """The paragraph that begins so, or ''."""
        return next((text for text in self.said() if text.startswith(start)), "")

    def wait_for(self, start, holds=lambda text: True, seconds=10):
        """The paragraph that begins so, once it `holds`."""
        end = time.monotonic() + seconds
        while not ((text := self.sentence(start)) and holds(text)):
            assert time.monotonic() < end, f"{start!r} not as expected: {text!r}, of {self.said()}"
            time.sleep(0.05)
        return text

    def wait_until(self, holds, seconds=10):
        """Go on once something holds."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, self.said()
            time.sleep(0.05)

    def slider(self, name):
        """The handle of a slider."""
        script = "return arguments[0].getRootNode().host.shadowRoot.textContent"
        return next(one for one in self.all(".noUi-handle") if f"{name}:" in self.browser.execute_script(script, one))

    def plot(self, name):
        """The data of a drawing's renderers."""
        return self.browser.execute_script(
            """
            const isList = (value) => ArrayBuffer.isView(value) || Array.isArray(value);
            const plain = (value) => isList(value) ? Array.from(value, plain) : value;
            const columns = ({data}) => Object.entries(data).map(([name, column]) => [name, plain(column)]);
            const {renderers} = Bokeh.documents[0].get_model_by_name(arguments[0]);
            return renderers.map(({data_source}) => Object.fromEntries(columns(data_source)));
            """,
            name,
        )

    def drawing(self, number):
        return self.all(".bk-Figure")[number]


@pytest.fixture
def page(visit, url):
    """Open the page, and hold it free of console errors and of requests to anywhere else."""

    def open_page(first="Frame ", **how):
        browser = visit(url, **how)
        opened.append(browser)
        seen = Visit(browser)
        seen.wait_for(first, seconds=20)
        seen.wait_for("Penalty ")
        return seen

    opened: list = []
    yield open_page
    for browser in dict.fromkeys(opened):
        errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert errors == []
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        elsewhere = [address for address in asked if not address.startswith((url, f"blob:{url}", "data:", "chrome:"))]
        assert asked
        assert elsewhere == []


def keys():
    from selenium.webdriver.common.keys import Keys

    return Keys


def test_scrubbing_shows_each_frame_its_forecast_and_the_residual(page, exhibit):
    from selenium.webdriver.support.ui import Select

    seen = page()
    handle = seen.slider("Frame")
    handle.send_keys(keys().HOME)
    assert "no forecast: it needs the 2 frames before" in seen.wait_for("Frame 0 ")
    before = seen.drawing(1).screenshot_as_png
    for _ in range(7):
        handle.send_keys(keys().ARROW_RIGHT)
    text = seen.wait_for("Frame 7 ")
    assert "run <b>one</b>; 0.70 s; frame 7 of movie-0.npy" in text  # a name is text, never markup
    stretch, mean = exhibit.screen.render(0, 7), exhibit.model.mean_frame_
    at = 7 - stretch.start
    for name, image in (
        ("observed", stretch.observed[at] - mean),
        ("forecast", stretch.forecast[at] - mean),
        ("residual", stretch.observed[at] - stretch.forecast[at]),
    ):
        np.testing.assert_allclose(seen.plot(name)[0][name][0], image.ravel(), atol=1e-6)
    assert seen.drawing(1).screenshot_as_png != before
    [play] = [button for button in seen.all("button") if button.text == "Play"]
    play.send_keys(keys().SPACE)
    seen.wait_for("Frame ", lambda text: int(text.split()[1]) >= 9)
    play.send_keys(keys().SPACE)
    time.sleep(0.5)
    stopped = seen.sentence("Frame ")
    time.sleep(0.5)
    assert seen.sentence("Frame ") == stopped
    Select(seen.all("select")[0]).select_by_visible_text("two (novel)")
    frame = int(stopped.split()[1])
    text = seen.wait_for("Frame ", lambda text: "of run two" in text)
    assert f"Frame {frame} (0 to 79) of run two; {frame / 10:.2f} s; frame {frame + 10} of movie-1.npy" in text


def test_clicking_on_the_image_chooses_a_latent_and_shows_its_couplings(page, exhibit):
    from selenium.webdriver.common.action_chains import ActionChains

    seen = page()
    shown = []
    for number, latent in ((0, 0), (3, 5)):  # on the movie, on the coupling map
        drawing = seen.drawing(number)
        row, column = exhibit.positions[latent]
        height, width = exhibit.model.mean_frame_.shape
        size = drawing.size
        x, y = ((place + 0.5) / length - 0.5 for place, length in ((column, width), (row, height)))
        ActionChains(seen.browser).move_to_element_with_offset(
            drawing, int(x * size["width"]), int(y * size["height"])
        ).click().perform()
        text = seen.wait_for(f"Latent {latent},")
        every = couplings_of(exhibit.model, 0, latent)
        own = (every["source"] == every["target"]).sum()
        incoming, outgoing = ((every[end] == latent).sum() - own for end in ("target", "source"))
        assert f"{incoming} incoming and {outgoing} outgoing coefficients" in text
        others = every[every["source"] != every["target"]]
        pairs = set(zip(others["source"], others["target"], strict=True))

        def drawn():
            return next(data for data in seen.plot("couplings") if "x0" in data)

        def drawn_pairs():
            arrows = drawn()  # once: the drawing may change between two looks at it
            return set(zip(arrows["source"], arrows["target"], strict=True))

        # the sentence changes before the drawing and the table do
        seen.wait_until(lambda: drawn_pairs() == pairs)  # noqa: B023
        seen.wait_until(lambda: len(seen.said("tbody tr")) == min(len(every), 12))  # noqa: B023
        seen.wait_until(lambda: seen.said("tbody tr") not in shown)
        arrows = drawn()
        assert all(
            (colour == "#D55E00") == (coef > 0) for colour, coef in zip(arrows["colour"], arrows["coef"], strict=True)
        )
        cells = seen.said("tbody tr")
        assert len(cells) == min(len(every), 12)
        shown.append(cells)
    assert shown[0] != shown[1]
    [incoming] = [button for button in seen.all("button") if button.text == "incoming"]
    incoming.click()
    seen.wait_until(lambda: set(seen.said("tbody td:first-child")) <= {"incoming", "own past"})


def test_moving_the_penalty_makes_coefficients_appear(page, exhibit):
    seen = page()
    latent = int(seen.sentence("Latent ").split()[1].rstrip(","))
    path = exhibit.path_of(0, latent)
    handle = seen.slider("Penalty")
    counts = []
    for key in (keys().HOME, keys().END):
        handle.send_keys(key)
        text = seen.wait_for("Penalty ", lambda text, before=tuple(counts): text not in before)
        time.sleep(0.3)
        text = seen.sentence("Penalty ")
        penalty, n_active = float(text.split()[1]), int(text.split(" active")[0].split()[-1])
        assert n_active == pytest.approx(len(path.at(penalty)), abs=1)  # the text rounds the penalty
        arrows = next(data for data in seen.plot("path-couplings") if "x0" in data)
        assert len(arrows["x0"]) <= n_active
        counts.append(n_active)
    assert counts[0] <= 2  # the latent's own past, which is not penalised
    assert counts[1] >= 5
    assert len(seen.plot("path")[0]["x"]) == len(path.source)
    [own] = [button for button in seen.all("button") if button.text == "The fit's own penalty"]
    own.click()
    seen.wait_for("Penalty 0.002 ")


def test_a_computation_is_under_way_visibly_and_scrubbing_goes_on(page, exhibit, monkeypatch):
    gate = threading.Event()

    def slow(run, latent):
        gate.wait(20)
        return follow_path(exhibit.model, run, latent)

    seen = page()
    monkeypatch.setattr(exhibit, "path_of", slow)
    number = next(one for one in seen.all("input") if one.get_attribute("type") == "text")
    before = int(seen.sentence("Latent ").split()[1].rstrip(","))
    latent = (before + 1) % len(exhibit.positions)
    number.send_keys(keys().END, keys().BACKSPACE, str(latent), keys().ENTER)
    try:
        seen.wait_for(f" Following the exact path of latent {latent}: 12 coefficients, 72 frames")
        assert any(spinner.is_displayed() for spinner in seen.all(".spinner"))
        seen.slider("Frame").send_keys(keys().END)
        seen.wait_for("Frame 71 ")
        assert seen.sentence(" Following")
    finally:
        gate.set()
    seen.wait_until(lambda: not seen.sentence(" Following"))


def test_two_visitors_do_not_share_what_they_look_at(page):
    seen = page()
    browser = seen.browser
    first = browser.current_window_handle
    seen.slider("Frame").send_keys(keys().HOME)
    seen.wait_for("Frame 0 ")
    browser.switch_to.new_window("tab")
    try:
        other = page()
        other.slider("Frame").send_keys(keys().END)
        other.wait_for("Frame 71 ")
        browser.switch_to.window(first)
        time.sleep(0.3)
        assert seen.sentence("Frame 0 ")
        browser.switch_to.window(next(one for one in browser.window_handles if one != first))
    finally:
        browser.close()
        browser.switch_to.window(first)


def test_the_page_fits_a_phone_in_light_and_dark_and_holds_the_report(page):
    seen = page(width=390)
    browser = seen.browser
    seen.wait_until(lambda: browser.execute_script("return document.documentElement.scrollWidth") <= 390)
    brightness = []
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": [feature]})
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        brightness.append(sum(int(part) for part in colour[4:-1].split(",")))
    assert brightness[0] > 600
    assert brightness[1] < 150
    browser.execute_script("document.querySelector('#report').scrollIntoView()")
    frame = browser.find_element("css selector", "iframe")
    Visit(browser).wait_until(lambda: frame.size["height"] > 1500)  # as high as the report
    browser.switch_to.frame(frame)
    try:
        assert "larscope" in browser.find_element("css selector", "h1").text
    finally:
        browser.switch_to.default_content()


def test_a_result_whose_movies_are_gone_still_opens(page, exhibit, monkeypatch):
    gone = LarscopeError("The movie of run '<i>' is not there.")
    monkeypatch.setattr(exhibit, "screen", Screen(exhibit.model, [gone, gone]))
    seen = page(first="The movie of run '<i>'")
    assert seen.said("[role=alert]") == [2 * str(gone)]
    assert seen.sentence("Latent ")
    assert set(seen.plot("observed")[0]["observed"][0]) == {None}  # no frame
