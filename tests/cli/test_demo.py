"""The demo finds what README and docs say that it finds."""

from pathlib import Path

import pytest

from larscope import LatentVAR, simulate_session
from larscope._report.finding import verdict_on
from larscope._results.folder import Result

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_line_of_the_demo_is_that_of_the_pages(page):
    session = simulate_session(n_runs=8, n_frames=384, frame_shape=(96, 64), seed=0)
    model = LatentVAR(seed=0).fit(session)
    found = verdict_on(Result(model.settings.as_dict(), model.provenance_, model.log_, {}, model.dataset_), [])
    counted = found[0].sentence.split(". ")[0]
    assert "planted connections found" in counted
    assert f"{counted}." in " ".join((ROOT / page).read_text(encoding="utf-8").split())
