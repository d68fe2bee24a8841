"""A word typed for a setting that cannot take it, refused as all else is: in one sentence.

tyro refuses it in a frame of its own and tells what it found through private interfaces alone, so
choices and numbers are looked at before it is asked. All else that is typed is left to it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_NUMBERS = {int: "whole numbers", float: "numbers"}


def wrong_word(words: Sequence[str], settings: type[Any]) -> str | None:
    """What is wrong with the first word that is neither a choice nor a number where one is needed.

    Args:
        words: as typed after the verb.
        settings: dataclass of the verb; its fields without a default are given without a flag.

    Returns:
        A sentence that names the field, the word and what is accepted; None where all fit, or help
        is asked for.
    """
    if "--help" in words or "-h" in words:
        return None
    hints = get_type_hints(settings)
    flags = {f"--{name.replace('_', '-')}": name for name in hints}
    first = next((f.name for f in fields(settings) if f.default is MISSING), None)
    if first is not None and words and not words[0].startswith("-"):
        words = [f"--{first.replace('_', '-')}", *words]
    for number, word in enumerate(words):
        flag, equals, value = word.partition("=")
        name = flags.get(flag.replace("_", "-"))
        if name is None:
            continue
        if not equals:
            value = "".join(words[number + 1 : number + 2])
            if not value or value.startswith("--"):
                continue
        if not _takes(hints[name], value):
            return _sentence(name, value, hints[name])
    return None


def _takes(hint: Any, word: str) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_takes(each, word) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return word in get_args(hint)
    if hint is NoneType:
        return word == "None"
    if hint in _NUMBERS:
        try:
            hint(word)
        except ValueError:
            return False
    return True


def _sentence(name: str, word: str, hint: Any) -> str:
    accepted: list[str] = []
    for each in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
        if each is not NoneType:
            accepted += get_args(each) or [_NUMBERS[each]]
    near = difflib.get_close_matches(word, accepted, n=1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{name}: {word!r} is not accepted{meant}; accepted are {', '.join(accepted)}"
