"""Arms timed in turns, so that what slows the machine slows all of them."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import transformers


@dataclass(frozen=True)
class Ratio:
    """An arm over the baseline, round by round.

    Attributes:
        name: of the arm.
        median: of the rounds' ratios.
        low, high: tenth and ninetieth percentile of them.
        rounds: how many.
        seconds: median seconds of the arm and of the baseline.
    """

    name: str
    median: float
    low: float
    high: float
    rounds: int
    seconds: tuple[float, float]


def time_in_turns(
    arms: Mapping[str, Callable[[], object]], rounds: int, warm_up: int
) -> dict[str, list[float]]:
    """Seconds of every arm in every round; the order of arms turns with each round.

    Args:
        arms: what to time, by name.
        rounds: timed rounds.
        warm_up: rounds before them.
    """
    taken: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for number in range(-warm_up, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            synchronise()
            start = time.perf_counter()
            arms[name]()
            synchronise()
            if number >= 0:
                taken[name].append(time.perf_counter() - start)
    return taken


def ratio(taken: Mapping[str, list[float]], arm: str, baseline: str) -> Ratio:
    """`arm` over `baseline`: more than 1 is slower."""
    pairs = [a / b for a, b in zip(taken[arm], taken[baseline], strict=True)]
    tenths = statistics.quantiles(pairs, n=10, method="inclusive")
    return Ratio(
        name=arm,
        median=statistics.median(pairs),
        low=tenths[0],
        high=tenths[-1],
        rounds=len(pairs),
        seconds=(statistics.median(taken[arm]), statistics.median(taken[baseline])),
    )


def synchronise() -> None:
    """Wait for the GPU, if there is one, and for the other processes, if there are some."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    if dist.is_initialized():
        dist.barrier()


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
