"""Several processes train one network, each on its own device, by Lightning: on one machine or many.

Every process runs the same program. The windows of a training step are shared out among them, as are the runs in what
follows; each process ends with the same fitted model, and the first alone writes and prints.
"""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.progress import track

from larscope._compute.workers import hand_out
from larscope._errors import LarscopeError

PATIENCE = timedelta(days=7)
"""Longest wait for the first process; it may be reading terabytes of movies. An ended one is noticed at once."""

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class LostProcessError(LarscopeError):
    """Another process of the same training has ended."""


@dataclass(frozen=True)
class Processes:
    """Devices of a training. The numbers do not depend on them: those are in `Settings`.

    Attributes
    ----------
    devices
        Processes on each machine: one a GPU, or where there is none, on the CPU.
    num_nodes
        Machines.
    strategy
        Lightning's name: `"ddp"`, in which each process runs the program and holds the whole network, or a variant.

    Raises
    ------
    LarscopeError
        A number is below one, or the strategy is another.
    """

    devices: int = 1
    num_nodes: int = 1
    strategy: str = "ddp"

    def __post_init__(self) -> None:
        if self.devices < 1 or self.num_nodes < 1:
            raise LarscopeError(
                "`devices` and `num_nodes` must be 1 or more: got "
                f"{self.devices} and {self.num_nodes}. Pass the processes a machine, and the machines."
            )
        if not re.fullmatch(r"ddp(_find_unused_parameters_(true|false))?", self.strategy):
            raise LarscopeError(
                "`strategy` must let each process run the program and hold the whole network: got "
                f"{self.strategy!r}. Pass 'ddp'."
            )

    @property
    def count(self) -> int:
        """The number of processes."""
        return self.devices * self.num_nodes

    def share(self, batch_size: int) -> int:
        """Return how many windows of a step are each process's.

        Raises
        ------
        LarscopeError
            They cannot be shared out evenly.
        """
        if batch_size % self.count:
            raise LarscopeError(
                f"`batch_size` must be a multiple of the number of processes, {self.count} here: got {batch_size}. "
                f"Pass batch_size={self.count * -(-batch_size // self.count)}, or use fewer devices. Another batch "
                "size is another training."
            )
        return batch_size // self.count

    def start(self) -> Fabric:
        """Start the other processes, unless SLURM or torchrun has started them, and wait until all are there.

        Where there is one, or all have been started before, nothing happens.

        Raises
        ------
        LarscopeError
            There are fewer devices, or the cluster's job was given other numbers.
        """
        for name in ("lightning.pytorch", "lightning.fabric"):  # their greetings say nothing about this training
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            fabric = Fabric(
                accelerator=accelerator(),
                devices=self.devices,
                num_nodes=self.num_nodes,
                strategy=DDPStrategy(timeout=PATIENCE) if self.count > 1 else "auto",
                plugins=self._environment(),
            )
            fabric.launch()
        except (MisconfigurationException, ValueError, RuntimeError) as error:
            raise LarscopeError(
                f"Expected {self.devices} devices on {self.num_nodes} machines, but they are not available: {error} "
                "Correct `devices` and `num_nodes`, or ask the cluster for more."
            ) from error
        return fabric

    def trainer_options(self) -> dict[str, Any]:
        """Return the arguments of a Lightning trainer."""
        return {
            "accelerator": accelerator(),
            "devices": self.devices,
            "num_nodes": self.num_nodes,
            "strategy": self.strategy if self.count > 1 else "auto",
            "plugins": self._environment(),
            "use_distributed_sampler": False,
        }

    def _environment(self) -> list[Any]:
        if self.count == 1:
            # one that is alone is nobody's second, though a cluster's job may have numbered it so
            return [LightningEnvironment()]
        # a job that is given again goes on from the last epoch: Lightning need not give it again itself
        return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def accelerator() -> str:
    """Return the kind of device for training. Apple's GPUs are left out: they lack float64, needed by the lasso."""
    return "gpu" if torch.cuda.is_available() else "cpu"


def is_first() -> bool:
    """Whether this process writes and prints."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def spread(
    function: Callable[[Item], Outcome],
    items: Sequence[Item],
    label: str,
    progress: bool = False,
    fabric: Fabric | None = None,
) -> list[Outcome]:
    """Return `[function(item) for item in items]`, with a bar, by workers if there are any.

    Where several processes train together, each computes its share, and has all of them in the end.
    """
    if fabric is None or fabric.world_size == 1:
        return list(track(hand_out(function, items), label, total=len(items), disable=not progress))
    process, n_processes = fabric.global_rank, fabric.world_size
    with noticing_lost_processes():
        mine = [function(item) for item in track(items[process::n_processes], label, disable=not progress)]
        shares: list[list[Outcome]] = [[] for _ in range(n_processes)]
        torch.distributed.all_gather_object(shares, mine)
    return [shares[i % n_processes][i // n_processes] for i in range(len(items))]


@contextmanager
def noticing_lost_processes() -> Iterator[None]:
    """Raise a plain error if another process of the training has ended.

    Raises
    ------
    LostProcessError
        One has.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            raise LostProcessError(
                f"All processes of a training must go on to its end; one has ended: {str(error).splitlines()[0]}. "
                "Read its own message for the reason. Then give the same command again to go on."
            ) from error
        raise
