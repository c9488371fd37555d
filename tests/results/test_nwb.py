"""A result as NWB: the numbers of `results.nc`, the metadata of the input, nothing made up."""

import json
import shutil
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pynwb
import pytest
import tomli_w
from blinking import blinking_movie
from nwbinspector import Importance, inspect_nwbfile
from pynwb.file import Subject
from pynwb.ophys import OpticalChannel, TwoPhotonSeries
from typer.testing import CliRunner

from larscope import LarscopeError
from larscope._cli.commands import app
from larscope._results.comparison import read_record
from larscope._results.folder import Result, read_result, write_result
from larscope._results.nwb import write_nwb

# a field that older files have
pytestmark = pytest.mark.filterwarnings("ignore:The 'manufacturer' field is deprecated:DeprecationWarning")

RESULT = Path(__file__).parent / "kept" / "schema-1"
STARTED = datetime(2026, 1, 31, 9, 30, tzinfo=timezone(timedelta(hours=1)))
METADATA = {
    "identifier": "session-1",
    "session_start_time": STARTED,
    "session_description": "Four runs under two conditions.",
    "experimenter": ["Doe, Jane"],
    "experiment_description": "A test.",
    "institution": "Somewhere",
    "keywords": ["test"],
    "subject": {
        "subject_id": "m1",
        "species": "Mus musculus",
        "sex": "F",
        "age": "P90D",
        "description": "No animal: simulated.",
    },
}


@pytest.fixture
def metadata(tmp_path):
    def write(without=(), **changed) -> Path:
        given = {name: value for name, value in {**METADATA, **changed}.items() if name not in without}
        (tmp_path / "metadata.toml").write_text(tomli_w.dumps(given), encoding="utf-8")
        return tmp_path / "metadata.toml"

    return write


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The kept result as NWB, open."""
    folder = tmp_path_factory.mktemp("nwb")
    (folder / "metadata.toml").write_text(tomli_w.dumps(METADATA))
    path = write_nwb(RESULT, folder / "out.nwb", folder / "metadata.toml")
    with pynwb.NWBHDF5IO(path, "r") as source:
        yield source.read()


def with_inputs(folder: Path, paths, simulated=False, change=lambda dataset: dataset) -> Path:
    """Write the kept result as if it had been made from other movies."""
    kept = read_result(RESULT)
    provenance = {**kept.provenance, "inputs": [{"path": str(path)} for path in paths]}
    dataset = change(kept.dataset.assign_attrs(simulated=int(simulated)))
    return write_result(Result(kept.settings, provenance, kept.log, kept.weights, dataset), folder)


def with_subject(name: str):
    return lambda data: data.assign(subject=("run", np.array([name] * 4, dtype=object)))


def recording(path: Path, frames=None, **changed) -> Path:
    """Write an NWB file with two-photon frames and all the metadata that one may have."""
    fields = {
        "session_description": "Mouse on a wheel.",
        "identifier": "rec-7",
        "session_start_time": STARTED,
        "experimenter": ["Doe, Jane", "Roe, Jo"],
        "experiment_description": "Familiar and novel places.",
        "institution": "Somewhere",
        "lab": "A lab",
        "session_id": "seven",
        "keywords": ["hippocampus"],
        "virus": "GCaMP8s",
        "subject": Subject(
            subject_id="m7", species="Mus musculus", sex="F", age="P90D", description="A mouse.", weight="25 g"
        ),
    }
    file = pynwb.NWBFile(**{**fields, **changed})
    model = file.create_device_model(name="Mark 2", description="A model.", manufacturer="A company")
    device = file.create_device(name="Microscope", description="Old", manufacturer="A company", model=model)
    plane = file.create_imaging_plane(
        name="Plane",
        optical_channel=OpticalChannel(name="Green", description="GCaMP", emission_lambda=510.0),
        description="CA1",
        device=device,
        excitation_lambda=920.0,
        indicator="GCaMP8s",
        location="CA1",
        imaging_rate=30.0,
        grid_spacing=[1.5, 1.5],
        grid_spacing_unit="micrometers",
    )
    file.create_imaging_plane(
        name="Deeper",
        optical_channel=OpticalChannel(name="Green", description="jRGECO", emission_lambda=600.0),
        description="CA3",
        device=device,
        excitation_lambda=1040.0,
        indicator="jRGECO",
        location="CA3",
    )
    file.add_acquisition(
        TwoPhotonSeries(
            name="Movie",
            data=np.zeros((4, 8, 8), np.uint16) if frames is None else frames.transpose(0, 2, 1),  # width first
            imaging_plane=plane,
            unit="counts",
            rate=30.0,
        )
    )
    with pynwb.NWBHDF5IO(path, "w") as out:
        out.write(file)
    return path


def frame(table) -> pd.DataFrame:
    """A table's one-dimensional columns."""
    return pd.DataFrame(
        {column.name: np.asarray(column.data[:]) for column in table.columns if np.ndim(column.data[0]) == 0}
    )


