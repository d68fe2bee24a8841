"""What the tables, the page and the headline say of one arm."""

from typing import Any, TypedDict


class ArmSummary(TypedDict):
    """What is known of one arm.

    Losses and differences are in nats per token, ratios are relative to vanilla. Runs that
    diverged or did not end are counted and take part in nothing else.
    """

    arm: str
    mechanisms: list[dict[str, Any]]
    seeds: list[int]
    diverged: list[int]
    unfinished: int | None
    validation_loss_mean: float | None
    validation_loss_sd: float | None
    test_loss_mean: float | None
    seed_differences: dict[str, float]
    difference_mean: float | None
    difference_low: float | None
    difference_high: float | None
    p_value: float | None
    holm_p: float | None
    verdict: str
    in_context_gain: float | None
    repeat_accuracy: float | None
    prefix_score: float | None
    parameters: int | None
    added_parameters: int | None
    added_fraction: float | None
    step_seconds_median: float | None
    step_ratio_median: float | None
    step_ratio_min: float | None
    step_ratio_max: float | None
    peak_bytes: float | None
    peak_ratio: float | None
    tokens_to_reach: float | None
    tokens_ratio: float | None
