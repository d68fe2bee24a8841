"""The runs of a comparison: an arm with one seed alone, or with several in one program."""

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from headway.corpora.batches import Windows, validation_windows
from headway.corpora.tokens import TokenCorpus
from headway.decoder import HeadwayConfig, HeadwayForCausalLM
from headway.studies.journal import Journal
from headway.studies.progress import Progress
from headway.training.ensemble_run import ensemble_of, train_together
from headway.training.initialise import seed_weights
from headway.training.probes import Validation, learned_numbers, repeat_probe, validate
from headway.training.recipe import Recipe
from headway.training.run import Divergence, Step, train
from headway_settings import CompareSettings


@dataclass(frozen=True)
class Bench:
    """What all runs of a comparison share."""

    settings: CompareSettings
    configs: dict[str, HeadwayConfig]
    corpus: TokenCorpus
    device: torch.device
    recipe: Recipe

    @cached_property
    def token_counts(self) -> Tensor:
        """`(V,)`, how often each token occurs in the training split."""
        counts = np.bincount(self.corpus.train, minlength=self.corpus.vocab_size)
        return torch.from_numpy(counts)

    def model(self, arm: str, seed: int) -> HeadwayForCausalLM:
        """A freshly drawn model of an arm."""
        model = HeadwayForCausalLM(self.configs[arm])
        seed_weights(model, seed)
        model.model.set_token_counts(self.token_counts)
        placed: HeadwayForCausalLM = torch.nn.Module.to(model, self.device)
        return placed

    def data(self, seed: int) -> Windows:
        """The training data in the order of a seed."""
        asked = self.settings
        return Windows(self.corpus.train, asked.context, asked.batch_size, seed)

    def held_out(self, split: Literal["validation", "test"]) -> Tensor:
        """Windows `(N, context + 1)`, the same at every evaluation."""
        asked = self.settings
        tokens = self.corpus.validation if split == "validation" else self.corpus.test
        return validation_windows(tokens, asked.context, asked.validation_tokens, split)

    def check_text(self) -> None:
        """Raise HeadwayError where a split is too short for one window."""
        self.data(0)
        self.held_out("validation")
        self.held_out("test")


class Run:
    """What one arm with one seed leaves behind while it is trained."""

    def __init__(
        self, bench: Bench, arm: str, seed: int, journal: Journal, progress: Progress
    ) -> None:
        self.bench, self.arm, self.seed = bench, arm, seed
        self.journal, self.progress = journal, progress
        self.started = time.perf_counter()
        self.step = Step(0, 0, 0.0, 0.0, 0.0)

    def note(self, step: Step) -> None:
        """A step was taken."""
        self.step, last = step, self.bench.settings.steps
        self.progress.step(self.arm, self.seed, step, last)
        if step.number % _noted(self.bench.settings) == 0 or step.number == last:
            self.journal.write("train", arm=self.arm, seed=self.seed, **_training_line(step))

    def measure(self, model: HeadwayForCausalLM) -> Validation:
        """Validate and probe the model as the last step left it."""
        return _evaluate(self.bench, model, self.journal, self.arm, self.seed, self.step)

    def finish(self, model: HeadwayForCausalLM, **told: object) -> None:
        """All steps were taken; `told` goes into the last record."""
        final = self.measure(model)
        tested = _validate(self.bench, model, "test", self.step)
        self.journal.write("learned", arm=self.arm, seed=self.seed, values=learned_numbers(model))
        self._end("done", self.step.number, final.loss, tested.loss, told)
        self.progress.say(
            f"{self.arm}, seed {self.seed}: validation loss {final.loss:.4f} after "
            f"{self.step.tokens:,} tokens, {self.step.tokens_per_second:,.0f} tokens/s"
        )

    def diverge(self, stop: Divergence, **told: object) -> None:
        """A loss was not finite: nothing more comes."""
        self.progress.skip(self.bench.settings.steps - self.step.number)
        self.progress.say(f"{self.arm}, seed {self.seed}: {stop}; recorded as diverged")
        self._end("diverged", stop.step, None, None, told)

    def _end(
        self,
        status: str,
        step: int,
        validation_loss: float | None,
        test_loss: float | None,
        told: dict[str, object],
    ) -> None:
        self.journal.write(
            "finish", arm=self.arm, seed=self.seed, status=status, step=step,
            tokens=self.step.tokens, validation_loss=validation_loss, test_loss=test_loss,
            seconds=time.perf_counter() - self.started, **told,
        )  # fmt: skip


