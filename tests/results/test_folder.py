import json
import os

import h5py
import numpy as np
import pytest
import xarray as xr

from larscope import LarscopeError, LatentVAR, load
from larscope._results.folder import FILES, read_result, write_result
from larscope._results.schema import SCHEMA_VERSION


@pytest.fixture(scope="module")
def written(session, tmp_path_factory):
    with pytest.warns(UserWarning, match="only 9 steps"):
        model = LatentVAR(latents="grid", order=2, window=32, penalty=0.002, epochs=1).fit(session)
    return model, model.save(tmp_path_factory.mktemp("results") / "result")


def test_holds_the_documented_files_and_nothing_pickled(written):
    _, folder = written
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "digests.json"])
    assert not [path for path in folder.parent.iterdir() if path != folder]
    for path in folder.iterdir():
        assert not path.read_bytes().startswith(b"\x80")


def test_config_repeats_the_settings(written):
    model, folder = written
    assert LatentVAR(**read_result(folder).settings).get_params() == model.get_params()


def test_provenance_and_log_are_json(written):
    model, folder = written
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["schema_version"] == SCHEMA_VERSION
    assert provenance["versions"].keys() >= {"larscope", "torch", "numpy", "python"}
    first, *rest = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert first == {"schema_version": SCHEMA_VERSION, **model.log_[0]}
    assert rest == model.log_[1:]


def test_results_are_plain_netcdf4_that_hdf5_readers_open(written):
    model, folder = written
    with h5py.File(folder / "results.nc") as file:
        assert file["latent_series"].shape == (316, 6)
        assert np.array_equal(file["n_frames"][:], [72, 80, 64, 100])
    data = xr.load_dataset(folder / "results.nc", engine="h5netcdf")
    assert data.attrs["title"] == "larscope result"
    assert data["run"].to_numpy().tolist() == ["run-0", "run-1", "run-2", "run-3"]
    # the layout as documented: lag counts from 1
    dense = np.zeros((4, 2, 6, 6))
    index = tuple(data[f"coef_{name}"].to_numpy() for name in ("run", "lag", "target", "source"))
    dense[(index[0], index[1] - 1, *index[2:])] = data["coef"]
    assert np.array_equal(dense, np.stack(list(model.coef_)))


def test_latent_positions_are_the_centres_of_their_fields(written):
    data = read_result(written[1]).dataset
    assert data["latent_row"].to_numpy().tolist() == [3.5, 3.5, 11.5, 11.5, 19.5, 19.5]
    assert data["latent_column"].to_numpy().tolist() == [3.5, 11.5] * 3


def test_keeps_a_clip_of_one_run_a_condition_around_its_example(written):
    data = read_result(written[1]).dataset
    assert np.unique(data["clip_run"]).tolist() == [0, 1]
    for run in (0, 1):
        of_run = data["clip_run"].to_numpy() == run
        frames = data["clip_frame"].to_numpy()[of_run]
        assert frames.tolist() == list(range(frames[0], frames[0] + 32))
        example = of_run & (data["clip_frame"].to_numpy() == int(data["example_frame"][run]))
        for name in ("observed", "reconstruction"):
            expected = data[f"example_{name}"].to_numpy()[run]
            assert np.allclose(data[f"clip_{name}"].to_numpy()[example][0], expected, atol=2e-5)


def test_keeps_curves_over_the_penalty(written):
    data = read_result(written[1]).dataset
    assert data["curve_run"].to_numpy().tolist() == [0, 1, 2, 3]
    at_chosen = data.sel(penalty=0.002)
    assert np.array_equal(at_chosen["curve_n_active"], data["n_active"])
    assert np.allclose(at_chosen["curve_explained"], data["var_explained"], atol=1e-6)


def test_clips_and_curves_survive_loading_and_saving(written, tmp_path):
    again = read_result(load(written[1]).save(tmp_path / "again")).dataset
    before = read_result(written[1]).dataset
    for name in ("clip_run", "clip_frame", "curve_explained_heldout", "penalty"):
        assert np.array_equal(again[name], before[name])
    for name in ("clip_observed", "clip_reconstruction"):
        assert np.allclose(again[name], before[name], atol=2e-5)


def test_refuses_a_folder_that_holds_something(written, tmp_path):
    model, folder = written
    with pytest.raises(LarscopeError, match="holds another result"):
        model.save(folder)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(LarscopeError, match="holds other files"):
        model.save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(LarscopeError, match="is a file"):
        model.save(tmp_path / "notes.txt")


def test_an_empty_folder_is_filled(written, tmp_path):
    assert read_result(written[0].save(tmp_path)).settings["order"] == 2


def test_leaves_nothing_behind_when_writing_fails(written, tmp_path, monkeypatch):
    result = read_result(written[1])

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full_disk)
    with pytest.raises(LarscopeError, match="No space left on device"):
        write_result(result, tmp_path / "result")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_newer_result_is_said(written, tmp_path):
    with pytest.raises(LarscopeError, match=r"lacks config\.toml"):
        read_result(tmp_path)
    folder = written[0].save(tmp_path / "result")
    provenance = json.loads((folder / "provenance.json").read_text())
    provenance["schema_version"] = 99
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / "digests.json").unlink()
    with pytest.raises(LarscopeError, match="Update larscope"):
        read_result(folder)


def test_a_read_only_place_is_said(written, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    with pytest.raises(LarscopeError, match=f"{tmp_path} is read-only"):
        written[0].save(tmp_path / "result")
