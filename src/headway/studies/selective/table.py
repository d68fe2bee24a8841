"""Tables of `selective-lm`: losses, sharpness and parameters of each arm, and its temperatures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean

from headway.report import words
from headway.report.cells import Table
from headway.report.statistics import CONFIDENCE
from headway.studies.claims import Results
from headway.studies.criteria import Estimate
from headway.studies.estimates import mean_of, paired
from headway.studies.language_models.rates import best_rate, compared, measured
from headway.studies.selective.arms import GROUPS, TARGETS, base_of

OVER = "mean (range over seeds)"
INTERVAL = f"[{100 * CONFIDENCE:.0f} % interval]"
LOSSES = (
    "arm", "learning rate", "perplexity a token", "loss",
    f"less that without temperatures {INTERVAL}", "parameters added", "spikiness",
    "||W_q W_k^T|| before any QK-norm", "tau x ||W_q W_k^T||",
)  # fmt: skip
FOLLOWED = (
    "arm", "projection", "tau", "standard deviation over tokens and layers",
    f"correlation with the norm of the projection {INTERVAL}",
    f"correlation with ln frequency {INTERVAL}",
)  # fmt: skip


def selective_tables(results: Results) -> list[Table]:
    """Losses and temperatures of the runs that are compared, arms from scratch apart from those
    that were fine-tuned."""
    made = [
        Table(
            f"{title}: {group}", columns, tuple(row for arm in arms for row in rows(results, arm))
        )
        for title, columns, rows in (
            (f"Perplexity, sharpness and parameters, {OVER}", LOSSES, _losses),
            (f"Temperatures tau, {OVER}", FOLLOWED, _followed),
        )
        for group, arms in GROUPS.items()
    ]
    return [table for table in made if table.rows]


def _losses(results: Results, arm: str) -> Iterator[tuple[str, ...]]:
    """The row of an arm that was compared, none of another."""
    if not compared(results, arm):
        return
    losses = measured(results, arm, "loss")
    base = base_of(arm)
    less = None if arm == base else paired(losses, measured(results, base, "loss"))
    yield (
        arm,
        f"{best_rate(results, arm):g}",
        _spread(map(math.exp, losses.values()), ".2f"),
        words.loss(fmean(losses.values())),
        _told(less, "+.4f"),
        _added(measured(results, arm, "parameters"), measured(results, base, "parameters")),
        _spread(measured(results, arm, "spikiness").values(), ".3f"),
        _spread(measured(results, arm, "operator_norm").values(), ".2f"),
        _spread(measured(results, arm, "tempered_norm").values(), ".2f"),
    )


def _added(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """How many parameters an arm has more than its base, and as a share of the base's; nothing of
    the base itself."""
    shared = sorted(ours.keys() & theirs.keys())
    more = ours[shared[0]] - theirs[shared[0]] if shared else 0
    return f"{more:,.0f} ({more / theirs[shared[0]]:.4%})" if more else ""


def _followed(results: Results, arm: str) -> Iterator[tuple[str, ...]]:
    """A row for each projection that an arm scales."""
    for target in (name for one in "qkv" for name in TARGETS[one]):
        told = {
            name: measured(results, arm, "temperatures", target, name)
            for name in ("mean", "deviation", "with_norm", "with_frequency")
        }
        if told["mean"]:
            yield (
                arm,
                target,
                _spread(told["mean"].values(), ".3f"),
                _spread(told["deviation"].values(), ".3f"),
                _correlation(told["with_norm"]),
                _correlation(told["with_frequency"]),
            )


def _correlation(by_seed: Mapping[int, float]) -> str:
    """With its interval; of temperatures that are the same for all tokens there is none."""
    if not any(by_seed.values()):
        return words.MISSING
    found = mean_of(by_seed, bounds=(-1, 1))
    return _told(found, "+.2f") or f"{fmean(by_seed.values()):+.2f}"


def _told(found: Estimate | None, shown: str) -> str:
    return "" if found is None else found.told(shown)


def _spread(values: Iterable[float], shown: str) -> str:
    """Mean with the least and the largest; alone where there is one value."""
    found = list(values)
    if not found:
        return words.MISSING
    mean, low, high = (format(one, shown) for one in (fmean(found), min(found), max(found)))
    return mean if len(found) == 1 else f"{mean} ({low} to {high})"
