"""The report in a real browser: what a reader sees and does, at a desk and on a telephone, light and dark."""

import base64
import dataclasses
import json
import warnings

import numpy as np
import pytest

from larscope import LatentVAR
from larscope._movies.session import Session
from larscope._report.page import write_report
from larscope._results.comparison import write_record

HOSTILE = "</script><script>alert('run')</script><b>x</b> %{x}"
SECTIONS = ["summary", "data", "training", "dynamics", "conditions", "where", "penalty", "made"]


@pytest.fixture(scope="module")
def page(session, tmp_path_factory):
    """A report on simulated runs, one with a hostile name, whose conditions differ in the first pixels."""
    runs = (dataclasses.replace(session.runs[0], name=HOSTILE), *session.runs[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one epoch is far too short a training
        model = LatentVAR(latents="grid", order=2, window=32, penalty=0.002, epochs=1).fit(
            Session(runs, simulated=True)
        )
    folder = model.save(tmp_path_factory.mktemp("browser") / "result")
    record = model.record_comparison("familiar", "novel")
    record.dataset["difference_pvalue"][:6, :6] = 0.01
    write_record(record, folder)
    return write_report(folder)


@pytest.fixture
def at_desk(visit, page):
    """The page at a desk, in the light."""
    return visit(page.as_uri())


def find(browser, identity):
    return browser.find_element("id", identity)


def said(browser, identity) -> str:
    return find(browser, identity).text


def pixels(browser, identity) -> np.ndarray:
    """The bytes of a canvas: (height, width, 4)."""
    height, width, values = browser.execute_script(
        "const c = document.getElementById(arguments[0]);"
        "return [c.height, c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]",
        identity,
    )
    return np.array(values, dtype=np.uint8).reshape(height, width, 4)


def choose(browser, identity, text):
    """Choose the entry of a list that begins so."""
    options = find(browser, identity).find_elements("tag name", "option")
    next(option for option in options if option.text.startswith(text)).click()


def slide(browser, identity, value):
    """Move a slider to a value, as dragging does."""
    browser.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
        find(browser, identity),
        value,
    )


def explored(browser) -> dict:
    return json.loads(find(browser, "explored").get_attribute("textContent"))


def drawn_edges(browser) -> list[str]:
    """What is said of each edge that the network shows."""
    return browser.execute_script("return document.getElementById('network-plot').data.at(-1).text")


# ------------------------------------------------------------------------------------------------------ it opens


def test_is_small(page):
    assert page.stat().st_size < 10_000_000


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_opens_without_a_complaint_without_the_network_and_fits(visit, page, width, dark):
    browser = visit(page.as_uri(), width=width, dark=dark)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in sent
    assert not [url for url in sent if not url.startswith(("file:", "data:", "blob:"))]
    sizes = {element.get_attribute("id"): element.size for element in browser.find_elements("tag name", "section")}
    assert list(sizes) == SECTIONS
    assert all(size["height"] > 60 and size["width"] > 0.8 * min(width, 1100) for size in sizes.values())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    plots = browser.find_elements("css selector", ".js-plotly-plot")
    assert len(plots) == 1 + 1 + 3 + 2
    assert all(plot.size["height"] > 150 and plot.size["width"] <= width for plot in plots)


def test_is_legible_in_the_dark_and_follows_the_reader_s_choice(visit, page, browser):
    def shades():
        return browser.execute_script(
            "const s = getComputedStyle(document.body);"
            "const t = getComputedStyle(document.querySelector('#errors-plot .xtick text'));"
            "return [s.backgroundColor, s.color, t.fill].map(c => c.match(/[\\d.]+/g).slice(0, 3).map(Number))"
        )

    visit(page.as_uri())
    page_shade, text, tick = (np.mean(shade) for shade in shades())
    assert page_shade - text > 150
    assert page_shade - tick > 150
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": [scheme]})
    browser.execute_async_script("setTimeout(arguments[0], 300)")
    page_shade, text, tick = (np.mean(shade) for shade in shades())
    assert text - page_shade > 150
    assert tick - page_shade > 150


def test_names_from_strangers_are_text(at_desk):
    assert at_desk.get_log("browser") == []
    assert not at_desk.execute_script("return document.querySelector('b')")
    assert HOSTILE in said(at_desk, "data")
    ticks = [tick.text for tick in at_desk.find_elements("css selector", "#errors-plot .xtick text")]
    assert ticks[0] == HOSTILE[:17] + "\u2026"
    assert HOSTILE in said(at_desk, "movie-said")


def test_print_has_still_figures_for_what_is_explored(visit, page):
    browser = visit(page.as_uri(), media="print")
    assert not any(element.is_displayed() for element in browser.find_elements("css selector", ".explored"))
    fallbacks = browser.find_elements("css selector", ".fallback img")
    assert len(fallbacks) == 6
    assert all(image.is_displayed() and image.size["height"] > 80 for image in fallbacks)
    printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF")


def test_without_scripts_still_figures_stand_in(visit, page, browser):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        visit(page.as_uri())
        assert "Scripts are off" in browser.find_element("tag name", "header").text
        assert all(image.is_displayed() for image in browser.find_elements("css selector", ".fallback img"))
        assert not any(element.is_displayed() for element in browser.find_elements("css selector", ".explored"))
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


# ---------------------------------------------------------------------------------------------------- it is explored


def test_the_first_tab_skips_to_the_summary(at_desk):
    keys = pytest.importorskip("selenium.webdriver").Keys
    at_desk.switch_to.active_element.send_keys(keys.TAB)
    assert at_desk.switch_to.active_element.text == "Skip to the summary"
    at_desk.switch_to.active_element.send_keys(keys.ENTER)
    assert at_desk.switch_to.active_element.get_attribute("id") == "summary"


def test_everything_that_can_be_changed_can_be_reached_and_has_a_name(at_desk):
    controls = at_desk.find_elements("css selector", "select, input, button")
    assert len(controls) > 15
    for control in controls:
        assert control.accessible_name, control.get_attribute("outerHTML")
        at_desk.execute_script("arguments[0].focus({focusVisible: true})", control)
        assert at_desk.switch_to.active_element == control
        assert control.value_of_css_property("outline-style") == "solid"


def test_the_slider_moves_the_movie(at_desk):
    keys = pytest.importorskip("selenium.webdriver").Keys
    names = [f"movie-{name}" for name in ("observed", "reconstruction", "residual")]
    before = {name: pixels(at_desk, name) for name in names}
    assert all(image.shape == (24, 16, 4) and image[..., :3].std() > 3 for image in before.values())
    first = said(at_desk, "movie-said")
    find(at_desk, "movie-frame").send_keys(keys.ARROW_RIGHT * 5)
    clip = explored(at_desk)["movies"][0]
    assert said(at_desk, "movie-said").startswith(f"Frame {clip['frames'][5]} ")
    assert said(at_desk, "movie-said") != first
    assert all(not np.array_equal(pixels(at_desk, name), before[name]) for name in names)
    find(at_desk, "movie-frame").send_keys(keys.HOME)
    assert all(np.array_equal(pixels(at_desk, name), before[name]) for name in names)


def test_the_movie_plays_and_stops_and_another_run_can_be_chosen(at_desk):
    find(at_desk, "movie-play").click()
    at_desk.execute_async_script("setTimeout(arguments[0], 500)")
    assert int(find(at_desk, "movie-frame").get_property("value")) >= 1
    find(at_desk, "movie-play").click()
    stopped = said(at_desk, "movie-said")
    before = pixels(at_desk, "movie-observed")
    at_desk.execute_async_script("setTimeout(arguments[0], 400)")
    assert said(at_desk, "movie-said") == stopped
    choose(at_desk, "movie-run", "run-1")
    assert "run-1, novel" in said(at_desk, "movie-said")
    assert not np.array_equal(pixels(at_desk, "movie-observed"), before)


def test_the_network_is_filtered(at_desk):
    network = explored(at_desk)["network"]["conditions"][0]
    edges = [
        dict(zip(("coef", "lag", "target", "source"), edge, strict=True))
        for edge in zip(*(network[name] for name in ("coef", "lag", "target", "source")), strict=True)
    ]
    between = [edge for edge in edges if edge["source"] != edge["target"]]
    slide(at_desk, "network-strength", 0)
    assert len(drawn_edges(at_desk)) == len(between)
    assert said(at_desk, "network-said").startswith(f"{len(between)} of {len(between)} couplings shown")

    find(at_desk, "network-own").click()
    assert len(drawn_edges(at_desk)) == len(edges)
    find(at_desk, "network-own").click()

    choose(at_desk, "network-sign", "lowers")
    assert len(drawn_edges(at_desk)) == sum(edge["coef"] < 0 for edge in between) > 0
    assert all("coefficient -" in text for text in drawn_edges(at_desk))
    choose(at_desk, "network-sign", "both")

    choose(at_desk, "network-lag", "2")
    assert len(drawn_edges(at_desk)) == sum(edge["lag"] == 2 for edge in between)
    assert all("lag 2" in text for text in drawn_edges(at_desk))
    choose(at_desk, "network-lag", "all")

    largest = max(abs(edge["coef"]) for edge in between)
    slide(at_desk, "network-strength", 70)
    strong = [edge for edge in between if abs(edge["coef"]) >= 0.7**2 * largest]
    assert len(drawn_edges(at_desk)) == len(strong) < len(between)
    rows = at_desk.find_elements("css selector", "#network-table tbody tr")
    assert len(rows) == min(len(strong), 10)

    other = drawn_edges(at_desk)
    choose(at_desk, "network-condition", "novel")
    assert drawn_edges(at_desk) != other


def test_an_arrow_says_what_it_is(at_desk):
    actions = pytest.importorskip("selenium.webdriver").ActionChains
    find(at_desk, "network-own").click()  # circles: their places are known
    slide(at_desk, "network-strength", 0)
    plot = find(at_desk, "network-plot")
    at_desk.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
    network = explored(at_desk)["network"]
    edges = network["conditions"][0]
    own = next(i for i, pair in enumerate(zip(edges["source"], edges["target"], strict=True)) if pair[0] == pair[1])
    place = network["column"][edges["source"][own]], network["row"][edges["source"][own]]
    x, y = at_desk.execute_script(
        "const [plot, x, y] = arguments; const l = plot._fullLayout; const box = plot.getBoundingClientRect();"
        "return [box.x + l.xaxis._offset + l.xaxis.d2p(x), box.y + l.yaxis._offset + l.yaxis.d2p(y)]",
        plot,
        *place,
    )
    pointer = actions(at_desk, duration=10)
    pointer.w3c_actions.pointer_action.move_to_location(int(x), int(y))
    pointer.perform()
    hovered = at_desk.find_element("css selector", "#network-plot .hoverlayer").text
    assert f"({place[1]:g}, {place[0]:g}) to ({place[1]:g}, {place[0]:g}), lag" in hovered
    assert "coefficient" in hovered


def test_hovering_over_a_map_reads_pixel_latent_and_value(at_desk):
    actions = pytest.importorskip("selenium.webdriver").ActionChains
    before = said(at_desk, "maps-said")
    plot = at_desk.find_elements("css selector", "#maps-plots > div")[2]
    at_desk.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
    drag = plot.find_element("css selector", ".nsewdrag")
    actions(at_desk, duration=10).move_to_element_with_offset(
        drag, 20 - drag.size["width"] // 2, 20 - drag.size["height"] // 2
    ).perform()
    row, column = (float(find(at_desk, f"maps-{name}").get_property("value")) for name in ("row", "column"))
    maps = explored(at_desk)["maps"]
    i, j = maps["row"].index(row), maps["column"].index(column)
    after = said(at_desk, "maps-said")
    assert after != before
    assert after.startswith(f"Row {row:g}, column {column:g}, latent {maps['latents']['index'][i // 8][j // 8]} at (")
    for panel in maps["panels"]:
        values = np.frombuffer(base64.b64decode(panel["values"]["float32"]), "<f4").reshape(24, 16)
        read = float(after.partition(f"{panel['name']} ")[2].split("; ")[0].split(" (")[0])
        assert read == pytest.approx(values[i, j], rel=0.01)
    assert "(p = " in after
    hovered = plot.find_element("css selector", ".hoverlayer").text
    assert f"row {row:g}, column {column:g}" in hovered
    assert "latent" in hovered


def test_a_map_is_read_with_the_keyboard_and_its_significant_part_is_outlined(at_desk):
    find(at_desk, "maps-row").clear()
    find(at_desk, "maps-row").send_keys("3")
    find(at_desk, "maps-column").clear()
    find(at_desk, "maps-column").send_keys("2")
    assert said(at_desk, "maps-said").startswith("Row 3, column 2, latent 0 at (3.5, 3.5): familiar ")
    assert "(p = 0.01)" in said(at_desk, "maps-said")
    outlined = [
        len(plot.find_elements("css selector", ".contourlines path, .contourlevel path"))
        for plot in at_desk.find_elements("css selector", "#maps-plots > div")
    ]
    assert outlined[:2] == [0, 0]
    assert outlined[2] > 0


def test_another_measure_is_drawn(at_desk):
    def heights():
        return at_desk.execute_script("return document.getElementById('errors-plot').data[0].y")

    first = heights()
    choose(at_desk, "errors-measure", "active")
    assert heights() != first
    shown = next(one for one in explored(at_desk)["errors"]["measures"] if "active" in one["label"])
    assert heights() == [shown["values"][run] for run in (0, 2)]


def test_tables_are_sorted(at_desk):
    table = at_desk.find_elements("css selector", "table[data-sortable]")[0]

    def frames():
        return [
            int(row.find_elements("tag name", "td")[-1].text) for row in table.find_elements("css selector", "tbody tr")
        ]

    heading = table.find_elements("css selector", "th button")[-1]
    heading.click()
    assert frames() == [64, 72, 80, 100]
    heading.click()
    assert frames() == [100, 80, 72, 64]
