"""What a comparison writes: where, whole, readable elsewhere, and never outside its folder."""

import json

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from larscope._errors import LarscopeError
from larscope._report.comparison import COMPARISON_FIGURES, describe_comparison
from larscope._results.comparison import build_record, find_records, read_record, record_folder, write_record
from larscope._statistics.differences import difference_map, edge_differences
from larscope._statistics.influences import influence_test
from larscope._statistics.swap import coefficient_swap_test

NASTY = "$\\frac{<script>alert(1)</script>[bold]../../x"


def compared(first="familiar", second="novel", effect=0.6, n=5, simulated=True):
    """Five runs against five; latent 0 acts on latent 1 in the first five."""
    rng = np.random.default_rng(0)
    coefs = rng.normal(0, 0.05, (2 * n, 1, 4, 4))
    coefs[:n, 0, 1, 0] += effect
    latents = np.zeros((2 * n, 120, 4))
    for z, coef in zip(latents, coefs, strict=True):
        for t in range(1, 120):
            z[t] = coef[0] @ z[t - 1] + rng.normal(size=4)
    maps = rng.normal(0, 0.01, (2 * n, 16, 16))
    maps[:n, 2:6, 2:6] += effect
    label = [first] * n + [second] * n
    return build_record(
        first=first,
        second=second,
        runs={first: [f"run-{i}" for i in range(n)], second: [f"run-{i}" for i in range(n, 2 * n)]},
        tests={
            "swap": coefficient_swap_test(list(latents), coefs, label),
            "influence": influence_test(coefs, label),
        },
        maps={first: maps[:n].mean(0), second: maps[n:].mean(0)},
        difference=difference_map(maps, label),
        edges=edge_differences(coefs, label, (2, 2), (64, 64), offset=(10, 20)),
        mean_frame=rng.random((16, 16)),
        rows=10 + 4 * np.arange(16) + 1.5,
        columns=20 + 4 * np.arange(16) + 1.5,
        simulated=simulated,
        options={"relative": True},
    )


