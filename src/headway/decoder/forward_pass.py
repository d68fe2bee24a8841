"""What one forward pass shares between all layers: who sees whom, rotation, cache, backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.decoder.cache import HeadwayCache
from headway.decoder.configuration import HeadwayConfig
from headway.decoder.observer import OBSERVED, encoded_positions, observe
from headway.errors import HeadwayError
from headway.mechanisms.context import QKV
from headway.mechanisms.state import DecodeState
from headway.ops.attention import alibi_slopes, attend, chosen_backend
from headway.ops.received import Scores
from headway.ops.rotary import Rotary, rotary
from headway.ops.visibility import Visibility

Probe = Callable[[int, Tensor, Tensor, Visibility, float], None]
"""Sees the slot, rotated queries `(B, H, T, D)`, all keys `(B, G, S, D)`, visibility and scale."""


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass.

    Attributes:
        positions: `(B, T)` inside the own document.
        encoded: `(B, T)`, those that position encodings see: the same but for an observer's edits.
        visible: who sees whom.
        scale: factor on the scores.
        backend: name of the attention implementation.
        rotation: rotary angles, or None under other position encodings.
        cache: earlier keys and values, or None.
        log_frequency: `(B, T)`, or None where no mechanism reads it.
        probe: called by every attention with what it attends with.
    """

    positions: Tensor
    encoded: Tensor
    visible: Visibility
    scale: float
    backend: str = "sdpa"
    rotation: Rotary | None = None
    cache: HeadwayCache | None = None
    log_frequency: Tensor | None = None
    probe: Probe | None = None

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, slot: int, need_lse: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Remember under `slot` and attend; see `headway.ops.attention.attend`.

        Args:
            q: rotated, `(B, H, T, D)`.
            k: rotated, `(B, G, T, D)`.
            v: `(B, G, T, D)`.
            slot: of the cache.
            need_lse: give the log-sum-exp too.
        """
        if self.cache is not None:
            k, v = self.cache.update(k, v, slot)
        if self.probe is not None:
            self.probe(slot, q, k, self.visible, self.scale)
        if self.backend == OBSERVED:
            return observe(None, slot, self._scores(q, k), v, int(self.visible.offset))
        return attend(q, k, v, self.visible, self.scale, self.backend, need_lse)

    def rotate(self, q: Tensor, k: Tensor, v: Tensor) -> QKV:
        """Queries and keys with their positions in them, where positions are rotary."""
        if self.rotation is None:
            return QKV(q, k, v)
        return QKV(self.rotation(q), self.rotation(k), v)

    def rotate_and_attend(
        self, q: Tensor, k: Tensor, v: Tensor, slot: int
    ) -> tuple[Tensor, Tensor]:
        """`rotate`, then `attend` with the log-sum-exp."""
        out, lse = self.attend(*self.rotate(q, k, v), slot)
        assert lse is not None
        return out, lse

    def angles(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines `(B, T, R)`; R is 0 without rotary positions."""
        if self.rotation is None:
            none = q.new_empty(1, q.shape[2], 0)
            return none, none
        return self.rotation.cos[:, 0], self.rotation.sin[:, 0]

    def _scores(self, q: Tensor, k: Tensor) -> Scores:
        seen, slopes = self.visible, self.visible.slopes

        def mask(start: int, stop: int) -> Tensor:
            rows = self.positions[:, start:stop]
            return Visibility(rows, seen.offset + start, seen.keys, False).mask()

        def alibi(start: int, stop: int) -> Tensor:
            assert slopes is not None
            columns = torch.arange(seen.keys, device=q.device)[None]
            encoded = encoded_positions(columns)[0]
            query = encoded[start + int(seen.offset) : stop + int(seen.offset), None]
            return -slopes[:, None, None] * (query - encoded)

        visible = None if seen.whole_rows else mask
        bias = None if slopes is None else alibi
        return Scores(q, k, self.scale, seen.whole_rows, visible=visible, bias=bias)

    def state(self, layer_idx: int) -> DecodeState | None:
        """What the mechanisms of a layer carry between decoding steps."""
        return None if self.cache is None else self.cache.state(layer_idx)


