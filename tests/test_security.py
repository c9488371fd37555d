"""A movie, a session table or a result folder from a stranger runs no code, writes nowhere else, and stays text."""

import ast
import json
import os
import pickle
import re
import shutil
import socket
import struct
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
import xarray as xr
from blinking import blinking_movie
from PIL import Image
from typer.testing import CliRunner

import larscope
from larscope import LatentVAR, load, read_session
from larscope._cli.commands import app
from larscope._errors import LarscopeError
from larscope._fit.training import finished_epochs
from larscope._movies.readers.formats import open_movie
from larscope._movies.session import ArrayMovie, Run, Session
from larscope._report.page import write_report
from larscope._results.comparison import record_folder, write_record
from larscope._simulate.files import read_truth
from larscope._statistics.groups import select_runs
from larscope._storage import UNFINISHED

SOURCE = Path(larscope.__file__).parent

HOSTILE_NAMES = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[bold red]red[/]",
    "[link=http://x.invalid]click[/link]",
    "{{7*7}}",
    "{% include '/etc/passwd' %}",
    "../../escaped",
    "/tmp/escaped",
    "..\\..\\escaped",
    "$(touch escaped)",
    "`touch escaped`",
    "$\\input{/etc/passwd}$",
    "%s%s%n",
    "=cmd|'/c calc'!A1",
    "..",
    ".",
    "-rf",
    "a" * 300,
    "javascript:alert(1)",
)


@pytest.fixture
def trap(tmp_path) -> Iterator[Path]:
    """A file that an attack would leave behind."""
    sprung = tmp_path / "sprung"
    yield sprung
    assert not sprung.exists(), "the attack ran code"


