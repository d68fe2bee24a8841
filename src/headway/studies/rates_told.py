"""How learning rates were chosen, told from results alone.

What was tried, on how many seeds, whether the best is at the edge of what was tried, how many seeds
were compared, and what was tested at a rate that is not the chosen one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import fmean

from headway.report.cells import Table
from headway.report.words import MISSING
from headway.studies.claims import Result, Results, Study
from headway.studies.races.tuning import TEST, TUNING
from headway.studies.running import still_missing

TITLE = "How learning rates were chosen"
COLUMNS = ("arm", "rates tried", "tuning seeds of each", "chosen", "seeds compared",
           "also tested at")  # fmt: skip


def rate_tables(study: Study, results: Results) -> list[Table]:
    """A table with one row for all arms of which the same is told; none where none was tuned."""
    arms_of: dict[tuple[str, ...], list[str]] = {}
    racing = still_racing(study, results)
    for arm in study.arms:
        if tried := _seeds_by_rate(results.of([arm], stage=TUNING)):
            line = _line(study, results, arm, tried, racing.get(arm))
            arms_of.setdefault(line, []).append(arm)
    rows = tuple((", ".join(arms), *line) for line, arms in arms_of.items())
    return [Table(TITLE, COLUMNS, rows)] if rows else []


def still_racing(study: Study, results: Results) -> dict[str, float]:
    """A learning rate that is still to be tried, by arm that has some."""
    missing = still_missing(study, results)
    return {run.arm: run.options["rate"] for run in missing if run.options.get("stage") == TUNING}


def _seeds_by_rate(found: list[Result]) -> dict[float, int]:
    return dict(sorted(Counter(result.run.options["rate"] for result in found).items()))


def _line(
    study: Study, results: Results, arm: str, tried: Mapping[float, int], racing: float | None
) -> tuple[str, ...]:
    """Of an arm, with the rates that were tried and one that is still to be."""
    assert study.rate is not None, f"{study.name} tunes rates and does not say which is chosen"
    chosen = study.rate(results, arm)
    tested: dict[float, list[Result]] = {}
    for result in results.of([arm], stage=TEST, share=None):
        tested.setdefault(result.run.options["rate"], []).append(result)
    compared = [] if chosen is None else tested.pop(chosen, [])
    asked = study.seeds[results.size]
    others = [f"{rate:g}: {_tested(tested[rate], compared)}" for rate in sorted(tested)]
    return (
        ", ".join(f"{rate:g}" for rate in tried),
        " to ".join(dict.fromkeys(map(str, (min(tried.values()), max(tried.values()))))),
        (MISSING if chosen is None else f"{chosen:g}{_edge(chosen, list(tried))}")
        + ("" if racing is None else f"; {racing:g} is still to be tried"),
        f"{len(compared)}" + f", the study asks for {asked}" * (len(compared) != asked),
        "; ".join(others),
    )


def _edge(chosen: float, tried: list[float]) -> str:
    if len(tried) == 1:
        return ", the only one tried"
    return {tried[0]: ", the least tried", tried[-1]: ", the largest tried"}.get(chosen, "")


def _tested(found: list[Result], compared: list[Result]) -> str:
    """How many seeds and, of a language model, their loss beside that at the chosen rate."""
    ours, chosen = _mean_loss(found), _mean_loss(compared)
    seeds = f"{len(found)} seed{'s' * (len(found) > 1)}"
    if ours is None:
        return seeds
    beside = "" if chosen is None else f" ({chosen:.4f} at the chosen rate)"
    return f"{seeds}, mean loss {ours:.4f}{beside}"


def _mean_loss(found: list[Result]) -> float | None:
    losses = [result.measures["loss"] for result in found if "loss" in result.measures]
    return fmean(losses) if losses else None
