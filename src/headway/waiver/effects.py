"""Effects as ratios of means over samples, with bootstrap intervals, and what an edit damages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headway.ops.received import wide

RESAMPLES = 1000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A number and the bounds of its 95 % bootstrap interval over samples; NaN where undefined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


UNDEFINED = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Damage:
    """What an edit does to the model's output, on tokens that the edit left as they were.

    Attributes:
        before: perplexity of these tokens as the model is; None without a next-token loss.
        after: the same under the edit.
        ratio: `after / before`.
        change: mean of `measure` over positions and samples.
        measure: 'KL of the logits, nats' or 'relative change of the final states'.
    """

    before: float | None
    after: float | None
    ratio: Interval | None
    change: Interval
    measure: str


@dataclass(frozen=True)
class Effect:
    """How much of the sink an edit kept or moved: sink measured there over the original sink.

    Attributes:
        key: what it is evidence of; effects of one key are pooled.
        test: of the battery, 'T1' to 'T7'.
        words: the edit and where was looked.
        total: over all layers and heads. Above 1 where the edit makes more sink than there was.
        layers: in each layer; NaN where the layer has no sink to compare with.
        damage: None where the edit leaves no token to compare, and in pooled effects.
    """

    key: str
    test: str
    words: str
    total: Interval
    layers: tuple[Interval, ...]
    damage: Damage | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        damage = None
        if self.damage is not None:
            ratio = self.damage.ratio
            damage = {
                "before": self.damage.before,
                "after": self.damage.after,
                "ratio": None if ratio is None else ratio._asdict(),
                "change": self.damage.change._asdict(),
                "measure": self.damage.measure,
            }
        return {
            "key": self.key,
            "test": self.test,
            "words": self.words,
            **self.total._asdict(),
            "layers": [layer._asdict() for layer in self.layers],
            "damage": damage,
        }


class Bootstrap:
    """Resamples of samples, drawn once, so that everything is resampled jointly.

    Args:
        samples: M.
        seed: of the draws.
        resamples: how many.
    """

    def __init__(self, samples: int, seed: int = 0, resamples: int = RESAMPLES) -> None:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(samples, (resamples, samples), generator=generator)
        self.counts = torch.zeros(resamples, samples, dtype=torch.float64)
        self.counts.scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))

    def ratio(self, over: Tensor, under: Tensor) -> Interval:
        """Mean of `over` `(M,)` through the mean of `under` `(M,)`, percentile interval."""
        over, under = over.double().cpu(), under.double().cpu()
        if not float(under.sum()) > 0:
            return UNDEFINED
        drawn = (self.counts @ over) / (self.counts @ under)
        tail = (1 - CONFIDENCE) / 2
        bounds = torch.tensor([tail, 1 - tail], dtype=torch.float64)
        low, high = drawn[drawn.isfinite()].quantile(bounds).tolist()
        return Interval(float(over.sum() / under.sum()), low, high)

    def mean(self, x: Tensor) -> Interval:
        """Mean of `x` `(M,)`."""
        return self.ratio(x, torch.ones_like(x))

    def effect(self, over: Tensor, under: Tensor) -> tuple[Interval, tuple[Interval, ...]]:
        """Ratio of sinks `(M, L)` over all layers, and in each."""
        whole = self.ratio(over.mean(1), under.mean(1))
        pairs = zip(over.unbind(1), under.unbind(1), strict=True)
        return whole, tuple(self.ratio(a, b) for a, b in pairs)

    def damage(self, changes: Changes) -> Damage:
        """Intervals of what `OutputChange` found in each sample."""
        before = after = ratio = None
        if changes.before is not None and changes.after is not None:
            grown = self.mean(changes.after - changes.before)
            before = _exp(float(changes.before.double().mean()))
            after = _exp(float(changes.after.double().mean()))
            ratio = Interval(*(_exp(x) for x in grown))
        return Damage(before, after, ratio, self.mean(changes.change), changes.measure)


class Changes(NamedTuple):
    """What an edit changed, by sample `(M,)`; loss in nats a token before and after, or None."""

    before: Tensor | None
    after: Tensor | None
    change: Tensor
    measure: str


def joined(parts: list[Changes]) -> Changes:
    """Batches of samples as one."""
    before, after = (
        None if parts[0][i] is None else torch.cat([part[i] for part in parts])  # type: ignore[misc]
        for i in (0, 1)
    )
    return Changes(before, after, torch.cat([p.change for p in parts]), parts[0].measure)


class Output(NamedTuple):
    """What a model gives: `(B, T, V)` logits, or `(B, T, C)` final states without a head.

    `predicts` is true where the logits at a position are for the next token.
    """

    values: Tensor
    is_logits: bool
    predicts: bool


def change_of_output(
    natural: Output, edited: Output, ids: Tensor, kept: Tensor, shift: int = 0
) -> Changes:
    """Compare an edited pass with the natural one, sample by sample.

    Args:
        natural: of `ids`.
        edited: its columns stand `shift` to the right of the natural ones.
        ids: `(B, T)`.
        kept: `(B, T)`, true for tokens that the edit left alone: these are compared, and their
            prediction counts.
        shift: may be negative.
    """
    first = max(0, -shift)
    last = min(ids.shape[1], edited.values.shape[1] - shift)
    before = natural.values[:, first:last]
    after = edited.values[:, first + shift : last + shift]
    ids, kept = ids[:, first:last].to(before.device), kept[:, first:last].to(before.device)
    if not natural.is_logits:
        difference = (after - before).float().norm(dim=-1) / before.float().norm(dim=-1)
        measure = "relative change of the final states"
        return Changes(None, None, _masked_mean(difference, kept), measure)
    before, after = (x.to(wide(x.dtype)).log_softmax(-1) for x in (before, after))
    divergence = (before.exp() * (before - after)).sum(-1).clamp(min=0)
    change, measure = _masked_mean(divergence, kept), "KL of the logits, nats"
    if not natural.predicts:
        return Changes(None, None, change, measure)

    def loss(logs: Tensor) -> Tensor:
        taken = -logs[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
        return _masked_mean(taken, kept[:, 1:])

    return Changes(loss(before), loss(after), change, measure)


def _masked_mean(x: Tensor, kept: Tensor) -> Tensor:
    """Mean of `(B, T)` over kept positions, on the CPU."""
    total = x.masked_fill(~kept, 0.0).double().sum(-1)
    return (total / kept.sum(-1).clamp(min=1)).cpu()


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0))
