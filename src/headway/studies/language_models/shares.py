"""How many of its tokens an arm needs for the loss that another one ends with.

Each share of the tokens is a run of its own with a whole schedule: the loss on the way through a
longer run, whose learning rate has not decayed yet, says nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from headway.report.statistics import t_interval, tokens_to_reach
from headway.studies.claims import Results
from headway.studies.criteria import Estimate
from headway.studies.language_models.rates import measured


def share_needed(arm: str, base: str, shares: Sequence[float], results: Results) -> Estimate | None:
    """The share of its tokens with which an arm's mean loss is that of another one's whole runs.

    Straight lines join the runs. The least share that was run stands for any that is smaller, and
    infinity for more than all tokens.

    The interval holds the shares with which the losses cannot be told apart: it ends where the
    bounds of their difference, a paired t-interval over seeds at each share that was run, get to
    zero. That needs no more seeds than the t-test does, whatever the curve, and a share that is
    infinite or the least has an interval like any other. The p-value is that the share is 1: of
    the paired t-test with all tokens.

    Args:
        arm, base: arms.
        shares: rising, below 1, with which the arm was run besides.
        results: of a study.

    Returns:
        None below two seeds that have all these runs.
    """
    gaps = _gaps(arm, base, shares, results)
    if len(gaps[0]) < 2:
        return None
    low, high, p = zip(*map(t_interval, gaps), strict=True)
    value, least, most = (_crossing(shares, line) for line in (map(fmean, gaps), low, high))
    return Estimate(value, least, most, len(gaps[0]), p[-1])


def share_without_interval(
    arm: str, base: str, shares: Sequence[float], results: Results
) -> float | None:
    """The same figure from any number of seeds; None without one."""
    gaps = _gaps(arm, base, shares, results)
    return _crossing(shares, map(fmean, gaps)) if gaps[0] else None


def _gaps(arm: str, base: str, shares: Sequence[float], results: Results) -> list[list[float]]:
    """How far the losses with each share, and with all, are above the one to get to, by seed."""
    columns = [measured(results, arm, "loss", share=share) for share in (*shares, None)]
    target = measured(results, base, "loss")
    seeds = sorted(set(target).intersection(*columns))
    return [[column[seed] - target[seed] for seed in seeds] for column in columns]


def _crossing(shares: Sequence[float], gaps: Iterable[float]) -> float:
    """Where a line through these gaps, the last one with all tokens, first is not above zero."""
    found = tokens_to_reach(list(zip((*shares, 1.0), gaps, strict=True)), 0.0)
    return math.inf if found is None else found
