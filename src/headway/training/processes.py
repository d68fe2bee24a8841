"""Which of several processes this is, as torchrun and accelerate tell it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from headway.errors import HeadwayError
from headway_train_settings import TrainSettings


@dataclass(frozen=True)
class Processes:
    """What is shared out.

    Attributes:
        rank: number of this process.
        world: of all processes.
        tensor_parallel: of them that share each layer, and see the same data.
    """

    rank: int
    world: int
    tensor_parallel: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes and tells."""
        return self.rank == 0

    @property
    def shares(self) -> int:
        """Of the data."""
        return self.world // self.tensor_parallel

    def accumulation(self, settings: TrainSettings) -> int:
        """Batches of `micro_batch_size` that a process adds up to its part of a step."""
        part = settings.batch_size // self.shares
        return part // (settings.micro_batch_size or part)


def this_process(settings: TrainSettings, device: torch.device) -> Processes:
    """What the launcher says, once it is clear that the settings can be shared out so.

    Raises:
        HeadwayError: they cannot, or a process has no GPU.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    found = Processes(int(os.environ.get("RANK", "0")), world, settings.tensor_parallel)
    _check_sharding(settings, world)
    _check_batch(settings, found)
    local_rank(device)
    return found


def local_rank(device: torch.device) -> int:
    """Number of this process on its machine.

    Raises:
        HeadwayError: the device is a GPU, and there are too few for that.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda" and local >= torch.cuda.device_count():
        raise HeadwayError(
            f"device: process {local} of this machine has no GPU, as {torch.cuda.device_count()} "
            "are there; accepted is --nproc-per-node of at most that"
        )
    return local


def _check_sharding(settings: TrainSettings, world: int) -> None:
    if world % settings.tensor_parallel:
        raise HeadwayError(
            f"tensor_parallel: {settings.tensor_parallel} does not divide the number of processes, "
            f"{world}; accepted are its divisors (torchrun --nproc-per-node says how many)"
        )
    shares = world // settings.tensor_parallel
    if settings.sharding != "none" and shares < 2:
        raise HeadwayError(
            f"sharding: {settings.sharding!r} needs at least 2 processes beside tensor_parallel="
            f"{settings.tensor_parallel}, and {world} are there; start it by torchrun, or use "
            "'none'"
        )
    if settings.tensor_parallel > 1 and shares > 1 and settings.sharding == "none":
        raise HeadwayError(
            f"sharding: 'none' is not accepted for {shares} groups of tensor_parallel="
            f"{settings.tensor_parallel}; accepted are fsdp and hsdp"
        )
    if settings.sharding == "hsdp" and (shares % settings.replicas or shares == settings.replicas):
        raise HeadwayError(
            f"replicas: {settings.replicas} copies of a model sharded over 2 or more processes "
            f"cannot be made of {shares}; accepted are proper divisors of it, from 2 on"
        )


def _check_batch(settings: TrainSettings, processes: Processes) -> None:
    shares = processes.shares
    if settings.batch_size % shares:
        raise HeadwayError(
            f"batch_size: {settings.batch_size} sequences cannot be shared out evenly to {shares} "
            f"processes; accepted are multiples of {shares}"
        )
    part, micro = settings.batch_size // shares, settings.micro_batch_size
    if micro is not None and part % micro:
        raise HeadwayError(
            f"micro_batch_size: {micro} does not divide the {part} sequences that each of {shares} "
            f"process(es) computes of a batch of {settings.batch_size}; accepted are divisors of "
            f"{part}"
        )
