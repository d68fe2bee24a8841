"""Steps sharded over processes (FSDP2), beside as many GPUs that each train their own model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from headway.bench.decoders import (
    M124,
    M350,
    PLAIN,
    SMALL_DECODER,
    THREE,
    causal_lm_loss,
    device_here,
    drawn,
    tokens,
)
from headway.bench.llama import Shape, give_back
from headway.bench.results import Line
from headway.bench.rounds import Ratio, ratio, time_in_turns
from headway.errors import HeadwayError
from headway.mechanisms import KVShift, Mechanism
from headway.training.graphs import many_graphs
from headway.training.optimisation import adamw, clip_gradients
from headway.training.processes import Processes, local_rank
from headway.training.run import precision
from headway.training.sharding import compile_layers, shard
from headway_train_settings import TrainSettings

M1300 = replace(
    M124,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=24,
    num_attention_heads=16,
    num_key_value_heads=16,
    batch=8,
)
SHAPES = {"350m": replace(M350, rounds=8), "1.3b": replace(M1300, rounds=6)}
ARMS: Mapping[str, tuple[Mechanism, ...]] = {
    PLAIN: (),
    "KV shift": (KVShift(),),
    "the three": THREE,
}
ALONE, SHARDED, BASE = "one GPU each", "sharded", "sharded plain"
UPDATES = 2
"""In a round."""


def bench_shards(small: bool, only: Sequence[str]) -> Iterator[Line]:
    """Each line as soon as it is measured, in the first process; the others yield none.

    As `headway train` does it: float32 weights, bfloat16 arithmetic on a GPU, AdamW, clipping; each
    layer is compiled by itself, also where a GPU is alone. A process has as many sequences sharded
    as alone, and the slowest of them counts.

    Args:
        small: the small shape, for each part.
        only: keys of `SHAPES`.

    Raises:
        HeadwayError: there is one process, or a process has no GPU where others have.
    """
    device = _started()
    try:
        for part in only:
            yield from _part(part, SMALL_DECODER if small else SHAPES[part], device)
    finally:
        dist.destroy_process_group()


def _part(part: str, shape: Shape, device: torch.device) -> Iterator[Line]:
    settings = _settings(shape, device)
    ids = tokens(shape, str(device))
    world, main = dist.get_world_size(), dist.get_rank() == 0
    with many_graphs():
        base = _step(_sharded(shape, device, (), settings), ids, settings)
        for name, mechanisms in ARMS.items():
            steps = {ALONE: _step(_alone(shape, device, mechanisms, settings), ids, settings)}
            if name == PLAIN:
                steps[SHARDED] = base
            else:
                steps[SHARDED] = _step(_sharded(shape, device, mechanisms, settings), ids, settings)
                steps[BASE] = base
            taken = time_in_turns(steps, shape.rounds, shape.warm_up)
            steps.clear()
            give_back()
            if main:
                yield from _lines(f"{part}, {name}", taken, world, shape)


def _lines(arm: str, taken: Mapping[str, list[float]], world: int, shape: Shape) -> Iterator[Line]:
    def over(one: str, other: str) -> Ratio:
        return ratio(taken, one, other)

    efficiency = over(ALONE, SHARDED)
    name = f"tokens a second sharded over {world} x one GPU: {arm}"
    yield Line.of_ratio(name, efficiency, at_least=0.92)
    if BASE in taken:
        yield Line.of_ratio(f"sharded step over plain: {arm}", over(SHARDED, BASE), at_most=1.04)
    speed = world * UPDATES * shape.batch * shape.length / efficiency.seconds[1]
    yield Line(f"tokens a second, sharded over {world}: {arm}", speed)


def _step(model: Any, ids: Tensor, settings: TrainSettings) -> Callable[[], object]:
    """`UPDATES` of them."""
    optimiser = adamw(model, settings)

    def step() -> None:
        for _ in range(UPDATES):
            with precision(ids.device, settings.dtype):
                loss = causal_lm_loss(model, ids)
            loss.backward()
            clip_gradients(model, settings.clip)
            optimiser.step()
            optimiser.zero_grad()

    return step


def _alone(
    shape: Shape, device: torch.device, mechanisms: Sequence[Mechanism], settings: TrainSettings
) -> nn.Module:
    model: nn.Module = drawn(shape, str(device), mechanisms)
    if settings.compile:
        compile_layers(model)
    return model


def _sharded(
    shape: Shape, device: torch.device, mechanisms: Sequence[Mechanism], settings: TrainSettings
) -> nn.Module:
    model: nn.Module = drawn(shape, str(device), mechanisms)
    return shard(model, settings, Processes(dist.get_rank(), dist.get_world_size(), 1), device)


def _settings(shape: Shape, device: torch.device) -> TrainSettings:
    gpu = device.type == "cuda"
    return TrainSettings(
        out=Path(),
        batch_size=shape.batch,
        context=shape.length,
        learning_rate=1e-5,
        dtype="bfloat16" if gpu else "float32",
        compile=gpu,
        sharding="fsdp",
    )


def _started() -> torch.device:
    """The device of this process, in its group."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise HeadwayError(
            "bench: 'shards' is measured by 2 processes or more; accepted is: torchrun "
            "--nproc-per-node 2 -m headway bench shards"
        )
    device = torch.device(device_here())
    if device.type == "cpu":
        dist.init_process_group("gloo")
        return device
    device = torch.device("cuda", local_rank(device))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device)
    return device
