"""The attention that each key receives, block by block of queries, without a T x T matrix.

The eager reference defines the meaning and runs anywhere: memory is `O(T)` beside one block of
scores, time that of eager attention. On a GPU, plain causal, windowed and full attention take the
kernels of `received_kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from headway.ops.choice import ops_choice, takes_kernel

BLOCK_SCORES = 1 << 21
"""Scores held at a time on a CPU: 8 MiB in float32, as larger blocks leave the caches and take
four times as long."""
GPU_BLOCKS = 16
"""Times as many on a GPU, where starting a kernel costs more than memory."""

WIDEST = 256
"""Widest head that the kernels take."""

Rows = Callable[[int, int], Tensor]
"""What the queries `start .. stop` have: `(B or 1, H or 1, stop - start, S)`."""


@dataclass(frozen=True)
class Scores:
    """Masked attention scores, computed for a block of queries when asked for.

    Attributes:
        q: `(B, H, T, D)`, position encoding and temperatures folded in.
        k: `(B, G, S, D)`, with `H` a multiple of `G`.
        scale: factor on the scores.
        causal: query `i` sees no key past `i + S - T`.
        window: a query sees this many keys, itself included, or None for all; with `causal` only.
        visible: further rule, true where a query sees a key; None: all that `causal` allows.
        bias: added to the scores (ALiBi, T5), or None.
        softcap: `cap tanh(score / cap)` before the mask (Gemma 2), or None.
    """

    q: Tensor
    k: Tensor
    scale: float
    causal: bool
    window: int | None = None
    visible: Rows | None = None
    bias: Rows | None = None
    softcap: float | None = None

    @property
    def plain(self) -> bool:
        """Whether the kernels know it: each query a key of its own, no rule, bias or cap."""
        known = self.visible is None and self.bias is None and self.softcap is None
        return known and self.q.shape[2] == self.k.shape[2] and self.q.shape[-1] <= WIDEST

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Starts and stops of blocks of queries that keep memory bounded."""
        batch, heads, queries, _ = self.q.shape
        held = BLOCK_SCORES * (GPU_BLOCKS if self.q.is_cuda else 1)
        size = max(1, held // (batch * heads * self.k.shape[2]))
        for start in range(0, queries, size):
            yield start, min(start + size, queries)

    def seen(self, start: int, stop: int) -> Tensor:
        """Boolean `(B or 1, H or 1, stop - start, S')`, for the first S' keys: the others are
        past the last query of the block."""
        keys = self._keys(stop)
        device = self.q.device
        found = torch.ones(1, 1, stop - start, keys, dtype=torch.bool, device=device)
        offset = start + self.k.shape[2] - self.q.shape[2]
        if self.causal:
            found = found.tril(offset)
        if self.window is not None:
            found = found.triu(offset + 1 - self.window)
        return found if self.visible is None else found & self.visible(start, stop)[..., :keys]

    def rows(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Scores `(B, H, stop - start, S')` in float32 or wider, `-inf` where not seen, and
        `seen`."""
        q, k = self.q[:, :, start:stop], self.k[:, :, : self._keys(stop)]
        grouped = q.reshape(q.shape[0], k.shape[1], -1, q.shape[-1])
        raw = grouped @ k.transpose(-1, -2)
        raw = raw.view(*q.shape[:3], -1).to(wide(q.dtype)) * self.scale
        if self.softcap is not None:
            raw = self.softcap * torch.tanh(raw / self.softcap)
        if self.bias is not None:
            raw = raw + self.bias(start, stop)[..., : raw.shape[-1]]
        seen = self.seen(start, stop)
        return raw.masked_fill(~seen, float("-inf")), seen

    def _keys(self, stop: int) -> int:
        return stop + self.k.shape[2] - self.q.shape[2] if self.causal else self.k.shape[2]


class Received(NamedTuple):
    """What keys receive and what rows spend.

    Attributes:
        total: `(B, H, S)`, sum of the weights on a key over queries.
        own: `(B, H, S)`, the part of it that a token gives itself; zero where keys are no queries.
        peak: `(B, H, S)`, largest weight on a key.
        over: `(B, H, S)`, number of queries with a weight above the threshold.
        viewers: `(B or 1, H or 1, S)`, number of queries that may see a key.
        mass: `(B, H, T)`, sum of a row's weights: less than one beside a learned sink, zero for a
            row that sees nothing.
        entropy: `(B, H, T)`, `-sum p log p` of a row, nats.
    """

    total: Tensor
    own: Tensor
    peak: Tensor
    over: Tensor
    viewers: Tensor
    mass: Tensor
    entropy: Tensor

    def mean(self) -> Tensor:
        """`(B, H, S)`, attention received per query that may see the key, Gu's alpha
        (arXiv 2410.10781): `sum_t A_tk / (T - k + 1)` for causal attention, counted from 1."""
        return self.total / self.viewers.clamp(min=1)


def received_attention(scores: Scores, lse: Tensor, threshold: float) -> Received:
    """Column sums, maxima and counts of `exp(score - lse)`.

    Args:
        scores: who looks at whom.
        lse: `(B, H, T)`, log-sum-exp of each row, with a learned sink's logit if there is one.
        threshold: of `over`.

    Raises:
        HeadwayError: the environment forces the kernels where they cannot run.
    """
    if scores.plain and takes_kernel(scores.q, ops_choice()):
        return _by_kernels(scores, lse, threshold)
    return received_reference(scores, lse, threshold)


def received_reference(scores: Scores, lse: Tensor, threshold: float) -> Received:
    """The same in plain PyTorch, for any scores; this defines `received_attention`."""
    batch, heads, queries, _ = scores.q.shape
    keys = scores.k.shape[2]
    blank = torch.zeros(batch, heads, keys, dtype=lse.dtype, device=lse.device)
    total, own, peak, over = (blank.clone() for _ in range(4))
    viewers: Tensor = blank.new_zeros(1, 1, keys)
    mass, entropy = torch.zeros_like(lse), torch.zeros_like(lse)
    for start, stop in scores.blocks():
        raw, seen = scores.rows(start, stop)
        logs = raw - lse[:, :, start:stop, None]
        weights = logs.exp().masked_fill(~seen, 0.0)
        width = weights.shape[-1]
        total[..., :width] += weights.sum(-2)
        peak[..., :width] = torch.maximum(peak[..., :width], weights.amax(-2))
        over[..., :width] += (weights > threshold).sum(-2)
        counted = torch.zeros(*seen.shape[:2], keys, dtype=viewers.dtype, device=viewers.device)
        counted[..., :width] = seen.sum(-2)
        viewers = viewers + counted
        mass[:, :, start:stop] = weights.sum(-1)
        entropy[:, :, start:stop] = -(weights * logs.masked_fill(~seen, 0.0)).sum(-1)
        if queries == keys:
            own[..., start:stop] = weights[..., start:stop].diagonal(dim1=-2, dim2=-1)
    return Received(total, own, peak, over, viewers, mass, entropy)


def _by_kernels(scores: Scores, lse: Tensor, threshold: float) -> Received:
    from headway.ops.received_kernels import received_sums

    q, k, length = scores.q, scores.k, scores.q.shape[2]
    window = scores.window or 0
    total, peak, over, own, mass, entropy = received_sums(
        q, k, lse, scores.scale, scores.causal, window, threshold
    )
    later = torch.arange(length, 0, -1, device=q.device, dtype=torch.float32)
    viewers = later.clamp(max=window or length) if scores.causal else torch.full_like(later, length)
    return Received(total, own, peak, over, viewers[None, None], mass, entropy)


def attend_with_lse(
    scores: Scores, v: Tensor, sinks: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What `attend_in_blocks` gives, by a flash kernel where one takes it. No gradients."""
    if not scores.plain or scores.window is not None or v.shape[-1] != scores.q.shape[-1]:
        return attend_in_blocks(scores, v, sinks)
    repeats = scores.q.shape[1] // v.shape[1]
    q, k, v = scores.q, *(x.repeat_interleave(repeats, dim=1) for x in (scores.k, v))
    # The public function hides the log-sum-exp that these give.
    aten = torch.ops.aten
    if not q.is_cuda:
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, scores.causal, attn_mask=None, scale=scores.scale
        )
    elif q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] % 8 == 0:
        out, lse = aten._scaled_dot_product_flash_attention(
            q, k, v, 0.0, scores.causal, False, scale=scores.scale
        )[:2]
    else:
        return attend_in_blocks(scores, v, sinks)
    if sinks is None:
        return out, lse
    norm = torch.logaddexp(lse, sinks.to(lse)[:, None].expand_as(lse))
    return out * (lse - norm).exp().unsqueeze(-1).to(out.dtype), norm


