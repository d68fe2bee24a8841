"""Seeds trained together, beside one at a time, in seeds a second.

Both arms run the same compiled step of the same trainer, for S copies and for one; on a GPU both
are replayed as CUDA graphs of several steps, and the lone seed is timed without a graph, too. Data
lie on the device, and are copied to where the graph reads them within the time measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from headway.bench.llama import free
from headway.bench.results import Line
from headway.bench.rounds import Ratio, ratio, time_in_turns
from headway.bench.toys import Toy, classification, induction
from headway.training.ensemble import Ensemble
from headway.training.ensemble_program import at

ALONE, GRAPH = "one at a time", "one at a time, as a graph"
TARGETED = 32
"""Seeds that the targets speak of."""


@dataclass(frozen=True)
class Plan:
    """What is measured of a toy.

    Attributes:
        toy: see `headway.bench.toys`.
        at_least: target for 32 seeds.
        precision: of float32 matrix products on a GPU, 'highest' or 'high' (TF32).
        seeds: how many are trained together.
        steps: in a round, and in a graph.
        rounds: timed.
    """

    toy: Toy
    at_least: float
    precision: str = "highest"
    seeds: tuple[int, ...] = (TARGETED,)
    steps: int = 8
    rounds: int = 20


def plans(small: bool) -> list[Plan]:
    """Sizes of the papers on a GPU; on a CPU, where they are bound by arithmetic, with its target.

    Args:
        small: small models and batches, whose time is what calling kernels costs.
    """
    if small:
        toy = classification(batch=8, slots=17, width=15, labels=8, classes=64, novel_classes=16)
        other = induction(length=16, hidden_size=16, batch=2)
        return [Plan(toy, 1.5, seeds=(32, 128)), Plan(other, 1.5, steps=4)]
    if not torch.cuda.is_available():
        return [Plan(classification(), 1.5, steps=1), Plan(induction(), 1.5, steps=1)]
    return [
        Plan(classification(), 30.0),
        Plan(classification(), 30.0, precision="high", seeds=(32, 128)),
        Plan(induction(), 8.0),
        Plan(induction(), 8.0, precision="high"),
    ]


def bench_ensemble(small: bool) -> Iterator[Line]:
    """Seeds a second of each number of seeds together, over one at a time.

    Args:
        small: see `plans`.
    """
    for plan in plans(small):
        with _precision(plan.precision):
            yield from _measure(plan)
        free()


def _measure(plan: Plan) -> Iterator[Line]:
    toy, cuda = plan.toy, torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    told = toy.name
    if cuda:
        told += ", float32" if plan.precision == "highest" else ", TF32"
    alone = _ensemble(toy, 1, device)
    batches = toy.batches(1, plan.steps, device)
    rates = torch.full((plan.steps,), toy.learning_rate, device=device)
    arms: dict[str, Callable[[], object]] = {
        ALONE: partial(_one_by_one, alone, batches, [rate.clone() for rate in rates])
    }
    if cuda:
        arms[GRAPH] = partial(alone.run, batches, rates)
    for seeds in plan.seeds:
        together = _ensemble(toy, seeds, device)
        arms[str(seeds)] = partial(together.run, toy.batches(seeds, plan.steps, device), rates)
    taken = time_in_turns(arms, plan.rounds, 3)
    with FlopCounterMode(display=False) as counter:
        _ensemble(toy, 1, device).gradients(at(batches, 0))
    for baseline in [arm for arm in (ALONE, GRAPH) if arm in arms]:
        for seeds in plan.seeds:
            target = plan.at_least if seeds == TARGETED else None
            found = _of_seeds(ratio(taken, baseline, str(seeds)), seeds)
            yield Line.of_ratio(f"{told}: {seeds} together over {baseline}", found, None, target)
    for arm, times in taken.items():
        seconds = sorted(times)[len(times) // 2] / plan.steps
        words = f"{arm} together" if arm.isdigit() else arm
        yield Line(f"{told}: {words}, ms a step", seconds * 1e3)
        flops = counter.get_total_flops() * (int(arm) if arm.isdigit() else 1)
        yield Line(f"{told}: {words}, TFLOP/s", flops / seconds / 1e12)


def _one_by_one(ensemble: Ensemble, batches: dict[str, Tensor], rates: list[Tensor]) -> None:
    for number, rate in enumerate(rates):
        ensemble.step(at(batches, number), rate)


def _ensemble(toy: Toy, seeds: int, device: str) -> Ensemble:
    models = [toy.model(seed).to(device) for seed in range(seeds)]
    return Ensemble.of(models, toy.loss, toy.rule, compiled=True)


def _of_seeds(times: Ratio, seeds: int) -> Ratio:
    """Seeds a second of an arm of several, over those of one at a time."""
    return replace(
        times,
        name=str(seeds),
        median=times.median * seeds,
        low=times.low * seeds,
        high=times.high * seeds,
    )


@contextmanager
def _precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
