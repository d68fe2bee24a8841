"""The three tables as text: the same cells go to the console, to Markdown and to the page."""

from dataclasses import dataclass

from headway.report import words
from headway.report.arm_summary import ArmSummary
from headway.report.statistics import CONFIDENCE
from headway.report.summary import Summary

NEVER = "not reached"


@dataclass(frozen=True)
class Table:
    """A titled table of text; the first column names the arm."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def main_table(summary: Summary) -> Table:
    """What an arm changes and what it costs, one row an arm."""
    return Table(
        title="Final validation loss (nats per token) and cost",
        columns=(
            "arm",
            "validation loss",
            f"difference to vanilla [{100 * CONFIDENCE:.0f}% interval]",
            "verdict",
            "step time",
            "memory",
            "added size",
            "tokens to vanilla's loss",
        ),
        rows=tuple(main_row(arm) for arm in summary["arms"].values()),
    )


def main_row(arm: ArmSummary) -> tuple[str, ...]:
    """Cells of one arm in the main table."""
    bounds = words.interval(arm["difference_low"], arm["difference_high"])
    return (
        arm["arm"],
        words.loss(arm["validation_loss_mean"]),
        f"{words.signed(arm['difference_mean'])} {bounds}".strip(),
        arm["verdict"],
        words.ratio(arm["step_ratio_median"]),
        words.ratio(arm["peak_ratio"]),
        words.percent(arm["added_fraction"]),
        reached(arm, words.ratio(arm["tokens_ratio"])),
    )


def reached(arm: ArmSummary, shown: str) -> str:
    """Tokens to vanilla's loss as `shown`, or that a compared arm never got there."""
    compared = bool(arm["seed_differences"])
    return NEVER if compared and arm["tokens_to_reach"] is None else shown


def context_table(summary: Summary) -> Table:
    """How sure the result is and what the model does in context, one row an arm."""
    return Table(
        title="Certainty and learning in context (means over finished seeds)",
        columns=(
            "arm",
            "seeds",
            "diverged",
            "loss sd",
            "test loss",
            "p",
            "Holm p",
            "in-context gain",
            "repeat accuracy",
            "prefix score",
        ),
        rows=tuple(context_row(arm) for arm in summary["arms"].values()),
    )


def context_row(arm: ArmSummary) -> tuple[str, ...]:
    """Cells of one arm in the table on certainty and context."""
    return (
        arm["arm"],
        str(len(arm["seeds"])),
        str(len(arm["diverged"])),
        words.loss(arm["validation_loss_sd"]),
        words.loss(arm["test_loss_mean"]),
        words.probability(arm["p_value"]),
        words.probability(arm["holm_p"]),
        words.signed(arm["in_context_gain"]),
        words.fraction(arm["repeat_accuracy"]),
        words.fraction(arm["prefix_score"]),
    )


def cost_table(summary: Summary) -> Table:
    """What an arm costs in absolute numbers and how far the timings scatter."""
    return Table(
        title="Cost of one training step",
        columns=(
            "arm",
            "parameters",
            "added",
            "step",
            "step ratio",
            "least to largest",
            "peak memory",
            "memory ratio",
            "tokens to vanilla's loss",
        ),
        rows=tuple(cost_row(arm) for arm in summary["arms"].values()),
    )


def cost_row(arm: ArmSummary) -> tuple[str, ...]:
    """Cells of one arm in the cost table."""
    low, high = words.ratio(arm["step_ratio_min"]), words.ratio(arm["step_ratio_max"])
    return (
        arm["arm"],
        words.count(arm["parameters"]),
        words.count(arm["added_parameters"]),
        words.seconds(arm["step_seconds_median"]),
        words.ratio(arm["step_ratio_median"]),
        f"{low}-{high}",
        words.memory(arm["peak_bytes"]),
        words.ratio(arm["peak_ratio"]),
        reached(arm, words.count(arm["tokens_to_reach"])),
    )
