"""The comparison: the same model with and without mechanisms, several seeds an arm."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from headway.corpora.cache import text_corpus
from headway.corpora.tokens import TokenCorpus, is_corpus
from headway.decoder import HeadwayConfig, HeadwayForCausalLM
from headway.errors import HeadwayError
from headway.mechanisms import Mechanism
from headway.studies.comparison.runs import Bench, Run, train_run, train_runs_together
from headway.studies.comparison.together import why_alone
from headway.studies.journal import Journal
from headway.studies.presets import resolve_arms
from headway.studies.progress import Progress
from headway.studies.provenance import device_of, header
from headway.training.cost import peak_bytes, step_times
from headway.training.recipe import Recipe
from headway.training.run import next_token_loss, precision
from headway_settings import CompareSettings

COST_ROUNDS = 10
"""Timed steps an arm, all arms in turn."""


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
            _train(bench, missing, journal, progress)
            if not all(journal.has("cost", arm=arm) for arm in configs):
                progress.say("timing one step of every arm, in turn")
                _measure_cost(bench, journal)


def _train(
    bench: Bench, missing: list[tuple[int, str]], journal: Journal, progress: Progress
) -> None:
    """Train every (seed, arm): the seeds of an arm together where they fit."""
    told = set()
    for arm in bench.configs:
        seeds = [seed for seed, of in missing if of == arm]
        if len(seeds) < 2:
            continue
        tokens = bench.settings.batch_size * bench.settings.context
        operations = 6.0 * _size(bench.configs[arm]) * tokens
        reason = why_alone(bench.device, operations, len(seeds), partial(_peak, bench, arm))
        if reason is None:
            progress.say(f"{arm}: {len(seeds)} seeds are trained together, in one program")
            train_runs_together([Run(bench, arm, seed, journal, progress) for seed in seeds])
            missing = [(seed, of) for seed, of in missing if of != arm]
        elif reason not in told:
            progress.say(f"{arm}: seeds are trained one at a time, as {reason}")
            told.add(reason)
    for seed, arm in missing:
        train_run(Run(bench, arm, seed, journal, progress))


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


def _peak(bench: Bench, arm: str) -> int:
    """Bytes that a step of an arm needs on a GPU; compiled it needs no more."""
    eager = replace(bench, settings=replace(bench.settings, compile=False))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(bench.device)
    _, step = _one_step(eager, arm)
    return peak_bytes(step, 0, bench.device) - before


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
    asked = (settings.text, settings.tokenizer, settings.vocab_size, settings.max_characters)
    if settings.text is not None and is_corpus(Path(settings.text)):
        return text_corpus(*asked)
    folder = settings.out / "corpus"
    if not folder.exists():
        text_corpus(*asked).save(folder)
    return TokenCorpus.load(folder)
