"""A language model trained on text as one run of a study."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from headway.corpora.batches import ResidentWindows, validation_windows
from headway.corpora.cache import text_corpus
from headway.corpora.tokens import TokenCorpus, is_corpus
from headway.decoder import HeadwayConfig, HeadwayForCausalLM
from headway.errors import HeadwayError
from headway.mechanisms import Mechanism
from headway.studies.claims import Measures, Run, Size
from headway.studies.language_models.rates import SHARE, Rates
from headway.studies.provenance import device_of
from headway.studies.races.tuning import TEST, TUNING
from headway.studies.sinks.results import shared_corpus
from headway.training.initialise import seed_weights
from headway.training.probes import validate
from headway.training.recipe import Recipe
from headway.training.run import Divergence, train
from headway_settings import StudySettings

POINTS = 20
"""Of the training loss that are kept of a run."""
DIGITS = 5
"""Decimals of a loss that is kept."""
HEEDS = ("text", "corpus", "steps", "batch_size", "seconds", "tuning_seeds", "dtype", "compile")
"""Settings that studies of language models take."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of a decoder: layers, width of the residual stream, query heads, key-value heads."""

    layers: int
    width: int
    heads: int
    kv_heads: int


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A model that is compared.

    Attributes:
        about: what it is.
        mechanisms: of every layer.
        shape: which one of the extent's.
        fields: of its `HeadwayConfig`, besides those of all arms.
        wider: by how much its feed-forward parts are wider.
        continues: the arm whose trained model it goes on from, where it does not start anew.
        at: learning rates at which it is run; none: its own is tuned.
    """

    about: str
    mechanisms: tuple[Mechanism, ...] = ()
    shape: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)
    wider: int = 0
    continues: str | None = None
    at: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How large the models of a size are, how long they learn, and what they are measured on.

    Attributes:
        shapes: that arms choose from.
        fields: of the `HeadwayConfig` of all arms.
        context: tokens.
        tokenizer: of tokens that are made here.
        vocab_size: of the BPE, trained on the training split.
        max_characters: of text that is read.
        batch_size: sequences a step.
        steps: optimiser steps.
        held_tokens: of the validation split, where rates are tuned, and of the test split.
        rates: among which each arm's is chosen.
    """

    shapes: tuple[Shape, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    context: int
    tokenizer: Literal["bpe", "characters"] = "bpe"
    vocab_size: int
    max_characters: int
    batch_size: int
    steps: int
    held_tokens: int
    rates: Rates

    @property
    def tokens(self) -> int:
        """That a run sees."""
        return self.steps * self.batch_size * self.context

    @property
    def told(self) -> str:
        """Sizes and training, in sentences."""
        shapes = " and ".join(f"{s.layers} layers of width {s.width}" for s in self.shapes)
        return (
            f"{shapes}, contexts of {self.context}, a BPE of {self.vocab_size:,}; "
            f"{self.tokens / 1e6:.1f}M tokens a run from up to {self.max_characters:,} characters "
            "(read again where they are fewer), warm-up over a tenth and cosine to a tenth, weight "
            f"decay 0.1, clipping at 1. {self.rates.told}; losses on at most "
            f"{self.held_tokens:,} tokens, of the test split where arms are compared."
        )

    def config(self, arm: Arm, vocab_size: int, eot: int) -> HeadwayConfig:
        """Of an arm's model, for a vocabulary whose documents end with a token `eot`."""
        shape = self.shapes[arm.shape]
        fields: dict[str, Any] = {
            "hidden_size": shape.width,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": self.context,
            "vocab_size": vocab_size,
            "eos_token_id": eot,
            "mechanisms": arm.mechanisms,
        }
        made = HeadwayConfig(**fields | dict(self.fields) | dict(arm.fields))
        assert made.intermediate_size is not None
        made.intermediate_size += arm.wider
        return made


@dataclass(frozen=True, eq=False)
class Course:
    """What the runs of a study share: arms, sizes and the text, which is made once."""

    arms: Mapping[str, Arm]
    extent: Extent
    settings: StudySettings

    @property
    def steps(self) -> int:
        """Optimiser steps a run."""
        return self.settings.steps or self.extent.steps

    def steps_of(self, run: Run) -> int:
        """Optimiser steps of one run: its share of all, with a whole schedule of its own."""
        share: float = run.options.get(SHARE, 1)
        return max(1, round(self.steps * share))

    def recipe(self, run: Run) -> Recipe:
        """How one run is optimised."""
        return Recipe(steps=self.steps_of(run), learning_rate=run.options["rate"], weight_decay=0.1)

    @property
    def batch_size(self) -> int:
        """Sequences a step."""
        return self.settings.batch_size or self.extent.batch_size

    @cached_property
    def device(self) -> torch.device:
        """Where models are trained."""
        return device_of(self.settings.device)

    @cached_property
    def folder(self) -> Path:
        """Where the tokens lie: `--corpus` itself where that is a corpus, else inside of it."""
        assert self.settings.out is not None
        folder, extent = self.settings.corpus or self.settings.out / "corpus", self.extent
        if is_corpus(folder):
            return folder
        size = f"-{extent.vocab_size}" if extent.tokenizer == "bpe" else ""
        return folder / f"{extent.tokenizer}{size}-{extent.max_characters}"

    @cached_property
    def corpus(self) -> TokenCorpus:
        """The tokens, made where they are missing; studies that share a folder share them.

        Raises:
            HeadwayError: the folder holds those of another text.
        """
        asked, extent, folder = self.settings, self.extent, self.folder
        if is_corpus(folder):
            made = TokenCorpus.load(folder)
        else:
            made = shared_corpus(
                folder,
                lambda: text_corpus(
                    asked.text, extent.tokenizer, extent.vocab_size, extent.max_characters
                ),
            )
        source = made.description.source
        if asked.text is not None and source != asked.text:
            raise HeadwayError(
                f"corpus: {folder} holds tokens of {source!r}, not of {asked.text!r}; accepted is "
                "another folder, or the text as it was given"
            )
        return made

    @property
    def text_hash(self) -> str:
        """Of the training tokens; results of one folder share it."""
        return self.corpus.description.train.sha256[:16]

    @cached_property
    def counts(self) -> Tensor:
        """`(V,)`, how often each token occurs in the training split."""
        return torch.from_numpy(np.bincount(self.corpus.train, minlength=self.corpus.vocab_size))

    def held(self, run: Run) -> Tensor:
        """Windows `(N, T + 1)` that a run is judged on: test where arms are compared, and
        validation where something is chosen."""
        return self._held_out["test" if run.options["stage"] == TEST else "validation"]

    @cached_property
    def _held_out(self) -> dict[str, Tensor]:
        context, most = self.extent.context, self.extent.held_tokens
        return {
            "validation": validation_windows(self.corpus.validation, context, most),
            "test": validation_windows(self.corpus.test, context, most, "test"),
        }

    def data(self, run: Run) -> ResidentWindows:
        """Training windows in the order of a run's seed, the same for all arms."""
        return ResidentWindows(
            self.corpus.train, self.extent.context, self.batch_size, run.seed, self.device
        )

    def config(self, arm: Arm) -> HeadwayConfig:
        """Of an arm's model."""
        return self.extent.config(arm, self.corpus.vocab_size, self.corpus.eot)

    def drawn(self, run: Run) -> HeadwayForCausalLM:
        """The model of a run before training; arms of a seed share all that they have in common."""
        model = HeadwayForCausalLM(self.config(self.arms[run.arm]))
        seed_weights(model, run.seed)
        model.model.set_token_counts(self.counts)
        torch.nn.Module.to(model, self.device)
        return model

    def loss(self, model: HeadwayForCausalLM, run: Run) -> float:
        """On the text that a run is judged on, nats per token."""
        return validate(model, self.held(run), self.batch_size, self.settings.dtype).loss

    def unigram_loss(self, run: Run) -> float:
        """Of whoever knows how often each token occurs, and nothing else."""
        logs = ((self.counts + 1.0) / (self.counts + 1.0).sum()).log()
        return -float(logs[self.held(run)[:, 1:]].mean())

    def trained(self, run: Run) -> tuple[HeadwayForCausalLM, dict[str, Any]]:
        """Train the model of a run; it, and what was measured.

        A run whose loss is not finite, or no better than that of a unigram, has diverged; without
        a finite loss it counts as an even guess among all tokens.

        Raises:
            HeadwayError: more seconds than were given; the run leaves no result.
        """
        model, asked, recipe = self.drawn(run), self.settings, self.recipe(run)
        steps = recipe.steps
        every = max(1, steps // POINTS)
        curve: list[tuple[int, float]] = []
        losses: list[float] = []
        loss, speed, started = math.nan, 0.0, time.perf_counter()
        try:
            for step in train(model, self.data(run), recipe, asked.dtype, asked.compile):
                losses.append(step.loss)
                speed = step.tokens_per_second
                if step.number % every == 0:
                    curve.append((step.tokens, round(sum(losses) / len(losses), DIGITS)))
                    losses.clear()
                passed = time.perf_counter() - started
                if asked.seconds is not None and passed > asked.seconds:
                    raise HeadwayError(
                        f"seconds: {asked.seconds:g} were over at step {step.number} of "
                        f"{steps} of {run.arm}; finished runs are kept, accepted are more "
                        "seconds or fewer --steps"
                    )
            loss = self.loss(model, run)
        except Divergence as stop:
            print(f"{run.arm}: {stop}; recorded as diverged", file=sys.stderr, flush=True)
        unigram, even = self.unigram_loss(run), math.log(self.corpus.vocab_size)
        measures = {
            "loss": round(loss if math.isfinite(loss) else even, DIGITS),
            "finished": math.isfinite(loss),
            "diverged": not loss < unigram,
            "unigram": round(unigram, DIGITS),
            "parameters": model.num_parameters(),
            "tokens": steps * self.batch_size * self.extent.context,
            "held_tokens": self.held(run)[:, 1:].numel(),
            "tokens_per_second": round(speed),
            "corpus": self.text_hash,
        }
        if run.options["stage"] != TUNING:
            measures["curve"] = curve
        return model, measures


Look = Callable[[Course, HeadwayForCausalLM, Run], Measures]
"""Measures a trained model further."""


def performing(
    arms: Mapping[str, Arm],
    extents: Mapping[Size, Extent],
    look: Look,
    course_of: Callable[[Mapping[str, Arm], Extent, StudySettings], Course] = Course,
) -> Callable[[Sequence[Run], StudySettings], Iterator[tuple[Run, Measures]]]:
    """`Study.perform`: each run is trained and judged; those that are compared, looked at too.

    Args:
        arms: of the study.
        extents: by size.
        look: at a model whose loss is finite, in evaluation mode.
        course_of: what trains them, from arms, extent and settings.
    """

    def perform(runs: Sequence[Run], settings: StudySettings) -> Iterator[tuple[Run, Measures]]:
        for name in ("steps", "batch_size", "seconds"):
            if (value := getattr(settings, name)) is not None and not value > 0:
                raise HeadwayError(f"{name}: {value} is not accepted; accepted is more than 0")
        course = course_of(arms, extents[settings.size], settings)
        for run in runs:
            model, measures = course.trained(run)
            if run.options["stage"] != TUNING and measures["finished"]:
                measures |= look(course, model, run)
            yield run, measures

    return perform
