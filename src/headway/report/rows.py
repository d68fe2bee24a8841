"""The five kinds of lines in `metrics.jsonl`, each a frozen dataclass with its parser.

Losses are in nats per token, times in seconds, memory in bytes. `None` means that the value could
not be measured (a context too short for a probe, a loss that was not finite).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from headway.report.fields import (
    Fields,
    index_and_number,
    is_number,
    number_row,
    plain_number,
)

Nested: TypeAlias = "float | list[Nested] | None"
"""A tensor as JSON: a number or lists of such."""


@dataclass(frozen=True)
class TrainRow:
    """One logged training step of one run."""

    arm: str
    seed: int
    step: int
    tokens: int
    loss: float | None
    learning_rate: float | None
    tokens_per_second: float | None


@dataclass(frozen=True)
class EvalRow:
    """One evaluation of one run.

    `in_context_gain` is the loss at token 50 less the loss late in the context (nats per token),
    `repeat_accuracy` a fraction on repeated random sequences, `prefix_scores` a number per head
    and layer, `position_losses` pairs of token index and mean loss.
    """

    arm: str
    seed: int
    step: int
    tokens: int
    validation_loss: float | None
    early_loss: float | None
    late_loss: float | None
    in_context_gain: float | None
    repeat_accuracy: float | None
    prefix_scores: tuple[tuple[float | None, ...], ...]
    position_losses: tuple[tuple[int, float | None], ...]

    @property
    def best_prefix_score(self) -> float | None:
        """The largest prefix-matching score of any head; None where none was measured."""
        scores = [s for layer in self.prefix_scores for s in layer if s is not None]
        return max(scores, default=None)


@dataclass(frozen=True)
class LearnedRow:
    """What the mechanisms of one run had learned at its end: parameter name to nested numbers."""

    arm: str
    seed: int
    values: Mapping[str, Nested]


@dataclass(frozen=True)
class CostRow:
    """What an arm costs. `step_ratios` and `peak_ratio` are relative to vanilla (1 is equal)."""

    arm: str
    parameters: int
    added_parameters: int
    step_seconds: tuple[float, ...]
    step_ratios: tuple[float, ...]
    peak_bytes: float | None
    peak_ratio: float | None


@dataclass(frozen=True)
class FinishRow:
    """How one run ended."""

    arm: str
    seed: int
    status: Literal["done", "diverged"]
    step: int
    tokens: int
    validation_loss: float | None
    test_loss: float | None
    seconds: float | None


Row: TypeAlias = TrainRow | EvalRow | LearnedRow | CostRow | FinishRow


def parse_train(fields: Fields) -> TrainRow:
    """A `train` line."""
    return TrainRow(
        arm=fields.text("arm"),
        seed=fields.whole("seed"),
        step=fields.whole("step"),
        tokens=fields.whole("tokens"),
        loss=fields.number("loss"),
        learning_rate=fields.number("learning_rate"),
        tokens_per_second=fields.number("tokens_per_second"),
    )


def parse_eval(fields: Fields) -> EvalRow:
    """An `eval` line."""
    return EvalRow(
        arm=fields.text("arm"),
        seed=fields.whole("seed"),
        step=fields.whole("step"),
        tokens=fields.whole("tokens"),
        validation_loss=fields.number("validation_loss"),
        early_loss=fields.number("early_loss"),
        late_loss=fields.number("late_loss"),
        in_context_gain=fields.number("in_context_gain"),
        repeat_accuracy=fields.number("repeat_accuracy"),
        prefix_scores=fields.items("prefix_scores", "a list of lists of numbers", number_row),
        position_losses=fields.items(
            "position_losses", "a list of [token index, loss] pairs", index_and_number
        ),
    )


def parse_learned(fields: Fields) -> LearnedRow:
    """A `learned` line."""
    values = fields.objects("values")
    if not all(is_nested(value) for value in values.values()):
        raise fields.refuse("values", "an object of numbers and nested lists of numbers")
    return LearnedRow(arm=fields.text("arm"), seed=fields.whole("seed"), values=values)


def is_nested(value: Any) -> bool:
    """Whether a JSON value is a number, null, or nested lists of such."""
    if isinstance(value, list):
        return all(is_nested(item) for item in value)
    return value is None or is_number(value)


def parse_cost(fields: Fields) -> CostRow:
    """A `cost` line."""
    return CostRow(
        arm=fields.text("arm"),
        parameters=fields.whole("parameters"),
        added_parameters=fields.whole("added_parameters"),
        step_seconds=fields.items("step_seconds", "a list of numbers", plain_number),
        step_ratios=fields.items("step_ratios", "a list of numbers", plain_number),
        peak_bytes=fields.number("peak_bytes"),
        peak_ratio=fields.number("peak_ratio"),
    )


def parse_finish(fields: Fields) -> FinishRow:
    """A `finish` line; a run that is done has a validation loss."""
    status = fields.text("status")
    if status not in ("done", "diverged"):
        raise fields.refuse("status", "'done' or 'diverged'")
    loss = fields.number("validation_loss")
    if status == "done" and loss is None:
        raise fields.refuse("validation_loss", "a number for a run whose status is 'done'")
    return FinishRow(
        arm=fields.text("arm"),
        seed=fields.whole("seed"),
        status="done" if status == "done" else "diverged",
        step=fields.whole("step"),
        tokens=fields.whole("tokens"),
        validation_loss=loss,
        test_loss=fields.number("test_loss"),
        seconds=fields.number("seconds"),
    )


PARSERS: dict[str, Callable[[Fields], Row]] = {
    "train": parse_train,
    "eval": parse_eval,
    "learned": parse_learned,
    "cost": parse_cost,
    "finish": parse_finish,
}


def parse_row(fields: Fields) -> Row:
    """The row that one JSON object of `metrics.jsonl` holds."""
    kind = fields.text("kind")
    if kind not in PARSERS:
        raise fields.refuse("kind", f"one of {', '.join(PARSERS)}")
    return PARSERS[kind](fields)
