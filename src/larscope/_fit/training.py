"""The three training modes (sec. 3.5), on Lightning.

`TrainingStep` sets whether gradients pass the fit (end-to-end only). Its `output` chooses the decoder's input: the
latents (sequential) or their forecast. Evaluation follows suit: sequential training is measured on decoded latents.
"""

import math
import pickle
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from larscope._compute.memory import keep_freed_memory
from larscope._compute.processes import Processes, noticing_lost_processes
from larscope._dynamics.var import SparseVAR, VARFit
from larscope._errors import LarscopeError
from larscope._fit.networks import Network
from larscope._movies.preprocessing import PreparedSession
from larscope._movies.session import windows
from larscope._network.autoencoder import Autoencoder
from larscope._settings import MAX_PASSES, MIN_STEPS, SHORTCUT_STEPS, Settings
from larscope._statistics.maps import near

FEW_STEPS = 200
"""Below this many steps, batch norm's running averages and the decoder have hardly begun to settle."""


class ShortTrainingWarning(UserWarning):
    """Too few training steps for meaningful results."""


class EmptyFitWarning(UserWarning):
    """VAR fits without a single penalised coefficient: the encoder learns no couplings from them."""


class Windows(Dataset[Float[Tensor, "t height width"]]):
    """The training windows of all runs; none spans a missing frame."""

    def __init__(self, prepared: PreparedSession, length: int) -> None:
        self._prepared = prepared
        self._length = length
        self._stretches = [
            (run, first, last, first + start)
            for run, one in enumerate(prepared.runs)
            for first, last in one.stretches
            for start, _ in windows(last - first, length)
        ]

    def __len__(self) -> int:
        return len(self._stretches)

    def __getitem__(self, window: int | tuple[int, float]) -> Float[Tensor, "t height width"]:
        """Return a window by its number; with a number from 0 to 1, the start moves by so much of the free frames."""
        index, where = window if isinstance(window, tuple) else (window, None)
        run, first, last, start = self._stretches[index]
        if where is not None:
            start = first + int(where * (last - first - self._length + 1))
        return torch.from_numpy(self._prepared.frames(run, start, start + self._length))


