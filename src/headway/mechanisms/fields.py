"""Checking the fields of a dataclass against their annotations."""

import dataclasses
import difflib
from collections.abc import Iterable
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from headway.errors import HeadwayError


def checked_fields(instance: Any) -> dict[str, Any]:
    """Every field of a mechanism with its value in the annotated type (a JSON list is a tuple).

    Bounds stand in the field's metadata: `field(default=1, metadata={"min": 1})`.

    Raises:
        HeadwayError: names the field, the value and what is accepted.
    """
    hints = get_type_hints(type(instance))
    values = {}
    for field in dataclasses.fields(instance):
        label = f"{type(instance).name}.{field.name}"
        value = getattr(instance, field.name)
        if not _fits(value, hints[field.name]):
            raise HeadwayError(
                f"{label}: {value!r} is not accepted; accepted is {_words(hints[field.name])}"
            )
        for bound, wrong in (("min", _below), ("max", _above)):
            limit = field.metadata.get(bound)
            if limit is not None and wrong(value, limit):
                raise HeadwayError(
                    f"{label}: {value!r} is not accepted; the {bound}imum is {limit}"
                )
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return values


def nearest(word: str, known: Iterable[str]) -> str:
    """`' (did you mean X?)'` where a known word is near, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def choices(hint: Any) -> list[Any]:
    """The values of a field of that annotation, as far as it lists them."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return list(args)
    if origin in (Union, UnionType):
        return [value for arg in args for value in choices(arg)]
    return [False, True] if hint is bool else []


def _below(value: Any, limit: float) -> bool:
    return any(v < limit for v in (value if isinstance(value, list | tuple) else (value,)))


def _above(value: Any, limit: float) -> bool:
    return any(v > limit for v in (value if isinstance(value, list | tuple) else (value,)))


def _fits(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in args)
    if origin in (Union, UnionType):
        return any(_fits(value, a) for a in args)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(v, args[0]) for v in value)
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) < float("inf")
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(repr(a) for a in args)
    if origin in (Union, UnionType):
        return " or ".join(_words(a) for a in args)
    if origin is tuple:
        return f"a list of {_words(args[0])}"
    return {float: "a finite number", int: "a whole number", bool: "true or false"}.get(
        hint, str(hint)
    )
