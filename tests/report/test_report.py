import base64
import dataclasses
import hashlib
import io
import json
import re
import shutil
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from larscope import LatentVAR
from larscope._movies.session import Session
from larscope._report.data import data_section
from larscope._report.dynamics import dynamics_section, mean_edges
from larscope._report.maps import maps_of, where_section
from larscope._report.methods import command_of, describe_methods, methods_section, repetition
from larscope._report.page import write_report
from larscope._report.penalty import curves_of, penalty_section, plot_curves
from larscope._report.sentences import describe, loss_change
from larscope._report.training import MOVIE_BYTES, movies_of, plot_latents, training_section
from larscope._results.comparison import write_record
from larscope._results.folder import read_result, write_result
from larscope._settings import DEFAULT_PENALTY

HOSTILE = "</script><script>alert('run')</script><b>%{x}"
HOSTILE_CONDITION = r"$\foo$ [/x]"
SECTIONS = ["data", "training", "dynamics", "conditions", "where", "penalty", "made"]


def fitted(runs, **settings) -> LatentVAR:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one epoch is far too short a training
        chosen = {"latents": "grid", "order": 2, "window": 32, "penalty": 0.002, "epochs": 1, **settings}
        return LatentVAR(**chosen).fit(Session(runs, simulated=True))


@pytest.fixture(scope="module")
def folder(session, tmp_path_factory):
    """A result whose first run has a hostile name, of a session that says it is simulated."""
    runs = (dataclasses.replace(session.runs[0], name=HOSTILE, condition=HOSTILE_CONDITION), *session.runs[1:])
    return fitted(runs).save(tmp_path_factory.mktemp("report") / "result")


@pytest.fixture(scope="module")
def result(folder):
    return read_result(folder)


@pytest.fixture(scope="module")
def page(folder) -> str:
    return write_report(folder).read_text(encoding="utf-8")


@pytest.fixture
def still(monkeypatch):
    """Pages in a fraction of the time: every figure is the same small picture."""
    buffer = io.BytesIO()
    Image.effect_noise((640, 480), 50).save(buffer, format="png")
    monkeypatch.setattr("larscope._report.page._png", lambda _: buffer.getvalue())


@pytest.fixture(scope="module")
def compared_folder(session, tmp_path_factory):
    """A result with a comparison of its conditions."""
    model = fitted(session.runs)
    folder = model.save(tmp_path_factory.mktemp("compared") / "result")
    write_record(model.record_comparison("familiar", "novel"), folder)
    return folder


