"""How many of its tokens an arm needs for the loss that another one ends with.

Each share of the tokens is a run of its own with a whole schedule: the loss on the way through a
longer run, whose learning rate has not decayed yet, says nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from headway.report.statistics import tokens_to_reach
from headway.studies.claims import Estimate, Results
from headway.studies.estimates import resampled
from headway.studies.lm_rates import measured


def share_needed(arm: str, base: str, shares: Sequence[float], results: Results) -> Estimate | None:
    """The share of its tokens with which an arm's mean loss is that of another one's whole runs.

    Straight lines join the runs. The least share that was run stands for any that is smaller, and
    infinity for more than all tokens. The interval is a bootstrap over seeds.

    Args:
        arm, base: arms.
        shares: rising, below 1, with which the arm was run besides.
        results: of a study.

    Returns:
        None below two seeds that have all these runs.
    """
    rows = _rows(arm, base, shares, results)
    return resampled(rows, lambda drawn: _needed(shares, drawn))


def share_without_interval(
    arm: str, base: str, shares: Sequence[float], results: Results
) -> float | None:
    """The same figure from any number of seeds; None without one."""
    rows = _rows(arm, base, shares, results)
    return _needed(shares, rows) if rows else None


def _rows(
    arm: str, base: str, shares: Sequence[float], results: Results
) -> list[tuple[float, ...]]:
    """Of each seed the losses with each share and with all, and the one to get to."""
    columns = [measured(results, arm, "loss", share=share) for share in (*shares, None)]
    columns.append(measured(results, base, "loss"))
    seeds = sorted(set.intersection(*map(set, columns)))
    return [tuple(column[seed] for column in columns) for seed in seeds]


def _needed(shares: Sequence[float], rows: Sequence[tuple[float, ...]]) -> float:
    *losses, target = map(fmean, zip(*rows, strict=True))
    found = tokens_to_reach(list(zip((*shares, 1.0), losses, strict=True)), target)
    return math.inf if found is None else found
