"""Figures of studies of language models that draw marks beside their losses, and cells of their
tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from headway.report.figures import CurveText, Figure
from headway.report.marks import Mark, mark_figure
from headway.studies.claims import Results
from headway.studies.language_models.rates import loss_figures


def mean_cells(*measures: tuple[Mapping[int, float], str]) -> tuple[str, ...]:
    """How many seeds there are, and the mean of each measure over them.

    Args:
        measures: by seed, and the format of their mean; all of the same seeds, at least one.
    """
    seeds = measures[0][0]
    return str(len(seeds)), *(format(fmean(m[s] for s in seeds), shown) for m, shown in measures)


def losses_and_marks(
    arms: Sequence[str],
    text: CurveText,
    marks_of: Callable[[Results, str], Iterable[Mark]],
    results: Results,
) -> list[Figure]:
    """Losses, and marks if any arm has some.

    Args:
        arms: of the study.
        text: the words around the marks.
        marks_of: an arm's.
        results: of the study.
    """
    there = [arm for arm in arms if results.of([arm])]
    marks = {arm: list(marks_of(results, arm)) for arm in there}
    drawn = loss_figures(arms, results)
    return [*drawn, mark_figure(text, marks, there)] if any(marks.values()) else drawn