class Bomb:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_the_bomb_works(tmp_path):
    """Else none of the tests below could fail."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


# No code: what is written in the source


CALLS = {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_source_has_no_eval_no_unpickling_and_no_shell(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert called not in CALLS, f"{called} in line {node.lineno}"
        assert called not in ("pickle.load", "pickle.loads", "os.system", "os.popen", "joblib.load", "yaml.load")
        assert keywords.get("shell", "False") == "False", f"line {node.lineno}"
        assert keywords.get("allow_pickle", "False") == "False", f"line {node.lineno}"
        if called == "torch.load":
            assert keywords["weights_only"] == "True"
        if called.endswith("trainer.fit"):
            assert keywords["weights_only"] == "True"
        if called == "Environment":
            assert keywords["autoescape"] == "True"


def test_templates_never_mark_anything_as_safe():
    templates = [path for path in SOURCE.rglob("*") if path.suffix in (".html", ".j2", ".jinja")]
    assert templates
    for path in templates:
        assert not re.search(r"\|\s*safe|autoescape|\beval\b|Markup", path.read_text()), path


# No code: movies


def save_pickled_array(path: Path, bomb: Bomb) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([[[bomb]]], dtype=object), allow_pickle=True)


def save_pickle(path: Path, bomb: Bomb) -> None:
    path.write_bytes(pickle.dumps(bomb))


def save_torch(path: Path, bomb: Bomb) -> None:
    torch.save({"epoch": bomb, "state_dict": bomb}, path)


def save_npz(path: Path, bomb: Bomb) -> None:
    with path.open("wb") as file:
        np.savez(file, movie=np.array([[[bomb]]], dtype=object))


def save_pickle_as_text_in_hdf5(path: Path, bomb: Bomb) -> None:
    with h5py.File(path, "w") as file:
        file["movie"] = np.full((2, 8, 8), np.void(pickle.dumps(bomb)))


def save_header_that_calls(path: Path, bomb: Bomb) -> None:
    """The header of a .npy file is a Python literal."""
    header = (
        f"__import__('pathlib').Path({str(bomb.path)!r}).touch() or {{'descr':'<u2','fortran_order':0,'shape':(1,8,8)}}"
    )
    text = header.ljust(245).encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(128))


WRITERS = (save_pickled_array, save_pickle, save_torch, save_npz, save_pickle_as_text_in_hdf5, save_header_that_calls)


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".h5", ".nwb", ".bin", ".zarr", ".pkl"])
@pytest.mark.parametrize("save", WRITERS, ids=lambda save: save.__name__.removeprefix("save_"))
def test_a_movie_that_carries_code_is_refused_and_not_run(save, suffix, trap, tmp_path):
    save(tmp_path / f"movie{suffix}", Bomb(trap))
    with pytest.raises(LarscopeError):
        open_movie(tmp_path / f"movie{suffix}")


def test_a_suite2p_folder_with_malicious_settings_is_refused_and_not_run(trap, tmp_path):
    (tmp_path / "data.bin").write_bytes(bytes(8 * 8 * 2 * 4))
    ops = {"Ly": 8, "Lx": 8, "nframes": 4, "bomb": Bomb(trap)}
    np.save(tmp_path / "ops.npy", np.array(ops, dtype=object), allow_pickle=True)
    with pytest.raises(LarscopeError):
        open_movie(tmp_path / "data.bin")


def test_a_zarr_store_whose_codec_unpickles_is_refused_and_not_run(trap, tmp_path):
    folder = tmp_path / "movie.zarr"
    folder.mkdir()
    described = {"zarr_format": 2, "shape": [1, 8, 8], "chunks": [1, 8, 8], "dtype": "|O", "order": "C"}
    described |= {"fill_value": None, "compressor": None, "filters": [{"id": "pickle", "protocol": 5}]}
    (folder / ".zarray").write_text(json.dumps(described))
    (folder / "0.0.0").write_bytes(pickle.dumps(Bomb(trap)))
    for dtype in ("|O", "<u2"):
        (folder / ".zarray").write_text(json.dumps({**described, "dtype": dtype}))
        with pytest.raises(LarscopeError):
            open_movie(folder).read(0, 1)


def test_metadata_that_expand_without_end_are_refused_at_once(tmp_path):
    """Entities that name entities: a few hundred bytes of XML that grow to gigabytes."""
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    text = f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY e0 "lol">{entities}]><OME>&e11;</OME>'
    tifffile.imwrite(tmp_path / "movie.ome.tif", np.zeros((2, 8, 8), np.uint16), description=text, metadata=None)
    started = time.monotonic()
    with pytest.raises(LarscopeError):
        open_movie(tmp_path / "movie.ome.tif")
    assert time.monotonic() - started < 5


# No other files: movies that point elsewhere


@pytest.fixture
def secret(tmp_path) -> Path:
    """An HDF5 file outside the folder that the movie came in."""
    place = tmp_path / "private"
    place.mkdir()
    with h5py.File(place / "secret.h5", "w") as file:
        file["movie"] = np.arange(128, dtype=np.uint16).reshape(2, 8, 8)
    return place / "secret.h5"


def save_external_link(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file["movie"] = h5py.ExternalLink(str(secret), "movie")


def save_virtual_dataset(path: Path, secret: Path) -> None:
    layout = h5py.VirtualLayout((2, 8, 8), np.uint16)
    layout[:] = h5py.VirtualSource(str(secret), "movie", (2, 8, 8))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("movie", layout)


def save_virtual_dataset_by_relative_path(path: Path, secret: Path) -> None:
    save_virtual_dataset(path, Path("..") / secret.parent.name / secret.name)


def save_external_storage(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("movie", (2, 8, 8), np.uint16, external=[(str(secret), 0, 256)])


POINTERS = (
    save_external_link,
    save_virtual_dataset,
    save_virtual_dataset_by_relative_path,
    save_external_storage,
)


@pytest.mark.parametrize("dataset", [None, "movie", "/movie"])
@pytest.mark.parametrize("save", POINTERS, ids=lambda save: save.__name__.removeprefix("save_"))
def test_an_hdf5_movie_cannot_pull_in_files_from_outside_its_folder(save, dataset, secret, tmp_path):
    (tmp_path / "received").mkdir()
    save(tmp_path / "received" / "movie.h5", secret)
    with pytest.raises(LarscopeError):
        open_movie(tmp_path / "received" / "movie.h5", dataset).read(0, 2)


@pytest.mark.parametrize("name", ["../private/secret.tif", "{absolute}"])
def test_an_ome_tiff_cannot_pull_in_files_from_outside_its_folder(name, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "received").mkdir()
    secret = tmp_path / "private" / "secret.tif"
    tifffile.imwrite(secret, np.full((1, 8, 8), 77, np.uint16), photometric="minisblack")
    name = name.format(absolute=secret)
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="8" SizeY="8" '
        'SizeC="1" SizeZ="1" SizeT="2"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
        '<TiffData IFD="0" FirstT="0"><UUID FileName="movie.ome.tif">urn:uuid:1</UUID></TiffData>'
        f'<TiffData IFD="0" FirstT="1"><UUID FileName="{name}">urn:uuid:2</UUID></TiffData></Pixels></Image></OME>'
    )
    movie = tmp_path / "received" / "movie.ome.tif"
    tifffile.imwrite(movie, np.zeros((1, 8, 8), np.uint16), description=text, metadata=None)
    with pytest.raises(LarscopeError):
        open_movie(movie).read(0, 2)


# No code: results


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A result with hostile names, and a comparison in it."""
    runs = [
        Run(f"{i} {HOSTILE_NAMES[i]}", HOSTILE_NAMES[i % 2 + 6], ArrayMovie(blinking_movie(72, seed=i)), block=None)
        for i in range(8)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LatentVAR(latents="grid", order=2, window=32, penalty=0.002, epochs=1).fit(Session(tuple(runs)))
        folder = model.save(tmp_path_factory.mktemp("stranger") / "result")
        write_record(model.record_comparison(HOSTILE_NAMES[6], HOSTILE_NAMES[7], n_permutations=99), folder)
    return folder


@pytest.fixture
def result(original, tmp_path) -> Path:
    """A copy of it, to tamper with."""
    return shutil.copytree(original, tmp_path / "result")


def use(folder: Path) -> None:
    """What a person does with a result."""
    model = load(folder)
    write_report(folder)
    model.compare(*dict.fromkeys(model.runs_["condition"]), n_permutations=9)


def compare_again(folder: Path) -> None:
    model = load(folder)
    write_record(model.record_comparison(*dict.fromkeys(model.runs_["condition"]), n_permutations=9), folder)


@pytest.fixture(autouse=True)
def blank_figures(monkeypatch):
    """Drawing takes seconds and is tested elsewhere."""
    blank = Image.new("RGB", (8, 8))
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **_: blank.save(path, "PNG"))


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not path.is_dir()}