def complaints(path: Path) -> list[str]:
    """Everything that nwbinspector says, at its lowest threshold, with pynwb's own validation."""
    found = inspect_nwbfile(nwbfile_path=path, importance_threshold=Importance.BEST_PRACTICE_SUGGESTION)
    return [f"{message.importance.name} {message.location} {message.message}" for message in found]


def test_nwbinspector_has_nothing_to_say(metadata, tmp_path):
    assert complaints(write_nwb(RESULT, tmp_path / "out.nwb", metadata())) == []


def test_series_are_those_of_the_result(exported):
    data, module = read_result(RESULT).dataset, exported.processing["ophys"]
    latents, forecasts = module["LarscopeLatentSeries"], module["LarscopeForecastSeries"]
    assert np.array_equal(latents["value"].data[:], data["latent_series"])
    assert np.array_equal(forecasts["value"].data[:], data["forecast_series"])
    assert latents["run"].data[:].tolist() == np.repeat([0, 1, 2, 3], 48).tolist()
    assert latents["frame"].data[:].tolist() == list(range(48)) * 4
    order = data.attrs["order"]
    assert forecasts["frame"].data[:].tolist() == list(range(order, 48)) * 4
    assert latents["run"].table is module["LarscopeRuns"]


def test_coefficients_are_those_of_the_result(exported):
    data, table = read_result(RESULT).dataset, exported.processing["ophys"]["LarscopeCoefficients"]
    for column, variable in (
        ("run", "coef_run"),
        ("lag", "coef_lag"),
        ("source", "coef_source"),
        ("target", "coef_target"),
    ):
        assert np.array_equal(table[column].data[:], data[variable]), column
    assert np.array_equal(table["coef"].data[:], data["coef"])
    for end in ("source", "target"):
        for axis in ("row", "column"):
            centre = data[f"latent_{axis}"].to_numpy()[data[f"coef_{end}"]]
            assert np.array_equal(table[f"{end}_{axis}"].data[:], centre)


def test_positions_are_in_pixels_of_the_recorded_movie(metadata, tmp_path):
    def cropped(data):
        return data.assign_attrs(crop=[96, 96], downscale=4, crop_offset=[10, 20])

    folder = with_inputs(tmp_path / "result", [], simulated=True, change=cropped)
    with pynwb.NWBHDF5IO(write_nwb(folder, tmp_path / "out.nwb", metadata()), "r") as source:
        latents = source.read().processing["ophys"]["LarscopeLatents"]
        # the first latent covers 8 pixels of 4 x 4: rows 10 to 41
        assert latents["row"].data[:].tolist() == [25.5] * 3 + [57.5] * 3 + [89.5] * 3
        assert latents["column"].data[:].tolist() == [35.5, 67.5, 99.5] * 3


def test_runs_are_those_of_the_session(exported):
    data, table = read_result(RESULT).dataset, frame(exported.processing["ophys"]["LarscopeRuns"])
    assert table["run"].tolist() == data["run"].to_numpy().tolist()
    for name in ("condition", "start", "stop", "n_frames", "var_explained", "var_error_heldout", "n_active"):
        assert table[name].tolist() == data[name].to_numpy().tolist(), name
    assert "block" not in table  # nobody gave one


def test_maps_are_those_of_the_result_and_of_its_comparison(exported):
    images = exported.processing["ophys"]["LarscopeMaps"].images
    data, compared = read_result(RESULT).dataset, read_record(RESULT / "comparisons" / "familiar-novel").dataset
    expected = {"mean_frame": data["mean_frame"]}
    expected |= {f"contribution_map_{run}": data["contribution_map"][run] for run in range(4)}
    maps = ("map_first", "map_second", "difference", "difference_pvalue")
    expected |= {f"comparison_0_{name}": compared[name] for name in maps}
    assert set(images) == set(expected)
    for name, image in expected.items():
        assert np.array_equal(images[name].data[:].T, image), name
    assert "run simulated-01" in images["contribution_map_0"].description
    assert "familiar minus the map of novel" in images["comparison_0_difference"].description


