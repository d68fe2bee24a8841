"""The benches by name, and the parts that some of them have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headway.bench.results import Line
from headway.errors import HeadwayError

PARTS = {
    "host": ("attach", "train", "decode"),
    "train": ("mechanisms", "llama", "wide"),
    "shards": ("350m", "1.3b"),
    "corpora": ("read", "text", "music", "speech"),
}


def measure(settings: Any) -> Iterator[Line]:
    """The lines of the bench that the settings name, each as soon as it is measured.

    Raises:
        HeadwayError: it has no such part.
    """
    name, small, only = settings.name, settings.small, settings.only
    accepted = PARTS.get(name, ())
    for part in only:
        if part not in accepted:
            raise HeadwayError(
                f"only: {part!r} is no part of {name}; accepted are "
                f"{', '.join(accepted) or 'none, as it has one'}"
            )
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