FILES = ("config.toml", "provenance.json", "log.jsonl", "model.safetensors", "results.nc")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("save", WRITERS, ids=lambda save: save.__name__.removeprefix("save_"))
def test_a_result_file_that_carries_code_is_refused_and_not_run(save, name, trap, result):
    (result / name).unlink()
    save(result / name, Bomb(trap))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # xarray's, of dimensions without names
        with pytest.raises(LarscopeError):
            use(result)


@pytest.mark.parametrize("name", ["comparison.json", "comparison.nc", "edges.csv"])
@pytest.mark.parametrize("save", WRITERS[:4], ids=lambda save: save.__name__.removeprefix("save_"))
def test_a_comparison_file_that_carries_code_is_refused_and_not_run(save, name, trap, result):
    [folder] = (result / "comparisons").iterdir()
    (folder / name).unlink()
    save(folder / name, Bomb(trap))
    with pytest.raises(LarscopeError):
        write_report(result)


@pytest.mark.parametrize("save", WRITERS[:4], ids=lambda save: save.__name__.removeprefix("save_"))
def test_a_stability_file_that_carries_code_is_refused_and_not_run(save, trap, result):
    save(result / "stability.nc", Bomb(trap))
    with pytest.raises(LarscopeError):
        write_report(result)


def link_elsewhere(file: h5py.File, name: str, secret: Path) -> None:
    file[name] = h5py.ExternalLink(str(secret), "movie")


