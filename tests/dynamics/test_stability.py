"""How often several trainings find the same: by counting."""

import numpy as np
import pytest
import torch

from larscope._dynamics.couplings import fit_couplings
from larscope._dynamics.stability import describe_stability, find_in_conditions, find_pixels
from larscope._dynamics.var import SparseVAR
from larscope._report.stability import describe_stability as describe
from larscope._report.stability import plot_stability
from larscope._results.folder import write_dataset

CONDITION = ["familiar", "novel", "familiar", "novel", "novel"]


VAR = SparseVAR(order=2)


def training(seed, n=6):
    """Latents of five runs in which latent 0 acts on latent 1, and 2 on 3 in the runs of "familiar" only; maps."""
    rng = np.random.default_rng(seed)
    latents = [rng.normal(size=(150, n)) for _ in CONDITION]
    for latent, condition in zip(latents, CONDITION, strict=True):
        latent[1:, 1] += latent[:-1, 0]
        latent[2:, 3] -= latent[:-2, 2] * (condition == "familiar")
    return latents, rng.normal(size=(5, 16, 8))


@pytest.fixture(scope="module")
def findings():
    return {seed: find_in_conditions(VAR, *training(seed), CONDITION) for seed in (3, 4, 5)}


def test_frequencies_are_counts_of_what_is_selected(findings):
    data = describe_stability(findings, ["familiar", "novel"], simulated=True)
    off = ~np.eye(6, dtype=bool)
    for c, runs in enumerate(([0, 2], [1, 3, 4])):
        count = np.zeros((6, 6))
        for seed in findings:
            latents = [torch.from_numpy(training(seed)[0][run]) for run in runs]
            for coef in fit_couplings(VAR, latents)[:1]:
                count += np.array([[bool((coef[:, j, i] != 0).any()) for i in range(6)] for j in range(6)])
        np.testing.assert_allclose(data["edge_frequency"][c], count / 3, rtol=1e-6)
        assert data["edges_in_all"][c] == (count[off] == 3).sum()
    found = data["edges_found"].to_numpy()
    np.testing.assert_allclose(data["edges_in_all_by_chance"], found.prod(axis=0) / 30**2)


def test_planted_edges_are_found_by_all_where_they_are(findings):
    data = describe_stability(findings, ["familiar", "novel"], simulated=True)
    frequency = data["edge_frequency"].to_numpy()
    assert (frequency[:, 1, 0] == 1).all()
    assert frequency[0, 3, 2] == 1
    assert frequency[1, 3, 2] < 1
    planted = np.eye(6, dtype=bool)
    planted[1, 0] = planted[3, 2] = True
    assert frequency[:, ~planted].mean() < 0.05


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


def test_is_written_drawn_and_said(findings, tmp_path):
    data = describe_stability(findings, ["familiar", "no$vel"], simulated=True)
    write_dataset(data, tmp_path / "stability.nc")
    plot_stability(data).savefig(tmp_path / "stability.png")
    assert "(simulated)" in plot_stability(data)._suptitle.get_text()
    sentences = describe(data)
    assert "Trained 3 times" in sentences[0]
    assert f"All 3 find the same {int(data['edges_in_all'][0])} " in sentences[1]
