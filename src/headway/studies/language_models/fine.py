"""Fine-tuning in studies of language models: arms that go on from a model trained without them.

The training text is cut in two. A model of the arm that is continued learns from the first half;
what goes on from it, mechanisms as they start, learns from the second, which nobody has seen. It
is kept beside the tokens: a GPU would not train it twice alike, and arms are compared from one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from headway.corpora.batches import ResidentWindows
from headway.decoder import HeadwayForCausalLM
from headway.errors import HeadwayError
from headway.files import write_atomically
from headway.studies.claims import Run
from headway.studies.language_models.course import Course
from headway.studies.language_models.rates import SHARE, Rates
from headway.studies.sinks.results import make_once
from headway_settings import __version__

BASE = "base"
"""Stage of the model that is continued; it is no result of its own."""
BASES = "bases"
"""Folder beside that of the tokens where these models are kept."""


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

    def save(self, path: Path, made_of: str) -> None:
        """Write the file in one step, with what the model was made of in its metadata."""
        about = {"loss": repr(self.loss), "made_of": made_of}
        write_atomically(path, save(dict(self.weights), about))

    @classmethod
    def load(cls, path: Path) -> Base:
        """Read a file that was saved.

        Raises:
            HeadwayError: it is damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return cls(weights, float(file.metadata()["loss"]))
        except (SafetensorError, OSError) as error:
            raise HeadwayError(
                f"corpus: {path} cannot be read ({error}); delete it to train that model anew, "
                "and run the arms that went on from it again"
            ) from error


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
        """The trained model of an arm; one is trained for each seed, by whoever comes first.

        Raises:
            HeadwayError: its file is damaged or cannot be written, or its seconds were over.
        """
        if (arm, seed) not in self._bases:
            run = Run(arm, seed, {"stage": BASE, "rate": self.continuation.base_rate})
            made_of = json.dumps(self._made_of(run), sort_keys=True)
            digest = hashlib.sha256(made_of.encode()).hexdigest()[:16]
            path = self.folder.parent / BASES / f"{arm}-{seed}-{digest}.safetensors"
            make_once(path, lambda: self._trained_base(run).save(path, made_of))
            self._bases[arm, seed] = Base.load(path)
        return self._bases[arm, seed]

    def _trained_base(self, run: Run) -> Base:
        model, measures = super().trained(run)
        weights = {name: weight.cpu().clone() for name, weight in model.state_dict().items()}
        return Base(weights, measures["loss"])

    def _made_of(self, run: Run) -> dict[str, Any]:
        """All that a base and its loss follow from, but for the machine and how fast it is."""
        splits = self.corpus.description
        return {
            "headway": __version__,
            "config": self.config(self.arms[run.arm]).to_dict() | {"transformers_version": None},
            "recipe": asdict(self.recipe(run)),
            "batch_size": self.batch_size,
            "dtype": self.settings.dtype,
            "context": self.extent.context,
            "held_tokens": self.extent.held_tokens,
            "train": splits.train.sha256,
            "validation": splits.validation.sha256,
        }
