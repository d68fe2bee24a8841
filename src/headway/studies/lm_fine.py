"""Fine-tuning in studies of language models: arms that go on from a model trained without them.

The training text is cut in two. A model of the arm that is continued learns from the first half;
what goes on from it, mechanisms as they start, learns from the second, which nobody has seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from headway.corpora.batches import ResidentWindows
from headway.decoder import HeadwayForCausalLM
from headway.studies.claims import Run
from headway.studies.lm_course import Course
from headway.studies.lm_rates import SHARE, Rates

BASE = "base"
"""Stage of the model that is continued; it is no result of its own."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """How long a model learns before and after it is continued.

    Attributes:
        base_steps, base_rate: of the model that is continued.
        steps: of what goes on from it.
        rates: among which the rate of each arm that goes on is chosen.
    """

    base_steps: int
    base_rate: float
    steps: int
    rates: Rates

    @property
    def told(self) -> str:
        """The same in a sentence."""
        rates = ", ".join(f"{rate:g}" for rate in self.rates.first)
        return (
            f"Fine-tuned: from a plain model after {self.base_steps} steps at {self.base_rate:g} "
            f"on the first half of the text, {self.steps} steps on the second, rates {rates}, all "
            "weights at one rate."
        )


class Base(NamedTuple):
    """A model that is continued: its weights on the CPU, and its loss on the validation split."""

    weights: Mapping[str, Tensor]
    loss: float


@dataclass(frozen=True, eq=False)
class FineCourse(Course):
    """A course some of whose arms continue others; arms that do not are trained as ever."""

    continuation: Continuation
    _bases: dict[tuple[str, int], Base] = field(default_factory=dict, init=False)

    def steps_of(self, run: Run) -> int:
        """Optimiser steps of one run."""
        given, spec = self.settings.steps, self.continuation
        if run.options["stage"] == BASE:
            return given or spec.base_steps
        if self.arms[run.arm].continues is None:
            return super().steps_of(run)
        share: float = run.options.get(SHARE, 1)
        return max(1, round((given or spec.steps) * share))

    def data(self, run: Run) -> ResidentWindows:
        """Training windows: of the first half for a base, of the second for what continues it."""
        base = run.options["stage"] == BASE
        if not base and self.arms[run.arm].continues is None:
            return super().data(run)
        half = len(self.corpus.train) // 2
        tokens = self.corpus.train[:half] if base else self.corpus.train[half:]
        return ResidentWindows(tokens, self.extent.context, self.batch_size, run.seed, self.device)

    def drawn(self, run: Run) -> HeadwayForCausalLM:
        """The model of a run before training; one that continues has its base's weights."""
        model = super().drawn(run)
        base = self.arms[run.arm].continues
        if base is not None:
            # What the base lacks are the mechanisms' own numbers, which stay as they were drawn.
            model.load_state_dict(self.base(base, run.seed).weights, strict=False)
        return model

    def trained(self, run: Run) -> tuple[HeadwayForCausalLM, dict[str, Any]]:
        """As `Course.trained`, with the loss of the model that was continued."""
        model, measures = super().trained(run)
        base = self.arms[run.arm].continues
        if base is not None:
            measures["base_loss"] = self.base(base, run.seed).loss
        return model, measures

    def base(self, arm: str, seed: int) -> Base:
        """The trained model of an arm; one is trained for each seed, and kept."""
        if (arm, seed) not in self._bases:
            run = Run(arm, seed, {"stage": BASE, "rate": self.continuation.base_rate})
            model, measures = super().trained(run)
            weights = {name: weight.cpu().clone() for name, weight in model.state_dict().items()}
            self._bases[arm, seed] = Base(weights, measures["loss"])
        return self._bases[arm, seed]
