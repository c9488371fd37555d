"""Time training against its floors and against a plain implementation; write benchmarks/training.md.

    python benchmarks/training.py floors step plain reading growth job [--threads 1] [--repeats 5] [--compare]

Each section measures its candidates in turn, round after round, and reports medians over rounds of the times and of the
ratios within a round. Sections replace their own part of the table, so they can be run one by one. Where there is
a CUDA device, it is what is measured.
"""

import argparse
import ctypes
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
import numpy as np
import torch
from tables import in_turn, ratio, run
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from larscope._compute.memory import keep_freed_memory
from larscope._dynamics.var import SparseVAR
from larscope._fit.training import TrainingStep, Windows, train
from larscope._movies.preprocessing import prepare
from larscope._network.autoencoder import CHANNELS, Autoencoder
from larscope._settings import PRESETS, Settings
from larscope._simulate.session import simulate_session
from larscope.lasso import alpha_max

HERE = Path(__file__).parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FRAMES, HEIGHT, WIDTH = 64, 192, 128
STEPS = 100
"""Of training, before the end-to-end step is timed: its lasso depends on the latents."""


def clock():
    """Time of this process on the CPU with one thread, which other processes hardly disturb; else of the wall."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.process_time() if torch.get_num_threads() == 1 and DEVICE.type == "cpu" else time.perf_counter()


@cache
def trained():
    """A network trained end to end on a simulated session of the paper's frame size, and one of its windows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare(simulate_session(n_runs=4, n_frames=330, frame_shape=(HEIGHT, WIDTH), seed=0))
        settings = Settings(**{**PRESETS["paper"], "epochs": STEPS // 20, "center": True})
        torch.manual_seed(0)
        network = Autoencoder(torch.from_numpy(prepared.mean_frame()))
        train(network, SparseVAR(settings.order, settings.penalty), prepared, settings)
    return network.to(DEVICE), Windows(prepared, FRAMES)[0][None].to(DEVICE)


def untrained(frames=FRAMES, height=HEIGHT, width=WIDTH):
    torch.manual_seed(0)
    network = Autoencoder(0.3 + 0.2 * torch.rand(height, width)).to(DEVICE)
    noise = torch.randn(1, frames, height, width, device=DEVICE)
    return network, network.mean_frame * (1 + 0.1 * noise)


def in_bfloat16(network):
    low = Autoencoder(network.mean_frame, precision="bfloat16")
    low.load_state_dict(network.state_dict())
    return low.to(DEVICE)


def trained_step(network, frames, training="end-to-end", penalty=0.005, order=5):
    """One training step but for the optimizer; returns the loss."""
    settings = Settings(**{**PRESETS["paper"], "training": training, "penalty": penalty, "order": order})
    module = TrainingStep(network.train(), SparseVAR(order, penalty), settings)

    def step():
        rendered, target = module.output(frames)
        loss = F.mse_loss(rendered, target)
        loss.backward()
        network.zero_grad()
        return loss.item()

    return step


def layers():
    """The eight convolutions: channels, size of the plane, and whether the gradient of the input is needed."""
    deep = [(CHANNELS, CHANNELS, HEIGHT // scale, WIDTH // scale, 3) for scale in (2, 4, 4, 2)]
    small = (HEIGHT // 8, WIDTH // 8, 1)
    return [
        (1, CHANNELS, HEIGHT, WIDTH, 3),
        *deep[:2],
        (CHANNELS, 1, *small),
        (1, CHANNELS, *small),
        *deep[2:],
        (CHANNELS, 1, HEIGHT, WIDTH, 3),
    ]


def convolution(into, out, height, width, size, dtype):
    """Forward and backward pass of one convolution of torch, channels last."""
    form = torch.channels_last
    conv = nn.Conv2d(into, out, size, padding=size // 2).to(DEVICE, dtype, memory_format=form)
    x = torch.randn(FRAMES, into, height, width, device=DEVICE).to(dtype, memory_format=form)
    gradient = torch.randn(FRAMES, out, height, width, device=DEVICE).to(dtype, memory_format=form)
    x.requires_grad_(height != HEIGHT or into != 1)

    def both_ways():
        conv(x).backward(gradient)
        x.grad = None

    return both_ways


def floors(arguments):
    """The network's eight convolutions alone, in torch, forward and backward; FLOPs and the least bytes counted."""
    rows = []
    for into, out, height, width, size in layers():
        pixels = FRAMES * height * width
        first = into == 1 and height == HEIGHT
        flops = 2 * pixels * into * out * size**2 * (2 if first else 3)
        n_bytes = 4 * pixels * (into + out) * (2 if first else 3)
        both = {
            name: convolution(into, out, height, width, size, dtype)
            for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
        }
        times = in_turn(both, arguments.repeats, clock)
        rows.append(
            {
                "convolution": f"{size} x {size}, {into} to {out}, {height} x {width}",
                "GFLOP": f"{flops / 1e9:.2f}",
                "GB": f"{n_bytes / 1e9:.2f}",
                "float32 (s)": f"{median(times['float32']):.4f}",
                "GFLOP/s": f"{flops / 1e9 / median(times['float32']):.0f}",
                "bfloat16 (s)": f"{median(times['bfloat16']):.4f}",
            }
        )
    total = {head: sum(float(row[head]) for row in rows) for head in rows[0] if head not in ("convolution", "GFLOP/s")}
    return [*rows, {"convolution": "all eight", **{head: f"{value:.3f}" for head, value in total.items()}}]


def step(arguments):
    """A training step on one window, after 100 steps of training, against its convolutions alone."""
    rows = []
    convolutions = [convolution(*layer, torch.float32) for layer in layers()]
    for penalty in (0.005, 0.02):
        network, frames = trained()
        candidates = {
            "convolutions alone": lambda: [one() for one in convolutions],
            "autoencoder": trained_step(network, frames, "sequential"),
            "autoencoder, bfloat16": trained_step(in_bfloat16(network), frames, "sequential"),
            "end to end": trained_step(network, frames, penalty=penalty),
            "end to end, bfloat16": trained_step(in_bfloat16(network), frames, penalty=penalty),
        }
        times = in_turn(candidates, arguments.repeats, clock)
        with torch.no_grad():
            active = int(SparseVAR(5, penalty)(network.encode(frames[0])[0]).n_active)
        rows += [
            {
                "penalty": penalty,
                "active": active if "end" in name else "",
                "step": name,
                "time (s)": f"{median(times[name]):.3f}",
                "to the convolutions": f"{ratio(times, name, 'convolutions alone'):.2f}",
                "to the autoencoder": f"{ratio(times, name, 'autoencoder'):.2f}",
            }
            for name in candidates
        ]
    return rows


class PlainAutoencoder(nn.Module):
    """Sec. 2.1 word for word: contiguous float32 and torch's own layers, pooling and unpooling; our weights."""

    def __init__(self, network):
        super().__init__()
        self.network = network.to(memory_format=torch.contiguous_format)

    def encode(self, frames):
        x, indices = (frames - self.network.mean_frame).unsqueeze(1), []
        for block in self.network.encoder.blocks:
            x = block.norm(F.leaky_relu(block.conv(x), 0.01))
            x, index = F.max_pool2d(x, 2, return_indices=True)
            indices.append(index)
        return self.network.encoder.conv(x).flatten(1), indices

    def decode(self, latent, indices):
        x = self.network.decoder.conv(latent.unflatten(1, (1, *self.network.latent_shape)))
        for block, index in zip(self.network.decoder.blocks, reversed(indices), strict=True):
            x = F.leaky_relu(block.norm(block.conv(F.max_unpool2d(x, index, 2))), 0.01)
        return (x.squeeze(1) + 1) * self.network.mean_frame


def plain_step(network, frames, penalty):
    copied = Autoencoder(network.mean_frame)
    copied.load_state_dict(network.state_dict())
    plain = PlainAutoencoder(copied.to(DEVICE)).train()
    var = SparseVAR(5, penalty, gradient="unrolled")

    def one():
        latent, indices = plain.encode(frames[0])
        fit = var(latent[None])
        loss = F.mse_loss(plain.decode(fit.forecast[0], [index[5:] for index in indices]), frames[0, 5:])
        loss.backward()
        plain.zero_grad()
        return loss.item()

    return one


def hand_back_memory():
    """Undo `keep_freed_memory`: glibc's own thresholds, as in a program that does nothing about them."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 32 << 20)
        libc.mallopt(-1, 128 << 10)


def after(prepare_memory, function):
    def both():
        prepare_memory()
        return function()

    return both


def plain(arguments):
    """Against the paper's letter on the same weights: contiguous, eager, torch's layers, each LARS step differentiated.

    As a program finds memory: large blocks go back to the system after every operation. `memory kept` is the same
    with the setting that ours makes.
    """
    rows = []
    for penalty in (0.005, 0.02):
        network, frames = trained()
        peer = plain_step(network, frames, penalty)
        ours = {
            "larscope": trained_step(network, frames, penalty=penalty),
            "larscope, bfloat16": trained_step(in_bfloat16(network), frames, penalty=penalty),
        }
        candidates = {
            "plain": after(hand_back_memory, peer),
            "plain, memory kept": after(keep_freed_memory, peer),
            **{name: after(keep_freed_memory, one) for name, one in ours.items()},
        }
        times = in_turn(candidates, arguments.repeats, clock)
        loss = peer()
        rows += [
            {
                "penalty": penalty,
                "step": name,
                "time (s)": f"{median(times[name]):.3f}",
                "plain / this": f"{median(a / b for a, b in zip(times['plain'], times[name], strict=True)):.1f}",
                "loss off by": f"{abs(one() / loss - 1):.0e}",
            }
            for name, one in candidates.items()
        ]
    return rows


def reading(arguments):
    """Frames a second that the windows of a prepared session are handed to training with, and those it takes."""
    session = simulate_session(n_runs=2, n_frames=650, frame_shape=(HEIGHT, WIDTH), seed=0)
    network, frames = untrained()
    step = trained_step(network, frames, "sequential")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, prepared in (("memory", prepare(session)), ("cache on disk", prepare(session, cache=Path(folder)))):
            data = Windows(prepared, FRAMES)
            passes = in_turn(
                {"read": lambda data=data: list(DataLoader(data, 1)), "step": step}, arguments.repeats, clock
            )
            read, used = len(data) * FRAMES / median(passes["read"]), FRAMES / median(passes["step"])
            rows.append(
                {
                    "frames in": name,
                    "read (frames/s)": f"{read:.0f}",
                    "trained on (frames/s)": f"{used:.0f}",
                    "share of a step": f"{used / read:.1%}",
                }
            )
    return rows


def growth(arguments):
    """Seconds of a step as one thing grows: frames in the window, K with the frame's area, order.

    The rest as in the paper. Untrained networks; alpha is a tenth of the smallest at which all coefficients are zero.

    ![Seconds of a step against frames, K and order, with slopes on logarithmic axes](training.png)
    """
    axes = {
        "frames": [(frames, HEIGHT, WIDTH, 5) for frames in (16, 32, 64, 128)],
        "K": [(FRAMES, size, size, 5) for size in (64, 128, 256, 512)],
        "order": [(FRAMES, HEIGHT, WIDTH, order) for order in (1, 2, 5, 10)],
    }
    rows = []
    for axis, sizes in axes.items():
        for frames, height, width, order in sizes:
            network, images = untrained(frames, height, width)
            with torch.no_grad():
                latent = network.encode(images[0])[0]
                largest = largest_alpha(latent, order)
            candidates = {
                "autoencoder": trained_step(network, images, "sequential"),
                "end to end": trained_step(network, images, penalty=largest / 10 / latent.shape[1], order=order),
            }
            times = in_turn(candidates, max(1, arguments.repeats // 2), clock)
            rows.append(
                {
                    "axis": axis,
                    "frames": frames,
                    "K": height * width // 64,
                    "order": order,
                    **{f"{name} (s)": f"{median(times[name]):.3f}" for name in candidates},
                    "ratio": f"{ratio(times, 'end to end', 'autoencoder'):.2f}",
                }
            )
            print(rows[-1], flush=True)
    if not arguments.compare:
        draw(rows)
    return rows


def largest_alpha(latent, order):
    z = latent.double() - latent.double().mean(0)
    z = z / z.square().mean().sqrt()
    past = torch.cat([z[order - lag : len(z) - lag] for lag in range(1, order + 1)], 1)
    return alpha_max(past, z[order:]).max().item()


def draw(rows):
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained", sharey=True)
    for panel, axis in zip(panels, dict.fromkeys(row["axis"] for row in rows), strict=True):
        own = [row for row in rows if row["axis"] == axis]
        x = np.array([row[axis] for row in own], float)
        for name, color in (("autoencoder", "#4c72b0"), ("end to end", "#c44e52")):
            y = np.array([float(row[f"{name} (s)"]) for row in own])
            slope = np.polyfit(np.log(x), np.log(y), 1)[0]
            panel.loglog(x, y, "o-", color=color, label=f"{name}: slope {slope:.2f}")
        panel.set_xticks(x, [f"{value:.0f}" for value in x])
        panel.minorticks_off()
        panel.set_xlabel({"frames": "frames in a window", "K": "latents K", "order": "order p"}[axis])
        panel.legend(frameon=False, fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("seconds a step")
    figure.savefig(HERE / "training.png", dpi=150)


def job(arguments):
    """The whole job by the command line, defaults but for 2 epochs: 40 runs, 17,399 frames of 192 x 128, comparison,
    maps, report."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        movies, result = Path(folder) / "movies", Path(folder) / "result"
        larscope = [sys.executable, "-m", "larscope"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        size = ["--height", str(HEIGHT), "--width", str(WIDTH)]
        subprocess.run([*larscope, "simulate", str(movies), "--runs", "40", *size], check=True, env=environment)
        for name, command in {
            "fit": ["fit", str(movies / "session.csv"), "--out", str(result), "--epochs", "2"],
            "compare, maps, figures": ["compare", str(result), "familiar", "novel"],
            "report": ["report", str(result)],
        }.items():
            started = time.perf_counter()
            process = subprocess.Popen([*larscope, *command], env=environment)
            _, status, used = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"larscope {' '.join(command)} failed")
            rows.append(
                {
                    "command": name,
                    "minutes": f"{(time.perf_counter() - started) / 60:.1f}",
                    "CPU minutes": f"{(used.ru_utime + used.ru_stime) / 60:.1f}",
                    "peak memory (GiB)": f"{used.ru_maxrss / 2**20:.2f}",
                }
            )
            print(rows[-1], flush=True)
    return rows


SECTIONS = {f.__name__: f for f in (floors, step, plain, reading, growth, job)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], default=[])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compare", action="store_true", help="write nothing; print ratios to the committed times")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    run(
        "Training benchmark",
        SECTIONS,
        arguments,
        HERE / "training.json",
        "python benchmarks/training.py floors step plain reading growth job",
        f"One window of {FRAMES} frames of {HEIGHT} x {WIDTH}, K = 384, order 5, on {device_name()}, "
        f"{arguments.threads} thread. Medians over alternating rounds, of CPU time with one thread. "
        "The committed table: `--repeats 3`, `growth` with 6, `job` with `--threads 2`.",
    )


def device_name():
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"one core of {name}"


if __name__ == "__main__":
    main()
