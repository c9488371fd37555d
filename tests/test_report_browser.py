"""The report, opened in a real browser."""

import json
import warnings

import pytest

from larscope import LatentVAR
from larscope.report import write_report
from larscope.session import Session


@pytest.fixture(scope="module")
def page(session, tmp_path_factory) -> str:
    """The address of a report."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one epoch is far too short a training
        model = LatentVAR(order=2, window=32, penalty=0.002, epochs=1).fit(Session(session.runs, simulated=True))
    return write_report(model.save(tmp_path_factory.mktemp("browser") / "result")).as_uri()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_opens_without_a_complaint_and_without_the_network(visit, page, width, dark):
    browser = visit(page, width=width, dark=dark)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert page in sent
    assert not [url for url in sent if not url.startswith(("file:", "data:", "blob:"))]