def test_tests_are_those_of_the_comparison(exported):
    record = read_record(RESULT / "comparisons" / "familiar-novel")
    table = frame(exported.processing["ophys"]["LarscopeComparisons"]).set_index("test")
    assert table.index.tolist() == ["swap", "influence"]
    for test, found in record.summary["tests"].items():
        for name in ("statistic", "pvalue", "pvalue_ranksum", "min_pvalue", "effect_size", "anosim_r", "units"):
            assert table.loc[test, name] == found[name]
        assert [table.loc[test, "effect_low"], table.loc[test, "effect_high"]] == found["effect_interval"]
        assert all(warning in table.loc[test, "warnings"] for warning in found["warnings"])
    edges = frame(exported.processing["ophys"]["LarscopeEdgeTests"])
    assert set(edges["first"]) == {"familiar"}
    assert set(edges["second"]) == {"novel"}
    for name in ("lag", "source", "target", "source_row", "mean_first", "mean_second", "difference", "pvalue"):
        assert np.array_equal(edges[name], record.dataset[f"edge_{name}"]), name


def test_simulated_data_are_called_simulated(exported):
    assert exported.session_description == "Simulated data; nothing was recorded. Four runs under two conditions."
    assert "in simulated data" in exported.processing["ophys"].description


def test_the_input_says_what_was_recorded(tmp_path):
    movie = recording(tmp_path / "movie.nwb")
    path = write_nwb(with_inputs(tmp_path / "result", [movie]), tmp_path / "out.nwb")
    assert complaints(path) == []
    with pynwb.NWBHDF5IO(movie, "r") as one, pynwb.NWBHDF5IO(path, "r") as two:
        source, copy = one.read(), two.read()
        for name in ("session_description", "experimenter", "experiment_description", "institution", "lab", "virus"):
            assert getattr(copy, name) == getattr(source, name), name
        assert copy.session_start_time == STARTED
        assert copy.identifier == "rec-7-larscope"
        assert copy.keywords[:].tolist() == ["hippocampus"]
        for name in ("subject_id", "species", "sex", "age", "description", "weight"):
            assert getattr(copy.subject, name) == getattr(source.subject, name), name
        plane = copy.imaging_planes["Plane"]
        assert plane.device is copy.devices["Microscope"]
        assert plane.device.manufacturer == "A company"
        assert plane.device.model is copy.device_models["Mark 2"]
        for name in ("description", "excitation_lambda", "indicator", "location", "imaging_rate"):
            assert getattr(plane, name) == getattr(source.imaging_planes["Plane"], name), name
        assert plane.grid_spacing[:].tolist() == [1.5, 1.5]
        assert plane.optical_channel[0].emission_lambda == 510.0
        other = copy.imaging_planes["Deeper"]  # its channel has the same name
        assert (other.device, other.optical_channel[0].emission_lambda) == (plane.device, 600.0)
        assert not copy.acquisition  # the movie stays where it is
        assert "simulated" not in copy.session_description.lower()


def test_nothing_is_made_up(tmp_path):
    """What neither input nor metadata says is absent."""
    bare = {name: None for name in ("experimenter", "institution", "lab", "session_id", "keywords", "virus", "subject")}
    movie = recording(tmp_path / "movie.nwb", **bare)
    folder = with_inputs(tmp_path / "result", [movie], change=with_subject(""))
    path = write_nwb(folder, tmp_path / "out.nwb")
    with pynwb.NWBHDF5IO(path, "r") as source:
        file = source.read()
        assert {name: getattr(file, name) for name in bare} == bare