class Outline(HTMLParser):
    """Collects what a page fetches, its sections and scripts, its pictures and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.fetched, self.sections, self.images, self.texts, self.scripts = [], [], [], [], []
        self._script = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.fetched += [found[name] for name in ("src", "href", "srcset", "data") if found.get(name)]
        if tag == "section":
            self.sections.append(found["id"])
        if tag == "img":
            self.images.append(found)
        self._script = found if tag == "script" else None

    def handle_endtag(self, tag):
        self._script = None

    def handle_data(self, data):
        if self._script is None:
            self.texts.append(data)
        else:
            self.scripts.append((self._script, data))

    @property
    def text(self) -> str:
        return "".join(self.texts).replace("\u00a0", " ")


@pytest.fixture(scope="module")
def outline(page) -> Outline:
    return Outline(page)


def test_is_one_small_file_that_fetches_nothing(page, outline):
    assert [address for address in outline.fetched if not address.startswith(("data:", "#"))] == []
    assert "url(" not in page[: page.index("<script")]
    assert len(page.encode()) < 10_000_000


def test_the_browser_is_told_to_run_its_own_scripts_only(page, outline):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1]
    assert "default-src 'none'" in policy
    run = [text for attributes, text in outline.scripts if attributes.get("type") != "application/json"]
    assert len(run) == 2
    for text in run:
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


def test_answers_every_question_in_order(outline):
    assert outline.sections == ["summary", *SECTIONS]


def test_names_from_strangers_are_text(page, outline):
    assert "<script>alert" not in page
    assert HOSTILE in outline.text
    explored = json.loads(next(text for attributes, text in outline.scripts if "type" in attributes))
    assert explored["errors"]["runs"][0] == HOSTILE
    assert HOSTILE_CONDITION in outline.text


def test_says_that_the_data_are_simulated(outline, result):
    assert "These data are simulated. No animal was recorded." in outline.text
    assert outline.text.count("simulated data") == len(SECTIONS)
    assert describe(result)[0].startswith("Simulated data: 4 runs")
    assert describe_methods(result, []).startswith("Simulated movies")


def test_every_picture_is_written_said_and_shown(folder, outline):
    files = sorted(path.stem for path in (folder / "figures").glob("*.png"))
    assert files == sorted(
        [
            "coefficients",
            "errors",
            "latents",
            "maps",
            "mean_frame",
            "network",
            "penalty",
            "reconstruction",
            "sparsity",
            "training",
        ]
    )
    assert len(outline.images) == len(files)
    for image in outline.images:
        assert len(image["alt"]) > 20
        shown = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
        assert np.asarray(shown.convert("L")).std() > 5


def test_figures_name_their_axes_and_what_is_simulated(result):
    sections = [
        data_section(result),
        training_section(result, []),
        dynamics_section(result, []),
        where_section(result, []),
        penalty_section(result),
    ]
    for picture in (picture for section in sections for picture in section.pictures):
        panels = [axes for axes in picture.figure.axes if axes.get_label() != "<colorbar>" and axes.get_visible()]
        assert any(axes.get_xlabel() for axes in panels) or picture.figure._supxlabel, picture.name
        assert any(axes.get_ylabel() for axes in panels), picture.name
        titles = [axes.get_title() for axes in panels] + [getattr(picture.figure._suptitle, "get_text", str)()]
        assert any("(simulated)" in title for title in titles), picture.name


def test_holds_the_numbers_of_every_run(outline, result):
    for value in result.dataset["forecast_error"].to_numpy():
        assert f"{value:.2e}" in outline.text


def test_words_agree_with_the_numbers(result):
    data, training, errors, dynamics, beyond = describe(result)
    assert rf"1 {HOSTILE_CONDITION}, 2 novel, 1 familiar" in data
    assert "316 frames of 24 x 16 pixels, 6 latents" in data
    assert "9 steps" in training
    assert f"{100 * result.dataset['var_explained'].to_numpy().mean():.0f} %" in errors
    table = result.dataset
    own = table["coef_target"].to_numpy() == table["coef_source"].to_numpy()
    assert f"A run has {(~own).sum() / 4:.0f} couplings between latents of 60 possible" in dynamics
    assert f"{table['n_chance'].to_numpy().mean():.0f} are expected by chance" in dynamics
    assert f"own past: {own.sum() / 4:.0f} of 12" in dynamics
    kept = table["coupling_condition"].to_numpy()[table["coupling_qvalue"].to_numpy() <= 0.1]
    assert f"novel {(kept == 'novel').sum() or 'none beyond chance'}" in beyond


def test_loss_change_compares_the_last_two_fifths(result):
    log = [{"step": i, "loss": loss} for i, loss in enumerate([9.0] * 30 + [4.0] * 10 + [3.0] * 10)]
    assert loss_change(dataclasses.replace(result, log=log)) == pytest.approx(-0.25)
    settled = dataclasses.replace(result, log=[{"step": i, "loss": 1.0} for i in range(50)])
    assert "has levelled off" in describe(settled)[1]
    assert "train longer" in describe(dataclasses.replace(result, log=log))[1]


def test_a_report_can_be_written_again(folder, result, still):
    assert write_report(folder).is_file()
    assert np.array_equal(read_result(folder).dataset["coef"], result.dataset["coef"])
    assert not [path for path in folder.rglob("*writing*")]


def no_couplings(data):
    empty = data.isel(entry=slice(0, 0)).copy(deep=True)
    empty["n_active"][:] = 0
    empty["contribution_map"][:] = 0
    return empty


def one_condition(data):
    return data.assign(condition=("run", np.array(["only"] * 4, dtype=object)))


def many_conditions(data):
    return data.assign(condition=("run", np.array([f"{i} of {'x' * 200}" for i in range(4)], dtype=object)))


def nothing_measured(data):
    names = [name for name in data.data_vars if name.startswith(("var_", "curve_exp"))]
    return data.assign({name: data[name].astype(float) * np.nan for name in names})


@pytest.mark.parametrize("change", [no_couplings, one_condition, many_conditions, nothing_measured])
def test_odd_results_have_a_page(change, result, still, tmp_path):
    odd = dataclasses.replace(result, dataset=change(result.dataset))
    text = Outline(write_report(write_result(odd, tmp_path / "odd")).read_text(encoding="utf-8")).text
    assert not re.search(r"\bnan\b", text)
    if change is one_condition:
        assert "there is nothing to compare" in text


# --------------------------------------------------------------------------------------------------- what data


def test_quality_warnings_are_shown_and_nothing_is_claimed_where_there_was_no_check(result):
    assert "quality was not recorded" in data_section(result).sentences[1]
    found = {"check": "motion", "value": 2.5, "unit": "%", "frame": 7, "message": "It moves.", "advice": "Correct it."}
    checks = [{"run": "run-1", "level": "warn", **found}, {"run": "run-2", "level": "pass", **found}]
    checked = dataclasses.replace(result, provenance={**result.provenance, "checks": checks})
    section = data_section(checked)
    assert section.sentences[1] == "Problems were found in the movies in 1 of 4 runs: motion. See the quality warnings."
    [complaint] = section.shown["complaints"]
    assert (complaint["check"], complaint["runs"]) == ("motion", ["run-1"])
    assert (complaint["message"], complaint["advice"]) == ("It moves.", "Correct it.")
    fine = dataclasses.replace(result, provenance={**result.provenance, "checks": checks[1:]})
    assert "No problems were found" in data_section(fine).sentences[1]


def test_commands_in_sentences_are_set_as_code_and_nothing_else_is_markup(result, tmp_path):
    found = {"check": "motion", "file": None, "message": "<b>10 %</b> move.", "advice": "Use `--crop`."}
    checks = [{"run": None, "level": "warn", **found}]
    write_result(dataclasses.replace(result, provenance={**result.provenance, "checks": checks}), tmp_path / "result")
    page = write_report(tmp_path / "result").read_text()
    assert "&lt;b&gt;10\u00a0%&lt;/b&gt; move. Use <code>--crop</code>." in page


# ------------------------------------------------------------------------------------------- did training work


def test_movies_show_frame_reconstruction_and_what_is_left(result):
    clips = movies_of(result.dataset)
    assert [clip["condition"] for clip in clips] == [HOSTILE_CONDITION, "novel", "familiar"]
    clip = clips[1]
    strips = {
        name: np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))), float)
        for name, source in clip["strips"].items()
    }
    assert all(strip.shape == (32 * 24, 16, 3) for strip in strips.values())
    data = result.dataset
    of_run = data["clip_run"].to_numpy() == 1
    observed = data["clip_observed"].to_numpy()[of_run].reshape(-1, 16)
    shown = np.clip(observed / clip["top"], 0, 1) * 255
    assert np.corrcoef(shown.ravel(), strips["frame"].mean(-1).ravel())[0, 1] > 0.98
    # red where the frame is brighter than its reconstruction, blue where it is darker
    residual = observed - data["clip_reconstruction"].to_numpy()[of_run].reshape(-1, 16)
    redness = strips["residual"][..., 0] - strips["residual"][..., 2]
    assert np.corrcoef(residual.ravel(), redness.ravel())[0, 1] > 0.6


def test_movies_of_any_size_stay_small(result):
    data = result.dataset.isel(clip=slice(0, 32)).drop_vars(["clip_observed", "clip_reconstruction"])
    rng = np.random.default_rng(0)
    noise = rng.random((data.sizes["clip"], 600, 500))  # noise is what compresses worst
    for name in ("observed", "reconstruction"):
        data[f"clip_{name}"] = (("clip", "tall", "broad"), noise)
    clips = movies_of(data)
    assert len(clips) == 1
    assert sum(len(source) for clip in clips for source in clip["strips"].values()) <= MOVIE_BYTES
    assert (clips[0]["height"], clips[0]["width"]) == (200, 166)


def test_masked_frames_and_missing_errors_are_left_out(result):
    data = result.dataset.copy(deep=True)
    data["latent_series"][10:13] = np.nan
    data["forecast_series"][8:15] = np.nan
    data["var_error"][0] = np.nan
    data["var_error_heldout"][:] = np.nan
    gappy = dataclasses.replace(result, dataset=data)
    drawn = plot_latents(gappy).axes[0].lines[0].get_ydata()
    assert np.isnan(drawn[10:13]).all()
    assert np.isfinite(drawn[13:]).all()
    assert "no run could be held out" in describe(gappy)[2]
    scores = training_section(gappy, []).shown["scores"]
    column = scores["headings"].index("VAR error")
    assert [row[column] == "" for row in scores["rows"]] == [True, False, False, False]
    assert "held" not in describe_methods(gappy, [])


# ------------------------------------------------------------------------------------------------ what dynamics


def test_edges_are_means_over_the_runs_of_a_condition(result):
    data = result.dataset
    dense = np.zeros((4, 2, 6, 6))
    dense[tuple(data[f"coef_{name}"].to_numpy() - (name == "lag") for name in ("run", "lag", "target", "source"))] = (
        data["coef"]
    )
    table = mean_edges(data)["novel"]
    mean = dense[[1, 3]].mean(0)
    assert len(table) == np.count_nonzero(mean)
    assert np.allclose(table["coef"], mean[table["lag"] - 1, table["target"], table["source"]])
    assert (np.diff(table["coef"].abs()) <= 0).all()
    has = (dense[[1, 3]] != 0).sum(0)
    assert np.array_equal(table["runs"], has[table["lag"] - 1, table["target"], table["source"]])


# ------------------------------------------------------------------------------------------ do conditions differ


def test_says_which_command_compares(outline):
    assert "Nothing was compared yet" in outline.text
    assert r"larscope compare result '$\foo$ [/x]' novel" in outline.text


def test_a_comparison_is_told_with_both_p_values(compared_folder, still):
    outline = Outline(write_report(compared_folder).read_text(encoding="utf-8"))
    summary = json.loads((compared_folder / "comparisons" / "familiar-novel" / "comparison.json").read_text())
    for test in summary["tests"].values():
        for name in ("pvalue", "pvalue_ranksum", "min_pvalue"):
            assert f"{test[name]:.2g}" in outline.text
    assert {path.stem for path in compared_folder.glob("comparisons/*/*.png")} == {"null", "pairs", "maps", "edges"}
    assert "Nothing was compared yet" not in outline.text
    explored = json.loads(next(text for attributes, text in outline.scripts if "type" in attributes))
    assert [panel["name"] for panel in explored["maps"]["panels"]] == ["familiar", "novel", "familiar - novel"]


def test_a_comparison_without_influence_is_told(compared_folder, still, tmp_path):
    folder = shutil.copytree(compared_folder, tmp_path / "result")
    path = folder / "comparisons" / "familiar-novel" / "comparison.json"
    summary = json.loads(path.read_text())
    summary["tests"]["influence"] |= {"effect_size": None, "effect_interval": [None, None], "permdisp_pvalue": None}
    path.write_text(json.dumps(summary))
    path.with_name("digests.json").unlink()
    outline = Outline(write_report(folder).read_text(encoding="utf-8"))
    assert "influence is the same in all runs of a group" in outline.text


def test_many_comparisons_keep_the_page_small(compared_folder, still, tmp_path):
    shutil.copytree(compared_folder, tmp_path / "result")
    only = tmp_path / "result" / "comparisons" / "familiar-novel"
    for copy in range(7):
        shutil.copytree(only, only.with_name(f"copy-{copy}"))
    page = write_report(tmp_path / "result").read_text(encoding="utf-8")
    assert len(page.encode()) < 10_000_000
    assert "see <code>comparisons/" in page
    assert "further maps are not shown" in page


# -------------------------------------------------------------------------------------------------------- where


def test_maps_are_those_of_the_result(result):
    data = result.dataset
    maps = maps_of(data, [])
    panel = maps["panels"][1]
    values = np.frombuffer(base64.b64decode(panel["values"]["float32"]), "<f4").reshape(panel["values"]["shape"])
    assert np.allclose(values, data["contribution_map"].to_numpy()[[1, 3]].mean(0))
    assert maps["row"] == list(range(24))
    assert maps["latents"]["row"] == data["latent_row"].to_numpy().tolist()


def test_places_are_those_of_the_recorded_movie(result):
    data = result.dataset.assign_attrs(downscale=4, crop_offset=[100, 40])
    maps = maps_of(data, [])
    assert (maps["row"][0], maps["column"][1]) == (101.5, 45.5)  # the centres of pixels 100..103 and 44..47
    assert maps["latents"]["row"][0] == 100 + 8 * 4 / 2 - 0.5


def test_large_maps_are_averaged(result):
    data = result.dataset.drop_vars(["contribution_map", "mean_frame"])
    data["mean_frame"] = (("tall", "broad"), np.zeros((400, 300)))
    data["contribution_map"] = (("run", "tall", "broad"), np.ones((4, 400, 300)), {"units": "none"})
    maps = maps_of(data, [])
    assert maps["panels"][0]["values"]["shape"] == [133, 100]
    assert maps["row"][:2] == [1, 4]


# ------------------------------------------------------------------------------------------------------ penalty


def test_a_result_without_curves_says_so(result, still, tmp_path):
    gone = [name for name in result.dataset.variables if name.startswith(("curve_", "clip_", "penalty"))]
    old = dataclasses.replace(result, dataset=result.dataset.drop_vars(gone))
    assert "no curves" in penalty_section(old).sentences[0]
    text = write_report(write_result(old, tmp_path / "old")).read_text(encoding="utf-8")
    assert "holds no curves over the penalty" in text
    assert 'id="movie"' not in text


def test_the_penalty_s_sentences_agree_with_the_curves(result):
    data = result.dataset
    text = " ".join(penalty_section(result).sentences)
    assert "every run was refitted with 8 penalties, from 0.00025 to 0.032" in text
    assert f"{data['curve_n_active'].sel(penalty=0.002).mean():.0f} active coefficients" in text
    held_out = data["curve_explained_heldout"].mean("curve")
    if held_out.max() > 0:
        assert f"{float(held_out.idxmax()):.3g} explains most" in text


@pytest.mark.parametrize(
    ("counts", "labelled"),
    [([1200, 30_000], ["2,000", "5,000", "10,000", "20,000"]), ([0, 300], ["0", "1", "10", "100"])],
)
def test_counts_are_labelled_over_any_range(result, counts, labelled):
    curves = result.dataset.copy()
    n_curves, n_penalties = curves["curve_n_active"].shape
    curves["curve_n_active"][:] = np.tile(np.geomspace(max(counts[0], 0.1), counts[1], n_penalties), (n_curves, 1))
    axes = plot_curves(dataclasses.replace(result, dataset=curves)).axes[0]
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert [text for text in shown if text in labelled] == labelled


def test_a_penalty_that_was_chosen_is_said_to_be(session, result, tmp_path, still):
    model = fitted(session.runs, penalty="auto")
    chosen = read_result(model.save(tmp_path / "result"))
    assert chosen.penalty == model.penalty_
    assert (chosen.settings["penalty"], chosen.training["penalty"]) == ("auto", DEFAULT_PENALTY)
    tried, share = len(model.choice_.tried), max(model.choice_.explained)
    said, learned, *_ = penalty_section(chosen).sentences
    assert f"among {tried} from {model.choice_.tried[0]:.3g}" in said
    assert f"Exact fits at {model.penalty_:.3g} best forecast the last fifth of each run" in said
    assert f"explain {100 * share:.0f} %" in said
    assert f"learned at {DEFAULT_PENALTY:g}" in learned
    assert curves_of(chosen)["chosen"] == model.penalty_
    text = describe_methods(chosen, [])
    for part in (
        f"l1 penalty of {model.penalty_:.4g} s sqrt(",
        f"were used: penalty {DEFAULT_PENALTY:g}.",
        f"chosen among {tried} by",
    ):
        assert part in text
    assert "chosen" not in describe_methods(result, [])
    assert "was chosen after" not in " ".join(penalty_section(result).sentences)
    assert f"chosen among {tried} by" in write_report(tmp_path / "result").read_text(encoding="utf-8")


def test_a_penalty_that_was_chosen_from_data_that_speak_for_none_is_said_to_be(result):
    def with_tried(penalty: list[float], explained: list[float], **settings: str):
        tried = {"tried_penalty": ("tried", penalty), "tried_explained": ("tried", explained)}
        settings = {**result.settings, "penalty": "auto", **settings}
        return dataclasses.replace(result, dataset=result.dataset.assign(tried), settings=settings)

    said = penalty_section(with_tried([0.1, 0.002], [0.0, -0.1], coefficients="condition")).sentences[0]
    assert "none was better than no couplings at all at forecasting left-out runs by coefficients of other runs" in said
    assert "0.002 was taken" in said
    assert "stayed at the training penalty, 0.002" in penalty_section(with_tried([], [])).sentences[0]


def test_the_penalty_of_coefficients_that_runs_share_is_said_beside_that_of_single_runs(session, tmp_path):
    model = fitted(session.runs, penalty=None, coefficients="condition")
    chosen = read_result(model.save(tmp_path / "result"))
    assert (chosen.penalty, chosen.shared_penalty) == (DEFAULT_PENALTY, model.shared_choice_.penalty)
    said = penalty_section(chosen).sentences[0]
    assert said.startswith("The penalty of the coefficients shared by runs")
    assert f"{len(model.shared_choice_.tried)} " in said
    assert f"{model.shared_choice_.penalty:.3g}" in said
    assert "left-out runs by coefficients of other runs of their condition" in said
    text = describe_methods(chosen, [])
    assert f"l1 penalty of {DEFAULT_PENALTY:g} s sqrt(" in text
    assert f"The penalty of that matrix, {model.shared_choice_.penalty:.4g}, was chosen among" in text
    assert "In training, other settings" not in text


# --------------------------------------------------------------------------------------------------------- made


def test_methods_say_what_a_refit_changed(session, tmp_path):
    model = fitted(session.runs).refit(Session(session.runs, simulated=True), penalty=0.01, order=3, max_distance=1.0)
    result = read_result(model.save(tmp_path / "result"))
    assert repetition(result).endswith(".refit(<session>, order=3, penalty=0.01, max_distance=1.0)")
    text = describe_methods(result, [])
    assert "order 3 with an l1 penalty of 0.01 s sqrt(" in text
    assert (
        "In training, other settings of the autoregression were used: order 2, penalty 0.002, max distance none."
        in text
    )


def test_methods_take_every_number_from_the_result(result):
    text = describe_methods(result, [])
    data = result.dataset
    sizes = data["n_frames"].to_numpy()
    for part in (
        f"4 runs (1 {HOSTILE_CONDITION}, 2 novel, 1 familiar; {sizes.min()} to {sizes.max()} frames each, 316 in all)",
        "24 x 16 pixels",
        "3 x 2 = 6 latents",
        "order 2",
        "l1 penalty of 0.002 s sqrt(2 log(12) / n) (for a fit to n frames, with s the residual standard deviation",
        "a latent's own past free",
        "9 steps of Adam, Kingma & Ba 2015, in 1 epoch",
        "learning rate 0.001; 1 window of 32 frames a step, begun anywhere and anew each epoch; seed 0",
        f"couplings between latents on average ({data['n_chance'].to_numpy().mean():.0f} by chance)",
    ):
        assert part in text
    assert "Phipson" not in " ".join(methods_section(result, []).shown["references"])


def test_methods_say_what_is_not_the_default(result):
    chosen = {"coefficients": "condition", "own_weight": 0.5, "nan": "mask", "max_distance": 3.0, "skip": False}
    text = describe_methods(dataclasses.replace(result, settings={**result.settings, **chosen}), [])
    for part in ("one matrix of coefficients to all runs", "penalty of 0.5 times", "left out", "3 latent pixels apart"):
        assert part in text
        assert part not in describe_methods(result, [])
    assert "skip connection" in describe_methods(result, [])
    assert "skip connection" not in text


def test_the_command_is_one_that_can_be_typed():
    assert command_of({"command": ["/x/larscope/__main__.py", "demo"]}) == "python -m larscope demo"
    assert command_of({"command": ["analysis.py", "a b"]}) == "python analysis.py 'a b'"
    assert command_of({"command": ["/bin/larscope", "fit", "s.csv"]}) == "larscope fit s.csv"


def test_hashes_settings_and_versions_are_shown(outline, result):
    for name, value in result.settings.items():
        assert name in outline.text
        assert str(value) in outline.text
    assert result.provenance["versions"]["torch"] in outline.text


def test_results_of_the_first_version_have_a_report(still, tmp_path):
    first = Path(__file__).parents[1] / "results" / "kept" / "schema-1"
    shutil.copytree(first, tmp_path / "result")
    text = write_report(tmp_path / "result").read_text(encoding="utf-8")
    assert Outline(text).sections[-1] == "made"
    assert "familiar against novel" in text