def store_elsewhere(file: h5py.File, name: str, secret: Path) -> None:
    file.create_dataset(name, 8, "S16", external=[(str(secret), 0, 128)])


@pytest.mark.parametrize("lead", [link_elsewhere, store_elsewhere])
@pytest.mark.parametrize(
    ("name", "variable"), [("results.nc", "subject"), ("comparison.nc", "mean_frame"), ("stability.nc", "mean_frame")]
)
def test_a_result_cannot_pull_in_files_from_outside(lead, name, variable, secret, result):
    [folder] = (result / "comparisons").iterdir() if name == "comparison.nc" else [result]
    if name == "stability.nc":
        shutil.copy(result / "results.nc", result / name)
    with h5py.File(folder / name, "a") as file:
        del file[variable]
        lead(file, variable, secret)
    (folder / "digests.json").unlink()  # a stranger's would fit
    with pytest.raises(LarscopeError, match=rf"Expected everything in .*{name} .* '{variable}' lies in .*secret"):
        write_report(result)
    assert not (result / "report.html").exists()


def test_files_that_nobody_asked_for_are_not_opened(trap, result):
    for name in ("model.pt", "model.ckpt", "last.ckpt", "sitecustomize.py", "conftest.py", "__init__.py", "x.pth"):
        save_torch(result / name, Bomb(trap))
    use(result)


def test_a_planted_checkpoint_is_not_unpickled(trap, tmp_path):
    save_torch(tmp_path / "last.ckpt", Bomb(trap))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert finished_epochs(tmp_path) is None


