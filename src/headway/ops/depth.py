"""Reading the outputs of earlier layers at the same position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from headway.errors import HeadwayError
from headway.ops.choice import CHOICE, ops_choice, takes_kernel
from headway.ops.depth_op import depth_read

Normed = Literal["none", "keys", "both"]
"""What is divided by a source's root mean square: nothing, what queries meet, or also what is
summed."""


def weighted_sum(sources: Sequence[Tensor], weights: Tensor) -> Tensor:
    """`sum_i weights_i sources_i`.

    Args:
        sources: N tensors `(..., C)`; they are not stacked.
        weights: `(N,)` static weights, or `(..., N)` one set a position.
    """
    total = sources[0] * weights[..., :1]
    for i, source in enumerate(sources[1:], start=1):
        total = total + source * weights[..., i : i + 1]
    return total


def depth_attention(
    query: Tensor,
    sources: Sequence[Tensor],
    *,
    normed: Normed = "none",
    eps: float = 0.0,
    scale: float = 1.0,
    gain: float = 1.0,
) -> Tensor:
    """Each position's attention over its own rows in N sources; no other position is seen.

    `out_h = gain sum_m a_hm v_m`, `a_h = softmax_m(scale q_h . k_m)`, where keys and values are the
    sources, `x_m` or `x_m / rms(x_m)`. A norm's weight belongs into the query and, for values,
    after the sum; so does any projection that sources share.

    Args:
        query: `(C,)`, one for all positions (Attention Residuals, arXiv 2603.15031), or
            `(H, ..., C)`, those of each position, heads first.
        sources: N tensors `(..., C)`; they are not stacked.
        normed: what is divided by the root mean square of `x_m`.
        eps: added to the mean square.
        scale: factor on the scores.
        gain: factor on the sum.

    Returns:
        `(..., C)` in the dtype that the sources promote to, or `(H, ..., C)` in the query's.

    Raises:
        HeadwayError: the environment forces the kernels where they cannot run.
    """
    choice, wide = ops_choice(), sources[0].dtype == torch.float64
    if choice == "triton" and wide:
        raise HeadwayError(
            f"{CHOICE}: 'triton' cannot read torch.float64 over depth; accepted are reference, or "
            "float32, bfloat16 and float16 tensors"
        )
    if not wide and takes_kernel(sources[0], choice):
        out: Tensor = depth_read(query, list(sources), normed, eps, scale, gain)[0]
        return out
    return depth_reference(query, sources, normed, eps, scale, gain)


def depth_reference(
    query: Tensor, sources: Sequence[Tensor], normed: Normed, eps: float, scale: float, gain: float
) -> Tensor:
    """The same in plain PyTorch; this defines `depth_attention`."""
    if query.dim() == 1:
        query = query.to(sources[0].dtype)
    else:
        sources = [x.to(query.dtype) for x in sources]
    wide = torch.promote_types(sources[0].dtype, torch.float32)
    logits, sizes = [], []
    for x in sources:
        logits.append(scale * (query * x).sum(-1, dtype=wide))
        if normed != "none":
            sizes.append((x.to(wide).square().mean(-1) + eps).rsqrt())
            logits[-1] = logits[-1] * sizes[-1]
    weights = gain * torch.stack(logits, dim=-1).softmax(-1)
    if normed == "both":
        weights = weights * torch.stack(sizes, dim=-1)
    return weighted_sum(sources, weights.to(sources[0].dtype))