def train_run(run: Run) -> None:
    """One arm with one seed."""
    bench, asked = run.bench, run.bench.settings
    model = bench.model(run.arm, run.seed)
    try:
        for step in train(model, bench.data(run.seed), bench.recipe, asked.dtype, asked.compile):
            run.note(step)
            if step.number in _evaluated(asked) and step.number < asked.steps:
                run.measure(model)
        run.finish(model)
    except Divergence as stop:
        run.diverge(stop)


def train_runs_together(runs: Sequence[Run]) -> None:
    """One arm with several seeds in one program."""
    bench, asked, arm = runs[0].bench, runs[0].bench.settings, runs[0].arm
    models = [bench.model(arm, run.seed) for run in runs]
    ensemble = ensemble_of(models, bench.recipe, asked.dtype, asked.compile)
    model, evaluated = models[0], _evaluated(asked)
    stops = {*range(_noted(asked), asked.steps, _noted(asked)), *evaluated}
    data = [bench.data(run.seed) for run in runs]
    told = {"together": len(runs)}
    going = dict(enumerate(runs))
    for stretches in train_together(ensemble, data, bench.recipe, stops):
        for copy, run in list(going.items()):
            for step in stretches[copy].steps:
                run.note(step)
            stop = stretches[copy].divergence
            try:
                if stop is not None:
                    # Where a lone run is measured before its next loss, that shows it first.
                    number = run.step.number
                    raise Divergence(number) if number in evaluated else stop
                if run.step.number == asked.steps:
                    run.finish(cast(HeadwayForCausalLM, ensemble.fill(copy, model)), **told)
                elif run.step.number in evaluated:
                    run.measure(cast(HeadwayForCausalLM, ensemble.fill(copy, model)))
            except Divergence as stopped:
                run.diverge(stopped, **told)
                del going[copy]
                ensemble.freeze(torch.arange(len(runs)) == copy)


def _noted(asked: CompareSettings) -> int:
    """Steps from one record of the loss to the next."""
    return max(1, asked.steps // 100)


def _evaluated(asked: CompareSettings) -> set[int]:
    """Steps after which a model is measured."""
    return {round(asked.steps * i / asked.evaluations) for i in range(1, asked.evaluations + 1)}


def _training_line(step: Step) -> dict[str, object]:
    return {
        "step": step.number,
        "tokens": step.tokens,
        "loss": step.loss,
        "learning_rate": step.learning_rate,
        "tokens_per_second": step.tokens_per_second,
    }


def _validate(
    bench: Bench, model: HeadwayForCausalLM, split: Literal["validation", "test"], step: Step
) -> Validation:
    """Losses on held-out text; Divergence where the last update made them infinite."""
    asked = bench.settings
    held = validate(model, bench.held_out(split), asked.batch_size, asked.dtype)
    if not math.isfinite(held.loss):
        raise Divergence(step.number)
    return held


def _evaluate(
    bench: Bench,
    model: HeadwayForCausalLM,
    journal: Journal,
    arm: str,
    seed: int,
    step: Step,
) -> Validation:
    asked = bench.settings
    held = _validate(bench, model, "validation", step)
    repeated = repeat_probe(model, asked.context, asked.batch_size, asked.dtype)
    early, late = held.early, held.late
    journal.write(
        "eval", arm=arm, seed=seed, step=step.number, tokens=step.tokens,
        validation_loss=held.loss, early_loss=early, late_loss=late,
        in_context_gain=None if early is None or late is None else early - late,
        repeat_accuracy=repeated.accuracy, prefix_scores=repeated.prefix_scores,
        position_losses=_binned(held.by_position),
    )  # fmt: skip
    return held


def _binned(by_position: Tensor, bins: int = 32) -> list[tuple[int, float]]:
    """Mean loss in about `bins` groups of positions, narrow at the start; (middle, loss) each."""
    length = len(by_position)
    edges = sorted({round(length ** (i / bins)) for i in range(bins + 1)} | {0, length})
    return [
        ((low + high - 1) // 2, float(by_position[low:high].mean()))
        for low, high in itertools.pairwise(edges)
    ]
