"""Checked reading of one JSON object: every complaint names the place and the field."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from headway.errors import HeadwayError

T = TypeVar("T")


def is_number(value: object) -> bool:
    """Whether a JSON value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Fields:
    """One JSON object and the place it stands at, such as `metrics.jsonl line 7`."""

    place: str
    values: Mapping[str, Any]

    def take(self, key: str) -> Any:
        """The raw value of a field that must be there."""
        if key not in self.values:
            raise HeadwayError(f"{self.place}: field '{key}' is missing")
        return self.values[key]

    def refuse(self, key: str, accepted: str) -> HeadwayError:
        """The error that says which field has which value and what is accepted."""
        shown = repr(self.values[key])[:80]
        return HeadwayError(f"{self.place}: field '{key}' is {shown}; accepted is {accepted}")

    def text(self, key: str) -> str:
        """A string."""
        value = self.take(key)
        if not isinstance(value, str):
            raise self.refuse(key, "a string")
        return value

    def whole(self, key: str) -> int:
        """An integer."""
        value = self.take(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.refuse(key, "a whole number")
        return value

    def number(self, key: str) -> float | None:
        """A number or null."""
        value = self.take(key)
        if value is not None and not is_number(value):
            raise self.refuse(key, "a number or null")
        return None if value is None else float(value)

    def objects(self, key: str) -> dict[str, Any]:
        """A JSON object."""
        value = self.take(key)
        if not isinstance(value, dict):
            raise self.refuse(key, "an object")
        return value

    def items(self, key: str, accepted: str, convert: Callable[[Any], T]) -> tuple[T, ...]:
        """A list whose items `convert` understands; null counts as an empty list.

        `convert` says no with `TypeError` or `ValueError`.
        """
        value = self.take(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.refuse(key, accepted)
        try:
            return tuple(convert(item) for item in value)
        except (TypeError, ValueError):
            raise self.refuse(key, accepted) from None


def plain_number(value: Any) -> float:
    """A number, for `Fields.items`."""
    if not is_number(value):
        raise TypeError(value)
    return float(value)


def number_or_null(value: Any) -> float | None:
    """A number or null, for `Fields.items`."""
    return None if value is None else plain_number(value)


def number_row(value: Any) -> tuple[float | None, ...]:
    """A list of numbers or nulls, for `Fields.items`."""
    if not isinstance(value, list):
        raise TypeError(value)
    return tuple(number_or_null(item) for item in value)


def index_and_number(value: Any) -> tuple[int, float | None]:
    """A pair of a whole number and a number or null, for `Fields.items`."""
    index, number = value
    if not isinstance(index, int) or isinstance(index, bool):
        raise TypeError(index)
    return index, number_or_null(number)
