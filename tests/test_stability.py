"""How often several trainings find the same: by counting."""

import numpy as np
import pytest

from larscope.report.stability import describe_stability as describe
from larscope.report.stability import plot_stability
from larscope.result import write_dataset
from larscope.stability import describe_stability, find_edges, find_in_conditions, find_pixels

CONDITION = ["familiar", "novel", "familiar", "novel", "novel"]


def training(seed, n=6):
    rng = np.random.default_rng(seed)
    coefs = rng.normal(size=(5, 2, n, n)) * (rng.random((5, 2, n, n)) < 0.4)
    return coefs, rng.normal(size=(5, 16, 8))


@pytest.fixture
def findings():
    return {seed: find_in_conditions(*training(seed), CONDITION) for seed in (3, 4, 5)}


def test_frequencies_are_counts(findings):
    data = describe_stability(findings, ["familiar", "novel"], simulated=True)
    for c, runs in enumerate(([0, 2], [1, 3, 4])):
        count = np.zeros((6, 6))
        for seed in findings:
            coefs, _ = training(seed)
            for target in range(6):
                for source in range(6):
                    having = sum(bool(np.any(coefs[run, :, target, source])) for run in runs)
                    count[target, source] += having >= len(runs) / 2
        np.testing.assert_allclose(data["edge_frequency"][c], count / 3, rtol=1e-6)
        off = ~np.eye(6, dtype=bool)
        assert data["edges_in_all"][c] == (count[off] == 3).sum()
    found = data["edges_found"].to_numpy()
    np.testing.assert_allclose(data["edges_in_all_by_chance"], found.prod(axis=0) / 30**2)


def test_chance_is_what_random_edges_give():
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(400):
        masks = [np.isin(np.arange(90), rng.choice(90, 30, replace=False)) for _ in range(3)]
        counts.append(np.logical_and.reduce(masks).sum())
    assert np.mean(counts) == pytest.approx(90 * (30 / 90) ** 3, rel=0.1)


def test_pixels_do_not_depend_on_the_scale_of_a_map():
    image = np.random.default_rng(0).normal(size=(20, 20))
    assert find_pixels(image).sum() == 20
    assert np.array_equal(find_pixels(7 * image), find_pixels(image))
    assert not find_pixels(np.zeros((20, 20))).any()


def test_an_edge_needs_half_of_the_runs():
    coefs = np.zeros((4, 2, 3, 3))
    coefs[0, 0, 1, 2] = coefs[3, 1, 1, 2] = -1.0  # two of four runs, at different lags
    coefs[0, 0, 0, 1] = 1.0
    assert np.argwhere(find_edges(coefs)).tolist() == [[1, 2]]


def test_is_written_drawn_and_said(findings, tmp_path):
    data = describe_stability(findings, ["familiar", "no$vel"], simulated=True)
    write_dataset(data, tmp_path / "stability.nc")
    plot_stability(data).savefig(tmp_path / "stability.png")
    assert "(simulated)" in plot_stability(data)._suptitle.get_text()
    sentences = describe(data)
    assert "Trained 3 times" in sentences[0]
    assert f"{int(data['edges_in_all'][0])} are found by all 3" in sentences[1]
