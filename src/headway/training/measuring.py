"""What is measured of a model while it trains: validation, learning in context, sinks, a sample."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from headway.corpora.batches import validation_windows
from headway.decoder import HeadwayForCausalLM
from headway.errors import HeadwayError
from headway.training.packed import Inputs
from headway.training.probes import repeat_accuracy, repeat_probe, validate
from headway.training.sharding import uncompiled, whole
from headway.waiver.monitor import SINK_LENGTH, SinkMonitor

if TYPE_CHECKING:
    from headway.training.blueprint import Blueprint
    from headway.training.trainer import HeadwayTrainer
    from headway.training.watching import Record

SEQUENCES = 8
"""Random sequences of the in-context probe."""
SINK_SAMPLES = 32
TOKENS = 8192
"""Of a forward pass of the validation, all of whose logits stand in memory."""
PROMPT = 16
"""Tokens of the validation split that a sample continues where no prompt is given."""


class Measuring(TrainerCallback):
    """Measures every N steps, before the first and after the last.

    Training goes on as it would without it: no random number is drawn, no mode is left changed.
    Every process measures the same, as sharded weights need them all.

    Args:
        trainer: whose log is written.
        blueprint: of the model.
        inputs: as in training.
        record: where samples go.
    """

    def __init__(
        self, trainer: HeadwayTrainer, blueprint: Blueprint, inputs: Inputs, record: Record
    ) -> None:
        settings, corpus = blueprint.settings, blueprint.corpus
        self.trainer, self.record, self.inputs = trainer, record, inputs
        self.every, self.settings = settings.eval_every, settings
        self.windows = validation_windows(
            corpus.validation, settings.context, settings.validation_tokens
        )
        self.tokenizer = blueprint.tokenizer
        length = min(SINK_LENGTH, settings.context)
        held = validation_windows(corpus.validation, length, SINK_SAMPLES * length)
        self.sinks = SinkMonitor(held[:, :-1])
        self.prompt = self._prompt()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure a new model, which also shows early what cannot be measured."""
        if state.global_step == 0:
            self._measure(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure where it is due."""
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps:
            self._measure(control)

    def _measure(self, control: Any) -> None:
        started = time.perf_counter()
        model: Any = self.trainer.model
        mode = model.training
        model.eval()
        try:
            with uncompiled(model):
                found = self._numbers(model)
                due = control.should_log  # logging clears it, and with it the Trainer's own loss
                self.trainer.log(found)
                control.should_log = due
                if self.prompt is not None:
                    self._sample(model)
        finally:
            model.train(mode)
        self.record.paused += time.perf_counter() - started

    def _numbers(self, model: Any) -> dict[str, float]:
        settings = self.settings
        rows = max(1, TOKENS // settings.context)
        held = validate(model, self.windows, rows, settings.dtype, self.inputs.positions)
        self.trainer.require_finite(held.loss, "validation loss")
        found: dict[str, float | None] = {
            "validation/loss": held.loss,
            "validation/early": held.early,
            "validation/late": held.late,
        }
        if isinstance(model, HeadwayForCausalLM) and settings.tensor_parallel == 1:
            seen = repeat_probe(model, settings.context, SEQUENCES, settings.dtype)
            found["context/repeat_accuracy"] = seen.accuracy
            found["context/prefix_matching"] = max(max(layer) for layer in seen.prefix_scores)
        else:
            found["context/repeat_accuracy"] = repeat_accuracy(
                model, settings.context, SEQUENCES, settings.dtype
            )
        if settings.tensor_parallel == 1:  # a profile reads all heads of a layer
            with whole(model):
                reading = self.sinks.read(model)
            found |= {f"sinks/{name}": float(value) for name, value in asdict(reading).items()}
        return {name: value for name, value in found.items() if value is not None}

    def _sample(self, model: Any) -> None:
        assert self.prompt is not None
        with torch.no_grad():
            written = model.generate(
                self.prompt.to(model.device),
                max_new_tokens=min(
                    self.settings.sample_tokens, self.settings.context - self.prompt.shape[1]
                ),
                do_sample=False,
                pad_token_id=self.tokenizer.eos_token_id,
            )
        text = self.tokenizer.decode(written[0])
        self.record.write({"sample": text})
        self.record.say(f"sample: {' '.join(text.split())[:200]}")

    def _prompt(self) -> Tensor | None:
        settings = self.settings
        if settings.sample_tokens == 0:
            return None
        if settings.prompt is None:
            return self.windows[:1, : min(PROMPT, settings.context - 1)]
        ids = self.tokenizer(settings.prompt, return_tensors="pt")["input_ids"]
        if not 0 < ids.shape[1] < settings.context:
            raise HeadwayError(
                f"prompt: {settings.prompt!r} is {ids.shape[1]} tokens; accepted are 1 to "
                f"{settings.context - 1}"
            )
        found: Tensor = ids
        return found