@pytest.mark.parametrize("missing", ["identifier", "session_start_time", "session_description"])
def test_what_nwb_requires_is_asked_for(missing, metadata, tmp_path):
    with pytest.raises(LarscopeError, match=f"NWB requires `{missing}`") as error:
        write_nwb(RESULT, tmp_path / "out.nwb", metadata(without=[missing]))
    assert "--metadata" in str(error.value)
    with pytest.raises(LarscopeError, match="`session_description`, `identifier`, `session_start_time`"):
        write_nwb(RESULT, tmp_path / "out.nwb")
    assert not list(tmp_path.glob("*.nwb"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"session_start_time": datetime(2026, 1, 31, 9, 30)}, "distance from UTC"),
        ({"session_start_time": "yesterday"}, "distance from UTC"),
        ({"subject": {"subject_id": "m1", "date_of_birth": datetime(2025, 1, 1)}}, "`date_of_birth` must be"),
        ({"subject": "m1"}, r"Write \[subject\]"),
        ({"idenfier": "x"}, "Did you mean 'identifier'?"),
        ({"subject": {"subject_id": "m1", "tail": "long"}}, "NWB does not take this metadata"),
        ({"lab": 3}, "NWB does not take this metadata"),
    ],
)
def test_metadata_that_nwb_does_not_take_are_refused(changed, message, metadata, tmp_path):
    with pytest.raises(LarscopeError, match=message):
        write_nwb(RESULT, tmp_path / "out.nwb", metadata(**changed))
    assert not list(tmp_path.glob("*.nwb"))


def test_metadata_win_over_the_input(metadata, tmp_path):
    movie = recording(tmp_path / "movie.nwb")
    path = write_nwb(with_inputs(tmp_path / "result", [movie]), tmp_path / "out.nwb", metadata(without=["keywords"]))
    with pynwb.NWBHDF5IO(path, "r") as source:
        file = source.read()
        assert (file.identifier, file.subject.subject_id, file.subject.weight) == ("session-1", "m1", "25 g")
        assert file.keywords[:].tolist() == ["hippocampus"]


def test_inputs_that_contradict_each_other_are_named_with_all_that_differs(metadata, tmp_path):
    one = recording(tmp_path / "a.nwb")
    other = {"identifier": "rec-8", "session_start_time": datetime.now(UTC), "subject": Subject(subject_id="m8")}
    folder = with_inputs(tmp_path / "result", [one, recording(tmp_path / "b.nwb", **other)])
    with pytest.raises(
        LarscopeError, match=r"a\.nwb, .*b\.nwb differ in `identifier`, `session_start_time`, `subject`\."
    ):
        write_nwb(folder, tmp_path / "out.nwb")
    assert not (tmp_path / "out.nwb").exists()
    write_nwb(folder, tmp_path / "out.nwb", metadata())  # which says all of these


def test_inputs_that_agree_are_one_session(tmp_path):
    same = [recording(tmp_path / "a.nwb"), recording(tmp_path / "b.nwb", subject=Subject(subject_id="m7", sex="F"))]
    with pynwb.NWBHDF5IO(write_nwb(with_inputs(tmp_path / "result", same), tmp_path / "out.nwb"), "r") as source:
        file = source.read()
        assert (file.subject.weight, list(file.devices)) == ("25 g", ["Microscope"])


def test_a_vanished_input_is_said(tmp_path):
    with pytest.raises(LarscopeError, match=r"gone\.nwb was NWB"):
        write_nwb(with_inputs(tmp_path / "result", [tmp_path / "gone.nwb"]), tmp_path / "out.nwb")


def test_the_one_subject_of_the_session_table_is_the_subject(metadata, tmp_path):
    folder = with_inputs(tmp_path / "result", [], change=with_subject("m3"))
    with pynwb.NWBHDF5IO(write_nwb(folder, tmp_path / "out.nwb", metadata(without=["subject"])), "r") as source:
        assert source.read().subject.subject_id == "m3"


def test_a_result_without_coefficients_or_comparisons(metadata, tmp_path):
    folder = with_inputs(tmp_path / "result", [], change=lambda data: data.isel(entry=slice(0)))
    path = write_nwb(folder, tmp_path / "out.nwb", metadata())
    assert complaints(path) == []
    with pynwb.NWBHDF5IO(path, "r") as source:
        names = set(source.read().processing["ophys"].data_interfaces)
    assert names == {
        "LarscopeRuns",
        "LarscopeLatents",
        "LarscopeLatentSeries",
        "LarscopeForecastSeries",
        "LarscopeMaps",
    }


def test_a_file_is_never_overwritten(metadata, tmp_path):
    (tmp_path / "out.nwb").write_text("mine")
    with pytest.raises(LarscopeError, match=r"out\.nwb exists"):
        write_nwb(RESULT, tmp_path / "out.nwb", metadata())
    assert (tmp_path / "out.nwb").read_text() == "mine"


