"""Many fits: as if each had been made alone, whoever makes them and whoever dies; nothing is made twice."""

import contextlib
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import typer.main

from larscope import LarscopeError, LatentVAR, load
from larscope._cli.commands import app
from larscope._dynamics.stability import find_in_conditions
from larscope._fit.sweep import fit_points, load_points, open_executor, plan, summarise
from larscope._movies.table import read_session
from larscope._settings import Settings, setting_names

SETTINGS = {"latents": "grid", "window": 32, "epochs": 6, "penalty": 0.002}


def test_every_combination_is_a_point_and_its_options_say_it_whole():
    points = plan({"window": 32, "crop": (16, 16)}, {"order": ["3", "5"], "skip": ["true", "false"], "seed": ["4"]}, 2)
    assert [point.name for point in points] == [
        f"order={order},skip={skip},seed={seed}" for order in (3, 5) for skip in (True, False) for seed in (4, 5)
    ]
    fit = typer.main.get_command(app).commands["fit"]
    for point in points:
        given = fit.make_context("fit", ["session.csv", "--out", "result", *point.options()]).params
        assert Settings(**{name: given[name] for name in setting_names() if given[name] is not None}) == point.settings
    assert len({str(point.settings) for point in points}) == 8


@pytest.mark.parametrize(
    ("lists", "complaint"),
    [
        ({"penalty": ["0.1", "strong"]}, "penalty.*strong"),
        ({"order": [""]}, "order"),
        ({"ordre": ["1"]}, "order"),
        ({"penalty": []}, r"`penalty` must have at least one value.*got \[\]"),
    ],
)
def test_a_value_that_no_fit_takes_is_refused(lists, complaint):
    with pytest.raises(LarscopeError, match=complaint):
        plan({}, lists)


def test_a_preset_is_what_is_not_listed(table, tmp_path, monkeypatch):
    planned = []

    def stop(points, *_, **__):
        planned.extend(points)
        raise LarscopeError("enough")

    monkeypatch.setattr("larscope._fit.sweep.prepare_sweep", stop)
    (tmp_path / "settings.toml").write_text("epochs = 7\npenalty = 0.1\n")
    words = f"sweep {table} --out {tmp_path / 'out'} --preset paper --penalty 0.01,0.02 --crop 16 16".split()
    for config in ([], [f"--config={tmp_path / 'settings.toml'}"]):
        planned.clear()
        assert app([*words, *config], standalone_mode=False) == 2
        assert [point.settings.penalty for point in planned] == [0.01, 0.02]
        assert all(point.settings.crop == (16, 16) for point in planned)
        assert not any(point.settings.center or point.settings.shortcut for point in planned)
        assert {point.settings.epochs for point in planned} == {2}


def sweep(table: Path, out: Path, *options: str) -> list[str]:
    settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
    return ["sweep", str(table), "--out", str(out), *settings, "--order=2", *options]


def wait_for_a_checkpoint(out: Path, over: Callable[[], bool]) -> psutil.Process | None:
    """The process of a fit that has a checkpoint behind it; none where all is over before."""
    while not over():
        for checkpoint in out.glob(".*.unfinished/*/last.ckpt"):
            return psutil.Process(int((checkpoint.parents[1] / "lock").read_text()))
        time.sleep(0.005)
    return None


