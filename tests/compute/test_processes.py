"""Processes that train together: the same model as one makes, whoever ends ends all, and fewer may go on."""

import json
import os
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import psutil
import pytest
import xarray as xr

from larscope import LarscopeError, LatentVAR
from larscope._compute.processes import Processes, noticing_lost_processes, spread
from larscope._fit.training import finished_epochs
from larscope._movies.table import read_session

SETTINGS = {"latents": "grid", "order": 2, "window": 32, "penalty": 0.002, "epochs": 4}
# processes on the CPU, also where there is a GPU
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def fit_alone(table: Path, batch_size: int, **how) -> LatentVAR:
    """What one process makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return LatentVAR(**SETTINGS, batch_size=batch_size).fit(read_session(table), **how)


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, *map(str, arguments)]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env={**ENVIRONMENT, **environment}, **output)


def test_two_processes_make_the_model_of_one_bit_for_bit(narrow_table, tmp_path):
    # of two numbers, the sum does not depend on their order: of more, it does in its last bits
    settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
    out = tmp_path / "result"
    command = ["fit", narrow_table, "--out", out, *settings, "--batch-size=2", "--seeds=2"]
    process = start("-m", "larscope", *command, "--devices=2", "--strategy=ddp")
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    assert said.count("Training with seed 1") == said.count("The result is in") == 1
    assert "in each of 2 processes" in " ".join(said.split())
    assert {path.name for path in tmp_path.iterdir()} == {"result", ".larscope-cache"}
    alone = fit_alone(narrow_table, batch_size=2).save(tmp_path / "alone")
    for name in ("config.toml", "log.jsonl", "model.safetensors"):
        assert (out / name).read_bytes() == (alone / name).read_bytes(), name
    with xr.open_dataset(out / "results.nc") as ours, xr.open_dataset(alone / "results.nc") as theirs:
        assert ours.identical(theirs)
    assert json.loads((out / "provenance.json").read_text())["processes"] == 2
    with xr.open_dataset(out / "stability.nc") as stability:
        assert stability["seed"].values.tolist() == [0, 1]


SCRIPT = f"""
import sys, warnings
import torch
from larscope import LatentVAR
from larscope import read_session
from larscope._fit.training import TrainingStep
warnings.simplefilter("ignore")
original = TrainingStep.training_step
def training_step(step, *batch):
    if step.global_step == 5 and str(torch.distributed.get_rank()) == sys.argv[3]:
        raise MemoryError("no memory in one process")
    return original(step, *batch)
TrainingStep.training_step = training_step
model = LatentVAR(**{SETTINGS}, batch_size=4).fit(read_session(sys.argv[1]), checkpoints=sys.argv[2], devices=2)
"""


def test_a_process_that_fails_ends_the_other_and_what_was_finished_goes_on_alone(narrow_table, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = start(tmp_path / "script.py", narrow_table, tmp_path / "checkpoints", "0")
    others = []
    while process.poll() is None and not others:
        others = psutil.Process(process.pid).children()
        time.sleep(0.01)
    said = process.communicate(timeout=300)[0]
    assert process.returncode != 0
    assert not psutil.wait_procs(others, timeout=60)[1]
    assert len(others) == 1
    assert "no memory in one process" in said
    assert finished_epochs(tmp_path / "checkpoints") == 1
    resumed = pd.DataFrame(fit_alone(narrow_table, batch_size=4, checkpoints=tmp_path / "checkpoints").log_)
    assert resumed["step"].tolist() == list(range(1, 13))
    whole = pd.DataFrame(fit_alone(narrow_table, batch_size=4).log_)
    assert (resumed.pop("n_active") - whole.pop("n_active")).abs().max() <= 2  # what is about to enter may, by rounding
    pd.testing.assert_frame_equal(resumed, whole, rtol=1e-3)


def test_the_tasks_of_a_slurm_job_train_together_and_end_together(narrow_table, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    job = {"NTASKS": "2", "NTASKS_PER_NODE": "2", "NNODES": "1", "NODEID": "0", "JOB_NAME": "fit", "JOB_ID": "1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    tasks = []
    for task in ("0", "1"):
        slurm = {**job, "PROCID": task, "LOCALID": task, "NODELIST": "127.0.0.1"}
        environment = {f"SLURM_{name}": value for name, value in slurm.items()} | {"MASTER_PORT": port}
        tasks.append(start(tmp_path / "script.py", narrow_table, tmp_path / "checkpoints", "1", **environment))
    first, second = (task.communicate(timeout=300)[0] for task in tasks)
    assert tasks[0].returncode != 0
    assert tasks[1].returncode != 0
    assert "no memory in one process" in second
    assert "one has ended" in first
    assert finished_epochs(tmp_path / "checkpoints") == 1


def test_windows_that_cannot_be_shared_out_are_refused(session):
    with pytest.raises(LarscopeError, match=r"multiple of the number of processes, 2 here: got 1. Pass batch_size=2"):
        LatentVAR(latents="grid", order=2, window=32).fit(session, devices=2)
    assert Processes(2, num_nodes=3).share(12) == 2


@pytest.mark.parametrize("wrong", [{"devices": 0}, {"num_nodes": 0}, {"strategy": "fsdp"}, {"strategy": "ddp_spawn"}])
def test_what_is_no_place_to_train_is_refused(wrong):
    with pytest.raises(LarscopeError, match="must"):
        Processes(**wrong)


def test_a_job_with_other_numbers_is_refused(monkeypatch):
    job = {"NTASKS": "4", "NTASKS_PER_NODE": "4", "NNODES": "1", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_NODEID", "0")
    with pytest.raises(LarscopeError, match=r"Expected 2 devices on 1 machines.*ntasks-per-node=4"):
        Processes(devices=2).start()


def test_a_fit_of_its_own_in_a_task_of_a_job_is_the_first_and_only(monkeypatch):
    for name, value in {"NTASKS": "4", "JOB_NAME": "sweep", "PROCID": "3", "LOCALID": "3", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    fabric = Processes().start()
    assert (fabric.global_rank, fabric.world_size) == (0, 1)
    assert spread(lambda i: i * i, range(4), "", fabric=fabric) == [0, 1, 4, 9]


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match="out of memory"), noticing_lost_processes():
        raise RuntimeError("out of memory")