def test_nor_one_that_appears_meanwhile(metadata, tmp_path, monkeypatch):
    write = pynwb.NWBHDF5IO.write

    def slow(self, *arguments, **options):
        (tmp_path / "out.nwb").write_text("mine")
        return write(self, *arguments, **options)

    monkeypatch.setattr(pynwb.NWBHDF5IO, "write", slow)
    with pytest.raises(LarscopeError, match=r"out\.nwb exists"):
        write_nwb(RESULT, tmp_path / "out.nwb", metadata())
    assert (tmp_path / "out.nwb").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"out.nwb", "metadata.toml"}


def test_nothing_is_left_when_writing_fails(metadata, tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pynwb.NWBHDF5IO, "write", full_disk)
    with pytest.raises(LarscopeError, match="No space left on device"):
        write_nwb(RESULT, tmp_path / "out.nwb", metadata())
    assert {path.name for path in tmp_path.iterdir()} == {"metadata.toml"}


def test_a_missing_folder_and_another_ending_are_said(metadata, tmp_path):
    with pytest.raises(LarscopeError, match="must be written to"):
        write_nwb(RESULT, tmp_path / "no" / "out.nwb", metadata())
    with pytest.raises(LarscopeError, match=r"ends with \.nwb"):
        write_nwb(RESULT, tmp_path / "out.h5", metadata())


def test_missing_pynwb_is_said_with_the_command_that_installs_it(metadata, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynwb", None)
    with pytest.raises(LarscopeError, match=r"pip install 'larscope\[nwb\]'"):
        write_nwb(RESULT, tmp_path / "out.nwb", metadata())


def test_the_command(metadata, tmp_path):
    result = shutil.copytree(RESULT, tmp_path / "result")
    arguments = ["export", str(result), "--nwb", str(tmp_path / "out.nwb")]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert "NWB requires" in refused.stderr
    done = CliRunner().invoke(app, [*arguments, "--metadata", str(metadata())])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out.nwb").stat().st_size > 100_000


def test_from_nwb_to_nwb(tmp_path):
    """Two runs of one NWB movie are fitted, and exported without being asked for anything."""
    recording(tmp_path / "movie.nwb", blinking_movie(150))
    rows = ["path,condition,start,stop", "movie.nwb,familiar,0,75", "movie.nwb,novel,75,150"]
    (tmp_path / "session.csv").write_text("\n".join(rows))
    fit = [
        "fit",
        str(tmp_path / "session.csv"),
        "--out",
        str(tmp_path / "result"),
        "--latents",
        "grid",
        "--order",
        "2",
        "--window",
        "32",
    ]
    done = CliRunner().invoke(app, [*fit, "--epochs", "1", "--penalty", "0.002"])
    assert done.exit_code == 0, done.output
    path = tmp_path / "out.nwb"
    done = CliRunner().invoke(app, ["export", str(tmp_path / "result"), "--nwb", str(path)])
    assert done.exit_code == 0, done.output
    assert [line for line in complaints(path) if "SUGGESTION" not in line] == []
    with pynwb.NWBHDF5IO(path, "r") as source:
        file = source.read()
        assert (file.subject.subject_id, file.identifier) == ("m7", "rec-7-larscope")
        runs = frame(file.processing["ophys"]["LarscopeRuns"])
        assert runs[["start", "stop", "frame_rate", "subject"]].to_numpy().tolist() == [
            [0, 75, 30.0, "m7"],
            [75, 150, 30.0, "m7"],
        ]
        series = file.processing["ophys"]["LarscopeLatentSeries"]
        assert series["frame"].data[:].tolist() == list(range(150))
        assert np.array_equal(series["value"].data[:], read_result(tmp_path / "result").dataset["latent_series"])


def test_a_number_that_no_comparison_has_is_left_out(metadata, tmp_path):
    folder = shutil.copytree(RESULT, tmp_path / "result")
    path = folder / "comparisons" / "familiar-novel" / "comparison.json"
    summary = json.loads(path.read_text())
    for test in summary["tests"].values():
        test["permdisp_pvalue"] = None
    path.write_text(json.dumps(summary))
    out = write_nwb(folder, tmp_path / "out.nwb", metadata())
    with pynwb.NWBHDF5IO(out, "r") as source:
        table = frame(source.read().processing["ophys"]["LarscopeComparisons"])
    assert "permdisp_pvalue" not in table
    assert table["pvalue"].dtype == float
