import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from larscope import LatentVAR, load, read_session
from larscope._cli.commands import app
from larscope._cli.terminal import console
from larscope._dynamics.stability import find_edges
from larscope._errors import LarscopeError
from larscope._fit import training
from larscope._movies.session import Run
from larscope._results.folder import read_result
from larscope._settings import setting_names

FIT = ["--latents", "grid", "--order", "2", "--window", "32", "--penalty", "0.002", "--epochs", "2"]


def larscope(*arguments: object):
    console.width = 100  # not that of whatever terminal the tests run in
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def edit(table, old, new):
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))


def test_fit_and_the_estimator_give_the_same_numbers_bit_for_bit(table, tmp_path):
    done = larscope("fit", table, "--out", tmp_path / "result", *FIT)
    assert done.exit_code == 0, done.output
    with pytest.warns(UserWarning, match="only 18 steps"):
        model = LatentVAR(latents="grid", order=2, window=32, penalty=0.002, epochs=2).fit(read_session(table))
    written = load(tmp_path / "result")
    assert written.scores_.equals(model.scores_)
    assert written.log_ == model.log_
    for name, value in model.network_.state_dict().items():
        assert written.network_.state_dict()[name].equal(value), name


@pytest.mark.parametrize(("given", "used"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(given, used):
    code = "import os, sys, larscope._cli.commands; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    environment = {**{name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}, **given}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [used, "False"]


def test_fit_takes_a_penalty_by_number_or_chooses_one(table, tmp_path):
    done = larscope("fit", table, "--out", tmp_path / "result", *FIT, "--penalty", "auto")
    assert done.exit_code == 0, done.output
    chosen = load(tmp_path / "result")
    assert chosen.penalty == "auto"
    assert chosen.penalty_ != 0.005
    wrong = larscope("fit", table, "--out", tmp_path / "other", "--penalty", "best")
    assert wrong.exit_code == 2
    assert "or 'auto'; got 'best'" in " ".join(wrong.stderr.split())


def test_fit_takes_a_preset(table, tmp_path):
    given = ["--latents", "grid", "--order", "2", "--window", "32", "--penalty", "0.002"]
    done = larscope("fit", table, "--out", tmp_path / "result", "--preset", "paper", *given)
    assert done.exit_code == 0, done.output
    paper = LatentVAR(preset="paper", order=2, window=32, penalty=0.002)
    assert LatentVAR(**read_result(tmp_path / "result").settings).settings == paper.settings


def test_fit_says_what_was_found_and_which_file_to_open(table, tmp_path):
    done = larscope("fit", table, "--out", tmp_path / "result", *FIT)
    assert "Training takes only 18 steps" in done.stderr
    assert "4 runs (2 familiar, 2 novel), 316 frames of 24 x 16 pixels, 6 latents" in done.stdout
    last = done.stdout.splitlines()[-1]
    page = re.search(r"Open (\S+) in any browser", last)[1]
    assert page == str(tmp_path / "result" / "report.html")
    assert os.path.getsize(page) > 10_000


def test_nothing_but_the_result_is_left(table, tmp_path):
    before = set(tmp_path.iterdir())
    larscope("fit", table, "--out", tmp_path / "result", *FIT)
    assert set(tmp_path.iterdir()) - before == {tmp_path / "result", tmp_path / ".larscope-cache"}


def test_what_is_wrong_with_the_movies_is_said_once_and_kept(table, tmp_path, monkeypatch):
    movie = np.load(tmp_path / "run-1.npy")
    movie[:, 0] = 0
    movie[30] = movie[29]
    np.save(tmp_path / "run-1.npy", movie)
    first = larscope("fit", table, "--out", tmp_path / "a", *FIT)
    assert "run 'run-1'" in " ".join(first.stderr.split())
    checks = load(tmp_path / "a").provenance_["checks"]
    assert {check["level"] for check in checks if check["check"] == "length"} == {
        "pass"
    }  # 64 frames, order 2, window 32
    assert {"dead_rows", "repeated_frames"} <= {check["check"] for check in checks if check["level"] == "warn"}
    monkeypatch.setattr("larscope._movies.checks.check._judge", lambda *_, **__: pytest.fail("checked again"))
    larscope("fit", table, "--out", tmp_path / "b", *FIT, "--penalty", "0.01")
    assert load(tmp_path / "b").provenance_["checks"] == checks


def test_ctrl_c_is_one_even_where_compiled_code_or_a_reader_makes_another_error_of_it(table, tmp_path, monkeypatch):
    def read(*_):
        try:
            raise SystemError("returned a result with an exception set") from KeyboardInterrupt()
        except SystemError as error:
            raise LarscopeError("The file cannot be read.") from error

    monkeypatch.setattr(Run, "read", read)
    stopped = larscope("fit", table, "--out", tmp_path / "result", *FIT)
    assert stopped.exit_code == 130
    assert "Give the same command again" in stopped.output
    assert "cannot be read" not in stopped.output
    assert larscope("check", table).exit_code == 130


@pytest.mark.posix
def test_a_ctrl_c_that_is_lost_stops_the_fit_before_the_result_is_put_in_place(table, tmp_path, monkeypatch):
    class Stopping:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    def lose(folder):
        Stopping()

    monkeypatch.setattr("larscope._fit.to_folder.write_report", lose)
    found = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        stopped = larscope("fit", table, "--out", tmp_path / "result", *FIT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, found)
    assert stopped.exit_code == 130
    assert "Give the same command again" in stopped.output
    assert "Traceback" not in stopped.output
    assert not (tmp_path / "result").exists()


@pytest.mark.parametrize("error", [EOFError(), KeyError("shape"), SystemError("returned NULL")])
def test_a_fault_of_larscope_is_said_to_be_one_with_all_that_is_known_of_it(error, table, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Run, "read", fail)
    failed = larscope("check", table)
    assert failed.exit_code == 1
    assert "this is a fault of larscope" in " ".join(failed.stderr.split())
    assert f"{type(error).__name__}" in failed.stderr
    assert "in fail" in failed.stderr
    assert "Aborted" not in failed.output


def test_a_file_that_cannot_be_written_is_said_without_a_traceback(table, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / "cache"))

    monkeypatch.setattr(Run, "read", fail)
    failed = larscope("check", table)
    assert failed.exit_code == 2
    assert "No space left on device" in failed.stderr
    assert str(tmp_path / "cache") in failed.stderr.replace("\n", "")
    assert "Traceback" not in failed.stderr


def test_memory_that_is_not_allowed_is_refused_before_anything_is_written(table, tmp_path):
    before = set(tmp_path.iterdir())
    done = larscope("fit", table, "--out", tmp_path / "result", *FIT, "--max-memory", "100MB")
    assert done.exit_code == 2
    assert "must stay below 95.4 MiB (`--max-memory`)" in " ".join(done.stderr.split())
    assert set(tmp_path.iterdir()) == before


def test_two_fits_share_the_cache_they_are_given(table, tmp_path):
    for name in ("a", "b"):
        larscope("fit", table, "--out", tmp_path / name / "result", *FIT, "--cache", tmp_path / "frames")
        entries = [path for path in (tmp_path / "frames").iterdir() if path.is_dir()]
        assert len(entries) == 4
        assert [path.name for path in (tmp_path / name).iterdir()] == ["result"]


def test_config_repeats_a_fit_and_options_override_it(table, tmp_path):
    larscope("fit", table, "--out", tmp_path / "a", *FIT, "--pooling", "previous", "--no-center")
    done = larscope("fit", table, "--out", tmp_path / "b", "--config", tmp_path / "a" / "config.toml")
    assert done.exit_code == 0, done.output
    assert load(tmp_path / "b").scores_.equals(load(tmp_path / "a").scores_)
    larscope("fit", table, "--out", tmp_path / "c", "--config", tmp_path / "a" / "config.toml", "--order", "1")
    assert load(tmp_path / "c").order == 1
    assert load(tmp_path / "c").pooling == "previous"


def test_every_setting_is_an_option():
    shown = larscope("fit", "--help").output
    for name in setting_names():
        assert f"--{name.replace('_', '-')}" in shown


ONES = np.ones((80, 24, 16))

BAD_INPUT = {
    "missing movie": (lambda t: (t.parent / "run-1.npy").unlink(), [], ["run-1.npy", "does not exist", "row 2"]),
    "unknown format": (
        lambda t: (t.parent / "run-1.npy").write_bytes(b"%PDF-1.7 nothing"),
        [],
        ["run-1.npy", "TIFF .tif .tiff", ".npy", "HDF5"],
    ),
    "misspelt column": (
        lambda t: edit(t, "condition", "conditon"),
        [],
        ["session.csv", "unknown column 'conditon'", "Did you mean 'condition'?"],
    ),
    "missing column": (
        lambda t: t.write_text("path\nrun-1.npy\n"),
        [],
        ["session.csv", "column 'condition' is missing", "found path"],
    ),
    "short run": (
        lambda t: np.save(t.parent / "run-1.npy", np.ones((33, 24, 16), np.uint16)),
        [],
        ["run 'run-1'", "run-1.npy", "at least 34 frames", "has 33"],
    ),
    "two frame sizes": (
        lambda t: np.save(t.parent / "run-1.npy", np.ones((80, 32, 16), np.uint16)),
        [],
        ["run-0", "24 x 16", "run-1", "32 x 16"],
    ),
    "NaN": (
        lambda t: np.save(t.parent / "run-1.npy", np.where(np.arange(80)[:, None, None] == 41, np.nan, ONES)),
        [],
        ["run 'run-1'", "run-1.npy", "frame 41"],
    ),
    "missing table": (lambda t: t.unlink(), [], ["session.csv does not exist"]),
    "impossible setting": (lambda t: None, ["--order", "0"], ["'order'", "got 0"]),
    "crop too large": (lambda t: None, ["--crop", "64", "64"], ["64 x 64", "24 x 16"]),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_named_with_exit_code_2_and_nothing_is_written(case, table, tmp_path):
    spoil, options, expected = BAD_INPUT[case]
    spoil(table)
    before = set(tmp_path.iterdir())
    done = larscope("fit", table, "--out", tmp_path / "result", *FIT, *options)
    assert done.exit_code == 2
    assert done.exception is None or isinstance(done.exception, SystemExit)
    message = " ".join(done.stderr.split())
    for part in expected:
        assert part in message
    assert "Traceback" not in message
    assert set(tmp_path.iterdir()) - before <= {tmp_path / ".larscope-cache"}


def test_names_from_strangers_are_printed_as_they_are(table, tmp_path):
    edit(table, "familiar", "[/x] $\\foo$")
    done = larscope("fit", table, "--out", tmp_path / "result[/b]", *FIT)
    assert done.exit_code == 0, done.output
    assert "1 [/x] $\\foo$, 2 novel, 1 familiar" in done.stdout
    assert "result[/b]" in done.stdout.splitlines()[-1]


def test_the_current_folder_and_a_link_are_folders_too(table, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    done = larscope("fit", table, "--out", tmp_path / "link", *FIT)
    assert done.exit_code == 0, done.output
    assert load(tmp_path / "here").order == 2
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    done = larscope("fit", table, "--out", ".", *FIT)
    assert done.exit_code == 0, done.output
    assert load(tmp_path / "empty").order == 2


def test_a_refused_fit_leaves_no_parent_folders(table, tmp_path):
    assert larscope("fit", table, "--out", tmp_path / "new" / "result", *FIT, "--crop", "64", "64").exit_code == 2
    assert not (tmp_path / "new").exists()


def test_a_damaged_result_is_said(table, tmp_path):
    larscope("fit", table, "--out", tmp_path / "result", *FIT)
    for name in ("results.nc", "provenance.json", "config.toml", "model.safetensors"):
        whole = (tmp_path / "result" / name).read_bytes()
        (tmp_path / "result" / name).write_bytes(whole[: len(whole) // 2])
        done = larscope("report", tmp_path / "result")
        assert done.exit_code == 2, (name, done.output)
        assert f"{name} was changed or damaged" in " ".join(done.stderr.split())
        (tmp_path / "result" / name).write_bytes(whole)


def test_one_condition_cannot_be_compared(table, tmp_path):
    table.write_text("path,condition\nrun-1.npy,novel\nrun-3.npy,novel\n")
    larscope("fit", table, "--out", tmp_path / "result", *FIT)
    done = larscope("compare", tmp_path / "result", "novel", "familiar")
    assert done.exit_code == 2
    assert "at least two different values" in done.stderr


def test_a_result_folder_that_holds_another_result_is_refused_before_any_work(table, tmp_path):
    larscope("fit", table, "--out", tmp_path / "result", *FIT)
    before = (tmp_path / "result" / "results.nc").read_bytes()
    done = larscope("fit", table, "--out", tmp_path / "result", *FIT, "--order", "1")
    assert done.exit_code == 2
    assert "holds another result" in done.stderr
    assert (tmp_path / "result" / "results.nc").read_bytes() == before


def test_an_unknown_key_in_a_config_is_named(table, tmp_path):
    (tmp_path / "config.toml").write_text("penalti = 0.1\n")
    done = larscope("fit", table, "--out", tmp_path / "result", "--config", tmp_path / "config.toml")
    assert done.exit_code == 2
    assert "'penalti'. Did you mean 'penalty'?" in done.stderr


def test_help_does_not_wait_for_torch():
    code = "import sys, larscope._cli.commands; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def result(session, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared") / "result"
    with pytest.warns(UserWarning, match="steps"):
        LatentVAR(latents="grid", order=2, window=32, penalty=0.002, epochs=2).fit(session).save(folder)
    return folder


def test_compare_prints_every_number_and_warning_and_writes_them(result):
    done = larscope("compare", result, "familiar", "novel")
    assert done.exit_code == 0, done.output
    folder = result / "comparisons" / "familiar-novel"
    names = {path.name for path in folder.iterdir()}
    files = {"comparison.json", "comparison.nc", "edges.csv", "digests.json"}
    assert names == {*files, "null.png", "pairs.png", "maps.png", "edges.png"}
    summary = json.loads((folder / "comparison.json").read_text())
    for test in summary["tests"].values():
        assert (
            f"(p = {test['pvalue']:.2g}). The paper's rank-sum test gives p = {test['pvalue_ranksum']:.2g}"
            in done.stdout
        )
        assert f"ANOSIM R = {test['anosim_r']:.2f}" in done.stdout
        for warning in (*test["warnings"], *summary["warnings"]):
            assert warning in done.stdout
    assert summary["tests"]["swap"]["warnings"]
    assert "familiar against novel" in (result / "report.html").read_text()


def test_table_compares_every_two_groups(result):
    groups = ["--group", "one=condition == 'familiar'", "--group", "two=condition == 'novel' and run_number <= 2"]
    done = larscope("compare", result, "--table", *groups)
    assert done.exit_code == 0, done.output
    for word in ("Bonfer", "Holm", "BH", "one", "two", "one against two: Labels are permuted over runs (2 one, 2 two)"):
        assert word in done.stdout
    assert larscope("compare", result, "--table").stdout.count("familiar against novel: Labels are permuted") == 3


def test_a_movie_needs_no_table(table, tmp_path):
    """One run, whose report says that replication and conditions cannot be told."""
    movie = next(path for path in table.parent.iterdir() if path.suffix != ".csv")
    done = larscope("fit", movie, "--out", tmp_path / "result", *FIT)
    assert done.exit_code == 0, done.output
    assert read_result(tmp_path / "result").dataset["run"].to_numpy().tolist() == [movie.stem]
    assert movie.name in larscope("check", movie).stdout


def test_a_table_of_movies_is_written_to_edit(table, tmp_path):
    movies = sorted(path for path in table.parent.iterdir() if path.suffix != ".csv")
    out = tmp_path / "new" / "mine.csv"
    out.parent.mkdir()
    done = larscope("table", *movies, "--out", out)
    assert done.exit_code == 0, done.output
    runs = read_session(out)
    assert [run.name for run in runs] == [movie.stem for movie in movies]
    assert runs.conditions == ("all",)
    again = larscope("table", *movies, "--out", out)
    assert again.exit_code == 2
    assert "exists" in again.stderr


def test_two_conditions_need_no_names(result):
    named, unnamed = (larscope("compare", result, *names) for names in (["familiar", "novel"], []))
    assert unnamed.exit_code == 0, unnamed.output
    assert unnamed.stdout == named.stdout
    assert unnamed.stdout.startswith("Do familiar and novel differ? NOT SHOWN")


def test_no_column_of_the_table_is_cut_at_80_columns(result):
    done = larscope("compare", result, "--table")
    tables = done.stdout.split("R: ANOSIM")[0].splitlines()
    assert max(map(len, tables)) <= 80
    rows = [line.split() for line in tables if line.startswith(" familiar")]
    assert [len(row) for row in rows] == [1 + 7] * 3  # effect, R, rank-sum p, p and three corrected ones


def test_a_folder_in_place_of_a_table_is_named(result, tmp_path):
    assert "is a folder that holds a result" in " ".join(larscope("check", result).stderr.split())
    (tmp_path / "mine.csv").touch()
    assert "is a folder that holds mine.csv" in " ".join(larscope("check", tmp_path).stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["familiar"], "Name two groups"),
        (["--by", "run"], "there are 4"),
        (["--by", "run", "familiar"], "Name two groups"),
        (["familiar", "novel", "--table"], "give `--table` alone"),
        (["familiar", "novell"], "Did you mean 'novel'?"),
        (["--table", "--by", "blok"], "Did you mean 'block'?"),
        (["a", "b", "--group", "a=__import__('os').system('touch owned')"], "nothing else is evaluated"),
        (["a", "b", "--group", "condition == 'familiar'"], "NAME=EXPRESSION"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_explained(result, arguments, message):
    done = larscope("compare", result, *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_seeds_count_what_single_fits_find(table, tmp_path):
    before = set(tmp_path.iterdir())
    done = larscope("fit", table, "--out", tmp_path / "result", *FIT, "--seed", 3, "--seeds", 2)
    assert done.exit_code == 0, done.output
    assert set(tmp_path.iterdir()) - before == {tmp_path / "result", tmp_path / ".larscope-cache"}
    assert load(tmp_path / "result").seed == 3
    data = xr.load_dataset(tmp_path / "result" / "stability.nc", engine="h5netcdf")
    assert data["seed"].to_numpy().tolist() == [3, 4]
    expected = np.zeros((6, 6))
    for seed in (3, 4):
        with pytest.warns(UserWarning, match="steps"):
            model = LatentVAR(latents="grid", order=2, window=32, penalty=0.002, epochs=2, seed=seed).fit(
                read_session(table)
            )
        expected += find_edges(model.var_, [model.latents_[run] for run in (0, 2)])
    np.testing.assert_allclose(data["edge_frequency"].sel(condition="familiar"), expected / 2)
    assert "Would another training find the same?" in (tmp_path / "result" / "report.html").read_text()


def test_an_interrupted_series_of_seeds_goes_on_where_it_was(table, tmp_path, monkeypatch):
    arguments = ("fit", table, *FIT, "--seeds", 2)
    train, trained = training.train, []

    def interrupted(network, var, prepared, settings, *rest):
        trained.append(settings.seed)
        if trained == [0, 1]:
            raise KeyboardInterrupt
        return train(network, var, prepared, settings, *rest)

    monkeypatch.setattr("larscope._fit.estimator.train", interrupted)
    assert larscope(*arguments, "--out", tmp_path / "result").exit_code == 130
    assert not (tmp_path / "result").exists()
    again = larscope(*arguments, "--out", tmp_path / "result")
    assert again.exit_code == 0, again.output
    assert "Resuming an interrupted fit from epoch 2" in again.output
    assert larscope(*arguments, "--out", tmp_path / "whole").exit_code == 0
    one, two = (xr.load_dataset(tmp_path / name / "stability.nc", engine="h5netcdf") for name in ("result", "whole"))
    xr.testing.assert_identical(one, two)


def test_traces_have_dynamics_tests_and_a_report_without_a_network(tmp_path):
    rng = np.random.default_rng(0)
    rows = ["path,condition,run"]
    for number in range(4):
        series = rng.standard_normal((200, 3))
        series[1:, 2] += series[:-1, 0]  # cell 0 acts on cell 2
        np.savetxt(tmp_path / f"{number}.csv", series, delimiter=",", header="a,b,c", comments="")
        rows.append(f"{number}.csv,{'familiar' if number < 2 else 'novel'},day {number}")
    (tmp_path / "session.csv").write_text("\n".join(rows), encoding="utf-8")
    out = tmp_path / "result"
    done = larscope("fit", tmp_path / "session.csv", "--out", out, "--traces", "--order", 1)
    assert done.exit_code == 0, done.output
    model = load(out)
    assert model.scores_["run"].tolist() == ["day 0", "day 1", "day 2", "day 3"]
    found = model.couplings_.query("qvalue <= 0.1")
    assert {(0, 2)} <= set(zip(found["source"], found["target"], strict=True))
    assert [one["path"].rpartition("/")[2] for one in model.provenance_["inputs"]] == [
        "0.csv",
        "1.csv",
        "2.csv",
        "3.csv",
    ]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "3 cells that you gave" in page
    assert "extracted before" in page
    again = larscope("fit", tmp_path / "session.csv", "--out", out, "--traces")
    assert again.exit_code == 2
    assert {path.name for path in tmp_path.iterdir()} == {"session.csv", "result", *(f"{n}.csv" for n in range(4))}
