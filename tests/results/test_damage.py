"""Damage of a result's files is noticed: an error of ours, or the same numbers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from larscope import LarscopeError
from larscope._report.page import write_report
from larscope._results.comparison import FILES as COMPARISON_FILES
from larscope._results.comparison import read_record, write_record
from larscope._results.folder import FILES, read_result, write_dataset, write_result
from larscope._storage import DIGESTS

KEPT = Path(__file__).parent / "kept" / "schema-6"
COMPARISON = "comparisons/familiar-novel"
NAMES = [*FILES, DIGESTS, *(f"{COMPARISON}/{name}" for name in (*COMPARISON_FILES, DIGESTS))]
TEXT = [name for name in NAMES if Path(name).suffix in (".toml", ".json", ".jsonl") and Path(name).name != DIGESTS]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = write_result(read_result(KEPT), tmp_path_factory.mktemp("written") / "result")
    write_record(read_record(KEPT / COMPARISON), folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "result"))


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Change a byte, drop a stretch or repeat one."""
    at = int(rng.integers(len(content)))
    until = min(at + int(rng.integers(1, 64)), len(content))
    match rng.integers(4):
        case 0:
            return content[:at] + bytes([rng.integers(256)]) + content[at + 1 :]
        case 1:
            return content[:at] + content[until:]
        case 2:
            return content[:until] + content[at:]
        case _:
            return content[:at] + bytes(until - at) + content[until:]


def require_named(folder: Path, error: LarscopeError) -> None:
    assert str(folder) in str(error)


def require_same_or_ours(folder: Path, before) -> None:
    """Read all; whatever is no LarscopeError fails the test."""
    try:
        result, record = read_result(folder), read_record(folder / COMPARISON)
    except LarscopeError as error:
        require_named(folder, error)
        return
    was, then = before
    assert (result.settings, result.provenance, result.log) == (was.settings, was.provenance, was.log)
    assert all(np.array_equal(result.weights[name], value) for name, value in was.weights.items())
    assert record.summary == then.summary
    xr.testing.assert_identical(result.dataset, was.dataset)
    xr.testing.assert_identical(record.dataset, then.dataset)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("times", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_damage_is_an_error_or_changes_nothing(folder, name, times):
    before, whole = (read_result(folder), read_record(folder / COMPARISON)), (folder / name).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(times):
        (folder / name).write_bytes(mutated(whole, rng))
        require_same_or_ours(folder, before)


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("times", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_without_digests_text_is_read_or_refused_by_us(folder, name, times):
    for digests in folder.rglob(DIGESTS):
        digests.unlink()
    whole, rng = (folder / name).read_bytes(), np.random.default_rng(1)
    for _ in range(times):
        (folder / name).write_bytes(mutated(whole, rng))
        try:
            read_result(folder), read_record(folder / COMPARISON)
        except LarscopeError as error:
            require_named(folder, error)


def rewrite(folder: Path, change) -> None:
    result = read_result(folder)
    write_dataset(change(result.dataset), folder / "results.nc")
    (folder / DIGESTS).unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.assign(coef_target=data["coef_target"] + 1000), "coef_target"),
        (lambda data: data.assign(coef_run=-data["coef_run"] - 1), "coef_run"),
        (lambda data: data.assign(coef=data["coef"] * np.nan), "coef"),
        (lambda data: data.assign(n_frames=data["n_frames"] + 1), "n_frames"),
        (lambda data: data.assign(clip_run=data["clip_run"] + 99), "clip_run"),
        (lambda data: data.assign_attrs(order=10**9), "order"),
        (lambda data: data.assign_attrs(crop=[0, 8]), "crop"),
        (lambda data: data.drop_vars("latent_series"), "latent_series"),
        (lambda data: data.assign(mean_frame=data["mean_frame"].T), "mean_frame"),
    ],
)
def test_valid_netcdf_with_wrong_content_is_refused(folder, change, said):
    rewrite(folder, change)
    with pytest.raises(LarscopeError, match=rf"results\.nc.*{said}"):
        read_result(folder)
    with pytest.raises(LarscopeError, match=said):
        write_report(folder)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("config.toml", "order = 1", "order = 1000000000", "order"),
        ("config.toml", "penalty_scale", "penalty_scalf", "penalty_scalf"),
        ("log.jsonl", '"loss"', '"lost"', "loss"),
        ("provenance.json", '"created"', '"creates"', "created"),
        (f"{COMPARISON}/comparison.json", '"pvalue"', '"pvaluf"', "pvalue"),
    ],
)
def test_valid_text_with_wrong_content_is_refused(folder, name, old, new, said):
    for digests in folder.rglob(DIGESTS):
        digests.unlink()
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    with pytest.raises(LarscopeError, match=said):
        write_report(folder)


def test_an_incomplete_comparison_is_named_in_the_report(folder):
    (folder / COMPARISON / "comparison.json").unlink()
    page = write_report(folder).read_text()
    assert "comparisons/familiar-novel is incomplete" in page


def test_a_result_without_digests_opens(folder):
    (folder / DIGESTS).unlink()
    assert read_result(folder).settings["order"] == 1
    assert json.loads((folder / COMPARISON / DIGESTS).read_text()).keys() == set(COMPARISON_FILES)
    shutil.rmtree(folder / "comparisons")
    assert read_result(folder).log
