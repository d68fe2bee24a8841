"""What is measured beside the training loss: validation, and learning in context."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headway.decoder import HeadwayForCausalLM
from headway.ops.attention import scores
from headway.ops.visibility import Visibility
from headway.training.run import next_token_loss, precision

EARLY = range(40, 60)
"""Positions averaged for 'loss at token 50': one position alone is too noisy."""
LATE_SHARE = 0.1
"""Share of the context, at its end, averaged for the loss late in the context."""


@dataclass(frozen=True)
class Validation:
    """Losses on held-out windows, nats per token.

    Attributes:
        loss: mean.
        by_position: `(T,)`, mean by position in the context, float64.
    """

    loss: float
    by_position: Tensor

    @property
    def early(self) -> float | None:
        """Loss around token 50; None where the context is not longer than that."""
        if len(self.by_position) <= EARLY.stop / (1 - LATE_SHARE):
            return None
        return float(self.by_position[EARLY.start : EARLY.stop].mean())

    @property
    def late(self) -> float | None:
        """Loss over the last tenth of the context."""
        if self.early is None:
            return None
        return float(self.by_position[-math.ceil(LATE_SHARE * len(self.by_position)) :].mean())


@torch.no_grad()
def validate(
    model: HeadwayForCausalLM,
    windows: Tensor,
    batch_size: int,
    dtype: str,
    positions: Callable[[Tensor], dict[str, Tensor]] | None = None,
) -> Validation:
    """Losses on `windows` `(N, T + 1)`.

    Args:
        model: any of transformers' form.
        windows: held out.
        batch_size: windows a forward pass.
        dtype: of the arithmetic.
        positions: of ids `(B, T)` further arguments of the model; none.
    """
    model.eval()
    total = torch.zeros(windows.shape[1] - 1, dtype=torch.float64)
    for chunk in windows.split(batch_size):
        with precision(model.device, dtype):
            chunk = chunk.to(model.device)
            further = positions(chunk[:, :-1]) if positions is not None else {}
            losses = next_token_loss(model, chunk, **further)
        total += losses.double().sum(0).cpu()
    by_position = total / len(windows)
    return Validation(float(by_position.mean()), by_position)


@dataclass
class PrefixMatching:
    """Collects, per layer and head, the attention to the token after the last occurrence.

    On a random sequence repeated once, a query in the second half that is at column i stands for
    the token at i - period; an induction head looks at i - period + 1 (Olsson et al. 2022).
    Log-sum-exps are computed tile by tile over queries; no T x T matrix is stored.

    Attributes:
        period: length of the sequence before it repeats.
        scores: per layer, a list with one mean attention a head.
    """

    period: int
    scores: dict[int, list[float]] = field(default_factory=dict)

    def __call__(self, slot: int, q: Tensor, k: Tensor, visible: Visibility, scale: float) -> None:
        """The probe of `headway.decoder.forward_pass`."""
        mass = torch.zeros(q.shape[1], dtype=torch.float64)
        for start in range(self.period, q.shape[2], 64):
            rows = torch.arange(start, min(start + 64, q.shape[2]), device=q.device)
            seen = Visibility(
                visible.positions[:, rows], start, visible.keys, False, visible.slopes
            )
            weights = scores(q[:, :, rows], k, seen, scale).softmax(-1)
            looked = weights[:, :, torch.arange(len(rows)), rows - self.period + 1]
            mass += looked.double().sum((0, 2)).cpu()
        self.scores[slot] = (mass / (q.shape[0] * (q.shape[2] - self.period))).tolist()


@dataclass(frozen=True)
class Repetition:
    """How well a model uses a random sequence that it has seen once.

    Attributes:
        accuracy: share of right predictions in the second half.
        prefix_scores: per attention, a list with one prefix-matching score a head.
    """

    accuracy: float
    prefix_scores: list[list[float]]


@torch.no_grad()
def repeat_probe(model: HeadwayForCausalLM, context: int, sequences: int, dtype: str) -> Repetition:
    """Accuracy and prefix matching on random sequences of `context // 2` tokens, repeated."""
    matching = PrefixMatching(context // 2)
    accuracy = repeat_accuracy(model, context, sequences, dtype, probe=matching)
    return Repetition(accuracy, [matching.scores[s] for s in sorted(matching.scores)])


@torch.no_grad()
def repeat_accuracy(
    model: PreTrainedModel, context: int, sequences: int, dtype: str, **inputs: Any
) -> float:
    """The share of right predictions alone, of any causal language model.

    Args:
        model: of transformers.
        context, sequences, dtype: as of `repeat_probe`.
        inputs: further arguments of the model.
    """
    model.eval()
    period = context // 2
    drawn = torch.Generator().manual_seed(0)
    half = torch.randint(1, model.config.vocab_size, (sequences, period), generator=drawn)
    tokens = torch.cat([half, half], dim=1).to(model.device)
    with precision(model.device, dtype):
        logits = model(tokens, use_cache=False, **inputs).logits
    guessed = logits[:, period:-1].argmax(-1)
    return float((guessed == tokens[:, period + 1 :]).float().mean())


def learned_numbers(model: HeadwayForCausalLM) -> dict[str, list[object]]:
    """Taps, temperatures and other learned numbers, by the module's name and their own."""
    found: dict[str, list[object]] = {}
    for path, module in model.named_modules():
        learned = getattr(module, "learned", None)
        if callable(learned):
            for name, value in learned().items():
                readable = path.removeprefix("model.").replace("self_attn.mechanisms.members.", "")
                found[f"{readable}.{name}"] = value.detach().float().cpu().tolist()
    return found
