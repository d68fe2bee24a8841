"""The front door to attention: who sees whom, and by which implementation."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headway.errors import HeadwayError
from headway.ops.visibility import Visibility

BACKENDS = ("sdpa", "flex_attention", "eager")
FLEX_WIDTH = 16
"""Narrowest head that FlexAttention has a GPU kernel for."""


def alibi_slopes(heads: int, device: torch.device) -> Tensor:
    """`(heads,)` geometric slopes of ALiBi: 2^(-8/n), 2^(-16/n), ... (arXiv 2108.12409, section 3).

    Where `heads` is no power of two, the slopes of the next lower power come first and every other
    slope of the next higher one follows, as the authors do.
    """

    def power(n: int) -> list[float]:
        return [2 ** (-8 * (i + 1) / n) for i in range(n)]

    lower = 1 << (heads.bit_length() - 1)
    slopes = power(lower) + power(2 * lower)[::2][: heads - lower]
    return torch.tensor(slopes, device=device)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Visibility,
    scale: float,
    backend: str = "sdpa",
    need_lse: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Causal attention of `q` over `k`, `v`.

    Args:
        q: `(B, H, T, D)`.
        k: `(B, G, S, D)`, with `H` a multiple of `G`.
        v: `(B, G, S, D)`.
        visible: who sees whom.
        scale: factor on the scores, usually `D ** -0.5`.
        backend: 'sdpa', 'flex_attention' (GPU only) or 'eager'. SDPA returns no log-sum-exp: where
            one is needed, 'sdpa' stands for FlexAttention on a GPU, given heads of at least 16
            channels, and for eager elsewhere.
        need_lse: return the log-sum-exp of each row too.

    Returns:
        `(B, H, T, D)` and, if needed, the natural log-sum-exp `(B, H, T)` in float32 or wider.

    Raises:
        HeadwayError: the backend is unknown, or cannot run here.
    """
    backend = chosen_backend(backend, q.is_cuda, q.shape[-1], need_lse)
    if backend == "sdpa":
        return _sdpa(q, k, v, visible, scale), None
    if backend == "flex_attention":
        return _flex(q, k, v, visible, scale)
    if backend == "eager":
        return eager_attention(q, k, v, visible, scale)
    raise HeadwayError(
        f"attn_implementation: {backend!r} is unknown; accepted are {', '.join(BACKENDS)}"
    )


def chosen_backend(backend: str, cuda: bool, head_dim: int, need_lse: bool) -> str:
    """Which of the implementations `attend` takes; arguments as there."""
    if backend == "sdpa" and need_lse:
        return "flex_attention" if cuda and head_dim >= FLEX_WIDTH else "eager"
    return backend


def scores(q: Tensor, k: Tensor, visible: Visibility, scale: float) -> Tensor:
    """Masked scores `(B, H, T, S)` in float32 or wider, `-inf` where a key is not seen."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    raw = (q @ k.transpose(-1, -2)).to(_wide(q.dtype)) * scale
    bias = visible.bias(raw.dtype)
    if bias is not None:
        raw = raw + bias
    return raw.masked_fill(~visible.mask(), float("-inf"))


def eager_attention(
    q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scale: float
) -> tuple[Tensor, Tensor]:
    """The reference that defines `attend`: stores all scores, runs anywhere."""
    raw = scores(q, k, visible, scale)
    lse = raw.logsumexp(dim=-1)
    weights = (raw - lse.unsqueeze(-1)).exp().to(v.dtype)
    return weights @ v.repeat_interleave(q.shape[1] // v.shape[1], dim=1), lse


def merge(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One softmax over several key sets from each set's output and log-sum-exp.

    Args:
        parts: pairs of `(B, H, T, D)` and `(B, H, T)`.

    Returns:
        Output and log-sum-exp of attention over all keys together.
    """
    total = torch.stack([lse for _, lse in parts]).logsumexp(dim=0)
    merged = torch.zeros_like(parts[0][0])
    for out, lse in parts:
        merged = merged + out * (lse - total).exp().unsqueeze(-1).to(out.dtype)
    return merged, total


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _sdpa(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scale: float) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    # Two branches, as `is_causal=queries > 1` is no bool once torch.compile made lengths symbolic.
    simple, queries = visible.whole_rows and visible.slopes is None, q.shape[2]
    if simple and queries == 1:
        return F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped)
    if simple and queries == visible.keys:
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=grouped
        )
    mask = visible.mask()
    bias = visible.bias(q.dtype)
    if bias is not None:
        mask = bias.masked_fill(~mask, float("-inf"))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)


def _flex(
    q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scale: float
) -> tuple[Tensor, Tensor]:
    if not q.is_cuda:
        raise HeadwayError(
            "attn_implementation: 'flex_attention' runs on a GPU only; accepted on a CPU are "
            "sdpa and eager"
        )
    if q.shape[-1] < FLEX_WIDTH:
        raise HeadwayError(
            f"attn_implementation: 'flex_attention' has no kernel for heads of {q.shape[-1]} "
            f"channels; accepted are {FLEX_WIDTH} and more, or sdpa and eager"
        )
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    offset, slopes = visible.offset, visible.slopes

    def alibi(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        assert slopes is not None
        return score - slopes[head] * (query + offset - key)

    fused: Any = flex_attention
    kernel = fused if torch.compiler.is_compiling() else _compiled_flex()
    out, aux = kernel(
        q,
        k,
        v,
        score_mod=None if slopes is None else alibi,
        block_mask=visible.blocks or visible.found_blocks(),
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
        return_aux=AuxRequest(lse=True),
        # Its decoding kernel, taken for short queries, has no backward and fails to compile.
        kernel_options={"FORCE_USE_FLEX_ATTENTION": True},
    )
    return out, aux.lse


@cache
def _compiled_flex() -> Callable[..., Any]:
    """FlexAttention is only fused when compiled; outside a compiled model, compile it alone."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
