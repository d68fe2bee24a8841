"""`headway plan`: a row for each model and number of GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from headway.errors import HeadwayError
from headway.mechanisms.presets import preset_mechanisms
from headway.planning.activations import cache_bytes
from headway.planning.devices import device_named
from headway.planning.estimate import ACTIVATION, Cluster, Plan, Sharding, Work, best
from headway.planning.shapes import SHAPES, shape_named
from headway.report.cells import Table
from headway_plan_settings import CONTEXT, PlanSettings

CHECKPOINTING: Mapping[str, tuple[bool, ...]] = {
    "auto": (False, True),
    "yes": (True,),
    "no": (False,),
}
WORDS: Mapping[Sharding, str] = {"none": "DDP", "fsdp": "FSDP2", "hsdp": "HSDP"}


class Planned(NamedTuple):
    """One row.

    Attributes:
        shape: its name.
        gpus: in all.
        cache: bytes of a sequence of the whole context in generation.
        plan: what is to be expected.
    """

    shape: str
    gpus: int
    cache: int
    plan: Plan


def planned(settings: PlanSettings) -> list[Planned]:
    """All rows, models first.

    Raises:
        HeadwayError: a setting that is not accepted.
    """
    for name, accepted in (
        ("shapes", f"{', '.join(SHAPES)}, or a folder with a config.json"),
        ("gpus", "whole numbers, 1 and more"),
    ):
        if not getattr(settings, name):
            raise HeadwayError(f"{name}: none is given; accepted are {accepted}")
    for name in ("context", "batch_size", "network"):
        if (value := getattr(settings, name)) is not None and value <= 0:
            raise HeadwayError(f"{name}: {value} is not accepted; accepted is more than 0")
    if not 0 < settings.efficiency <= 1:
        raise HeadwayError(
            f"efficiency: {settings.efficiency} is not accepted; accepted is a share, up to 1"
        )
    if settings.micro_batch_size is not None and settings.micro_batch_size < 1:
        raise HeadwayError(
            f"micro_batch_size: {settings.micro_batch_size} is too small; accepted are 1 and more"
        )
    return [_row(settings, name, gpus) for name in settings.shapes for gpus in settings.gpus]


def plan_table(rows: list[Planned], settings: PlanSettings) -> Table:
    """Memory of a GPU at its peak and time of a step, as `planned` found them."""
    columns = (
        "model", "parameters", "GPUs", "shared by", "sequences", "GiB weights", "gradients",
        "AdamW", "activations", "peak", "s a step", "waiting", "tokens a second", "us a token",
        "GiB cache",
    )  # fmt: skip
    title = (
        f"{settings.gpu}, context {settings.context or CONTEXT}, {settings.batch_size} sequences a "
        f"step or one a GPU, weights in {settings.weights}"
    )
    return Table(title, columns, tuple(_cells(row, settings) for row in rows))


def plain(rows: list[Planned]) -> list[dict[str, Any]]:
    """The rows as JSON values, in bytes and seconds."""
    return [
        {
            "model": row.shape,
            "gpus": row.gpus,
            **asdict(row.plan),
            "peak": row.plan.memory.total,
            "step": row.plan.step,
            "tokens_a_second": row.plan.tokens_a_second,
            "cache": row.cache,
        }
        for row in rows
    ]


def _row(settings: PlanSettings, name: str, gpus: int) -> Planned:
    plain_shape = shape_named(name)
    listed = preset_mechanisms(settings.mechanisms, plain_shape.hidden_size, "mechanisms")
    config = shape_named(name, listed)
    cluster = Cluster(
        device=device_named(settings.gpu),
        gpus=gpus,
        node=settings.gpus_a_node,
        network=settings.network * 1e9,
        efficiency=settings.efficiency,
    )
    context = settings.context or CONTEXT
    if settings.context is None and name not in SHAPES:
        context = min(context, config.max_position_embeddings)
    work = Work(
        context=context,
        micro_batch_size=settings.micro_batch_size or 1,
        tensor_parallel=settings.tensor_parallel,
        weights=4 if settings.weights == "float32" else 2,
    )
    found = best(
        config,
        cluster,
        work,
        _shardings(settings, gpus),
        CHECKPOINTING[settings.activation_checkpointing],
        settings.batch_size,
        settings.micro_batch_size,
    )
    return Planned(name, gpus, cache_bytes(config, context, 1, ACTIVATION), found)


def _shardings(settings: PlanSettings, gpus: int) -> tuple[Sharding, ...]:
    """To choose from; with one node, sharded over each node is sharded over all."""
    if settings.sharding != "auto":
        return (settings.sharding,)
    if gpus == settings.tensor_parallel:
        return ("none",)
    return ("none", "hsdp", "fsdp") if gpus > settings.gpus_a_node else ("none", "fsdp")


def _cells(row: Planned, settings: PlanSettings) -> tuple[str, ...]:
    plan = row.plan
    work, memory = plan.work, plan.memory
    shared = "alone" if row.gpus == 1 else WORDS[work.sharding]
    shared += f", {work.tensor_parallel} a layer" if work.tensor_parallel > 1 else ""
    shared += ", layers again" if work.checkpointing else ""
    parts = (memory.weights, memory.gradients, memory.moments, memory.activations)
    peak = f"{memory.total / 2**30:.1f}" + ("" if plan.fits else ", too much")
    waiting = 1 - plan.compute / plan.step
    fewer = settings.context is None and work.context < CONTEXT
    return (
        f"{row.shape}, {work.context} tokens" if fewer else row.shape,
        f"{plan.parameters / 1e9:.2f}B",
        str(row.gpus),
        shared,
        f"{work.micro_batch_size} x {work.accumulation}",
        *(f"{part / 2**30:.1f}" for part in parts),
        peak,
        f"{plan.step:.3f}",
        f"{waiting:.0%}",
        f"{plan.tokens_a_second:,.0f}",
        f"{1e6 * plan.step / plan.tokens:.3g}",
        f"{row.cache / 2**30:.2f}",
    )
