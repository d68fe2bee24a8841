"""What one forward pass of a host shares between its layers, for the mechanisms in them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headway.decoder.cache import HeadwayCache
from headway.decoder.forward_pass import resolve_positions
from headway.errors import HeadwayError
from headway.mechanisms.context import QKV, Context, Streams
from headway.mechanisms.fused import FusedPrologue
from headway.mechanisms.state import DecodeState


class HostPass:
    """One forward pass.

    Histories are kept by index and written once, so that a layer that is computed again in the
    backward (gradient checkpointing) reads what it read before. No dataclass, as sharding (FSDP2)
    would hand each layer a copy of one.

    Attributes:
        positions: `(B, T)` inside the own document.
        log_frequency: `(B, T)`, or None where no mechanism reads it.
        gradients: whether the pass as a whole records gradients.
        raw: raw projections by layer.
        outputs: 0 the embedding, l the output of the l-th layer.
        updates: 0 the embedding, then what every sublayer added.
        tapped: normed outputs that the last layer's shortcut reads.
        weights: of attention by layer, on their way out of a layer that gives them on itself.
    """

    def __init__(
        self, positions: Tensor, log_frequency: Tensor | None = None, gradients: bool = False
    ) -> None:
        self.positions, self.log_frequency, self.gradients = positions, log_frequency, gradients
        self.raw: dict[int, QKV] = {}
        self.outputs: dict[int, Tensor] = {}
        self.updates: dict[int, Tensor] = {}
        self.tapped: tuple[Tensor, ...] = ()
        self.weights: dict[int, Tensor | None] = {}

    def context(self, layer_idx: int, hidden: Tensor, cache: Any) -> Context:
        """The surroundings of one layer's mechanisms, on the device of `hidden`."""
        here = hidden.device
        first, previous = self.raw.get(0), self.raw.get(layer_idx - 1)
        positions, state = self.positions_and_state(layer_idx, here, cache)
        return Context(
            positions=positions,
            hidden=hidden,
            streams=Streams(_moved(first, here), _moved(previous, here)),
            state=state,
            log_frequency=None if self.log_frequency is None else self.log_frequency.to(here),
        )

    def positions_and_state(
        self, layer_idx: int, device: torch.device, cache: Any
    ) -> tuple[Tensor, DecodeState | None]:
        """What one layer's fused prologue reads of the pass and of the cache."""
        state = cache.state(layer_idx) if isinstance(cache, HeadwayCache) else None
        return self.positions.to(device), state

    def stream_of(
        self, fused: FusedPrologue, layer_idx: int, device: torch.device
    ) -> Tensor | None:
        """Raw values `(B, G, T, D)` that a layer's fused prologue adds to its own."""
        if fused.stream is None:
            return None
        return self.raw[0 if fused.from_first else layer_idx - 1].v.to(device)

    def leave_raw(self, layer_idx: int, raw: QKV) -> None:
        """Keep a layer's raw projections for those that follow."""
        self.raw.setdefault(layer_idx, raw)
        if not self.gradients and layer_idx > 1:
            self.raw.pop(layer_idx - 1, None)

    def check_checkpointing(self) -> None:
        """Refuse to read earlier layers inside a reentrant checkpoint, which cuts gradients.

        Raises:
            HeadwayError: gradients are on outside the layer and off inside.
        """
        if self.gradients and not torch.is_grad_enabled():
            raise HeadwayError(
                "gradient_checkpointing_kwargs: use_reentrant=True would lose the gradients of "
                "what layers hand on; accepted is {'use_reentrant': False}"
            )


def find_positions(
    batch: int,
    length: int,
    device: torch.device,
    cache: Any,
    attention_mask: Any,
    position_ids: Tensor | None,
) -> Tensor:
    """`(B, T)` positions inside the own document.

    A two-dimensional mask tells padding. Other masks (made by `generate` for compiled decoding, or
    by hand) come with `position_ids`, or else every row counts as one document. Positions for a
    cache that numbers them anew say how far keys are turned, and not where a token stands.
    """
    if cache is not None and cache.renumbers:
        position_ids = None
    plain = isinstance(attention_mask, Tensor) and attention_mask.dim() == 2
    if position_ids is not None and (not plain or _has_no_zero(attention_mask)):
        return position_ids.to(device).expand(batch, length)
    past = cache.get_query_offset() if cache is not None else 0
    # A static cache counts in a tensor that the first layer's update moves on: copy it.
    offset = past.clone().to(device) if isinstance(past, Tensor) else past
    columns = (torch.arange(length, device=device) + offset).expand(batch, length)
    mask = attention_mask.to(device) if plain else None
    return resolve_positions(columns, mask, position_ids)[0]


def _has_no_zero(mask: Tensor) -> bool:
    return not torch.compiler.is_compiling() and bool(mask.all())


def _moved(raw: QKV | None, device: torch.device) -> QKV | None:
    return None if raw is None else QKV(*(x.to(device) for x in raw))
