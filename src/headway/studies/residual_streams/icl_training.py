"""Arms, sizes and training of the study `icl-classification`, all copies in one program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from headway.studies.claims import Measures, Run, Size
from headway.studies.races.courses import Batches, Course, follow, generator_of, seed_of
from headway.studies.races.tuning import (
    TEST,
    Tuning,
    last_of,
    measures_of,
    settled,
)
from headway.studies.residual_streams.toy_classifier import StreamClassifier, Wiring
from headway.tasks.base import Sample
from headway.tasks.classification import Classification
from headway.training.ensemble import Call, Ensemble
from headway.training.update_rules import SGD
from headway_settings import StudySettings

SAME_VARIANCE = 0.5**0.5


@dataclass(frozen=True)
class Arm:
    """What is compared.

    Attributes:
        about: what it is.
        wiring: of the second layer.
    """

    about: str
    wiring: Wiring


ARMS = {
    "plain": Arm("no stream", Wiring()),
    "value": Arm("V_2 + V_1", Wiring(streams={"value": (1, 1)})),
    "key": Arm("K_2 + K_1", Wiring(streams={"key": (1, 1)})),
    "query": Arm("Q_2 + Q_1", Wiring(streams={"query": (1, 1)})),
    "value-scaled": Arm(
        "(V_2 + V_1) / sqrt 2, whose variance at the start is that of V_2",
        Wiring(streams={"value": (SAME_VARIANCE, SAME_VARIANCE)}),
    ),
    "first-layer": Arm(
        "(V_2 + V_1) / 2, ResFormer's wiring from the first layer",
        Wiring(streams={"value": (0.5, 0.5)}),
    ),
    "own-matrix": Arm("V_2 + x_0 W with a matrix of its own", Wiring(own_matrix=True)),
    "larger-values": Arm(
        "no stream, the weights of V_2 start sqrt 2 times as large", Wiring(value_gain=2**0.5)
    ),
}
SETS = ("test", "in_context", "in_context_rotated", "in_weights")
RACED = "in_context"


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Task and training of a size.

    Attributes:
        task: without its world, which every seed has of its own.
        batch: rows a step.
        rows: of each test set.
        course: how long, and what for, where rates are raced and at those that won.
        published: the same at the published rate.
        tuning: of the learning rate.
        copies: most that are trained in one program.
    """

    task: Classification
    batch: int
    rows: int
    course: Course
    published: Course
    tuning: Tuning
    copies: int

    def course_of(self, run: Run) -> Course:
        """The course of a run; runs of a bundle have the same."""
        at_published = run.options == {"stage": TEST, "rate": self.tuning.published}
        return self.published if at_published else self.course


EXTENTS: Mapping[Size, Extent] = {
    "small": Extent(
        task=Classification(pairs=4, slots=9, labels=8, classes=128, width=15, novel_classes=32),
        batch=32,
        rows=500,
        course=Course(limit=2_000, every=25, together=25, target=0.95),
        published=Course(limit=2_000, every=25, together=25, target=0.95),
        tuning=Tuning(rates=(0.2, 0.4, 0.8), seeds=2, published=0.1),
        copies=48,
    ),
    "paper": Extent(
        task=Classification(),
        batch=128,
        rows=10_000,
        course=Course(limit=20_000, every=100, together=20, target=0.95),
        published=Course(limit=75_000, every=500, together=20, target=0.95),
        tuning=Tuning(
            rates=(0.05, 0.1, 0.2, 0.4, 0.8), further=(0.025, 1.6), seeds=3, published=0.01
        ),
        copies=48,
    ),
}
DECAY = 1 - 1e-6
"""Of the learning rate, a step."""
LOOKED_AT = 2_000
"""Rows of a test set that are scored at once."""


def world_of(task: Classification, seed: int) -> Classification:
    """The task in the world of a seed."""
    return replace(task, world=seed_of("world", seed))


def drawn_model(task: Classification, run: Run) -> StreamClassifier:
    """The model of a run before training; arms of a seed share all that they have in common."""
    seed = seed_of("weights", run.seed)
    wiring = ARMS[run.arm].wiring
    return StreamClassifier(task.channels, task.width, task.labels, seed, wiring)


