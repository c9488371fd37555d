"""The smallest rebuilding of the paper's results: every part runs and every number is there, whatever it says."""

import doctest
import importlib
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def paper():
    if not (ROOT / "reproduction" / "paper").is_dir():
        pytest.skip("the reproduction folder is not part of this installation")
    sys.path.insert(0, str(ROOT))
    yield importlib.import_module("reproduction.paper.parts")
    sys.path.remove(str(ROOT))


def sizes():
    return importlib.import_module("reproduction.paper.work")


@pytest.fixture(scope="module")
def rebuilt(paper, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduction")
    size = sizes().TINY
    work = paper.Work(size, folder / "tiny", folder / "kept")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # far too short trainings
        paper.rebuild(work, paper.named(size, []), folder / "README.md")
    return work


@pytest.mark.slow
def test_every_part_leaves_its_numbers_and_a_section_without_gaps(paper, rebuilt):
    page = (rebuilt.numbers.parent / "README.md").read_text()
    for part, title, _, has_figure in paper.page.SECTIONS:
        if "mouse" in part and not any(name in part for name in rebuilt.recorded):
            continue
        table = rebuilt.found(part)
        assert len(table), part
        assert np.isfinite(table.select_dtypes("number").drop(columns=MAY_BE_MISSING, errors="ignore")).all().all(), (
            part
        )
        assert f"## {title}" in page
        assert (rebuilt.numbers / f"{part}.png").is_file() == has_figure, part
    assert "nan" not in page.split("## How it was made")[0].replace("| nan |", "")


MAY_BE_MISSING = ["ceiling_explained", "n_frames", "penalty", "driving_inflow", "var_error_heldout"]
"""What only some rows have."""


@pytest.mark.slow
def test_finished_parts_are_not_computed_again(paper, rebuilt, monkeypatch):
    numbers = {path.name: path.read_bytes() for path in rebuilt.numbers.glob("*.csv") if path.stem != "times"}
    monkeypatch.setattr("larscope.LatentVAR.fit", None)
    monkeypatch.setattr("larscope.LatentVAR.refit", None)
    paper.rebuild(rebuilt, paper.named(rebuilt.size, []), rebuilt.numbers.parent / "README.md")
    assert {path.name: path.read_bytes() for path in rebuilt.numbers.glob("*.csv") if path.stem != "times"} == numbers


def test_several_parts_add_to_one_table(paper, tmp_path):
    work = paper.Work(sizes().TINY, tmp_path / "numbers", tmp_path / "kept")
    rows = [pd.DataFrame({"seed": seed, "value": range(50)}) for seed in (3, 1, 2, 0)]
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(lambda one: [work.add("table", one[i : i + 5]) for i in range(0, 50, 5)], rows))
    found = work.found("table")
    assert found["seed"].tolist() == [seed for seed in range(4) for _ in range(50)]
    assert found["value"].tolist() == 4 * list(range(50))
    assert work.has("table", seed=2, value=49)
    assert not work.has("table", seed=2, value=50)


def test_parts_are_named_by_table_or_one_by_one(paper):
    full = sizes().FULL
    assert paper.named(full, ["figure3", "truth"]) == ["figure3", *(f"truth/{seed}" for seed in full.seeds)]
    assert paper.named(full, ["yardstick-mouse_2p"]) == [f"yardstick-mouse_2p/{fold}" for fold in range(4)]
    assert paper.named(full, ["table2-half/3-uncentred"]) == ["table2-half/3-uncentred"]
    assert len(set(paper.named(full, []))) == len(paper.named(full, []))
    with pytest.raises(KeyError, match="truht"):
        paper.named(full, ["truht"])


@pytest.mark.parametrize("name", ["parts", "work"])
def test_examples(paper, name):
    found = doctest.testmod(importlib.import_module(f"reproduction.paper.{name}"))
    assert found.attempted
    assert not found.failed


def test_folds_leave_out_whole_blocks_of_both_conditions(paper, tmp_path):
    runs = paper.Work(sizes().TINY, tmp_path / "numbers", tmp_path / "kept").session("half", 0).runs
    folds = paper.yardstick.folds_of(runs)
    assert sorted(run for fold in folds for run in fold) == list(range(len(runs)))
    for fold in folds:
        inside = {runs[run].block for run in fold}
        assert {runs[run].condition for run in fold} == {"familiar", "novel"}
        assert all((run in fold) == (about.block in inside) for run, about in enumerate(runs))


def test_r_var_is_taken_apart_as_by_hand(paper):
    latent = np.array([[9.0, 0], [11, 0], [10, 2], [10, -2]], np.float32)
    apart = paper.table2.take_apart(latent, np.array([[10.0, 1], [10, 0]], np.float32))
    assert apart["rvar_centred"] == pytest.approx((1 / 4 + 4 / 4) / 2)
    assert apart["pooled_centred"] == pytest.approx(5 / 8)
    assert apart["pooled_raw"] == pytest.approx(5 / 208)
    assert apart["offset_share"] == pytest.approx(200 / 208)


def test_baselines_forecast_what_they_should(paper):
    rng = np.random.default_rng(0)
    runs = []
    for _ in range(3):  # every block is an AR(1) with coefficient .8
        series = np.zeros((400, 2, 2))
        for t in range(1, 400):
            series[t] = 0.8 * series[t - 1] + rng.normal(size=(2, 2))
        runs.append((100 * (1 + 0.05 * series.repeat(8, 1).repeat(8, 2))).astype(np.float32))
    *training, unseen = runs
    ideal = 0.64
    for name, learn in paper.yardstick.BASELINES.items():
        if "PCA" in name:
            continue
        found = paper.yardstick.explained(unseen, learn(training, 5)(unseen))
        assert found == pytest.approx(ideal if name != "persistence" else 0.6, abs=0.08), name
    learn = importlib.import_module("reproduction.paper.baselines").pca_var(4, "lasso")
    assert paper.yardstick.explained(unseen, learn(training, 5)(unseen)) == pytest.approx(ideal, abs=0.08)
