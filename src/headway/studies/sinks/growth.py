"""The study `sinks`: sinks grown under each position encoding and under each mechanism."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from headway.corpora.batches import ResidentWindows, validation_windows
from headway.corpora.cache import text_corpus
from headway.corpora.storage import new_folder
from headway.corpora.tokens import TokenCorpus
from headway.decoder import HeadwayForCausalLM
from headway.errors import HeadwayError
from headway.report import words
from headway.studies.provenance import device_of, header
from headway.studies.sinks.arms import ARMS, SIZES, Arm, Size, chosen_arms
from headway.studies.sinks.results import (
    ENDED,
    differences,
    read_results,
    shared_corpus,
    write_result,
)
from headway.studies.spread import spread
from headway.training.initialise import seed_weights
from headway.training.probes import validate
from headway.training.recipe import Recipe
from headway.training.run import Divergence, Step, train
from headway.waiver.battery import run_battery
from headway.waiver.measure import NotFinite
from headway.waiver.monitor import SINK_LENGTH, SinkMonitor, SinkReading
from headway.waiver.profile import SinkProfile, profile_sinks
from headway.waiver.verdict import decide
from headway_settings import StudySettings

SHARD = "14MB"
"""Largest file of a saved model."""


@dataclass(frozen=True)
class Plan:
    """What all arms of a run share."""

    settings: StudySettings
    command: str
    out: Path
    device: torch.device

    @property
    def size(self) -> Size:
        """Its numbers."""
        return SIZES[self.settings.size]

    @property
    def steps(self) -> int:
        """Optimiser steps an arm."""
        return self.settings.steps or self.size.steps

    @property
    def batch_size(self) -> int:
        """Sequences a step."""
        return self.settings.batch_size or self.size.batch_size

    def recipe(self, arm: str) -> Recipe:
        """How an arm is optimised."""
        rate = self.settings.learning_rate or self.size.learning_rate
        return Recipe(
            steps=self.steps,
            learning_rate=dict(self.settings.rates).get(arm, rate),
            weight_decay=self.size.weight_decay,
        )

    @cached_property
    def corpus(self) -> TokenCorpus:
        """The tokens, made where they are missing."""
        size = self.size
        return shared_corpus(
            self.settings.corpus or self.out / "corpus",
            lambda: text_corpus(self.settings.text, "bpe", size.vocab_size, size.max_characters),
        )

    @property
    def corpus_sha256(self) -> str:
        """What the training tokens are known by."""
        return self.corpus.description.train.sha256

    @cached_property
    def data(self) -> ResidentWindows:
        """The training data in the order of the seed."""
        return ResidentWindows(
            self.corpus.train, self.size.context, self.batch_size, self.settings.seed, self.device
        )

    @property
    def asked(self) -> dict[str, Any]:
        """What must be the same, with the corpus, in all results that stand in one table."""
        return {
            "size": asdict(self.size),
            "steps": self.steps,
            "batch_size": self.batch_size,
            "seed": self.settings.seed,
            "dtype": self.settings.dtype,
        }

    def refuse(self, result: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Raise HeadwayError where a result that is there was made with other settings."""
        if told := differences({**result["shared"], **result}, now):
            raise HeadwayError(
                f"out: {self.out} holds {result['arm']!r} of other settings: {told}; "
                "give another --out, or the settings as they were"
            )

    def samples(self, split: str, count: int) -> Tensor:
        """Windows `(count, 64)` of held-out text: no token is put in front, none is looked for."""
        tokens = self.corpus.test if split == "test" else self.corpus.validation
        return validation_windows(tokens, SINK_LENGTH, count * SINK_LENGTH, split)[:, :-1]

    def monitor(self) -> SinkMonitor:
        """What reads the sinks while an arm trains."""
        return SinkMonitor(self.samples("validation", self.size.read_samples).to(self.device))


