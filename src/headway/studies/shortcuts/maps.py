"""Where the last layer of a model with a shortcut attends, over depth and position, and what it
costs to take a depth away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from headway.decoder import HeadwayForCausalLM
from headway.mechanisms.layer_shortcut import ShortcutAttention
from headway.ops.attention import scores
from headway.ops.visibility import Visibility
from headway.studies.claims import Measures, Run
from headway.studies.language_models.course import DIGITS, Course
from headway.training.matched import forward_operations
from headway.training.probes import validate
from headway.training.run import precision

LOOKED_AT = 16
"""Windows of the test split that attention is looked at in."""
JUDGED_ON = 128
"""Windows on which the loss without a tap is measured."""
ROWS = 64
"""Of the attention matrix that are made at once."""


def distance_bins(length: int) -> list[str]:
    """Names of the distances that are told apart: 0, 1, 2 and 3, 4 to 7, and so on."""
    ends = [(2**n, 2 ** (n + 1) - 1) for n in range((length - 1).bit_length())]
    return ["0", *(str(low) if low == high else f"{low}-{high}" for low, high in ends)]


@dataclass
class DepthMap:
    """Gathers the attention of a shortcut over taps and distances. Call it as a probe of
    `headway.decoder.forward_pass`.

    Attributes:
        slots: of the taps, in their order.
        lse: by slot, `(B, H, T)`, log-sum-exp of a tap's scores.
        near: by slot, `(B, H, T, N)`, how a tap's attention lies over distances (`distance_bins`).
    """

    slots: tuple[int, ...]
    lse: dict[int, Tensor] = field(default_factory=dict)
    near: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, slot: int, q: Tensor, k: Tensor, visible: Visibility, scale: float) -> None:
        if slot not in self.slots:
            return
        length, lse, near = q.shape[2], [], []
        bins = len(distance_bins(length))
        for start in range(0, length, ROWS):
            at = torch.arange(start, min(start + ROWS, length), device=q.device)
            seen = Visibility(visible.positions[:, at], start, visible.keys, False, visible.slopes)
            raw = scores(q[:, :, at], k, seen, scale).double()
            distance = at[:, None] - torch.arange(visible.keys, device=q.device)
            place = (distance.clamp(min=0) + 0.5).log2().floor().long() + 1
            place = place.clamp(max=bins - 1)
            lse.append(raw.logsumexp(-1))
            held = raw.new_zeros(*raw.shape[:-1], bins)
            near.append(held.scatter_add_(-1, place.expand_as(raw), raw.softmax(-1)))
        self.lse[slot] = torch.cat(lse, -1).cpu()
        self.near[slot] = torch.cat(near, -2).cpu()

    @property
    def shares(self) -> Tensor:
        """`(M, B, H, T)`, how much of a query's attention each tap has."""
        return torch.stack([self.lse[slot] for slot in self.slots]).softmax(0)

    @property
    def map(self) -> Tensor:
        """`(M, N)`, attention by tap and distance, a mean over queries, heads and samples."""
        near = torch.stack([self.near[slot] for slot in self.slots])
        found: Tensor = (self.shares[..., None] * near).mean((1, 2, 3))
        return found

    def told(self) -> dict[str, Any]:
        """Attention by tap; how many taps it spreads over as evenly as it does (the exponential of
        the entropy); how many nats of a tap follow from the token, a mean over heads; and how much
        is on other positions."""
        shares, found = self.shares, self.map
        mass = found.sum(1)
        by_head = shares.mean((1, 3))
        follows = _entropy(by_head, 0) - _entropy(shares, 0).mean((0, 2))
        return {
            "map": [[round(x, DIGITS) for x in row] for row in found.tolist()],
            "mass": [round(x, DIGITS) for x in mass.tolist()],
            "effective": round(float(_entropy(mass, 0).exp()), DIGITS),
            "adaptive": round(float(follows.mean()), DIGITS),
            "elsewhere": round(float(1 - found[:, 0].sum()), DIGITS),
        }


def _entropy(shares: Tensor, dim: int) -> Tensor:
    found: Tensor = torch.special.entr(shares).sum(dim)
    return found


def shortcut_of(model: HeadwayForCausalLM) -> ShortcutAttention | None:
    """The shortcut of a model, if there is one."""
    found = [m for m in model.modules() if isinstance(m, ShortcutAttention)]
    return found[0] if found else None


def without_tap(course: Course, model: HeadwayForCausalLM, tap: int) -> HeadwayForCausalLM:
    """The same model whose shortcut does not read one layer: the softmax is over what is left.

    Args:
        course: of the model.
        model: with a shortcut of several taps.
        tap: number of the layer.
    """
    shortcut = shortcut_of(model)
    assert shortcut is not None
    left = tuple(t for t in shortcut.taps if t != tap)
    config = deepcopy(model.config)
    config.mechanisms = [replace(shortcut.spec, taps=left).to_dict()]
    other = HeadwayForCausalLM(config)
    weights: Mapping[str, Tensor] = model.state_dict()
    if shortcut.spec.features == "mlp":
        weights = _renumbered(weights, [shortcut.taps.index(t) for t in left])
    other.load_state_dict(weights)
    torch.nn.Module.to(other, course.device)
    return other


def _renumbered(weights: Mapping[str, Tensor], kept: Sequence[int]) -> dict[str, Tensor]:
    """Weights of which only the features of some taps are kept, counted anew."""
    found = {}
    for name, weight in weights.items():
        before, features, after = name.partition(".features.")
        if features:
            number, dot, rest = after.partition(".")
            if int(number) not in kept:
                continue
            name = f"{before}{features}{kept.index(int(number))}{dot}{rest}"
        found[name] = weight
    return found


@torch.no_grad()
def look(course: Course, model: HeadwayForCausalLM, run: Run) -> Measures:
    """Operations of a token; of a shortcut over positions its attention and, for each tap, what the
    loss is more without it; the weights of a static mix."""
    length = course.extent.context
    found: dict[str, Any] = {
        "operations": round(forward_operations(model.config, length) / length),
        "train_tokens": len(course.corpus.train),
        "vocabulary": course.corpus.vocab_size,
    }
    if (mix := model.model.final_mix) is not None:
        found["weights"] = [round(x, DIGITS) for x in mix.weights.tolist()]
    shortcut = shortcut_of(model)
    if shortcut is None or shortcut.spec.reach != "context":
        return found
    depth = DepthMap(shortcut.slots)
    ids = course.held(run)[:LOOKED_AT, :-1].to(course.device)
    with precision(course.device, course.settings.dtype):
        model(ids, use_cache=False, logits_to_keep=1, probe=depth)
    found |= {"taps": list(shortcut.taps), **depth.told()}
    if len(shortcut.taps) > 1:
        whole = _judged(course, model, run)
        more = [
            _judged(course, without_tap(course, model, tap), run) - whole for tap in shortcut.taps
        ]
        found |= {
            "removed": [round(x, DIGITS) for x in more],
            "rank_correlation": round(rank_correlation(depth.map.sum(1).tolist(), more), DIGITS),
        }
    return found


def _judged(course: Course, model: HeadwayForCausalLM, run: Run) -> float:
    windows = course.held(run)[:JUDGED_ON]
    return validate(model, windows, course.batch_size, course.settings.dtype).loss


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's, of numbers without ties."""
    ranks = [torch.tensor(v, dtype=torch.float64).argsort().argsort().double() for v in (x, y)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])
