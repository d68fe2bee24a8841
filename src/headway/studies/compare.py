"""The comparison: the same model with and without mechanisms, several seeds an arm."""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from headway.corpora.batches import Windows, validation_windows
from headway.corpora.tokens import TokenCorpus, build_corpus
from headway.decoder import HeadwayConfig, HeadwayForCausalLM
from headway.errors import HeadwayError
from headway.mechanisms import Mechanism
from headway.studies.journal import Journal
from headway.studies.presets import resolve_arms
from headway.studies.progress import Progress
from headway.studies.provenance import device_of, header
from headway.training.cost import peak_bytes, step_times
from headway.training.initialise import seed_weights
from headway.training.probes import Validation, learned_numbers, repeat_probe, validate
from headway.training.recipe import Recipe
from headway.training.run import Divergence, Step, next_token_loss, precision, train
from headway_settings import CompareSettings

COST_ROUNDS = 10
"""Timed steps an arm, all arms in turn."""


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


def compare(settings: CompareSettings, command: str) -> None:
    """Run what is missing of a comparison and leave the results in `settings.out`.

    Args:
        settings: what to do.
        command: the words that asked for it, for the record.

    Raises:
        HeadwayError: a wrong setting, text or folder.
    """
    _check(settings)
    device = device_of(settings.device)
    arms = resolve_arms(settings.arms, settings.hidden_size)
    configs = _configs(settings, arms, settings.vocab_size)
    started = header(settings, command, device, {name: arms.get(name, []) for name in configs})
    with Journal(settings.out, started) as journal:
        corpus = _corpus(settings)
        configs = _configs(settings, arms, corpus.vocab_size)
        recipe = Recipe(
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        bench = Bench(settings, configs, corpus, device, recipe)
        bench.check_text()
        missing = [
            (seed, arm)
            for seed in range(settings.seeds)
            for arm in configs
            if not journal.has("finish", arm=arm, seed=seed)
        ]
        with Progress(len(missing) * settings.steps) as progress:
            for seed, arm in missing:
                _run(bench, arm, seed, journal, progress)
            if not all(journal.has("cost", arm=arm) for arm in configs):
                progress.say("timing one step of every arm, in turn")
                _measure_cost(bench, journal)


def _run(bench: Bench, arm: str, seed: int, journal: Journal, progress: Progress) -> None:
    """Train and measure one arm with one seed."""
    asked, started = bench.settings, time.perf_counter()
    model = bench.model(arm, seed)
    evaluated = {
        round(asked.steps * i / asked.evaluations) for i in range(1, asked.evaluations + 1)
    }
    noted = max(1, asked.steps // 100)
    step = Step(0, 0, 0.0, 0.0, 0.0)
    try:
        for step in train(model, bench.data(seed), bench.recipe, asked.dtype, asked.compile):
            progress.step(arm, seed, step, asked.steps)
            if step.number % noted == 0 or step.number == asked.steps:
                journal.write("train", arm=arm, seed=seed, **_training_line(step))
            if step.number in evaluated and step.number < asked.steps:
                _evaluate(bench, model, journal, arm, seed, step)
        final = _evaluate(bench, model, journal, arm, seed, step)
        tested = _validate(bench, model, "test", step)
    except Divergence as stop:
        progress.skip(asked.steps - step.number)
        progress.say(f"{arm}, seed {seed}: {stop}; recorded as diverged")
        journal.write(
            "finish", arm=arm, seed=seed, status="diverged", step=stop.step, tokens=step.tokens,
            validation_loss=None, test_loss=None, seconds=time.perf_counter() - started,
        )  # fmt: skip
        return
    journal.write("learned", arm=arm, seed=seed, values=learned_numbers(model))
    journal.write(
        "finish", arm=arm, seed=seed, status="done", step=step.number, tokens=step.tokens,
        validation_loss=final.loss, test_loss=tested.loss, seconds=time.perf_counter() - started,
    )  # fmt: skip
    progress.say(
        f"{arm}, seed {seed}: validation loss {final.loss:.4f} after {step.tokens:,} tokens, "
        f"{step.tokens_per_second:,.0f} tokens/s"
    )


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


def _measure_cost(bench: Bench, journal: Journal) -> None:
    """Time one training step of every arm in turn, and its memory one at a time."""
    steps: dict[str, Callable[[], object]] = {}
    models: dict[str, HeadwayForCausalLM] = {}
    peaks: dict[str, int] = {}
    for arm in bench.configs:
        model, step = _one_step(bench, arm)
        step()
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        peaks[arm] = peak_bytes(step, 3 * weights, bench.device)
        del model, step
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
    for arm in bench.configs:
        models[arm], steps[arm] = _one_step(bench, arm)
    times = step_times(steps, bench.device, COST_ROUNDS)
    plain = models["vanilla"].num_parameters()
    for arm, model in models.items():
        journal.write(
            "cost", arm=arm, parameters=model.num_parameters(),
            added_parameters=model.num_parameters() - plain, step_seconds=times[arm],
            step_ratios=[t / p for t, p in zip(times[arm], times["vanilla"], strict=True)],
            peak_bytes=peaks[arm], peak_ratio=peaks[arm] / peaks["vanilla"],
        )  # fmt: skip


def _one_step(bench: Bench, arm: str) -> tuple[HeadwayForCausalLM, Callable[[], object]]:
    model = bench.model(arm, 0)
    optimiser = bench.recipe.optimiser(model)
    windows = bench.data(0).batch(0).to(bench.device)
    loss_of = torch.compile(next_token_loss) if bench.settings.compile else next_token_loss

    def step() -> None:
        with precision(bench.device, bench.settings.dtype):
            loss = loss_of(model, windows).mean()
        loss.backward()
        bench.recipe.update(model, optimiser)

    return model.train(), step


def _check(settings: CompareSettings) -> None:
    for name, least in (
        ("seeds", 1), ("steps", 1), ("batch_size", 1), ("context", 2), ("evaluations", 1),
        ("validation_tokens", 1), ("hidden_size", 1), ("num_hidden_layers", 1),
        ("num_attention_heads", 1), ("max_characters", 1),
    ):  # fmt: skip
        value = getattr(settings, name)
        if value < least:
            raise HeadwayError(f"{name}: {value} is not accepted; accepted are {least} and more")
    if not 0 < settings.learning_rate < math.inf:
        raise HeadwayError(
            f"learning_rate: {settings.learning_rate} is not accepted; accepted are numbers above 0"
        )
    for name in ("weight_decay", "initializer_range"):
        value = getattr(settings, name)
        if not 0 <= value < math.inf:
            raise HeadwayError(f"{name}: {value} is not accepted; accepted are 0 and numbers above")


def _configs(
    settings: CompareSettings, arms: dict[str, list[Mechanism]], vocab_size: int
) -> dict[str, HeadwayConfig]:
    """A configuration an arm, and of the widened vanilla where one was asked for."""

    def config(mechanisms: list[Mechanism], wider: int = 0) -> HeadwayConfig:
        made = HeadwayConfig(
            vocab_size=vocab_size,
            hidden_size=settings.hidden_size,
            num_hidden_layers=settings.num_hidden_layers,
            num_attention_heads=settings.num_attention_heads,
            num_key_value_heads=settings.num_key_value_heads,
            position=settings.position,
            max_position_embeddings=settings.context,
            initializer_range=settings.initializer_range,
            mechanisms=mechanisms,
        )
        assert made.intermediate_size is not None
        made.intermediate_size += wider
        return made

    configs = {name: config(mechanisms) for name, mechanisms in arms.items()}
    if settings.match == "parameters":
        if "vanilla_wide" in arms:
            raise HeadwayError(
                "arms: 'vanilla_wide' is the name of the arm that match='parameters' adds; "
                "accepted is any other name"
            )
        sizes = {name: _size(c) for name, c in configs.items()}
        added = max(sizes.values()) - sizes["vanilla"]
        unit = 3 * settings.hidden_size * settings.num_hidden_layers
        if round(added / unit) < 1:
            raise HeadwayError(
                f"match: the largest arm adds {added} parameters, less than one unit of every "
                f"feed-forward part ({unit}), so that vanilla itself is the match; use 'none'"
            )
        configs["vanilla_wide"] = config([], wider=round(added / unit))
    return configs


def _size(config: HeadwayConfig) -> int:
    with torch.device("meta"):
        return HeadwayForCausalLM(config).num_parameters()


def _corpus(settings: CompareSettings) -> TokenCorpus:
    folder = settings.out / "corpus"
    if not folder.exists():
        built = build_corpus(
            settings.text, settings.tokenizer, settings.vocab_size, settings.max_characters
        )
        built.save(folder)
    return TokenCorpus.load(folder)
