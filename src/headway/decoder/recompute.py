"""Tensors that a compiled backward computes again rather than keeps."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Tensor], *args: Tensor) -> Tensor:
    """`function(*args)`; what it computes inside is not kept for the backward.

    A compiled graph computes again only what the backward reads, so that a product at the
    function's end costs nothing. Uncompiled, all would be computed twice: there it is called as it
    is.

    Args:
        function: without random numbers.
        args: what is kept.
    """
    if transformed() or not (torch.compiler.is_compiling() and torch.is_grad_enabled()):
        return function(*args)
    out: Tensor = checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
    return out


def transformed() -> bool:
    """Whether torch.func is at work, which has its own gradients, and no checkpoints."""
    return torch._C._are_functorch_transforms_active()
