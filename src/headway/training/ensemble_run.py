"""Training runs of several seeds of a causal language model, taken together."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from headway.corpora.batches import Windows
from headway.training.ensemble import Call, Ensemble
from headway.training.recipe import Recipe
from headway.training.run import Divergence, Step, next_token_loss, precision
from headway.training.update_rules import AdamW

LONGEST = 32
"""Most steps between two looks at the losses."""


@dataclass(frozen=True)
class Stretch:
    """What one seed did between two looks.

    Attributes:
        steps: those that it took.
        divergence: why it takes no more, where it stopped in this stretch.
    """

    steps: list[Step]
    divergence: Divergence | None


def ensemble_of(
    models: Sequence[nn.Module], recipe: Recipe, dtype: str, compile_step: bool
) -> Ensemble:
    """Language models under the recipe's optimiser; arguments as in `headway.training.run.train`.

    Args:
        models: one a seed.
        recipe: of the optimisation.
        dtype: 'float32' or 'bfloat16' arithmetic.
        compile_step: compile the step, and replay it on a GPU as a CUDA graph.
    """
    device = next(models[0].parameters()).device

    def loss(call: Call, windows: Tensor) -> Tensor:
        with precision(device, dtype):
            return next_token_loss(cast(Any, call), windows).mean()

    decayed = {
        f"{name}.weight"
        for name, module in models[0].named_modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    }
    rule = AdamW(weight_decay=recipe.weight_decay, decayed=decayed, clip=recipe.clip)
    return Ensemble.of(models, loss, rule, compiled=compile_step)


def train_together(
    ensemble: Ensemble, data: Sequence[Windows], recipe: Recipe, stops: Collection[int]
) -> Iterator[list[Stretch]]:
    """Train all copies, looking at their losses at `stops` and every 32 steps between them.

    A seed's numbers are those of `headway.training.run.train`, up to rounding. A seed that
    diverges stops alone; the others go on.

    Args:
        ensemble: see `ensemble_of`.
        data: batches by step, of each copy.
        recipe: of the optimisation.
        stops: steps, from 1, after which a list is due; the last step is one in any case.

    Yields:
        A stretch a copy. Tokens a second are those of all copies together.
    """
    device, gone = ensemble.rows.device, [False] * len(ensemble)
    looks = sorted({*stops, *range(0, recipe.steps, LONGEST), recipe.steps})
    seconds = 0.0
    for start, stop in pairwise(looks):
        began = time.perf_counter()
        windows = torch.stack(
            [torch.stack([own.batch(number) for own in data]) for number in range(start, stop)]
        ).to(device, non_blocking=True)
        rates = [recipe.rate(number) for number in range(start, stop)]
        losses = ensemble.run(windows, torch.tensor(rates)).tolist()
        taken = [int(n) for n in ensemble.steps.tolist()]
        seconds += time.perf_counter() - began
        a_step = windows[0, 0, :, 1:].numel()
        speed = len(ensemble) * a_step * stop / seconds
        stretches = []
        for copy, done in enumerate(taken):
            stopped = done < stop and not gone[copy]
            if stopped and math.isfinite(losses[done - start][copy]):
                done += 1  # its gradient broke the weights, which the next loss would show
            steps = [
                Step(n + 1, a_step * (n + 1), losses[n - start][copy], rates[n - start], speed)
                for n in range(start, min(stop, done))
            ]
            shown = Divergence(min(done + 1, recipe.steps)) if stopped else None
            stretches.append(Stretch(steps, shown))
            gone[copy] |= stopped
        yield stretches
        if all(gone):
            return
