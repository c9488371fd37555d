"""A session, a fit and a comparison in Python, in a few lines and in the report's figures."""

import warnings

import matplotlib
import pytest
from matplotlib.axes import Axes

from larscope import LarscopeError, LatentVAR, Run, Session, simulate_session


@pytest.fixture(scope="module")
def session():
    return simulate_session(n_runs=4, n_frames=200, frame_shape=(48, 48), seed=0)


@pytest.fixture(scope="module")
def model(session):
    return LatentVAR(order=2).fit(session)


@pytest.fixture
def pyplot():
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def test_a_session_says_what_it_holds(session):
    assert repr(session) == ("SimulatedSession(4 runs: 2 familiar, 2 novel; 800 frames of 48 x 48 pixels, simulated)")
    assert repr(Session(session.runs[:1])) == "Session(1 run: 1 familiar; 200 frames of 48 x 48 pixels)"
    assert "<td>simulated-04</td>" in session._repr_html_()


def test_names_from_strangers_are_text_in_a_notebook(session):
    run = Run("<script>", "<b>", session.runs[0].movie)
    assert not {"<script>", "<b>"} & set(Session((run,))._repr_html_().replace(">", "> ").split())


def test_a_model_says_on_what_it_was_fitted_and_how_good_it_is(model):
    assert repr(LatentVAR(order=2)) == "LatentVAR(order=2)"
    said = repr(model)
    assert said.startswith("LatentVAR(order=2), fitted to 4 simulated runs (2 familiar and 2 novel): ")
    assert f"{len(model.footprints_)} cells" in said
    assert f"{(model.couplings_['qvalue'] <= 0.1).sum()} coupling" in said
    heldout = model.scores_[["var_error_heldout", "own_error_heldout"]].mean()
    assert said.endswith("held-out error {:.3f} (own past alone {:.3f})".format(*heldout))
    assert "Is the planted truth found?" in model._repr_html_()
    assert "not fitted" in LatentVAR()._repr_html_()


def test_a_comparison_says_its_p_and_no_interval_where_it_cannot_tell(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two runs against two cannot differ
        said = repr(model.compare("familiar", "novel"))
    assert said.startswith("Comparison(familiar against novel: p = ")
    assert "smallest possible 0.33 (6 labelings)" in said
    assert "interval" not in said


@pytest.mark.parametrize(("name", "n"), [("cells", 1), ("network", 2), ("maps", 2), ("traces", None)])
def test_the_figures_of_the_report_are_axes(model, pyplot, name, n):
    panels = getattr(model, f"plot_{name}")()
    assert all(isinstance(axes, Axes) for axes in panels)
    assert len(panels) == n or n is None
    assert panels[0].figure.number in pyplot.get_fignums()
    assert panels[0].has_data()


def test_a_grid_has_no_cells_to_draw(session):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one epoch is far too short a training
        grid = LatentVAR(latents="grid", order=2, window=32, penalty=0.002, epochs=1).fit(session)
    with pytest.raises(LarscopeError, match="latents='cells'"):
        grid.plot_cells()
    assert "places" in repr(grid)
