"""Figures of `selective-lm`: losses, how spiky attention is where, and what temperatures follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from headway.report.curves import OVER_SEEDS, bands
from headway.report.figures import CurveText, Figure, curve_figure
from headway.studies.claims import Results
from headway.studies.language_models.rates import compared, loss_figures
from headway.studies.selective.arms import ARMS, GROUPS, TARGETS, base_of

Points = Iterator[tuple[float, float]]

SPIKINESS = CurveText(
    "spikiness",
    "Spikiness of attention by position",
    f"||s||_1 / (n ||s||_2^2) of the weights s on n keys: 1 where all weigh the same. {OVER_SEEDS}",
    "position of the query",
    "spikiness",
)
RATIO = CurveText(
    "spikiness-ratio",
    "Spikiness over that without temperatures",
    "The same as a ratio, paired by seed; below 1 attention is on fewer keys. Published: "
    f"{0.26 / 0.39:.2f}, over all positions. {OVER_SEEDS}",
    "position of the query",
    "ratio",
)
DOUBLING, FIFTHS = {"type": "log"}, {"dtick": 1}


def selective_figures(results: Results) -> list[Figure]:
    """Losses, and of the runs that are compared spikiness and temperatures; arms from scratch
    apart from those that were fine-tuned."""
    there = [arm for arm in ARMS if results.of([arm])]
    drawn: list[Figure] = []
    for group, own in GROUPS.items():
        drawn += loss_figures(tuple(ARMS), results, condition=group, own=own)
        for text, points, axis in CURVES:
            found = bands({arm: list(points(results, arm)) for arm in there if arm in own})
            if found:
                named = replace(text, id=f"{text.id}-{group}", title=f"{text.title}: {group}")
                drawn.append(curve_figure(named, found, there, axis))
    return drawn


def _temperature_text(target: str) -> CurveText:
    return CurveText(
        f"temperature-{target}",
        f"Temperature of the {target} by the token's frequency",
        "Mean of tau, by which it is scaled, over layers and heads in each fifth of the tokens, "
        f"rare ones first. {OVER_SEEDS}",
        "fifth of the tokens",
        "tau",
    )


def _spikiness(results: Results, arm: str) -> Points:
    for by_position in _spikiness_by_seed(results, arm).values():
        yield from by_position.items()


def _ratio(results: Results, arm: str) -> Points:
    """Of an arm that is not its own base."""
    base = base_of(arm)
    theirs = {} if arm == base else _spikiness_by_seed(results, base)
    for seed, by_position in _spikiness_by_seed(results, arm).items():
        for position, value in theirs.get(seed, {}).items():
            if position in by_position:
                yield position, by_position[position] / value


def _spikiness_by_seed(results: Results, arm: str) -> dict[int, dict[float, float]]:
    return {
        result.run.seed: {
            float(position): value
            for position, value in result.measures.get("spikiness_by_position", ())
        }
        for result in compared(results, arm)
    }


def _temperatures(target: str, results: Results, arm: str) -> Points:
    for result in compared(results, arm):
        told = result.measures.get("temperatures", {}).get(target, {})
        for place, value in enumerate(told.get("by_frequency", ()), 1):
            yield float(place), value


CURVES: tuple[tuple[CurveText, Callable[[Results, str], Points], Mapping[str, Any]], ...] = (
    (SPIKINESS, _spikiness, DOUBLING),
    (RATIO, _ratio, DOUBLING),
    *(
        (_temperature_text(target), partial(_temperatures, target), FIFTHS)
        for target in TARGETS["q"] + TARGETS["k"] + TARGETS["v"]
    ),
)
