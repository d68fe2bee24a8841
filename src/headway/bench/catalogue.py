"""The benches by name, and the parts that some of them have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from headway.bench.results import Line
from headway.errors import HeadwayError

PARTS = {
    "host": ("attach", "train", "decode"),
    "train": ("mechanisms", "llama", "wide"),
    "shards": ("350m", "1.3b"),
    "corpora": ("read", "text", "music", "speech"),
}
ON_A_CPU = ("ensemble", "corpora")
"""Benches that have sizes and targets of their own for a machine without a GPU."""


def measure(settings: Any) -> Iterator[Line]:
    """The lines of the bench that the settings name, each as soon as it is measured.

    At small size no line is judged by its target, which is of the full size.

    Raises:
        HeadwayError: it has no such part, or its full size needs a GPU that is not there.
    """
    name, small, accepted = settings.name, settings.small, PARTS.get(settings.name, ())
    for part in settings.only:
        if part not in accepted:
            raise HeadwayError(
                f"only: {part!r} is no part of {name}; accepted are "
                f"{', '.join(accepted) or 'none, as it has one'}"
            )
    if not (small or name in ON_A_CPU or torch.cuda.is_available()):
        raise HeadwayError(
            f"bench: {name!r} at its full size needs a GPU; accepted here is --small"
        )
    lines = _lines(name, settings)
    return (replace(line, judged=False) for line in lines) if small else lines


def _lines(name: str, settings: Any) -> Iterator[Line]:
    small, only, accepted = settings.small, settings.only, PARTS.get(name, ())
    # Each bench brings what it measures: models, kernels, other libraries.
    match name:
        case "host":
            from headway.bench.host import bench_host

            return bench_host(small, not settings.eager, only or accepted)
        case "train":
            from headway.bench.train import bench_train

            return bench_train(small, only or accepted)
        case "loop":
            from headway.bench.loop import bench_loop

            return bench_loop(small)
        case "shards":
            from headway.bench.shards import bench_shards

            return bench_shards(small, only or accepted)
        case "memory":
            from headway.bench.memory import bench_memory

            return bench_memory(small)
        case "decode":
            from headway.bench.decode import bench_decode

            return bench_decode(small)
        case "peers":
            from headway.bench.peers import bench_peers

            return bench_peers(small)
        case "prologue":
            from headway.bench.prologue import bench_prologue

            return bench_prologue(small)
        case "received":
            from headway.bench.received import bench_received

            return bench_received(small)
        case "ensemble":
            from headway.bench.ensemble import bench_ensemble

            return bench_ensemble(small)
        case "corpora":
            from headway.bench.corpora import bench_corpora

            return bench_corpora(small, only or accepted)
        case _:
            from headway.bench.sinks import bench_sinks

            return bench_sinks(small)