def grow_sinks(settings: StudySettings, command: str) -> dict[str, dict[str, Any]]:
    """Run the arms that are missing and leave a JSON file of each in the folder of results.

    Args:
        settings: what to do; the folder of results is set.
        command: the words that asked for it, for the record.

    Returns:
        All results of the folder, by arm.

    Raises:
        HeadwayError: a wrong setting, text or folder.
    """
    _check(settings)
    wanted = chosen_arms(settings.arms)
    assert settings.out is not None
    plan = Plan(settings, command, settings.out, device_of(settings.device))
    _make(plan.out)
    before = read_results([plan.out])
    for name, result in before.items():
        plan.refuse(result, plan.asked)
        if name in wanted:
            plan.refuse(result, {"learning_rate": plan.recipe(name).learning_rate})
    ended = {name for name, result in before.items() if result["outcome"] in ENDED}
    if missing := [name for name in wanted if name not in ended]:
        for result in before.values():
            plan.refuse(result, {"corpus": plan.corpus_sha256})
        for result in _grown(plan, missing):
            write_result(plan.out, result)
    return read_results([plan.out])


def grow_arms(
    arms: Sequence[str], settings: StudySettings, command: str
) -> Iterator[dict[str, Any]]:
    """Grow arms where this is called; the tokens are those of the folder of results."""
    assert settings.out is not None
    plan = Plan(settings, command, settings.out, device_of(settings.device))
    for name in arms:
        yield grow(plan, name)


def _grown(plan: Plan, missing: Sequence[str]) -> Iterator[dict[str, Any]]:
    if plan.settings.executor == "local":
        return (grow(plan, name) for name in missing)
    calls = [partial(grow_arms, [name], plan.settings, plan.command) for name in missing]
    return spread(calls, plan.settings)


def grow(plan: Plan, name: str) -> dict[str, Any]:
    """Train one arm, reading its sinks, and measure it."""
    arm, started = ARMS[name], time.perf_counter()
    about = _described(plan, name, arm)
    config = arm.config(plan.settings.size, plan.corpus.vocab_size)
    config.eos_token_id = plan.corpus.eot
    model = HeadwayForCausalLM(config)
    seed_weights(model, plan.settings.seed)
    torch.nn.Module.to(model, plan.device)
    curve: list[dict[str, Any]] = []
    outcome, step = "done", Step(0, 0, math.nan, 0.0, 0.0)
    measured: dict[str, Any] = {"final": None}
    try:
        for step in _train(plan, name, model, curve):
            outcome = "done" if step.number == plan.steps else "out of time"
        measured = measure(plan, model)
    except (Divergence, NotFinite) as stop:
        outcome = "diverged"
        _say(f"{name}: {stop}; recorded as diverged")
    result = about | {
        "outcome": outcome,
        "parameters": model.num_parameters(),
        "learning_rate": plan.recipe(name).learning_rate,
        "trained_steps": step.number,
        "trained_tokens": step.tokens,
        "tokens_per_second": step.tokens_per_second,
        "seconds": time.perf_counter() - started,
        "curve": curve,
        **measured,
    }
    if plan.settings.save and outcome != "diverged":
        save_model(model, plan.corpus, plan.out / f"{name}-model")
    _say(f"{name}: {outcome} after {result['seconds']:.0f} s")
    return result


def _train(
    plan: Plan, name: str, model: HeadwayForCausalLM, curve: list[dict[str, Any]]
) -> Iterator[Step]:
    """Train to the end, or until the time is up, and note the sinks every few hundred steps."""
    asked, recipe, monitor = plan.settings, plan.recipe(name), plan.monitor()
    every = min(plan.size.every, plan.steps)
    losses: list[float] = []

    def note(step: int, tokens: int) -> None:
        reading = monitor.read(model)
        loss = sum(losses) / len(losses) if losses else None
        passed = time.perf_counter() - started
        entry = {"step": step, "tokens": tokens, "seconds": passed, "loss": loss}
        curve.append(entry | asdict(reading))
        _say(
            f"{name} step {step}/{plan.steps} loss {words.loss(loss)} sink at 0 "
            f"{100 * reading.sink_rate:.1f} % value {reading.value_ratio:.2f} "
            f"massive {reading.massive_ratio:.0f} [{passed:.0f} s]"
        )
        losses.clear()

    started = time.perf_counter()
    note(0, 0)
    for step in train(model, plan.data, recipe, asked.dtype, asked.compile):
        losses.append(step.loss)
        late = asked.seconds is not None and time.perf_counter() - started > asked.seconds
        if step.number % every == 0 or step.number == plan.steps or late:
            note(step.number, step.tokens)
        yield step
        if late:
            return


