"""What was found, said first: the verdict, its picture and its tables."""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from larscope import LatentVAR, simulate_session
from larscope._movies.session import Session
from larscope._report.comparison import COMPARISON_FIGURES, describe_comparison
from larscope._report.finding import finding_picture, planted_in, plot_finding, verdict_of, verdict_on
from larscope._report.page import write_report
from larscope._results.folder import Result, read_result


@pytest.fixture(scope="module")
def simulated():
    return simulate_session(n_runs=4, n_frames=300, frame_shape=(64, 48), seed=1)


@pytest.fixture(scope="module")
def model(simulated):
    return LatentVAR(order=5).fit(simulated)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return model.save(tmp_path_factory.mktemp("finding") / "result")


@pytest.fixture
def result(folder) -> Result:
    return read_result(folder)


@pytest.fixture(scope="module")
def record(model):
    """A comparison of two runs with two: its smallest p is 1/3."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.record_comparison("familiar", "novel")


def line(result, question):
    return next(one for one in verdict_on(result, []) if question in one.question)


def test_planted_pairs_are_those_of_cells_at_their_places(result, simulated):
    data, truth = result.dataset, simulated.truth
    centres = np.stack([data["latent_row"], data["latent_column"]], axis=1)
    planted = np.concatenate([np.argwhere(truth.couplings[name].any(0))[:, ::-1] for name in truth.couplings])
    found = np.stack([data["planted_source"], data["planted_target"]], axis=1)
    assert found.shape == planted.shape
    assert (found >= 0).any()
    there = found >= 0
    assert np.linalg.norm(centres[found[there]] - truth.positions[planted[there]], axis=1).max() < 2


def test_the_first_line_counts_what_was_planted(result, model):
    first = verdict_on(result, [])[0]
    kept = model.couplings_[model.couplings_["qvalue"] <= 0.1]
    said = []
    for condition, pairs in planted_in(result.dataset).items():
        rows = kept[kept["condition"] == condition]
        there = set(zip(rows["source"], rows["target"], strict=True))
        said.append((len(there & pairs), len(pairs), len(there - pairs)))
    (right, of, wrong), (right_novel, *_) = said
    assert first.sentence.startswith(f"{right} of {of} planted connections found in familiar, {wrong} other")
    assert f"{right_novel} of {of} in novel" in first.sentence
    assert right > 0


def test_a_planted_connection_that_was_not_found_is_amber(result):
    result.dataset["coupling_qvalue"][:] = 1.0
    assert line(result, "planted truth").standing == "caution"
    assert line(result, "planted truth").sentence.startswith("0 of ")
    assert line(result, "cells forecast each other").standing == "unknown"
    assert not [one for one in verdict_on(result, []) if "again" in one.question]


@pytest.mark.parametrize(
    ("factor", "standing", "said"), [(1.0, "unknown", "add nothing"), (0.9, "caution", "by 10.0 %")]
)
def test_own_past_stands_beside_the_forecast(result, factor, standing, said):
    """Four runs of four might get better by chance with a probability of 1/16, so four are no green light."""
    result.dataset["own_error_heldout"][:] = 0.5
    result.dataset["var_error_heldout"][:] = 0.5 * factor
    found = line(result, "own past")
    assert found.standing == standing
    assert said in found.sentence
    assert "0.500 with each cell's own past alone" in found.sentence


def test_replication_counts_runs_beside_chance(result):
    result.dataset["coupling_qvalue"][:] = 0.0
    result.dataset["coupling_n_runs"][:] = 1
    result.dataset["coupling_n_runs"][0] = 2
    n = result.dataset.sizes["coupling"]
    found = line(result, "again")
    assert found.standing == "caution"
    assert found.sentence.startswith(f"1 of {n} couplings")
    assert "by chance alone" in found.sentence


def test_one_run_a_condition_shows_no_replication(result):
    result.dataset["condition"][:] = ["a", "b", "c", "d"]
    result.dataset["coupling_condition"][:] = "a"
    result.dataset["coupling_qvalue"][:] = 0.0
    assert line(result, "again").standing == "unknown"


def test_a_design_that_cannot_tell_gets_no_interval_and_no_most(record):
    found = verdict_of(record)
    assert found.standing == "unknown"
    assert "cannot tell: p is at least 0.33, whatever the data. Four runs of each condition" in found.sentence
    said = " ".join(describe_comparison(record))
    assert "too few units for an interval" in said
    assert "95 %" not in said
    assert "most significant" not in said


def test_a_difference_is_said_with_its_size(record):
    tests = {name: {**test, "min_pvalue": 0.029, "warnings": []} for name, test in record.summary["tests"].items()}
    tests["coupling"]["pvalue"], tests["swap"]["effect_size"] = 0.029, 4.3
    found = verdict_of(dataclasses.replace(record, summary={**record.summary, "tests": tests}))
    assert found.standing == "good"
    assert "Familiar runs are forecast 4.3 % worse with the couplings of novel runs" in found.sentence
    tests["coupling"]["warnings"] = ["Runs vary more."]
    found = verdict_of(dataclasses.replace(record, summary={**record.summary, "tests": tests}))
    assert found.standing == "caution"


def test_the_page_begins_with_the_verdict_and_its_picture(folder, model):
    page = write_report(folder).read_text(encoding="utf-8")
    assert page.index("planted connections found") < page.index("figures-finding") < page.index("In numbers")
    assert page.index("figures-finding") < page.index("figures-mean_frame")
    edges, cells = pd.read_csv(folder / "edges.csv"), pd.read_csv(folder / "cells.csv")
    names = ["condition", "source", "target", "lag", "n_runs"]
    pd.testing.assert_frame_equal(edges[names], model.couplings_[names], check_dtype=False)
    assert (edges["of_runs"] == 2).all()
    assert len(cells) == len(model.footprints_)
    beyond = edges[edges["qvalue"] <= 0.1].drop_duplicates(["source", "target"])
    assert cells["n_outgoing"].sum() == cells["n_incoming"].sum() == len(beyond)
    assert (cells["n_outgoing"].to_numpy()[beyond["source"]] > 0).all()


def test_places_of_a_grid_are_no_cells(session):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one epoch is far too short a training
        model = LatentVAR(latents="grid", order=2, window=32, penalty=0.002, epochs=1).fit(Session(session.runs))
    result = Result({**model.settings.as_dict()}, model.provenance_, model.log_, {}, model.dataset_)
    assert finding_picture(result) is None
    said = [f"{one.question} {one.sentence}" for one in verdict_on(result, [])]
    assert any("place" in one for one in said)
    assert not any(" cell" in one for one in said)
    assert line(result, "training").standing in ("caution", "unknown")


def is_clipped(figure: Figure) -> bool:
    """Say whether a mark, a legend or a text lies beyond the figure's edge."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box, (width, height) = figure.get_tightbbox(canvas.get_renderer()), figure.get_size_inches()
    return min(box.x0, box.y0) < -0.01 or box.x1 > width + 0.01 or box.y1 > height + 0.01


def test_what_is_beyond_the_edge_is_seen():
    figure = Figure(figsize=(2, 2))
    figure.text(0.9, 0.5, "a long text at the edge")
    assert is_clipped(figure)


def test_no_text_of_the_picture_is_clipped(result):
    assert not is_clipped(plot_finding(result.dataset))


@pytest.mark.parametrize("name", COMPARISON_FIGURES)
def test_no_text_of_a_comparison_is_clipped(record, name):
    assert not is_clipped(COMPARISON_FIGURES[name][0](record))


def test_without_couplings_the_picture_shows_the_cells_alone(result):
    result.dataset["coupling_qvalue"][:] = 1.0
    for name in ("condition", "source", "target"):
        del result.dataset[f"planted_{name}"]
    picture = finding_picture(result)
    assert "No coupling between them is beyond chance" in picture.caption
    assert not picture.figure.legends
    assert not is_clipped(picture.figure)
