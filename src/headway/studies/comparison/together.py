"""Whether the seeds of an arm are trained together, or why not."""

from __future__ import annotations

from collections.abc import Callable

import torch

FILLS = 5e11
"""Operations of a step beyond which one copy alone keeps a GPU busy: about 10 ms in float32, as
long as launching the kernels of a small decoder takes."""

SPARE = 2
"""Times the memory of a step: copies together use attention and a layout of their own."""


def why_alone(
    device: torch.device, operations: float, seeds: int, peak: Callable[[], int]
) -> str | None:
    """Why training together is of no use or impossible, as half a sentence; None where it fits.

    Args:
        device: that trains.
        operations: floating-point operations of one copy's step.
        seeds: how many copies.
        peak: measures the bytes that one copy's step needs; only called where the rest fits.
    """
    if device.type != "cuda":
        return "arithmetic takes the time on a CPU, and launching kernels takes little"
    if operations > FILLS:
        return f"a step of {operations / 1e12:.1f} TFLOP fills the GPU with one"
    needed, free = SPARE * seeds * peak(), torch.cuda.mem_get_info(device)[0]
    if needed > free:
        return (
            f"{seeds} copies would need about {needed / 2**30:.1f} GiB of the "
            f"{free / 2**30:.1f} GiB that are free"
        )
    return None
