"""Races in a table: which rate an arm runs at, how many seeds got there, and when."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, median

from headway.report.cells import NEVER, Table
from headway.studies.claims import Result, Results
from headway.studies.races.courses import or_never
from headway.studies.races.tuning import compared_runs


def race_table(results: Results, arms: Iterable[str], published: float | None = None) -> Table:
    """One row an arm that was compared, at the rate that won its races and at a published one.

    Args:
        results: of a study.
        arms: of it.
        published: a learning rate at which every arm is run too; None: there is none.
    """
    rates = (None,) if published is None else (None, published)
    return Table(
        title="Steps to the score",
        columns=("arm", "learning rate", "seeds that got there", "steps: median (range)",
                 "score at the end: mean", "learned parameters"),
        rows=tuple(
            _row(arm, found)
            for rate in rates
            for arm in arms
            if (found := compared_runs(results, arm, rate))
        ),
    )  # fmt: skip


def _row(arm: str, found: Sequence[Result]) -> tuple[str, ...]:
    measured = [result.measures for result in found]
    steps = [or_never(m["steps"]) for m in measured]
    there = sum(map(math.isfinite, steps))
    spread = f" ({_told(min(steps))} to {_told(max(steps))})" if there else ""
    return (
        arm,
        f"{found[0].run.options['rate']:g}",
        f"{there} of {len(found)}",
        _told(median(steps)) + spread,
        f"{fmean(m['score'] for m in measured):.4f}",
        f"{measured[0]['parameters']:,}",
    )


def _told(steps: float) -> str:
    return f"{steps:,.0f}" if math.isfinite(steps) else NEVER
