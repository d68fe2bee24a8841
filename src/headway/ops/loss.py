"""Cross-entropy over a vocabulary from hidden states, without keeping all logits.

The fused paths are libraries': torch's own chunked `linear_cross_entropy`, or liger-kernel's. Both
compute the logits of some tokens at a time and, while they stand there, their gradients.
"""

from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from headway.errors import HeadwayError
from headway.ops import choice
from headway.ops.choice import CHOICE, ops_choice, say_once

CHUNK_BYTES = 2**28
"""Logits that are held at once: enough rows to fill a GPU's matrix units, little beside a model's
activations."""

LossPath = Literal["reference", "liger", "torch"]


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, ignore_index: int = -100
) -> Tensor:
    """Sum of `-log softmax(hidden weight^T)[label]` over the labels that count, in nats.

    A mean or a sum over many batches is the caller's division. Under autocast the product is in
    its dtype, as that of a linear layer.

    Args:
        hidden: `(N, C)`.
        weight: `(V, C)`, the head's matrix.
        labels: `(N,)`, token numbers or `ignore_index`.
        ignore_index: label that does not count.

    Returns:
        A scalar in float32, or float64 where `hidden` is.

    Raises:
        HeadwayError: the environment forces a fused path where there is none.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    path = loss_path(kind, dtype)
    if path == "reference":
        return reference_cross_entropy(hidden, weight, labels, ignore_index)
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    if path == "torch":
        return _chunked(hidden, weight, labels, ignore_index)
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    total: Tensor = _liger(hidden, weight, labels, ignore_index, wanted)[0]
    return total


def reference_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, ignore_index: int = -100
) -> Tensor:
    """What defines `linear_cross_entropy`: all logits, in float32 or wider."""
    logits = F.linear(hidden, weight)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide, labels, ignore_index=ignore_index, reduction="sum")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def loss_path(device: str, dtype: torch.dtype) -> LossPath:
    """Which implementation runs on a kind of device ('cuda', 'cpu') in a dtype; logged once.

    On a GPU a fused one where a library has it: liger-kernel's, or torch's own for float32, as that
    one rounds the loss itself to the dtype. Elsewhere the reference: there, chunks only cost time.
    `HEADWAY_OPS=reference` takes the reference anywhere, `triton` a fused one anywhere.

    Raises:
        HeadwayError: the environment forces a fused path where there is none.
    """
    asked = ops_choice()
    fused: LossPath | None = None
    if (device == "cuda" or choice.INTERPRETED) and find_spec("liger_kernel") is not None:
        fused = "liger"
    elif hasattr(F, "linear_cross_entropy") and dtype.itemsize >= 4:
        fused = "torch"
    if asked == "triton" and fused is None:
        raise HeadwayError(
            f"{CHOICE}: 'triton' finds no fused cross-entropy for {dtype} on {device} here; "
            "accepted are reference, a GPU with the package liger-kernel, or float32 and "
            "torch >= 2.13"
        )
    wanted = asked == "triton" or (asked == "auto" and device == "cuda")
    path: LossPath = fused if wanted and fused is not None else "reference"
    say_once(f"cross-entropy of {dtype} on {device}: {path}")
    return path


def chunk_rows(tokens: int, vocabulary: int, itemsize: int) -> int:
    """Tokens whose logits are held at once."""
    return min(tokens, max(1, CHUNK_BYTES // (vocabulary * itemsize)))


def _chunked(hidden: Tensor, weight: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    rows = chunk_rows(len(hidden), len(weight), hidden.element_size())
    # Retaining costs a copy of the two gradients, and is what a compiled graph asks for anyway.
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows, allow_retain_graph=True)
    total: Tensor = F.linear_cross_entropy(
        hidden, weight, labels, reduction="sum", ignore_index=ignore_index, options=options
    )
    return total


@torch.library.custom_op("headway::liger_linear_cross_entropy", mutates_args=())
def _liger(
    hidden: Tensor, weight: Tensor, labels: Tensor, ignore_index: int, gradients: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of losses and, if wanted, its gradients by `hidden` and by `weight`.

    One operator, as liger's own function looks at values on the host and would break a graph.
    """
    from liger_kernel.ops.fused_linear_cross_entropy import fused_linear_cross_entropy_forward

    tokens, vocabulary, width = len(hidden), len(weight), hidden.shape[1]
    rows = chunk_rows(tokens, vocabulary, hidden.element_size())
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        found = fused_linear_cross_entropy_forward(
            hidden,
            weight,
            labels,
            ignore_index=ignore_index,
            reduction="sum",
            accum_dtype=torch.float32,
            compute_gradients=gradients,
            weight_requires_grad=gradients,
            # Its unit: as many bytes as the hidden states have.
            chunk_mem_const=max(1, rows * vocabulary // (tokens * width)),
        )
    total, by_hidden, by_weight = found[0], found[4], found[5]
    if not gradients:
        return total, hidden.new_empty(0), weight.new_empty(0)
    return total, by_hidden, by_weight


@_liger.register_fake
def _(
    hidden: Tensor, weight: Tensor, labels: Tensor, ignore_index: int, gradients: bool
) -> tuple[Tensor, Tensor, Tensor]:
    total = hidden.new_empty((), dtype=torch.float32)
    if not gradients:
        return total, hidden.new_empty(0), weight.new_empty(0)
    return total, torch.empty_like(hidden), torch.empty_like(weight)


def _keep_gradients(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*output[1:])


def _scale_gradients(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    by_hidden, by_weight = ctx.saved_tensors
    return by_hidden * grad, by_weight * grad, None, None, None


_liger.register_autograd(_scale_gradients, setup_context=_keep_gradients)
