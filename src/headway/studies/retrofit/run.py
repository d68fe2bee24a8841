"""Fine-tuning a trained model with and without mechanisms, the same batches in both arms."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from headway.corpora.batches import Windows, validation_windows
from headway.corpora.tokens import TokenCorpus, is_corpus
from headway.errors import HeadwayError
from headway.hosts.attach import check_fit
from headway.hosts.model import HostModel
from headway.mechanisms import Mechanism
from headway.studies.journal import Journal
from headway.studies.progress import Progress
from headway.studies.provenance import device_of, header
from headway.studies.retrofit.corpus import built_corpus, cached_corpus, end_of_text
from headway.studies.retrofit.mechanisms import retrofitted
from headway.studies.retrofit.model import (
    Source,
    arm_model,
    open_source,
    require_adapters,
    save_trained,
    sizes,
)
from headway.studies.retrofit.summary import CONTROL, MECHANISM, summarise, write_summary
from headway.training.fine_tune import FineTuning
from headway.training.probes import validate
from headway.training.run import Divergence, Step, train
from headway_settings import RetrofitSettings

FASTER = 10
"""Learning rate of the mechanisms where none is given, in learning rates of the rest."""


@dataclass(frozen=True)
class Bench:
    """What all runs of a retrofit share."""

    settings: RetrofitSettings
    source: Source
    mechanisms: dict[str, list[Mechanism]]
    corpus: TokenCorpus
    device: torch.device

    @property
    def recipe(self) -> FineTuning:
        """How a run is optimised."""
        asked = self.settings
        return FineTuning(
            steps=asked.steps,
            learning_rate=asked.learning_rate,
            mechanism_learning_rate=asked.mechanism_learning_rate or FASTER * asked.learning_rate,
            weight_decay=asked.weight_decay,
        )

    @cached_property
    def held_out(self) -> Tensor:
        """Windows `(N, context + 1)` of the validation split, the same at every evaluation."""
        asked = self.settings
        return validation_windows(self.corpus.validation, asked.context, asked.validation_tokens)

    def data(self, seed: int) -> Windows:
        """The training data in the order of a seed."""
        asked = self.settings
        return Windows(self.corpus.train, asked.context, asked.batch_size, seed)

    def trains(self, arm: str) -> bool:
        """Whether an arm takes steps; a control has nothing to train where only mechanisms are."""
        return self.settings.steps > 0 and (arm, self.settings.train) != (CONTROL, "mechanism")

    def model(self, arm: str, seed: int) -> nn.Module:
        """The model of an arm before training, on its device."""
        with _seeded(seed, self.device):
            model = arm_model(self.source, self.mechanisms[arm], self.settings.train)
        counts = np.bincount(self.corpus.train, minlength=self.source.config.vocab_size)
        for module in model.modules():
            if isinstance(module, HostModel):
                module.set_token_counts(torch.from_numpy(counts))
        return model.to(self.device)

    def loss(self, model: nn.Module, step: int) -> float:
        """Nats per token on the validation windows; Divergence where it is not finite."""
        asked = self.settings
        held = validate(cast(Any, model), self.held_out, asked.batch_size, asked.dtype)
        if not math.isfinite(held.loss):
            raise Divergence(step)
        return held.loss

    def check_text(self) -> None:
        """Raise HeadwayError where a split is too short for one batch, or for one window."""
        asked, tokens = self.settings, len(self.corpus.train)
        validation_windows(self.corpus.validation, asked.context, asked.validation_tokens)
        needed = (asked.batch_size + 1) * asked.context + 1
        if tokens < needed:
            raise HeadwayError(
                f"text: its training split has {tokens} tokens, and one batch of "
                f"{asked.batch_size} sequences of {asked.context} from a random start needs "
                f"{needed}; accepted is more text, or a smaller batch_size or context"
            )


def retrofit(settings: RetrofitSettings, command: str) -> dict[str, Any]:
    """Run what is missing of a retrofit and leave the results in `settings.out`.

    Args:
        settings: what to do.
        command: the words that asked for it, for the record.

    Returns:
        The summary, as it stands in `summary.json`.

    Raises:
        HeadwayError: a wrong setting, model, text or folder.
    """
    _check(settings)
    device = device_of(settings.device)
    source = open_source(settings.model)
    _check_context(settings, source.config)
    end_of_text(source.tokenizer)
    wanted = retrofitted(settings.mechanisms, settings.init, source.hidden_size)
    check_fit(source.config, wanted)
    arms = {CONTROL: [], MECHANISM: wanted}
    started = header(settings, command, device, arms)
    started["settings"]["study"] = "retrofit"
    with Journal(settings.out, started) as journal:
        bench = Bench(settings, source, arms, _corpus(settings, source), device)
        bench.check_text()
        missing = [
            (seed, arm)
            for seed in range(settings.seeds)
            for arm in arms
            if not journal.has("finish", arm=arm, seed=seed)
        ]
        with Progress(sum(settings.steps for _, arm in missing if bench.trains(arm))) as progress:
            for seed, arm in missing:
                _run(bench, arm, seed, journal, progress)
        summary = summarise(settings.out)
        write_summary(settings.out, summary)
    return summary


def _run(bench: Bench, arm: str, seed: int, journal: Journal, progress: Progress) -> None:
    """Measure one arm with one seed, train it, and measure it again."""
    asked, started = bench.settings, time.perf_counter()
    model = bench.model(arm, seed)
    counted = sizes(model, bench.mechanisms[arm])
    before: float | None = None
    after: float | None = None
    step = Step(0, 0, 0.0, 0.0, 0.0)
    status = "done"
    try:
        before = after = bench.loss(model, 0)
        if bench.trains(arm):
            for taken in _steps(bench, model, arm, seed, journal, progress):
                step = taken
            after = bench.loss(model, step.number)
    except Divergence as stop:
        status, after = "diverged", None
        progress.skip(asked.steps - step.number if bench.trains(arm) else 0)
        progress.say(f"{arm}, seed {seed}: {stop}; recorded as diverged")
    if (arm, seed, status) == (MECHANISM, 0, "done"):
        save_trained(model, bench.source, asked.train, asked.out)
    journal.write(
        "finish", arm=arm, seed=seed, status=status, step=step.number, tokens=step.tokens,
        loss_before=before, loss_after=after, **counted,
        tokens_per_second=step.tokens_per_second if step.number else None,
        seconds=time.perf_counter() - started,
    )  # fmt: skip
    if before is not None and after is not None:
        progress.say(_told(arm, seed, before, after, step))


def _steps(
    bench: Bench, model: nn.Module, arm: str, seed: int, journal: Journal, progress: Progress
) -> Iterator[Step]:
    """Train an arm, with the same dropout for a seed in both arms."""
    asked = bench.settings
    noted = max(1, asked.steps // 100)
    with _seeded(seed, bench.device):
        for step in train(model, bench.data(seed), bench.recipe, asked.dtype, compile_step=False):
            progress.step(arm, seed, step, asked.steps)
            if step.number % noted == 0 or step.number == asked.steps:
                journal.write(
                    "train", arm=arm, seed=seed, step=step.number, tokens=step.tokens,
                    loss=step.loss, learning_rate=step.learning_rate,
                    tokens_per_second=step.tokens_per_second,
                )  # fmt: skip
            yield step


def _told(arm: str, seed: int, before: float, after: float, step: Step) -> str:
    told = f"{arm}, seed {seed}: validation loss {before:.4f}"
    if not step.number:
        return f"{told}, not trained"
    return (
        f"{told} before and {after:.4f} after {step.tokens:,} tokens, "
        f"{step.tokens_per_second:,.0f} tokens/s"
    )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers of a seed; the global generators are left as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _check(settings: RetrofitSettings) -> None:
    for name, least in (
        ("seeds", 1), ("steps", 0), ("batch_size", 1), ("context", 2), ("validation_tokens", 1),
        ("max_characters", 1),
    ):  # fmt: skip
        value = getattr(settings, name)
        if value < least:
            raise HeadwayError(f"{name}: {value} is not accepted; accepted are {least} and more")
    for name in ("learning_rate", "mechanism_learning_rate"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise HeadwayError(f"{name}: {value} is not accepted; accepted are numbers above 0")
    if not 0 <= settings.weight_decay < math.inf:
        raise HeadwayError(
            f"weight_decay: {settings.weight_decay} is not accepted; accepted are 0 and numbers "
            "above"
        )
    if settings.train == "lora":
        require_adapters()


def _check_context(settings: RetrofitSettings, config: Any) -> None:
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and settings.context > most:
        raise HeadwayError(
            f"context: {settings.context} is more than the model's max_position_embeddings; "
            f"accepted are 2 to {most}"
        )


def _corpus(settings: RetrofitSettings, source: Source) -> TokenCorpus:
    asked = (source.tokenizer, source.config.vocab_size)
    if settings.text is not None and is_corpus(Path(settings.text)):
        return built_corpus(settings.text, *asked)
    folder = settings.out / "corpus"
    if not folder.exists():
        cached_corpus(settings.text, *asked, settings.max_characters).save(folder)
    return TokenCorpus.load(folder)
