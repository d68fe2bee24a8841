"""How a model's position encodings can be edited, found out by trying, never guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headway.decoder import HeadwayModel
from headway.decoder.cache_name import given_cache
from headway.decoder.observer import Observer
from headway.waiver.inputs import input_names
from headway.waiver.watch import run, stack_of, watching

PositionMap = Callable[[Tensor], Tensor]
"""From positions 0, 1, 2, ... of any shape to the positions to encode, element by element."""

Kind = Literal["absolute", "relative", "none", "closed"]

TRIED = 16
"""Tokens that are tried."""


@dataclass(frozen=True)
class Encodings:
    """How a model encodes positions.

    Attributes:
        kind: 'absolute' (a shift of all positions matters: a table), 'relative' (it does not:
            rotary, ALiBi), 'none', or 'closed' where positions cannot be edited from outside.
        observed: edited by an observer (our decoder, ALiBi); else by `position_ids`.
        base: the id that the model gives to position 0 (RoBERTa counts from 2).
        reason: why they are closed or none, one sentence; else None.
    """

    kind: Kind
    observed: bool = False
    base: int = 0
    reason: str | None = None

    @property
    def editable(self) -> bool:
        """Whether there are position encodings that can be edited."""
        return self.kind in ("absolute", "relative")

    def for_observer(self, change: PositionMap | None) -> PositionMap | None:
        """The part of an edit that an observer makes."""
        return change if self.observed else None

    @contextmanager
    def through_ids(self, stack: nn.Module, change: PositionMap | None) -> Iterator[None]:
        """The part of an edit that position ids make, in every forward pass inside."""
        if change is None or self.observed:
            context: Any = nullcontext()
        else:
            context = _remapped(stack, change, self.base)
        with context:
            yield


def encodings_of(model: nn.Module, input_ids: Tensor) -> Encodings:
    """Find out how `model` encodes positions, by passes over a few tokens.

    Args:
        model: see `headway.waiver.watch.stack_of`.
        input_ids: `(B, T)`; the start of one row is tried.

    Raises:
        HeadwayError: the model cannot be observed.
    """
    stack = stack_of(model)
    ids = input_ids[:1, :TRIED].to(stack.device)
    name = f"{type(stack).__name__} ({stack.config.model_type})"
    if isinstance(stack, HeadwayModel):
        position = stack.config.position
        if position == "none":
            return Encodings("none", reason=f"{name} has no position encoding")
        return Encodings("absolute" if position == "learned" else "relative", observed=True)
    natural = _states(stack, ids, Observer())
    if not _same(natural, _states(stack, ids, Observer(positions=constant(0)))):
        return Encodings("relative", observed=True)
    if "position_ids" not in input_names(stack):
        reason = f"the forward pass of {name} takes no position_ids"
        return Encodings("closed", reason=reason)
    padding = getattr(stack.config, "pad_token_id", None)
    for base in dict.fromkeys((0, 2, 1 if padding is None else padding + 1)):
        if _same(natural, _states(stack, ids, Observer(), _plus(0), base)):
            break
    else:
        reason = f"{name} numbers positions in a way that was not found"
        return Encodings("closed", reason=reason)
    if _same(natural, _states(stack, ids, Observer(), constant(0), base)):
        return Encodings("closed", reason=f"other position_ids change nothing in {name}")
    shifted = _states(stack, ids, Observer(), _plus(1), base)
    return Encodings("relative" if _same(natural, shifted) else "absolute", base=base)


def swapped(a: int, b: int) -> PositionMap:
    """Positions `a` and `b` take each other's encoding."""
    return lambda p: torch.where(p == a, b, torch.where(p == b, a, p))


def constant(value: int) -> PositionMap:
    """All positions take one encoding."""
    return lambda p: torch.full_like(p, value)


def _plus(step: int) -> PositionMap:
    return lambda p: p + step


def _states(
    stack: Any,
    ids: Tensor,
    observer: Observer,
    change: PositionMap | None = None,
    base: int = 0,
) -> Tensor:
    """Final states `(1, T, C)` of a pass."""
    edited = nullcontext() if change is None else _remapped(stack, change, base)
    with watching(stack, observer), edited:
        out: Tensor = run(stack, ids)[0]
    return out


def _same(left: Tensor, right: Tensor) -> bool:
    """Equal but for rounding; numbers that are not finite differ from everything."""
    rounding = max(100 * torch.finfo(torch.float32).eps, 4 * torch.finfo(left.dtype).eps)
    largest = left.double().abs().max().clamp(min=1e-30)
    return bool(((left.double() - right.double()).abs() <= rounding * largest).all())


@contextmanager
def _remapped(stack: nn.Module, change: PositionMap, base: int) -> Iterator[None]:
    """Hand `change`d position ids to every forward pass of `stack`, also with a cache."""
    names = input_names(stack)

    def before(_module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        given = dict(zip(names, args, strict=False)) | kwargs
        shown = given.get("input_ids")
        shown = given["inputs_embeds"] if shown is None else shown
        batch, length = shown.shape[:2]
        cache = given_cache(given)
        past = 0 if cache is None else int(cache.get_seq_length())
        ids = given.get("position_ids")
        if ids is None:
            ids = torch.arange(past + base, past + length + base, device=shown.device)[None]
        given["position_ids"] = (change(ids - base) + base).expand(batch, length)
        if given.get("attention_mask") is None:
            # Without a mask transformers reads packed documents out of position ids.
            given["attention_mask"] = shown.new_ones(batch, past + length, dtype=torch.long)
        return (), given

    hook = stack.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