def test_a_simulations_truth_is_not_unpickled(trap, tmp_path):
    (tmp_path / "truth.json").write_text('{"runs": ["a"], "parameters": {}}')
    (tmp_path / "session.csv").write_text("path,condition\n")
    with (tmp_path / "truth.npz").open("wb") as file:
        np.savez(file, couplings_familiar=np.array([Bomb(trap)], dtype=object))
    with pytest.raises((LarscopeError, ValueError)):
        read_truth(tmp_path)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('touch sprung')",
        "condition.__class__.__mro__[1].__subclasses__()",
        "(lambda: exit())()",
        "[c for c in condition]",
        "condition == open('/etc/passwd').read()",
        "f'{condition}' == 'a'",
        "condition == 'a' if run_number else exit()",
        "@condition == 'a'",
        "9**9**9**9 == run_number",
        "'a' * 10**10 == condition",
        "(" * 240 + "condition == 'a'" + ")" * 240,
        "not " * 120 + "condition == 'a'",
    ],
)
def test_an_expression_can_only_compare(expression, original, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        chosen = select_runs(load(original).runs_, expression)
    except LarscopeError:
        pass
    else:
        assert not chosen.any() or expression.startswith(("(((", "not "))
    assert list(tmp_path.iterdir()) == []


# Names are text


class Page(HTMLParser):
    """Collects the elements of a page, their attributes and the text between them."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.words: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("first", range(0, len(HOSTILE_NAMES), 7))
def test_hostile_names_are_text_in_the_report(first, original, tmp_path):
    """As runs, conditions, comparisons, inputs, versions, and settings."""
    names = HOSTILE_NAMES[first : first + 7]
    folder = shutil.copytree(original, tmp_path / "result")
    data = xr.load_dataset(folder / "results.nc", engine="h5netcdf")
    data["run"] = [*names, *map(str, range(8 - len(names)))]
    data["condition"] = ("run", np.array([names[0]] * 4 + [names[1]] * 4, dtype=object))
    data.to_netcdf(folder / "results.nc", engine="h5netcdf")
    provenance = json.loads((folder / "provenance.json").read_text())
    provenance["inputs"] = [{"path": name, "bytes": 1, "sha256": name} for name in names]
    provenance["versions"] |= {"torch": names[2]}
    provenance["command"] = list(names)
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / "digests.json").unlink()
    [compared] = (folder / "comparisons").iterdir()
    summary = json.loads((compared / "comparison.json").read_text())
    summary["first"], summary["second"] = names[:2]
    summary["runs"] = {name: list(names) for name in names[:2]}
    summary["warnings"] = list(names)
    (compared / "comparison.json").write_text(json.dumps(summary))
    (compared / "digests.json").unlink()
    page = Page()
    text = write_report(folder).read_text()
    page.feed(text)
    assert all(name in "".join(page.words) for name in names)
    assert not {attribute for attribute in page.attributes if attribute.startswith("on")}
    assert "root:x:0" not in text
    assert {"iframe", "object", "embed", "base"}.isdisjoint(page.elements)
    assert not re.search(r"<script>\s*alert", text)
    assert files_in(tmp_path) == files_in(folder)


@pytest.mark.parametrize("name", [name for name in HOSTILE_NAMES if len(name) < 60])
def test_a_hostile_name_is_text_on_the_terminal(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "movie.npy", blinking_movie(72))
    cell = '"' + name.replace('"', '""') + '"'
    (tmp_path / "session.csv").write_text(f"path,condition,run\nmovie.npy,{cell},{cell}\nnone.npy,a,{cell}\n")
    before = files_in(tmp_path)
    done = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ["check", "session.csv"])
    assert done.exit_code == 2
    assert name in done.output
    assert "\x1b" not in done.output
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("code", ["\x1b[2J", "\x1b]0;title\x07", "\x9b2J", "\x08\x08", "\r"])
def test_names_that_would_steer_the_terminal_are_refused(code, tmp_path):
    np.save(tmp_path / "movie.npy", blinking_movie(72))
    (tmp_path / "session.csv").write_text(f'path,condition,run\nmovie.npy,a,"x{code}y"\n', newline="")
    with pytest.raises(LarscopeError, match="control character") as refused:
        read_session(tmp_path / "session.csv")
    assert code not in str(refused.value)


# No writing elsewhere


@pytest.mark.parametrize("second", ["novel", "../../up", ".."])
@pytest.mark.parametrize("first", [*HOSTILE_NAMES, "\0", "a/../../..", "CON", "~", "\n", ""])
def test_a_comparison_of_hostile_names_stays_in_its_folder(first, second, tmp_path):
    folder = record_folder(tmp_path / "result", first, second)
    assert folder.parent == tmp_path / "result" / "comparisons"
    folder.mkdir(parents=True)  # a name that the system takes
    assert folder.resolve().is_relative_to((tmp_path / "result").resolve())


@pytest.mark.parametrize("link", ["figures", "comparisons", "report.html", "figures/latents.png"])
def test_a_link_in_a_result_folder_leads_no_writing_out_of_it(link, result, tmp_path):
    write_report(result)
    victim = tmp_path / "outside" / "victim"
    victim.parent.mkdir()
    victim.write_text("mine")
    place = result / link
    if place.is_dir():
        shutil.rmtree(place)
        place.symlink_to(victim.parent)
    else:
        place.unlink()
        place.symlink_to(victim)
    with suppress(LarscopeError):
        write_report(result)
    with suppress(LarscopeError):
        compare_again(result)
    assert list(victim.parent.iterdir()) == [victim]
    assert victim.read_text() == "mine"


def test_a_link_where_a_file_will_be_filled_is_not_followed(result, tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    [compared] = (result / "comparisons").iterdir()
    monkeypatch.setattr("secrets.token_hex", lambda n: "guessed")
    for folder in (result, compared):
        for suffix in (".html", ".png", ".json", ".nc", ".csv"):
            (folder / f"{UNFINISHED}-{socket.gethostname()}-{os.getpid()}-guessed{suffix}").symlink_to(victim)
    write_report(result)
    compare_again(result)
    assert victim.read_text() == "mine"
    assert not (result / "report.html").is_symlink()


def test_using_a_strangers_result_writes_only_into_its_folder(result, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    use(result)
    for arguments in (["report"], ["compare"]):
        names = HOSTILE_NAMES[6:8] if arguments == ["compare"] else ()
        CliRunner().invoke(app, [*arguments, str(result), "--", *names])
    assert list(elsewhere.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"result", "elsewhere"}
