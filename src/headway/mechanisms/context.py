"""What travels with queries, keys and values, so that a mechanism need not guess."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from headway.mechanisms.state import DecodeState


class QKV(NamedTuple):
    """Projected queries `(B, H, T, D)`, keys and values `(B, G, T, D)`."""

    q: Tensor
    k: Tensor
    v: Tensor


class Streams(NamedTuple):
    """Raw projections that earlier layers left: of the first layer and of the previous one."""

    first: QKV | None = None
    previous: QKV | None = None

    def push(self, raw: QKV) -> Streams:
        """The streams that the next layer sees, once this layer projected `raw`."""
        return Streams(self.first if self.first is not None else raw, raw)


@dataclass(frozen=True)
class Context:
    """One layer's surroundings in one forward pass.

    Attributes:
        positions: `(B, T)`, counted from the start of the own document; padding and packing are
            resolved already. Position 0 starts a document.
        hidden: `(B, T, hidden_size)`, what was projected (after the layer's norm).
        raw: the projections before any mechanism touched them.
        streams: what earlier layers left.
        state: what this layer carries from one decoding step to the next.
        log_frequency: `(B, T)`, standardised log frequency of each token in the training text.
    """

    positions: Tensor
    hidden: Tensor | None = None
    raw: QKV | None = None
    streams: Streams = field(default_factory=Streams)
    state: DecodeState | None = None
    log_frequency: Tensor | None = None

    def with_raw(self, raw: QKV) -> Context:
        """The same surroundings, once the layer has projected `raw`."""
        return Context(
            positions=self.positions,
            hidden=self.hidden,
            raw=raw,
            streams=self.streams,
            state=self.state,
            log_frequency=self.log_frequency,
        )
