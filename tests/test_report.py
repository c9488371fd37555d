import dataclasses
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest

from larscope import LatentVAR
from larscope.report import write_report
from larscope.report.figures import FIGURES
from larscope.report.words import describe, loss_change
from larscope.result import read_result
from larscope.session import Session

HOSTILE = "<script>alert('run')</script>"
HOSTILE_CONDITION = r"$\foo$ [/x]"


@pytest.fixture(scope="module")
def folder(session, tmp_path_factory):
    """A result whose first run has a hostile name, of a session that says it is simulated."""
    runs = (dataclasses.replace(session.runs[0], name=HOSTILE, condition=HOSTILE_CONDITION), *session.runs[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LatentVAR(order=2, window=32, penalty=0.002, epochs=1).fit(Session(runs, simulated=True))
    return model.save(tmp_path_factory.mktemp("report") / "result")


@pytest.fixture(scope="module")
def page(folder):
    return write_report(folder).read_text(encoding="utf-8")


class Outside(HTMLParser):
    """Collects everything a page would fetch."""

    def __init__(self):
        super().__init__()
        self.fetched = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href") and not value.startswith("data:"):
                self.fetched.append(value)


def test_is_one_file_that_fetches_nothing(page):
    parser = Outside()
    parser.feed(page)
    assert parser.fetched == []
    assert "url(" not in page
    assert len(page) < 10_000_000


def test_names_from_strangers_are_text(page):
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_says_that_the_data_are_simulated(page, folder):
    assert "These data are <strong>simulated</strong>" in page
    assert describe(read_result(folder))[0].startswith("Simulated data: 4 runs")


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_written_and_name_their_axes(name, folder, page):
    assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert f'<figure id="{name}">' in page
    figure = FIGURES[name][0](read_result(folder))
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert any(axes.get_xlabel() for axes in panels)
    assert any(axes.get_ylabel() for axes in panels)


def test_holds_the_numbers_of_every_run(page, folder):
    data = read_result(folder).dataset
    for value in data["forecast_error"].to_numpy():
        assert f"{value:.3e}" in page
    assert len(re.findall(r"<tr><td>", page)) == 4


def test_words_agree_with_the_numbers(folder):
    result = read_result(folder)
    data, training, errors, dynamics = describe(result)
    assert rf"1 {HOSTILE_CONDITION}, 2 novel, 1 familiar" in data
    assert "316 frames of 24 x 16 pixels, 6 latents" in data
    assert "9 steps" in training
    assert f"{result.dataset['var_explained'].to_numpy().mean():.0%}" in errors
    assert f"{result.dataset['n_active'].to_numpy().mean():.0f} active coefficients of 72" in dynamics


def test_loss_change_compares_the_last_two_fifths(folder):
    result = read_result(folder)
    log = [{"step": i, "loss": loss} for i, loss in enumerate([9.0] * 30 + [4.0] * 10 + [3.0] * 10)]
    assert loss_change(dataclasses.replace(result, log=log)) == pytest.approx(-0.25)
    settled = dataclasses.replace(result, log=[{"step": i, "loss": 1.0} for i in range(50)])
    assert "has levelled off" in describe(settled)[1]
    assert "train longer" in describe(dataclasses.replace(result, log=log))[1]


def test_a_report_can_be_written_again(folder):
    before = read_result(folder)
    assert write_report(folder).is_file()
    assert np.array_equal(read_result(folder).dataset["coef"], before.dataset["coef"])
    assert not [path for path in folder.rglob("*writing*")]