def require_ended(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for _ in range(2000):
            if process.status() == psutil.STATUS_ZOMBIE:
                return
            time.sleep(0.02)
        raise AssertionError(f"{process} goes on without its worker")


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing(narrow_table, cluster, tmp_path, capsys):
    out = tmp_path / "sweep"

    def kill_a_worker() -> None:
        fit = wait_for_a_checkpoint(out, over.is_set)
        if fit is not None:
            fit.parent().kill()
            killed.append(fit)

    killed: list[psutil.Process] = []
    over = threading.Event()
    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    try:
        app(sweep(narrow_table, out, "--seeds=2", f"--scheduler={cluster.scheduler_address}"), standalone_mode=False)
    finally:
        over.set()
        killer.join()
    require_ended(killed[0])
    assert "Resuming an interrupted fit" in "".join(log.read_text() for log in out.glob("*.log"))
    scores = pd.read_csv(out / "sweep.csv")
    assert scores["seed"].tolist() == [0, 1]
    for seed in (0, 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            alone = LatentVAR(**SETTINGS, order=2, seed=seed).fit(read_session(narrow_table))
        made = load(out / f"seed={seed}")
        for name, value in alone.network_.state_dict().items():
            assert value.equal(made.network_.state_dict()[name]), name
        pd.testing.assert_frame_equal(made.scores_, alone.scores_, check_dtype=False)
        for name in ("var_explained", "forecast_error"):
            assert scores[name][seed] == pytest.approx(alone.scores_[name].mean())
    # and nothing is made twice
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != "sweep.csv"}
    capsys.readouterr()
    app(sweep(narrow_table, out, "--seeds=2"), standalone_mode=False)
    assert "2 fits, 2 of them finished" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != "sweep.csv"}
    assert {path: after[path] for path in before if path.is_file()} == {
        path: time for path, time in before.items() if path.is_file()
    }
    # over the seeds
    [row] = summarise(load_points(plan(SETTINGS | {"order": 2}, {}, 2), out)).to_dict("records")
    assert row["var_explained"] == pytest.approx(scores["var_explained"].mean())
    assert row["var_explained_sd"] == pytest.approx(scores["var_explained"].std())
    models = [load(out / f"seed={seed}") for seed in (0, 1)]
    found = [
        find_in_conditions(m.var_, m.latents_, m.contribution_maps_, m.runs_["condition"].tolist()).edges
        for m in models
    ]
    between = (found[0] & found[1]) & ~np.eye(found[0].shape[-1], dtype=bool)
    assert row["edges_in_all"] == between.sum()


@pytest.mark.slow
def test_a_sweep_that_is_killed_takes_its_fits_with_it_and_goes_on(narrow_table, tmp_path):
    out = tmp_path / "sweep"
    process = subprocess.Popen([sys.executable, "-m", "larscope", *sweep(narrow_table, out)], stdout=subprocess.DEVNULL)
    fit = wait_for_a_checkpoint(out, lambda: process.poll() is not None)
    assert fit is not None
    process.kill()
    process.wait()
    require_ended(fit)
    assert list(out.glob("*/results.nc")) == []
    app(sweep(narrow_table, out), standalone_mode=False)
    assert "Resuming an interrupted fit" in (out / "seed=0.log").read_text()
    assert len(pd.read_csv(out / "sweep.csv")) == 1
    assert {path.name for path in out.iterdir()} == {"seed=0", "seed=0.log", "sweep.csv", ".larscope-cache"}


def test_a_fit_that_fails_is_named_with_its_reason(tmp_path):
    with open_executor(jobs=2, scheduler=None) as executor:
        [(point, reason)] = fit_points(plan(SETTINGS, {}), tmp_path / "none.csv", tmp_path, executor)
    assert point.name == "seed=0"
    assert "none.csv" in reason
    assert reason in (tmp_path / "seed=0.log").read_text()


def test_folders_that_hold_something_else_are_refused_before_any_fit(narrow_table, tmp_path):
    (tmp_path / "seed=0").mkdir()
    (tmp_path / "seed=0" / "notes.txt").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-m", "larscope", *sweep(narrow_table, tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "holds other files" in " ".join(done.stderr.split())


def test_seeds_are_summarised_whatever_is_counted_first(session):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LatentVAR(order=2, **{**SETTINGS, "epochs": 1}).fit(session)
    lists = {"seed": ["0", "5"], "penalty": [".1", ".2"]}
    found = summarise([(point, model) for point in plan({}, lists)])
    assert found[["penalty", "n_seeds"]].to_numpy().tolist() == [[0.1, 2], [0.2, 2]]
