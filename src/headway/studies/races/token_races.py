"""Decoders that race on a task of tokens, arms with the same pass in one program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headway.decoder import HeadwayConfig, HeadwayForCausalLM
from headway.studies.claims import Measures, Run, Size, Study
from headway.studies.races.courses import (
    Course,
    Scores,
    follow,
    generator_of,
    seed_of,
    task_batches,
)
from headway.studies.races.table import race_table
from headway.studies.races.tuning import Tuning, chosen_rate, last_of, measures_of, settled
from headway.tasks.base import IGNORED, Sample, Task
from headway.training.ensemble import Call, Ensemble
from headway.training.initialise import seed_weights
from headway.training.update_rules import AdamW
from headway_settings import StudySettings

LOOKED_AT = 4
"""Batches of training that a test scores at once: nothing is kept for a backward pass."""


@dataclass(frozen=True, kw_only=True)
class TokenArm:
    """A decoder that is compared.

    Attributes:
        about: what it is.
        config: of the decoder; arms with the same one are trained in one program.
        start: values at which parameters start, by the end of their name; they are repeated where
            a parameter has more dimensions.
        held: those of them that are not learned.
    """

    about: str
    config: HeadwayConfig
    start: Mapping[str, Sequence[float] | Sequence[Sequence[float]]] = field(default_factory=dict)
    held: frozenset[str] = frozenset()

    def fixed(self, model: nn.Module) -> frozenset[str]:
        """Whole names of the parameters that are not learned."""
        names = (name for name, _ in model.named_parameters())
        return frozenset(name for name in names if name.endswith(tuple(self.held)))


@dataclass(frozen=True, kw_only=True)
class TokenRace:
    """Task and training of a size.

    Attributes:
        arms: by name.
        task: of the rows.
        scores: what is scored, by name: a slice of the task, or `all`; the first is raced.
        batch: rows a step.
        rows: of the test set.
        course: how long, and what for.
        tuning: of the learning rate.
        warm_up: steps in which the learning rate rises to its value, where it stays.
        copies: most that are trained in one program.
    """

    arms: Mapping[str, TokenArm]
    task: Task
    scores: tuple[str, ...]
    batch: int
    rows: int
    course: Course
    tuning: Tuning
    warm_up: int
    copies: int

    def model(self, run: Run) -> nn.Module:
        """The model of a run before training; arms of a seed share all that they have in common."""
        arm = self.arms[run.arm]
        made = HeadwayForCausalLM(arm.config)
        seed_weights(made, seed_of("weights", run.seed))
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                for end, value in arm.start.items():
                    if name.endswith(end):
                        parameter.copy_(torch.tensor(value).expand_as(parameter))
        return made

    def perform(
        self, runs: Sequence[Run], settings: StudySettings
    ) -> Iterator[tuple[Run, Measures]]:
        """`Study.perform`."""
        for bundle in self.tuning.bundles(runs, self.copies, self._program):
            yield from self._train(bundle, settings)

    def _program(self, run: Run) -> str:
        return self.arms[run.arm].config.to_json_string()

    def _train(
        self, runs: Sequence[Run], settings: StudySettings
    ) -> Iterator[tuple[Run, Measures]]:
        seeds, device = [run.seed for run in runs], settings.device
        models = [self.model(run).to(device) for run in runs]
        ensemble = self.together(runs, models, settings.compile)
        score = self.tests(ensemble, seeds, device)
        copies = follow(
            ensemble,
            task_batches(self.task, self.batch, seeds, device),
            lambda step: min(1.0, (step + 1) / self.warm_up),
            lambda: score()[self.scores[0]],
            self.course,
            settled(runs),
        )
        last = last_of(score, len(runs))
        for run, model, copy, scores in zip(runs, models, copies, last, strict=True):
            fixed = self.arms[run.arm].fixed(model)
            numbers = sum(p.numel() for name, p in model.named_parameters() if name not in fixed)
            yield run, measures_of(run, copy, scores, numbers)

    def together(
        self, runs: Sequence[Run], models: Sequence[nn.Module], compiled: bool = False
    ) -> Ensemble:
        """The models of runs as copies, each at its own rate and with what its arm holds fixed."""
        return Ensemble.of(
            models,
            _loss,
            AdamW(clip=1.0),
            rates=[run.options["rate"] for run in runs],
            fixed=[self.arms[run.arm].fixed(models[0]) for run in runs],
            compiled=compiled,
        )

    def tests(self, ensemble: Ensemble, seeds: Sequence[int], device: str) -> Scores:
        """Gives the share of right answers of each copy in the test set of its seed."""
        different = list(dict.fromkeys(seeds))
        drawn = [self.task.sample(self.rows, generator_of("tests", s, device)) for s in different]
        inputs = torch.stack([s.inputs for s in drawn])
        targets = torch.stack([s.targets for s in drawn])
        counted = torch.stack([self._counted(s) for s in drawn])
        of_copy = torch.tensor([different.index(seed) for seed in seeds], device=device)
        judge = replace(ensemble, loss=_right)

        def score() -> dict[str, Tensor]:
            parts = zip(
                *(t.split(LOOKED_AT * self.batch, 1) for t in (inputs, targets, counted)),
                strict=True,
            )
            right = sum(
                judge.losses({"inputs": i[of_copy], "targets": t[of_copy], "counted": c[of_copy]})
                for i, t, c in parts
            )
            share = torch.as_tensor(right) / counted.sum((1, 3))[of_copy]
            return dict(zip(self.scores, share.unbind(1), strict=True))

        return score

    def _counted(self, sample: Sample) -> Tensor:
        """Bool `(rows, scores, T)`."""
        parts = {"all": sample.scored, **sample.slices}
        return torch.stack([parts[name] & sample.scored for name in self.scores], 1)


def _loss(call: Call, batch: Mapping[str, Tensor]) -> Tensor:
    logits = call(batch["inputs"], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=IGNORED)


def _right(call: Call, batch: Mapping[str, Tensor]) -> Tensor:
    """`(scores,)`, how many answers are right."""
    found = call(batch["inputs"], use_cache=False).logits.argmax(-1)
    right: Tensor = (found == batch["targets"])[:, None] & batch["counted"]
    return right.sum((0, 2))


def decoder(
    width: int, layers: int, task: Any, heads: int | None = None, **more: Any
) -> HeadwayConfig:
    """A Llama of a width with heads of at most 16 channels, untied, RoPE base 100,000."""
    return HeadwayConfig(
        vocab_size=task.vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads or max(1, width // 16),
        max_position_embeddings=task.length,
        rope_theta=100_000.0,
        tie_word_embeddings=False,
        **more,
    )


def race_study(races: Mapping[Size, TokenRace], **told: Any) -> Study:
    """A study whose runs are these races; other fields of `Study` are told."""
    return Study(
        arms={name: arm.about for race in races.values() for name, arm in race.arms.items()},
        seeds={"small": 3, "paper": 12},
        heeds=("compile",),
        runs=lambda settings, results: races[settings.size].tuning.runs(
            tuple(races[settings.size].arms), settings, results
        ),
        perform=lambda runs, settings: races[settings.size].perform(runs, settings),
        tables=lambda results: [race_table(results, races[results.size].arms)],
        rate=chosen_rate,
        **told,
    )


def told_rates(race: TokenRace) -> str:
    """How the learning rate was found, for what a study says of where it differs."""
    return (
        f"the learning rate rises for {race.warm_up:,} steps, is constant then, and is tuned over "
        f"{race.tuning.told} on {race.tuning.seeds} other seeds"
    )