class EpochShuffle(Sampler[Any]):
    """An order of windows from seed and epoch alone, so a resumed training repeats it.

    The last batch of an epoch is filled up with its first windows. Of each batch, this process has its own share.
    With `anywhere`, each window also comes with where it begins, drawn for this epoch.
    """

    def __init__(
        self,
        n_windows: int,
        seed: int,
        batch_size: int = 1,
        process: int = 0,
        n_processes: int = 1,
        anywhere: bool = False,
    ) -> None:
        self._n_windows = n_windows
        self._seed = seed
        self._anywhere = anywhere
        self._shares = (math.ceil(n_windows / batch_size), n_processes, batch_size // n_processes)
        self._process = process
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this when an epoch begins."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._shares[0] * self._shares[2]

    def __iter__(self) -> Iterator[int] | Iterator[tuple[int, float]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(self._n_windows, generator=generator).numpy()
        share = np.resize(order, self._shares)[:, self._process].ravel().tolist()
        if not self._anywhere:
            return iter(share)
        where = torch.rand(self._n_windows, generator=generator, dtype=torch.float64).tolist()
        return iter([(index, where[index]) for index in share])


class TrainingStep(lightning.LightningModule):
    """One window to one loss: the mean squared error of the decoded frames (sec. 2.1)."""

    def __init__(self, network: Autoencoder, var: SparseVAR, settings: Settings) -> None:
        super().__init__()
        self.network = network
        self.var = var
        self.var.gradient = "implicit" if settings.training == "end-to-end" else None
        self._training = settings.training
        self._pooling_lag = settings.pooling_lag
        self._learning_rate = settings.learning_rate
        self._settings = settings.as_dict()
        self.n_active = 0
        self.n_empty = 0

    def output(self, frames: Float[Tensor, "b t height width"]) -> tuple[Tensor, Tensor]:
        """Return the decoded frames and their targets."""
        n_windows, n_frames = frames.shape[:2]
        latent, indices = self.network.encode(frames.flatten(0, 1))
        if self._training == "sequential":
            return self.network.decode(latent, indices), frames.flatten(0, 1)
        fit = self.var(latent.unflatten(0, (n_windows, n_frames)))
        self.n_active = int(fit.n_active.sum())
        self.n_empty = int((self._kept(fit) == 0).sum())
        used = slice(self.var.order - self._pooling_lag, n_frames - self._pooling_lag)
        indices = tuple(index.unflatten(0, (n_windows, n_frames))[:, used].flatten(0, 1) for index in indices)
        return self.network.decode(fit.forecast.flatten(0, 1), indices), frames[:, self.var.order :].flatten(0, 1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the settings beside the weights: another training must not go on from these."""
        checkpoint["settings"] = self._settings

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another training.

        Raises
        ------
        LarscopeError
            Its settings, but for the epochs, its session or the names of its weights were others.
        """
        theirs, ours = checkpoint.get("settings", {}), self._settings
        names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name) and name != "epochs"]
        reasons = [f"`{name}` was {theirs.get(name)!r} there, and is {ours.get(name)!r}" for name in names]
        if checkpoint["state_dict"].keys() != self.state_dict().keys():
            reasons.append("its network, of another version of larscope, had other weights")
        mean_frame = checkpoint["state_dict"]["network.mean_frame"]
        if mean_frame.shape != self.network.mean_frame.shape or not mean_frame.allclose(self.network.mean_frame.cpu()):
            reasons.append("its session had another mean frame")
        if reasons:
            raise LarscopeError(
                "A checkpoint must be of the same training; the one in the `checkpoints` folder is of another: "
                f"{', '.join(reasons)}. Pass another folder, or remove it to begin anew."
            )

    def _kept(self, fit: VARFit) -> Tensor:
        """Count penalised non-zero coefficients; unpenalised ones are always active."""
        couplings_alone = self.var.own_weight == 0 and fit.coef.shape[-1] > 1
        return fit.n_coupled if couplings_alone else fit.n_active

    def training_step(self, frames: Float[Tensor, "b t height width"], _: int) -> Tensor:
        """Return the loss.

        Raises
        ------
        LarscopeError
            Training has diverged.
        """
        self._require_finite(self.network.encoder.conv.weight, "The network's weights")
        rendered, target = self.output(frames)
        loss = F.mse_loss(rendered, target)
        self._require_finite(loss, "The loss")
        return loss

    def _require_finite(self, value: Tensor, what: str) -> None:
        if not bool(value.detach().isfinite().all()):
            raise LarscopeError(
                f"{what} must be finite: got NaN or infinity after {self.global_step} steps, so training has diverged. "
                f"Lower `learning_rate` (now {self._learning_rate:g})."
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam, as the paper."""
        return torch.optim.Adam(self.network.parameters(), lr=self._learning_rate)


def build_var(settings: Settings, network: Network) -> SparseVAR:
    """Return the VAR of a network's latents that `settings` ask for, with the penalty of training."""
    grid = isinstance(network, Autoencoder)
    var = SparseVAR(
        settings.training_order,
        settings.training_penalty,
        penalty_scale=settings.penalty_scale,
        center=settings.center,
        scale=settings.scale,
        own_weight=settings.own_weight,
        max_distance=settings.max_distance if grid else None,
        latent_shape=network.latent_shape if isinstance(network, Autoencoder) else None,
    )
    if not grid and settings.max_distance is not None:
        var.mask = torch.from_numpy(near(network.positions, settings.max_distance)).repeat(settings.training_order, 1)
    return var


class StepLog(Callback):
    """One row per step, over all its windows, for `log.jsonl`. The rows travel with the checkpoint."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a step."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._sums = torch.zeros(3, dtype=torch.float64)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add a window to its step; note the step after the last one."""
        # Lightning has divided the loss by the number of this process's windows
        self._sums += torch.tensor([float(outputs["loss"]), pl_module.n_active, pl_module.n_empty])
        if ends_step(trainer, batch_idx):
            loss, n_active, n_empty = sum_over_processes(trainer, self._sums).tolist()
            self.rows.append(
                {
                    "step": trainer.global_step,
                    "epoch": trainer.current_epoch,
                    "loss": loss / trainer.world_size,
                    "n_active": int(n_active),
                    "n_empty_fits": int(n_empty) + (self.rows[-1]["n_empty_fits"] if self.rows else 0),
                }
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows of a checkpoint."""
        self.rows = list(state_dict["rows"])


class RunningAverages(Callback):
    """Moves batch norm's running averages once a step, by the mean over the step's windows, whoever computes them.

    Each window is normalised by itself, as in the paper's steps of one window: so a step is the same on one device and
    on several, and takes the memory of one window.
    """

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Let every window move the averages from their values before the step."""
        averages = self._averages(pl_module)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._before = [average.clone() for average in averages]
            self._sums = [torch.zeros_like(average) for average in averages]
        for average, before in zip(averages, self._before, strict=True):
            average.copy_(before)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the mean after the last window."""
        averages = self._averages(pl_module)
        for total, average in zip(self._sums, averages, strict=True):
            total += average
        if ends_step(trainer, batch_idx):
            n_windows = trainer.accumulate_grad_batches * trainer.world_size
            for average, total in zip(averages, self._sums, strict=True):
                average.copy_(sum_over_processes(trainer, total) / n_windows)

    @staticmethod
    def _averages(module: lightning.LightningModule) -> list[Tensor]:
        names = ("running_mean", "running_var", "num_batches_tracked")
        return [average for name, average in module.named_buffers() if name.endswith(names)]


def ends_step(trainer: lightning.Trainer, batch_idx: int) -> bool:
    """Say whether this process's last window of a step was the one with this number in its epoch."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def sum_over_processes(trainer: lightning.Trainer, value: Tensor) -> Tensor:
    """Return the sum of every process's value."""
    summed: Tensor = trainer.strategy.reduce(value.to(trainer.strategy.root_device), reduce_op="sum")
    return summed


class StepProgress(Callback):
    """One bar over the whole training, with the loss and the time left."""

    def __init__(self, log: StepLog) -> None:
        self._log = log
        self._bar = Progress(
            TextColumn("Training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
        )

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the bar."""
        self._task = self._bar.add_task(
            "train", total=int(trainer.estimated_stepping_batches), completed=trainer.global_step, loss="..."
        )
        self._bar.start()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Move it."""
        if self._log.rows:
            self._bar.update(self._task, completed=trainer.global_step, loss=f"{self._log.rows[-1]['loss']:.3e}")

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Leave the terminal usable."""
        self._bar.stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Leave the terminal usable after an error or Ctrl-C too."""
        self._bar.stop()


def n_epochs(settings: Settings, n_windows: int) -> int:
    """Return the number of passes over the windows.

    >>> n_epochs(Settings(), n_windows=24)
    11
    """
    if settings.epochs is not None:
        return settings.epochs
    steps_of_one = math.ceil(n_windows / settings.batch_size)
    steps, most = (SHORTCUT_STEPS, MAX_PASSES) if settings.shortcut else (MIN_STEPS, MIN_STEPS)
    return min(max(2, math.ceil(steps / steps_of_one)), most)


def train(
    network: Autoencoder,
    var: SparseVAR,
    prepared: PreparedSession,
    settings: Settings,
    checkpoints: Path | None = None,
    progress: bool = False,
    keep_memory: bool = True,
    processes: Processes | None = None,
) -> list[dict[str, Any]]:
    """Train `network` in place and return its log, one row a step.

    Parameters
    ----------
    network, var
        What is trained, and the VAR fitted in each step; its `gradient` is set by the training mode.
    prepared
        Frames.
    settings
        `training`, `epochs`, `batch_size`, `window`, `window_starts`, `pooling`, `learning_rate` and `seed` are used.
    checkpoints
        Folder for one checkpoint an epoch; where it holds one, training goes on from there, and ends with the
        same weights, bit for bit on one machine, as without the interruption.
    progress
        Show a bar.
    keep_memory
        Keep the memory that a step frees for the next step, which is faster and takes a little more of it.
    processes
        Which train together; this one alone when left out. They end with the same weights, which are those of one
        process but for rounding.

    Warns
    -----
    ShortTrainingWarning
        `epochs` is given, and is fewer than 200 steps.
    EmptyFitWarning
        More than half of the VAR fits had no active coefficient.
    """
    keep_freed_memory(keep_memory)
    data = Windows(prepared, settings.window)
    epochs = n_epochs(settings, len(data))
    n_steps = epochs * math.ceil(len(data) / settings.batch_size)
    if settings.epochs is not None and n_steps < FEW_STEPS:
        warnings.warn(
            f"Training takes only {n_steps} steps ({len(data)} windows, {epochs} epochs); results mean little below "
            f"{FEW_STEPS}. Raise `epochs`, or leave it out for more.",
            ShortTrainingWarning,
            stacklevel=2,
        )
    processes = processes or Processes()
    share, fabric = processes.share(settings.batch_size), processes.start()
    step = TrainingStep(network, var, settings)
    log = StepLog()
    callbacks: list[Callback] = [log]
    if settings.batch_size > 1:
        callbacks.append(RunningAverages())
    if progress:
        callbacks.append(StepProgress(log))
    if checkpoints is not None:
        callbacks.append(ModelCheckpoint(checkpoints, filename="last", every_n_epochs=1, enable_version_counter=False))
    trainer = lightning.Trainer(
        **processes.trainer_options(),
        max_epochs=epochs,
        accumulate_grad_batches=share,
        callbacks=callbacks,
        logger=False,
        default_root_dir=checkpoints,
        enable_checkpointing=checkpoints is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    order = EpochShuffle(
        len(data),
        settings.seed,
        settings.batch_size,
        fabric.global_rank,
        fabric.world_size,
        anywhere=settings.window_starts == "random",
    )
    # a generator of its own: the loader would otherwise draw from, and so change, the caller's random state
    loader = DataLoader(data, sampler=order, generator=torch.Generator())
    # one process looks, so that all go on from the same
    finished = fabric.broadcast(
        finished_epochs(checkpoints) if checkpoints is not None and fabric.global_rank == 0 else None
    )
    if finished is not None and finished > epochs:
        raise LarscopeError(
            f"A checkpoint must be of the same training; the one in {checkpoints} has {finished} epochs behind it, and "
            f"`epochs` is {epochs}. Pass another folder, or remove it to begin anew."
        )
    resume = _last(checkpoints) if checkpoints is not None and finished is not None else None
    network.train()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*", category=FutureWarning)
        # windows are cut from memory in milliseconds: worker processes would only copy them
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        handler = signal.getsignal(signal.SIGINT)
        try:
            with noticing_lost_processes():
                trainer.fit(step, loader, ckpt_path=resume, weights_only=True)
        except SystemExit as exit_of_lightning:
            # Lightning answers Ctrl-C by ignoring further ones and leaving the process: that is for our caller to do
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from exit_of_lightning
    network.eval()
    n_empty, n_fits = log.rows[-1]["n_empty_fits"], n_steps * settings.batch_size
    if n_empty > n_fits / 2:
        what, why = (
            "coefficient",
            f"the penalty is too strong for these latents. Lower `penalty` (now {var.penalty:g}).",
        )
        if var.own_weight == 0:
            what = "coupling"
            why = (
                f"in windows of {settings.window} frames none stands out from chance. Whole runs have more frames: see "
                "`n_couplings` beside `n_chance`."
            )
        warnings.warn(
            f"{n_empty} VAR fits of {n_fits} had no active {what}, so the encoder learned none from them: {why}",
            EmptyFitWarning,
            stacklevel=2,
        )
    return log.rows


def finished_epochs(checkpoints: Path) -> int | None:
    """Return the finished epochs of the checkpoint in a folder; None without a checkpoint.

    One that cannot be read, as a full disk may leave it, is removed with a warning.
    """
    last = _last(checkpoints)
    if not last.is_file():
        return None
    try:
        return int(torch.load(last, weights_only=True)["epoch"]) + 1
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        warnings.warn(
            f"The checkpoint {last} cannot be read ({str(error).splitlines()[0]}): training starts anew.", stacklevel=2
        )
        last.unlink()
        return None


def _last(checkpoints: Path) -> Path:
    return checkpoints / "last.ckpt"
