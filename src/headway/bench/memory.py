"""Peak memory of a training step: of each arm alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from headway.bench.decoders import (
    M124,
    PLAIN,
    SMALL_DECODER,
    THREE,
    decoder,
    device_here,
    tokens,
    training_step,
)
from headway.bench.llama import free
from headway.bench.results import Line
from headway.training.cost import peak_bytes
from headway.training.graphs import many_graphs

Made = tuple[nn.Module, Callable[[], object]]


def bench_memory(small: bool) -> Iterator[Line]:
    """Peak of a training step with three mechanisms over the plain model's.

    Args:
        small: the small shape.
    """
    shape, device = SMALL_DECODER if small else M124, device_here()
    ids, peaks = tokens(shape, device), {}
    for name, mechanisms in ((PLAIN, ()), ("the three", THREE)):

        def make(mechanisms=mechanisms) -> Made:  # type: ignore[no-untyped-def]
            model = decoder(shape, device, mechanisms)
            return model, training_step(model, ids)

        with many_graphs():
            _, peaks[name] = made_and_measured(make, ids)
        free()
    yield Line("peak of a training step, plain, MiB", peaks[PLAIN] / 2**20)
    share = peaks["the three"] / peaks[PLAIN]
    yield Line("peak of a training step, the three over plain", share, at_most=1.03)


def made_and_measured(make: Callable[[], Made], ids: Tensor) -> tuple[Callable[[], object], int]:
    """A training step, warm, and the bytes that it alone needs at its peak.

    Args:
        make: builds model and step, on the device of `ids`.
        ids: the batch.
    """
    if ids.is_cuda:
        # The libraries' workspaces, which the first arm would pay for.
        torch.ones(64, 64, device=ids.device, dtype=torch.bfloat16).mm(
            torch.ones(64, 64, device=ids.device, dtype=torch.bfloat16)
        )
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
    model, step = make()
    for _ in range(2):
        step()
    # On a CPU: weights and AdamW's two moments, which stand there before the step.
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    peak = peak_bytes(step, 3 * weights, ids.device)
    return step, peak - (before if ids.is_cuda else 0)
