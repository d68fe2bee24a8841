"""Figures of `selective-lm`: losses, how spiky attention is where, and what temperatures follow."""

from __future__ import annotations

from collections.abc import Iterator

from headway.report.curves import OVER_SEEDS, bands
from headway.report.figures import CurveText, Figure, curve_figure
from headway.studies.claims import Results
from headway.studies.lm_rates import compared, loss_figures
from headway.studies.selective_arms import ARMS, TARGETS

SPIKINESS = CurveText(
    "spikiness",
    "Spikiness of attention by position",
    f"||s||_1 / (n ||s||_2^2) of the weights s on n keys: 1 where all weigh the same. {OVER_SEEDS}",
    "position of the query",
    "spikiness",
)
DOUBLING, FIFTHS = {"type": "log"}, {"dtick": 1}


def selective_figures(results: Results) -> list[Figure]:
    """Losses, and of the runs that are compared spikiness and temperatures."""
    arms = tuple(ARMS)
    there = [arm for arm in arms if results.of([arm])]
    spiky = bands({arm: list(_spikiness(results, arm)) for arm in there})
    drawn = loss_figures(arms, results)
    if spiky:
        drawn.append(curve_figure(SPIKINESS, spiky, there, DOUBLING))
    for target in TARGETS["q"] + TARGETS["k"] + TARGETS["v"]:
        found = bands({arm: list(_temperatures(results, arm, target)) for arm in there})
        if found:
            drawn.append(curve_figure(_temperature_text(target), found, there, FIFTHS))
    return drawn


def _temperature_text(target: str) -> CurveText:
    return CurveText(
        f"temperature-{target}",
        f"Temperature of the {target} by the token's frequency",
        f"Mean over layers and heads in each fifth of the tokens, rare ones first. {OVER_SEEDS}",
        "fifth of the tokens",
        "temperature",
    )


def _spikiness(results: Results, arm: str) -> Iterator[tuple[float, float]]:
    for result in compared(results, arm):
        for position, value in result.measures.get("spikiness_by_position", ()):
            yield float(position), value


def _temperatures(results: Results, arm: str, target: str) -> Iterator[tuple[float, float]]:
    for result in compared(results, arm):
        told = result.measures.get("temperatures", {}).get(target, {})
        for place, value in enumerate(told.get("by_frequency", ()), 1):
            yield float(place), value