def attend_in_blocks(
    scores: Scores, v: Tensor, sinks: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Output `(B, H, T, D)` and log-sum-exp `(B, H, T)`, without a T x T matrix.

    Args:
        scores: who looks at whom.
        v: `(B, G, S, D)`.
        sinks: `(H,)`, a learned logit that joins each row and is dropped (gpt-oss), or None.

    A row that sees nothing gives zeros and a log-sum-exp of zero.
    """
    batch, heads, queries, _ = scores.q.shape
    groups = v.shape[1]
    out = v.new_empty(batch, heads, queries, v.shape[-1])
    lse = torch.empty(batch, heads, queries, dtype=wide(v.dtype), device=v.device)
    for start, stop in scores.blocks():
        raw, seen = scores.rows(start, stop)
        norm = raw.logsumexp(-1)
        if sinks is not None:
            norm = torch.logaddexp(norm, sinks.to(norm)[:, None].expand_as(norm))
        norm = norm.masked_fill(norm == float("-inf"), 0.0)
        weights = (raw - norm.unsqueeze(-1)).exp().masked_fill(~seen, 0.0).to(v.dtype)
        grouped = weights.reshape(batch, groups, -1, weights.shape[-1])
        mixed = grouped @ v[:, :, : weights.shape[-1]]
        out[:, :, start:stop] = mixed.view(batch, heads, stop - start, -1)
        lse[:, :, start:stop] = norm
    return out, lse


def wide(dtype: torch.dtype) -> torch.dtype:
    """Where sums are taken: float64 for float64, float32 for the rest."""
    return torch.float64 if dtype == torch.float64 else torch.float32
