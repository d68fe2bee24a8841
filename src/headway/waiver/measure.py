"""What is added up at one attention of a model, over passes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from headway.decoder.observer import Attending
from headway.errors import HeadwayError
from headway.ops.received import received_attention
from headway.waiver.anatomy import Site, hidden_of, with_sink

MASSIVE = 100.0
MASSIVE_RATIO = 1000.0
MOST_MASSIVE = 8
"""Massive activations that are listed a layer."""


class NotFinite(HeadwayError):
    """A model's numbers are not finite; layer, head and position are named."""


class MassiveActivation(NamedTuple):
    """One activation above 100 and above 1,000 times the median (arXiv 2402.17762, section 2).

    Attributes:
        sample: number of the sample in its pass.
        position: of the token.
        channel: of the hidden state.
        value: signed.
    """

    sample: int
    position: int
    channel: int
    value: float


class LayerSums:
    """Sums over samples at one attention and behind its layer.

    Args:
        site: the attention.
        threshold: of the sink metric.
    """

    def __init__(self, site: Site, threshold: float) -> None:
        self.site, self.threshold = site, threshold
        self.sums: dict[str, Tensor] = {}
        self.samples = 0
        self.causal = True
        self.massive: list[MassiveActivation] = []
        self.sink_by_sample: list[Tensor] = []

    def see(self, attending: Attending) -> None:
        """Add one pass of the attention."""
        scores, v = attending.scores, attending.v
        heads = scores.q.shape[1]
        for name, x in (("queries", scores.q), ("keys", scores.k), ("values", v)):
            _check_finite(x, f"{self.site.name}: {name}", "head")
        found = received_attention(scores, with_sink(self.site, attending.lse), self.threshold)
        received = found.mean()
        values = v.to(received.dtype)
        value_norm = values.norm(dim=-1).repeat_interleave(heads // v.shape[1], dim=1)
        written = _written_norm(values, self.site.projection, heads)
        spent = found.total * (value_norm if written is None else written)
        above = received > self.threshold
        self._add("received", received)
        self._add("sink_rate", above.to(received.dtype))
        self._add("peak", found.peak)
        self._add("share_over", found.over / found.viewers.clamp(min=1))
        self._add("value_norm", value_norm)
        self._add(
            "written_norm", torch.full_like(value_norm, torch.nan) if written is None else written
        )
        key_norm = scores.k.to(received.dtype).norm(dim=-1)
        self._add("key_norm", key_norm.repeat_interleave(heads // v.shape[1], dim=1))
        self._add("write", (found.total - found.own) * value_norm)
        self._add("contribution", spent / spent.sum(-1, keepdim=True).clamp(min=1e-30))
        self._add("entropy", found.entropy)
        self._add("mass", found.mass.mean(-1))
        self.sink_by_sample.append(above.float().mean(1).cpu())
        self.causal &= bool(found.viewers[..., -1].max() <= 1) or scores.causal
        self.samples += len(v)

    def see_hidden(self, _layer: Any, _inputs: Any, output: Any) -> None:
        """A forward hook of the layer."""
        hidden = hidden_of(output).float()
        _check_finite(hidden.unsqueeze(1), f"{self.site.name}: hidden states behind it", None)
        self._add("hidden_norm", hidden.norm(dim=-1))
        size = hidden.abs()
        flat = size.flatten(1)
        median = lower_median(flat).clamp(min=1e-30)
        self._add("massive_ratio", flat.amax(-1) / median)
        self._add("largest", flat.amax(-1))
        large = (size > MASSIVE) & (size > MASSIVE_RATIO * median[:, None, None])
        self._add("massive_count", large.sum((1, 2)))
        for sample, position, channel in large.nonzero().tolist():
            value = float(hidden[sample, position, channel])
            self.massive.append(MassiveActivation(sample, position, channel, value))
        self.massive.sort(key=lambda m: -abs(m.value))
        del self.massive[MOST_MASSIVE:]

    def means(self) -> dict[str, Tensor]:
        """Each sum over the number of samples, float32 on the CPU."""
        return {name: (total / self.samples).float().cpu() for name, total in self.sums.items()}

    def _add(self, name: str, by_sample: Tensor) -> None:
        total = by_sample.double().sum(0)
        self.sums[name] = self.sums[name] + total if name in self.sums else total


def lower_median(x: Tensor) -> Tensor:
    """Median `(B,)` of numbers `(B, N)` that are float32 and not negative, as `torch.median`.

    By bisection over their bits, which order as the numbers do: for a median a GPU selects within
    one block of threads, which takes long where a row is a whole hidden state.
    """
    bits = x.contiguous().view(torch.int32)
    low = torch.zeros(len(x), 1, dtype=torch.int32, device=x.device)
    rank = (x.shape[1] + 1) // 2
    for bit in range(30, -1, -1):
        # The largest number below which fewer than `rank` stand is the one looked for.
        tried = low + (1 << bit)
        fewer = (bits < tried).sum(-1, keepdim=True) < rank
        low = torch.where(fewer, tried, low)
    return low.view(torch.float32)[:, 0]


def _written_norm(v: Tensor, projection: Tensor | None, heads: int) -> Tensor | None:
    """`|W_O v|` `(B, H, T)` of values `(B, G, T, D)`, by each head's D x D Gram matrix."""
    if projection is None:
        return None
    weight = projection.to(v).unflatten(0, (heads, -1))
    gram = weight @ weight.transpose(-1, -2)
    v = v.repeat_interleave(heads // v.shape[1], dim=1)
    squares: Tensor = ((v @ gram) * v).sum(-1)
    return squares.clamp(min=0).sqrt()


def _check_finite(x: Tensor, what: str, axis: str | None) -> None:
    """Refuse `(B, heads, T, ...)` with numbers that are not finite."""
    if bool(torch.isfinite(x).all()):
        return
    bad = (~torch.isfinite(x)).flatten(3).any(-1) if x.dim() > 3 else ~torch.isfinite(x)
    _, head, position = bad.nonzero()[0, :3].tolist()
    where = f"{axis} {head}, position {position}" if axis else f"position {position}"
    raise NotFinite(f"{what} are not finite at {where}; nothing was averaged")