def test_what_is_written_is_what_was_found(tmp_path):
    record = compared()
    folder = write_record(record, tmp_path)
    assert folder == tmp_path / "comparisons" / "familiar-novel"
    files = ["comparison.json", "comparison.nc", "digests.json", "edges.csv"]
    assert sorted(path.name for path in folder.iterdir()) == files
    again = read_record(folder)
    assert again.summary == record.summary
    xr.testing.assert_equal(again.dataset, record.dataset)
    pd.testing.assert_frame_equal(again.edges, record.edges, check_dtype=False, rtol=1e-4)
    assert find_records(tmp_path) == [folder]
    # strict JSON, as other languages read it
    json.loads((folder / "comparison.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_pvalue_is_the_share_of_the_permuted_statistics_kept(tmp_path):
    record = compared()
    for name, test in record.summary["tests"].items():
        permuted = record.dataset[f"{name}_permuted"].to_numpy()
        assert permuted[0] == test["statistic"]
        assert np.mean(permuted >= permuted[0] - 1e-12) == pytest.approx(test["pvalue"])
        intra, where, inter = (
            record.dataset[f"{name}_{part}"].to_numpy() for part in ("intra", "intra_condition", "inter")
        )
        within = np.mean([intra[where == 0].mean(), intra[where == 1].mean()])
        assert inter.mean() - within == pytest.approx(test["statistic"])


def test_the_planted_edge_is_named_by_its_place_in_the_image():
    record = compared()
    found = record.edges[record.edges["pvalue"] <= 0.05]
    # latent 0 covers rows 10 to 41 and columns 20 to 51, latent 1 the 32 columns after them
    assert found[["source_row", "source_column", "target_row", "target_column"]].to_numpy().tolist() == [
        [25.5, 35.5, 25.5, 67.5]
    ]
    assert found["difference"].item() == pytest.approx(0.6, abs=0.1)
    assert record.summary["map"]["n_different"] >= 14


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\\b", "..", ".", "", "con\n", "é" * 300, NASTY, "-rf"])
def test_no_name_leaves_the_folder(name, tmp_path):
    folder = record_folder(tmp_path, name, "novel")
    assert folder.parent == tmp_path / "comparisons"
    assert len(folder.name) < 120
    assert folder != record_folder(tmp_path, name + "x", "novel")


def test_different_names_never_share_a_folder(tmp_path):
    pairs = [
        ("a-b", "c"),
        ("a", "b-c"),
        ("a_b", "c"),
        ("a/b", "c"),
        ("a b", "c"),
        ("", "c"),
        ("group", "c"),
        ("a", "b_c"),
    ]
    assert len({record_folder(tmp_path, *pair) for pair in pairs}) == len(pairs)


def test_a_link_out_of_the_result_is_refused(tmp_path):
    (tmp_path / "result").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "result" / "comparisons").symlink_to(tmp_path / "outside")
    with pytest.raises(LarscopeError, match="is a link to"):
        record_folder(tmp_path / "result", "a", "b")


def test_an_incomplete_comparison_is_named(tmp_path):
    folder = write_record(compared(), tmp_path)
    (folder / "edges.csv").unlink()
    with pytest.raises(LarscopeError, match=r"lacks edges\.csv"):
        read_record(folder)
    assert find_records(tmp_path) == []


@pytest.mark.parametrize("names", [("familiar", "novel"), (NASTY, "novel")])
@pytest.mark.parametrize("effect", [0.6, 0.0])
def test_every_figure_is_drawn(names, effect, tmp_path):
    record = compared(*names, effect=effect)
    for name, (plot, _) in COMPARISON_FIGURES.items():
        plot(record).savefig(tmp_path / f"{name}.png")
        assert matplotlib.image.imread(tmp_path / f"{name}.png")[..., :3].std() > 0.02


def test_figures_say_what_was_simulated():
    for simulated in (True, False):
        for plot, _ in COMPARISON_FIGURES.values():
            assert ("(simulated)" in plot(compared(simulated=simulated))._suptitle.get_text()) == simulated


def test_maps_share_their_colours_and_those_of_a_difference_are_symmetric_around_zero():
    figure = COMPARISON_FIGURES["maps"][0](compared())
    first, second, difference = (axes.images[0].get_clim() for axes in figure.axes[:3])
    assert first == second
    assert difference[0] == -difference[1]


def test_sentences_give_every_number_and_warning():
    record = compared()
    text = " ".join(describe_comparison(record))
    for test in record.summary["tests"].values():
        for name in ("pvalue", "pvalue_ranksum", "min_pvalue", "permdisp_pvalue"):
            assert f"{test[name]:.2g}" in text
        assert test["units"] in text
        assert f"{test['anosim_r']:.2f}" in text
        assert f"{test['effect_interval'][0]:.1f} to {test['effect_interval'][1]:.1f} %" in text
    assert "Warning" not in text


@pytest.mark.filterwarnings("ignore:With 2 familiar")
def test_a_warning_of_both_tests_is_given_once():
    sentences = describe_comparison(compared(n=2))
    assert sum("cannot reach 0.05" in sentence for sentence in sentences) == 1


@pytest.mark.parametrize("statistic", [0.0, 17.5])
def test_labelings_with_the_same_statistic_but_for_rounding_are_not_told_apart(statistic):
    record = compared()
    record.dataset["swap_permuted"][:] = statistic
    record.dataset["swap_permuted"][0] = np.nextafter(statistic, 99)
    draw, _ = COMPARISON_FIGURES["null"]
    axes = draw(record).axes[0]
    assert not axes.patches
    n_labelings = record.dataset.sizes["swap_permuted_number"]
    assert any(f"all {n_labelings} labelings give the same value" in text.get_text() for text in axes.texts)