def start_pass(
    config: HeadwayConfig,
    embeddings: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cache: HeadwayCache | None,
    log_frequency: Tensor | None = None,
    probe: Probe | None = None,
    need_lse: bool = False,
) -> ForwardPass:
    """Resolve masks, padding, packing and cache once for all layers.

    Args:
        config: of the model.
        embeddings: `(B, T, hidden_size)`; only shape, dtype and device are read.
        attention_mask: `(B, earlier + T)`, ones and then no zero between them, or None.
        position_ids: `(B or 1, T)`, restarting at 0 with every packed document, or None.
        cache: of earlier tokens.
        log_frequency: `(B, T)`.
        probe: see `ForwardPass`.
        need_lse: some attention gives its log-sum-exp.

    Raises:
        HeadwayError: a mask of another form or length, or more tokens than a static cache holds.
    """
    batch, length, _ = embeddings.shape
    device = embeddings.device
    # A static cache counts in a tensor that the first layer's update moves on: copy it.
    past = cache.get_query_offset() if cache is not None else 0
    offset = past.clone() if isinstance(past, Tensor) else past
    fixed = cache.fixed_length if cache is not None else None
    if not torch.compiler.is_compiling():
        _check_lengths(int(offset) + length, fixed, attention_mask)
    columns = (torch.arange(length, device=device) + offset).expand(batch, length)
    renumbered = cache is not None and cache.renumbers
    told = None if renumbered else position_ids
    positions, whole = resolve_positions(columns, attention_mask, told)
    observed = config._attn_implementation == OBSERVED
    encoded = encoded_positions(positions) if observed else positions
    keys = fixed if fixed is not None else int(offset) + length
    slopes = None
    if config.position == "alibi":
        slopes = alibi_slopes(config.num_attention_heads, device)
    rotation = None
    if config.position == "rope":
        # Where the cache numbers positions anew, the given ones say how far keys are turned.
        turned = position_ids if renumbered and position_ids is not None else encoded
        if whole and turned is columns:
            turned = columns[:1]  # every row alike: one table for all
        rotation = rotary(turned, config.dims().head_dim, config.rope_theta, embeddings.dtype)
    backend = config._attn_implementation or "sdpa"
    visible = Visibility(positions, offset, keys, whole and fixed is None, slopes)
    width = config.dims().head_dim
    if chosen_backend(backend, embeddings.is_cuda, width, need_lse) == "flex_attention":
        visible = visible.with_blocks()
    return ForwardPass(
        positions=positions,
        encoded=encoded,
        visible=visible,
        scale=config.attention_scale,
        backend=backend,
        rotation=rotation,
        cache=cache,
        log_frequency=log_frequency,
        probe=probe,
    )


def resolve_positions(
    columns: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
) -> tuple[Tensor, bool]:
    """Positions inside the own document, and whether every row is one document from column 0.

    Where both are given, a token's document starts where `position_ids` starts it or behind the
    padding, whichever is later, so that positions that count padded columns do no harm.

    Args:
        columns: `(B, T)`, column of each token, earlier tokens counted.
        attention_mask: `(B, earlier + T or more)` or None.
        position_ids: `(B or 1, T)` or None.

    Under `torch.compile` the values of masks are not looked at, so that nothing breaks the graph.
    """
    tracing = torch.compiler.is_compiling()
    if attention_mask is not None:
        if attention_mask.dim() != 2:
            raise HeadwayError(
                f"attention_mask: {attention_mask.dim()} dimensions are not accepted; accepted is "
                "(batch, tokens), or packed documents by position_ids that restart at 0"
            )
        if not tracing:
            if bool(attention_mask.all()):
                attention_mask = None
            else:
                _refuse_holes(attention_mask)
    counted = None
    if attention_mask is not None:
        counted = (attention_mask.long().cumsum(-1) - 1).gather(1, columns).clamp(min=0)
    if position_ids is None:
        return (columns, True) if counted is None else (counted, False)
    given = position_ids.to(columns.device).expand_as(columns)
    if counted is not None:
        return torch.minimum(given, counted), False
    return given, not tracing and torch.equal(given, columns)


def _check_lengths(seen: int, fixed: int | None, attention_mask: Tensor | None) -> None:
    if fixed is not None and seen > fixed:
        raise HeadwayError(
            f"max_cache_len: {fixed} is too small for {seen} tokens; accepted are {seen} and more"
        )
    if attention_mask is not None and attention_mask.dim() == 2 and attention_mask.shape[1] != seen:
        raise HeadwayError(
            f"attention_mask: {attention_mask.shape[1]} columns are not accepted; accepted are "
            f"{seen}, earlier tokens in the cache counted"
        )


def _refuse_holes(attention_mask: Tensor) -> None:
    ones = attention_mask.bool()
    starts = ones[:, :1].long().sum(-1) + (ones[:, 1:] & ~ones[:, :-1]).long().sum(-1)
    if bool((starts > 1).any()):
        raise HeadwayError(
            "attention_mask: a row has zeros between its ones, so that 'the previous token' has no "
            "meaning; accepted is padding on the left or on the right"
        )
