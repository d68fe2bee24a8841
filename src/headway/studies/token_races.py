"""Decoders that race on a task of tokens, arms with the same pass in one program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headway.decoder import HeadwayConfig, HeadwayForCausalLM
from headway.studies.claims import Measures, Run
from headway.studies.courses import Batches, Course, Look, follow, seed_of
from headway.studies.tuning import Tuning, measures_of, settled
from headway.tasks.base import IGNORED, Sample, Task
from headway.training.ensemble import Call, Ensemble
from headway.training.initialise import seed_weights
from headway.training.run import precision
from headway.training.update_rules import AdamW
from headway_settings import StudySettings


@dataclass(frozen=True, kw_only=True)
class TokenArm:
    """A decoder that is compared.

    Attributes:
        about: what it is.
        config: of the decoder; arms with the same one are trained in one program.
        held: parameters that stay at a value of their own, by the end of their name.
    """

    about: str
    config: HeadwayConfig
    held: Mapping[str, Sequence[float]]

    def names_held(self, model: torch.nn.Module) -> dict[str, Sequence[float]]:
        """`held` by the whole name."""
        return {
            name: value
            for name, _ in model.named_parameters()
            for end, value in self.held.items()
            if name.endswith(end)
        }


@dataclass(frozen=True, kw_only=True)
class TokenRace:
    """Task and training of a size.

    Attributes:
        arms: by name.
        task: of the rows.
        scores: what is scored, by name: a slice of the task, or `all`.
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

    def model(self, run: Run) -> HeadwayForCausalLM:
        """The model of a run before training; arms of a seed share all that they have in common."""
        arm = self.arms[run.arm]
        made = HeadwayForCausalLM(arm.config)
        seed_weights(made, seed_of("weights", run.seed))
        values = dict(made.named_parameters())
        with torch.no_grad():
            for name, value in arm.names_held(made).items():
                values[name].copy_(torch.tensor(value).expand_as(values[name]))
        return made

    def perform(
        self, runs: Sequence[Run], settings: StudySettings
    ) -> Iterator[tuple[Run, Measures]]:
        """`Study.perform`."""
        for together in self.tuning.bundles(runs, self.copies, self._program):
            yield from self._train(together, settings)

    def _program(self, run: Run) -> str:
        return self.arms[run.arm].config.to_json_string()

    def _train(
        self, runs: Sequence[Run], settings: StudySettings
    ) -> Iterator[tuple[Run, Measures]]:
        device = settings.device
        models = [self.model(run).to(device) for run in runs]
        held = [frozenset(self.arms[r.arm].names_held(models[0])) for r in runs]
        seeds = [run.seed for run in runs]

        def loss(call: Call, batch: Mapping[str, Tensor]) -> Tensor:
            with precision(torch.device(device), settings.dtype):
                logits = call(batch["inputs"], use_cache=False).logits
            targets = batch["targets"].flatten()
            return F.cross_entropy(logits.float().flatten(0, 1), targets, ignore_index=IGNORED)

        ensemble = Ensemble.of(
            models,
            loss,
            AdamW(clip=1.0),
            rates=[run.options["rate"] for run in runs],
            fixed=held,
            compiled=settings.compile,
        )
        copies = follow(
            ensemble,
            self.batches(seeds, device),
            lambda step: min(1.0, (step + 1) / self.warm_up),
            self.look(ensemble, seeds, device),
            self.course,
            settled(runs),
        )
        for run, model, fixed, copy in zip(runs, models, held, copies, strict=True):
            numbers = sum(p.numel() for name, p in model.named_parameters() if name not in fixed)
            yield run, measures_of(run, copy, self.course, numbers)

    def batches(self, seeds: Sequence[int], device: str) -> Batches:
        """Training data of copies with these seeds; copies with the same seed see the same."""
        different = list(dict.fromkeys(seeds))
        drawing = [_generator("data", seed, device) for seed in different]
        of_copy = torch.tensor([different.index(seed) for seed in seeds], device=device)

        def batches(start: int, stop: int) -> dict[str, Tensor]:
            steps = stop - start
            drawn = [self.task.sample(steps * self.batch, generator) for generator in drawing]
            parts = {"inputs": [s.inputs for s in drawn], "targets": [s.targets for s in drawn]}
            return {
                name: torch.stack([t.unflatten(0, (steps, -1)) for t in part], 1)[:, of_copy]
                for name, part in parts.items()
            }

        return batches

    def look(self, ensemble: Ensemble, seeds: Sequence[int], device: str) -> Look:
        """Looks at the share of right answers of each copy in the test set of its seed."""
        different = list(dict.fromkeys(seeds))
        drawn = [self.task.sample(self.rows, _generator("tests", s, device)) for s in different]
        inputs = torch.stack([s.inputs for s in drawn])
        targets = torch.stack([s.targets for s in drawn])
        counted = torch.stack([self._counted(s) for s in drawn])
        of_copy = torch.tensor([different.index(seed) for seed in seeds], device=device)
        judge = replace(ensemble, loss=_right)

        def look() -> dict[str, Tensor]:
            parts = zip(
                *(t.split(self.batch, 1) for t in (inputs, targets, counted)), strict=True
            )
            right = sum(
                judge.losses({"inputs": i[of_copy], "targets": t[of_copy], "counted": c[of_copy]})
                for i, t, c in parts
            )
            share = torch.as_tensor(right) / counted.sum((1, 3))[of_copy]
            return dict(zip(self.scores, share.unbind(1), strict=True))

        return look

    def _counted(self, sample: Sample) -> Tensor:
        """Bool `(rows, scores, T)`."""
        parts = {"all": sample.scored, **sample.slices}
        return torch.stack([parts[name] & sample.scored for name in self.scores], 1)


def _right(call: Call, batch: Mapping[str, Tensor]) -> Tensor:
    """`(scores,)`, how many answers are right."""
    found = call(batch["inputs"], use_cache=False).logits.argmax(-1)
    right = (found == batch["targets"])[:, None] & batch["counted"]
    return right.sum((0, 2))


def _generator(what: str, seed: int, device: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed_of(what, seed))


def decoder(width: int, layers: int, task: Any, **more: Any) -> HeadwayConfig:
    """A Llama of a width with heads of at most 32 channels, untied, RoPE base 100,000."""
    return HeadwayConfig(
        vocab_size=task.vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 32),
        max_position_embeddings=task.length,
        rope_theta=100_000.0,
        tie_word_embeddings=False,
        **more,
    )
