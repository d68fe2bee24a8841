"""One JSON-able summary of a results folder: all that the tables and the page say in numbers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from headway.files import write_atomically
from headway.report.arm_summary import ArmSummary
from headway.report.headline import headline, remarks
from headway.report.results import BASELINE, Results, read_results
from headway.report.rows import CostRow
from headway.report.statistics import (
    IS_BASELINE,
    PairedDifference,
    deviation_or_none,
    holm,
    mean_curve,
    mean_or_none,
    paired_difference,
    spread,
    tokens_to_reach,
    verdict,
)


class Summary(TypedDict):
    """A whole comparison; `arms` keeps the order of the settings."""

    name: str
    headline: str
    remarks: list[str]
    baseline: str
    arms: dict[str, ArmSummary]
    settings: dict[str, Any]
    command: str
    versions: dict[str, str]
    device: str
    corpus: dict[str, Any]
    started: str


def summarise(folder: Path) -> Summary:
    """Summary of a results folder; `HeadwayError` where it cannot be read."""
    return summarise_results(read_results(folder))


def summarise_results(results: Results) -> Summary:
    """Summary of results that were read before."""
    differences = {arm: difference_to_baseline(results, arm) for arm in results.arms}
    corrected = holm_by_arm(differences)
    run = results.run
    arms = {
        arm: summarise_arm(results, arm, differences[arm], corrected.get(arm))
        for arm in results.arms
    }
    return Summary(
        name=results.folder.resolve().name,
        headline=headline(arms),
        remarks=remarks(arms),
        baseline=BASELINE,
        arms=arms,
        settings=dict(run.settings),
        command=run.command,
        versions=dict(run.versions),
        device=run.device,
        corpus=dict(run.corpus),
        started=run.started,
    )


def final_losses(results: Results, arm: str) -> dict[int, float]:
    """Final validation loss by seed of the runs that ended well."""
    rows = results.done(arm)
    return {
        seed: row.validation_loss for seed, row in rows.items() if row.validation_loss is not None
    }


def difference_to_baseline(results: Results, arm: str) -> PairedDifference:
    """Paired difference of an arm's final validation loss to vanilla's."""
    return paired_difference(final_losses(results, arm), final_losses(results, BASELINE))


def holm_by_arm(differences: Mapping[str, PairedDifference]) -> dict[str, float]:
    """Holm-corrected p-values of all arms that were tested, vanilla left out."""
    tested = {
        arm: difference.p
        for arm, difference in differences.items()
        if arm != BASELINE and difference.p is not None
    }
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def summarise_arm(
    results: Results, arm: str, difference: PairedDifference, holm_p: float | None
) -> ArmSummary:
    """All numbers of one arm."""
    losses = list(final_losses(results, arm).values())
    last = results.last_evals(arm)
    reached, ratio = tokens_and_ratio(results, arm)
    compared = arm != BASELINE
    diverged = list(results.diverged(arm))
    return ArmSummary(
        arm=arm,
        mechanisms=results.run.arms[arm],
        seeds=sorted(results.done(arm)),
        diverged=diverged,
        unfinished=unfinished(results, len(losses) + len(diverged)),
        validation_loss_mean=mean_or_none(losses),
        validation_loss_sd=deviation_or_none(losses),
        test_loss_mean=mean_or_none([row.test_loss for row in results.done(arm).values()]),
        seed_differences=by_seed(difference) if compared else {},
        difference_mean=difference.mean if compared else None,
        difference_low=difference.low if compared else None,
        difference_high=difference.high if compared else None,
        p_value=difference.p if compared else None,
        holm_p=holm_p,
        verdict=verdict(difference, holm_p) if compared else IS_BASELINE,
        in_context_gain=mean_or_none([row.in_context_gain for row in last]),
        repeat_accuracy=mean_or_none([row.repeat_accuracy for row in last]),
        prefix_score=mean_or_none([row.best_prefix_score for row in last]),
        tokens_to_reach=reached,
        tokens_ratio=ratio,
        **cost_numbers(results.costs.get(arm)),
    )


def by_seed(difference: PairedDifference) -> dict[str, float]:
    """Differences by seed, with the string keys that JSON has."""
    return {str(seed): value for seed, value in difference.differences.items()}


def unfinished(results: Results, ended: int) -> int | None:
    """Runs of an arm that have not ended yet; None where the settings do not say how many."""
    asked = results.run.settings.get("seeds")
    return max(0, asked - ended) if isinstance(asked, int) else None


def validation_curve(results: Results, arm: str, seed: int) -> dict[int, float]:
    """Tokens-to-loss curve of a run, its final loss included."""
    curve = {
        row.tokens: row.validation_loss
        for row in results.evals_of(arm)
        if row.seed == seed and row.validation_loss is not None
    }
    final = results.done(arm)[seed]
    if final.validation_loss is not None:
        curve[final.tokens] = final.validation_loss
    return curve


def tokens_and_ratio(results: Results, arm: str) -> tuple[float | None, float | None]:
    """Tokens an arm needs for vanilla's final loss, and as a fraction of what vanilla needs.

    Both sides are means over the seeds that both arms have finished.
    """
    base = final_losses(results, BASELINE)
    shared = sorted(base.keys() & results.done(arm).keys())
    if not shared:
        return None, None
    target = mean_or_none([base[seed] for seed in shared])
    assert target is not None
    own = mean_curve([validation_curve(results, arm, seed) for seed in shared])
    vanilla = mean_curve([validation_curve(results, BASELINE, seed) for seed in shared])
    reached, needed = tokens_to_reach(own, target), tokens_to_reach(vanilla, target)
    return reached, reached / needed if reached is not None and needed else None


class CostNumbers(TypedDict):
    """The part of `ArmSummary` that the cost line of an arm gives."""

    parameters: int | None
    added_parameters: int | None
    added_fraction: float | None
    step_seconds_median: float | None
    step_ratio_median: float | None
    step_ratio_min: float | None
    step_ratio_max: float | None
    peak_bytes: float | None
    peak_ratio: float | None


def cost_numbers(cost: CostRow | None) -> CostNumbers:
    """Parameters, step time and memory of an arm; None where its cost was not measured."""
    ratios = spread(cost.step_ratios) if cost else None
    seconds = spread(cost.step_seconds) if cost else None
    return CostNumbers(
        parameters=cost.parameters if cost else None,
        added_parameters=cost.added_parameters if cost else None,
        added_fraction=added_fraction(cost) if cost else None,
        step_seconds_median=seconds.median if seconds else None,
        step_ratio_median=ratios.median if ratios else None,
        step_ratio_min=ratios.low if ratios else None,
        step_ratio_max=ratios.high if ratios else None,
        peak_bytes=cost.peak_bytes if cost else None,
        peak_ratio=cost.peak_ratio if cost else None,
    )


def added_fraction(cost: CostRow) -> float | None:
    """Added parameters as a fraction of those without them."""
    without = cost.parameters - cost.added_parameters
    return cost.added_parameters / without if without else None


def write_summary(folder: Path, summary: Summary) -> Path:
    """Write `summary.json` into the folder in one step; the path that was written."""
    text = json.dumps(summary, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    return write_atomically(folder / "summary.json", text)
