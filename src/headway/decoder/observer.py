"""Looking at attention, and editing it, in any model that runs transformers' attention interface.

`observed` is an attention implementation with a mask function of its own: masks are handed over as
a rule, not as a matrix, so that nothing of size T x T exists. Our decoder and models with attached
mechanisms take it like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function

from headway.errors import HeadwayError
from headway.ops.received import Rows, Scores, attend_with_lse

OBSERVED = "headway_observed"
"""Name of the attention implementation."""

Rule = Callable[[Tensor, Tensor], Tensor]
"""Of columns of queries `(t, 1)` and keys `(S,)`: true where the query may see the key."""


ValueEdit = Callable[[Tensor, Tensor], Tensor]
"""Of values `(B, G, S, D)` and columns `(S,)` of their keys: other values."""


@dataclass(frozen=True)
class Attending:
    """One attention at work.

    Attributes:
        module: the attention module; our decoder gives the slot instead.
        slot: number of the attention in our decoder, or None.
        scores: who looks at whom.
        lse: `(B, H, T)`, with the logit of `sinks`.
        v: `(B, G, S, D)`.
        sinks: `(H,)` logits that the implementation was given (gpt-oss), or None.
    """

    module: Any
    slot: int | None
    scores: Scores
    lse: Tensor
    v: Tensor
    sinks: Tensor | None


@dataclass(frozen=True)
class Observer:
    """What is done at every attention while it is active.

    Attributes:
        see: called with each attention, in order.
        rule: a further condition for a query to see a key, in all layers.
        positions: from positions `(B, T)` inside the document to those that our decoder encodes.
        values: from values `(B, G, S, D)` and the columns `(S,)` of their keys to those values that
            are attended to.
    """

    see: Callable[[Attending], None] | None = None
    rule: Rule | None = None
    positions: Callable[[Tensor], Tensor] | None = None
    values: ValueEdit | None = None

    def inside(self, outer: Observer | None) -> Observer:
        """This one, with the edits of `outer` as well.

        Positions are first what this one makes of them: the outer one changes what a position
        means to the model, and this one says which positions the model is given.
        """
        if outer is None:
            return self
        return Observer(
            self.see,
            _both(self.rule, outer.rule),
            _in_turn(self.positions, outer.positions),
            _values_in_turn(self.values, outer.values),
        )


_active: ContextVar[Observer | None] = ContextVar("headway_observer", default=None)


def _both(rule: Rule | None, other: Rule | None) -> Rule | None:
    if rule is None or other is None:
        return rule or other
    return lambda query, key: rule(query, key) & other(query, key)


def _in_turn(
    first: Callable[[Tensor], Tensor] | None, second: Callable[[Tensor], Tensor] | None
) -> Callable[[Tensor], Tensor] | None:
    if first is None or second is None:
        return first or second
    return lambda x: second(first(x))


def _values_in_turn(first: ValueEdit | None, second: ValueEdit | None) -> ValueEdit | None:
    if first is None or second is None:
        return first or second
    return lambda v, columns: second(first(v, columns), columns)


@contextmanager
def active(observer: Observer) -> Iterator[None]:
    """Make `observer` the one that `observed` attention reports to.

    The edits of an observer that is active already hold as well; `see` is the new one's alone.
    """
    token = _active.set(observer.inside(_active.get()))
    try:
        yield
    finally:
        _active.reset(token)


def encoded_positions(positions: Tensor) -> Tensor:
    """The positions that an active observer puts in the place of `positions` `(B, T)`."""
    observer = _active.get()
    if observer is None or observer.positions is None:
        return positions
    return observer.positions(positions)


def encoded_columns(bias: Tensor) -> Tensor:
    """ALiBi's bias of keys `(..., S)`, a slope times the column, for the positions that an active
    observer puts in."""
    observer = _active.get()
    if observer is None or observer.positions is None:
        return bias
    last = bias.shape[-1] - 1
    slope = (bias[..., -1:] - bias[..., :1]) / max(1, last)
    columns = torch.arange(last + 1, device=bias.device)
    return slope * encoded_positions(columns[None])[0].to(bias.dtype)


@dataclass(frozen=True)
class MaskRule:
    """A mask as transformers describes it, before it becomes a matrix.

    Attributes:
        function: of indices of batch, head, query and key.
        padding: `(B, columns)`, true where a key is no padding, or None.
        batch: rows.
        q_offset: index of the first query.
        kv_offset: index of the first key.
        kv_length: keys.
        device: where indices are made.
    """

    function: Callable[..., Tensor]
    padding: Tensor | None
    batch: int
    q_offset: int
    kv_offset: int
    kv_length: int
    device: torch.device

    @property
    def causal(self) -> bool:
        """Whether it is plain causal, so that blocks may leave later keys out."""
        return cast(Any, self.function) is causal_mask_function

    def rows(self, start: int, stop: int) -> Tensor:
        """Boolean `(B or 1, 1, stop - start, kv_length)`."""
        query = torch.arange(start, stop, device=self.device) + self.q_offset
        key = torch.arange(self.kv_length, device=self.device) + self.kv_offset
        batch = torch.arange(self.batch, device=self.device)[:, None, None, None]
        head = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=self.device)
        found = self.function(batch, head, query[None, None, :, None], key[None, None, None, :])
        found = found.expand(*found.shape[:-2], stop - start, self.kv_length)
        if self.padding is not None:
            found = (
                found
                & self.padding.to(self.device)[:, None, None, self.kv_offset :][
                    ..., : self.kv_length
                ]
            )
        return found


def observed_mask(
    batch_size: int,
    kv_length: int,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    device: torch.device | str = "cpu",
    **_unused: Any,
) -> MaskRule:
    """Mask function of `observed`, registered with it: without one, causality would be lost."""
    whole = attention_mask is None or bool(attention_mask.all())
    padding = None if whole or attention_mask is None else attention_mask.bool()
    return MaskRule(
        mask_function,
        padding,
        batch_size,
        int(q_offset),
        kv_offset,
        kv_length,
        torch.device(device),
    )


def observed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: MaskRule | Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **_unused: Any,
) -> tuple[Tensor, Tensor]:
    """Attention function of transformers' interface; see there.

    Args:
        query: `(B, H, T, D)`.
        key: `(B, G, S, D)`.
        value: `(B, G, S, D)`.

    Returns:
        Output `(B, T, H, D)`, and the log-sum-exp `(B, H, T)` with that of `s_aux`.

    Raises:
        HeadwayError: nobody observes, or dropout is on.
    """
    if dropout:
        raise HeadwayError(f"dropout: {dropout} cannot be observed; accepted is model.eval()")
    causal, visible, offset, held_from = _rule_of(attention_mask, module, query, is_causal)
    if (
        position_bias is None
        and isinstance(attention_mask, Tensor)
        and not _is_bool(attention_mask)
    ):
        position_bias = attention_mask
    scores = Scores(
        query,
        key,
        query.shape[-1] ** -0.5 if scaling is None else scaling,
        causal=causal,
        visible=visible,
        bias=None if position_bias is None else _rows_of(position_bias),
        softcap=softcap,
    )
    out, lse = observe(module, None, scores, value, offset, s_aux, held_from)
    return out.transpose(1, 2), lse


def observe(
    module: Any,
    slot: int | None,
    scores: Scores,
    v: Tensor,
    offset: int = 0,
    sinks: Tensor | None = None,
    held_from: int = 0,
) -> tuple[Tensor, Tensor]:
    """Attend as the active observer wants it, and show it.

    Args:
        module: the attention, or None.
        slot: number of the attention, or None.
        scores: who looks at whom, before the observer's rule.
        v: `(B, G, S, D)`.
        offset: of the first query, from the first key that is there.
        sinks: `(H,)`, or None.
        held_from: column of the first key that is there: a sliding window drops earlier ones.

    Returns:
        Output `(B, H, T, D)`, and the log-sum-exp `(B, H, T)` with `sinks`.

    Raises:
        HeadwayError: nobody observes.
    """
    observer = _active.get()
    if observer is None:
        raise HeadwayError(
            f"attn_implementation: {OBSERVED!r} is for profiles alone; accepted is any of "
            "transformers' own, see model.set_attn_implementation"
        )
    if observer.rule is not None:
        scores = _ruled(scores, observer.rule, offset, held_from)
    if observer.values is not None:
        v = observer.values(v, torch.arange(v.shape[2], device=v.device) + held_from)
    out, lse = attend_with_lse(scores, v, sinks)
    if observer.see is not None:
        observer.see(Attending(module, slot, scores, lse, v, sinks))
    return out, lse


def _ruled(scores: Scores, rule: Rule, offset: int, held_from: int) -> Scores:
    earlier, device = scores.visible, scores.q.device

    def rows(start: int, stop: int) -> Tensor:
        query = torch.arange(start, stop, device=device)[:, None] + offset + held_from
        key = torch.arange(scores.k.shape[2], device=device) + held_from
        found = rule(query, key)[None, None]
        return found if earlier is None else found & earlier(start, stop)

    return replace(scores, visible=rows)


def _rule_of(
    mask: MaskRule | Tensor | None, module: Any, q: Tensor, is_causal: bool | None
) -> tuple[bool, Rows | None, int, int]:
    """Whether causal, the further rule, and columns of the first query, from the first key, and
    of that key."""
    if isinstance(mask, MaskRule):
        offset = mask.q_offset - mask.kv_offset
        simple = mask.causal and mask.kv_length - q.shape[2] == offset
        visible = None if simple and mask.padding is None else mask.rows
        return simple, visible, offset, mask.kv_offset
    if mask is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        return bool(causal), None, 0, 0

    # Additive masks hold the lowest number of their type, or -inf, where nothing is seen.
    seen = mask if _is_bool(mask) else mask > torch.finfo(mask.dtype).min / 2
    return False, _rows_of(seen), 0, 0


def _is_bool(mask: Tensor) -> bool:
    return mask.dtype == torch.bool


def _rows_of(matrix: Tensor) -> Rows:
    """Blocks of a matrix `(B or 1, H or 1, T or 1, S)` that somebody made already."""
    whole = matrix.shape[-2] == 1
    return lambda start, stop: matrix if whole else matrix[..., start:stop, :]


AttentionInterface.register(OBSERVED, observed_attention)
AttentionMaskInterface.register(OBSERVED, observed_mask)