def training_batches(extent: Extent, seeds: Sequence[int], device: str) -> Batches:
    """Training data of copies with these seeds; copies with the same seed see the same."""
    different = list(dict.fromkeys(seeds))
    drawing = [
        (
            replace(world_of(extent.task, seed), novel_every=extent.batch),
            generator_of("data", seed, device),
        )
        for seed in different
    ]
    of_copy = torch.tensor([different.index(seed) for seed in seeds], device=device)

    def batches(start: int, stop: int) -> dict[str, Tensor]:
        steps = stop - start
        drawn = [task.sample(steps * extent.batch, generator) for task, generator in drawing]
        parts = {"inputs": [s.inputs for s in drawn], "targets": [s.targets for s in drawn]}
        return {
            name: torch.stack([t.unflatten(0, (steps, extent.batch)) for t in part], 1)[:, of_copy]
            for name, part in parts.items()
        }

    return batches


def tests(
    ensemble: Ensemble, extent: Extent, seeds: Sequence[int], device: str
) -> Callable[[Sequence[str]], dict[str, Tensor]]:
    """Gives the share of right answers `(S,)` of each copy in some test sets of its seed."""
    different = list(dict.fromkeys(seeds))
    of_copy = torch.tensor([different.index(seed) for seed in seeds], device=device)
    drawn: dict[str, list[Sample]] = {name: [] for name in SETS}
    for seed in different:
        generator = generator_of("tests", seed, device)
        sets = world_of(extent.task, seed).test_sets()
        for name in SETS:
            drawn[name].append(sets[name].sample(extent.rows, generator))
    inputs = {name: torch.stack([s.inputs for s in found]) for name, found in drawn.items()}
    targets = {name: torch.stack([s.targets for s in found]) for name, found in drawn.items()}
    judge = replace(ensemble, loss=_right)

    def share(name: str) -> Tensor:
        parts = zip(
            inputs[name].split(LOOKED_AT, 1), targets[name].split(LOOKED_AT, 1), strict=True
        )
        right = [judge.losses({"inputs": i[of_copy], "targets": t[of_copy]}) for i, t in parts]
        return torch.stack(right).sum(0) / extent.rows

    return lambda names: {name: share(name) for name in names}


def _right(call: Call, batch: Mapping[str, Tensor]) -> Tensor:
    """How many answers are right."""
    found: Tensor = call(batch["inputs"]).argmax(-1)
    return (found == batch["targets"]).sum()


def _loss(call: Call, batch: Mapping[str, Tensor]) -> Tensor:
    return F.cross_entropy(call(batch["inputs"]), batch["targets"])


def together(
    runs: Sequence[Run], models: Sequence[StreamClassifier], compiled: bool = False
) -> Ensemble:
    """The models of runs as copies, each at its own rate and without what its arm has not."""
    return Ensemble.of(
        models,
        _loss,
        SGD(),
        rates=[run.options["rate"] for run in runs],
        fixed=[ARMS[run.arm].wiring.fixed for run in runs],
        compiled=compiled,
    )


def train(
    runs: Sequence[Run], extent: Extent, device: str, compiled: bool
) -> Iterator[tuple[Run, Measures]]:
    """Train runs as copies in one program."""
    seeds = [run.seed for run in runs]
    models = [drawn_model(extent.task, run).to(device) for run in runs]
    ensemble = together(runs, models, compiled)
    score = tests(ensemble, extent, seeds, device)
    copies = follow(
        ensemble,
        training_batches(extent, seeds, device),
        lambda step: DECAY**step,
        lambda: score((RACED,))[RACED],
        extent.course_of(runs[0]),
        settled(runs),
    )
    last = last_of(lambda: score(SETS), len(runs))
    for run, model, copy, scores in zip(runs, models, copies, last, strict=True):
        yield run, measures_of(run, copy, scores, learned_numbers(run, model))


def learned_numbers(run: Run, model: StreamClassifier) -> int:
    """How many numbers an arm learns."""
    fixed = ARMS[run.arm].wiring.fixed
    return sum(p.numel() for name, p in model.named_parameters() if name not in fixed)


def perform(runs: Sequence[Run], settings: StudySettings) -> Iterator[tuple[Run, Measures]]:
    """`Study.perform`."""
    extent = EXTENTS[settings.size]
    for bundle in extent.tuning.bundles(runs, extent.copies):
        yield from train(bundle, extent, settings.device, settings.compile)