def measure(plan: Plan, model: HeadwayForCausalLM) -> dict[str, Any]:
    """Loss, sinks and their cause in a trained model, on the test split."""
    size, asked = plan.size, plan.settings
    held = validation_windows(plan.corpus.test, size.context, size.test_tokens, "test")
    loss = validate(model, held, plan.batch_size, asked.dtype).loss
    if not math.isfinite(loss):
        raise Divergence(plan.steps)
    ids = plan.samples("test", size.profile_samples).to(plan.device)
    tokenizer = tokenizer_of(plan.corpus)
    profile = profile_sinks(model, ids, batch_size=64, tokenizer=tokenizer, bos_added=False)
    final = {"loss": loss, "perplexity": math.exp(loss), **asdict(SinkReading.of(profile))}
    battery = run_battery(model, ids, profile=profile, tokenizer=tokenizer, batch_size=50)
    # The effect of each single edit is left out: pooled ones are what the verdict rests on.
    found = {key: value for key, value in battery.to_dict().items() if key != "effects"}
    verdict = decide(battery).to_dict()
    return {"final": final, "profile": _kept(profile), "battery": found, "verdict": verdict}


def _kept(profile: SinkProfile) -> dict[str, Any]:
    """What of a profile is small enough to keep: position 0 by layer and head, means by place."""
    by_head = ("sink_rate", "received", "value_norm", "written_norm", "key_norm", "contribution")
    return {
        "samples": profile.samples,
        "tokens": profile.tokens,
        "sink_metric": profile.sink_metric().tolist(),
        "waivers": list(profile.waivers()),
        "waiver_ratio": float(profile.value_ratio()[0]),
        "first": {name: getattr(profile, name)[:, :, 0].tolist() for name in by_head},
        "mass": profile.mass.tolist(),
        "hidden_norm": profile.hidden_norm.mean(0).tolist(),
        "massive_ratio": profile.massive_ratio.tolist(),
        "largest": profile.largest.tolist(),
    }


def save_model(model: HeadwayForCausalLM, corpus: TokenCorpus, folder: Path) -> None:
    """Round a model to bfloat16 and write it with its tokenizer, as a folder that
    `from_pretrained` reads; an older folder there is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    torch.nn.Module.to(model, torch.bfloat16)
    with new_folder(folder) as unfinished:
        model.save_pretrained(unfinished, max_shard_size=SHARD)
        tokenizer_of(corpus).save_pretrained(unfinished)


def tokenizer_of(corpus: TokenCorpus) -> PreTrainedTokenizerFast:
    """The corpus's tokenizer as transformers uses one."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(corpus.tokenizer_json)
    end = tokenizer.id_to_token(corpus.eot)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end)


def _described(plan: Plan, name: str, arm: Arm) -> dict[str, Any]:
    """What was run, where and with what."""
    width = arm.config(plan.settings.size, plan.corpus.vocab_size).hidden_size
    about = header(plan.settings, plan.command, plan.device, {name: arm.mechanisms(width)})
    return {
        "study": "sinks",
        "arm": name,
        "position": arm.position,
        "mechanisms": about["arms"][name],
        "shared": plan.asked | {"corpus": plan.corpus_sha256},
        "compiled": plan.settings.compile,
    } | {key: about[key] for key in ("command", "device", "versions", "started")}


def _check(settings: StudySettings) -> None:
    for name in ("steps", "batch_size"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise HeadwayError(f"{name}: {value} is not accepted; accepted are 1 and more")
    if settings.seed < 0:
        raise HeadwayError(f"seed: {settings.seed} is not accepted; accepted are 0 and more")
    chosen_arms([arm for arm, _ in settings.rates], "rates")
    rates = {f"rates of {arm}": rate for arm, rate in settings.rates}
    for name, number in {
        "seconds": settings.seconds, "learning_rate": settings.learning_rate, **rates
    }.items():  # fmt: skip
        if number is not None and not 0 < number < math.inf:
            raise HeadwayError(f"{name}: {number} is not accepted; accepted are numbers above 0")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HeadwayError(
            f"out: {folder} cannot be written ({error.strerror}); accepted is a folder that can"
        ) from error


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
