"""Words typed that a verb cannot take, refused as all else is: in one sentence.

tyro refuses them in a frame of its own and tells what it found through private interfaces alone, so
they are read here first, as it reads them: what passes here, it takes.
"""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

HELP = frozenset({"-h", "--help"})
_COMPLETION = "--tyro-"
"""What flags begin with that print or write completions of a shell."""
_KINDS = {int: "whole numbers", float: "numbers", str: "words", Path: "paths"}
_ONE = {int: "a whole number", float: "a number", str: "a word", Path: "a path"}


class _Wrong(ValueError):
    """A word that is refused, and why."""


def wrong_words(
    words: Sequence[str], verbs: Mapping[str, type[Any]], program: str, paired: Sequence[str] = ()
) -> str | None:
    """What is wrong with the first word that cannot be taken.

    Args:
        words: as typed after the program's name: a verb, then what it is to do.
        verbs: the dataclass of each verb; its fields without a default are given without a flag.
        program: what is typed before the verb.
        paired: verbs whose switches have a flag for either side.

    Returns:
        A sentence that names the field, the word and what is accepted; None where all fit, or
        where `--` or completions of a shell are asked for, which are left to tyro.
    """
    if any(word == "--" or word.startswith(_COMPLETION) for word in words):
        return None
    verb, *rest = words or [""]
    if verb not in verbs:
        given = f"{verb!r} is unknown{_near(verb, verbs)}" if verb else "no verb is given"
        return f"{given}; accepted are {', '.join(verbs)}"
    try:
        _Reader(verbs[verb], f"{program} {verb}", verb in paired).read(rest)
    except _Wrong as wrong:
        return str(wrong)
    return None


@dataclass
class _Reader:
    """Takes the words of one verb from the left."""

    settings: type[Any]
    command: str
    paired: bool

    def __post_init__(self) -> None:
        hints = get_type_hints(self.settings)
        self.hints = {field.name: hints[field.name] for field in fields(self.settings)}
        self.places = deque(f.name for f in fields(self.settings) if f.default is MISSING)
        self.flags = {
            flag: field.name
            for field in fields(self.settings)
            if field.default is not MISSING
            for flag in self._flags(field.name, field.default)
        }

    def _flags(self, name: str, default: Any) -> tuple[str, ...]:
        on, off = (f"--{prefix}{name.replace('_', '-')}" for prefix in ("", "no-"))
        if self.hints[name] is not bool:
            return (on,)
        return (on, off) if self.paired else (off,) if default else (on,)

    def read(self, words: Sequence[str]) -> None:
        """Raises _Wrong at the first word that does not fit."""
        rest = deque(words)
        while rest:
            word = rest.popleft()
            if self._is_flag(word):
                self._flag(word, rest)
            elif self.places:
                self._values(self.places.popleft(), [word], rest)
            else:
                raise _Wrong(f"{word!r} is one word too many; {self._help()}")
        for name in self.places:
            if not _is_list(self.hints[name]):
                raise _Wrong(f"{name}: no value is given; {_accepted(self.hints[name])}")

    def _flag(self, word: str, rest: deque[str]) -> None:
        flag, equals, value = word.partition("=")
        if (name := self._known(flag)) is None:
            raise _Wrong(f"{flag} is unknown{_near(flag, self.flags)}; {self._help()}")
        if self.hints[name] is not bool:
            self._values(name, [value] if equals else [], rest)
        elif equals:
            raise _Wrong(f"{name}: {value!r} is not accepted; accepted is {flag} alone")

    def _known(self, word: str) -> str | None:
        """The field of a flag, which may be typed with underscores and with its value."""
        flag = word.partition("=")[0]
        return self.flags.get(f"--{flag[2:].replace('_', '-')}" if flag.startswith("--") else flag)

    def _values(self, name: str, taken: list[str], rest: deque[str]) -> None:
        hint = self.hints[name]
        several, left = _is_list(hint), sum(not _is_list(self.hints[each]) for each in self.places)
        while rest and (several or not taken) and not self._is_flag(rest[0]):
            # A list leaves words for the places behind it.
            if several and left and len(rest) <= left:
                break
            taken.append(rest.popleft())
        if not several and not taken:
            raise _Wrong(f"{name}: no value is given; {_accepted(hint)}")
        _check(name, taken, hint)

    def _is_flag(self, word: str) -> bool:
        return self._known(word) is not None or _looks_like_a_flag(word)

    def _help(self) -> str:
        return f"{self.command} --help lists what is accepted"


def _looks_like_a_flag(word: str) -> bool:
    """Whether it begins as a flag does; a negative number does not."""
    if word.lower() in ("-inf", "-infinity", "-nan"):
        return False
    return word.startswith("-") and word.lstrip("-")[:1].isalpha()


def _is_list(hint: Any) -> bool:
    return get_origin(hint) is tuple


def _check(name: str, words: Sequence[str], hint: Any) -> None:
    """Raises _Wrong where a word is not what stands at its place."""
    items = _items(hint)
    for number, word in enumerate(words):
        item = items[number % len(items)]
        if not _takes(item, word):
            raise _Wrong(
                f"{name}: {word!r} is not accepted{_near(word, _choices(item))}; {_accepted(hint)}"
            )
    if len(words) % len(items):
        raise _Wrong(f"{name}: {words[-1]!r} has nothing to go with; {_accepted(hint)}")


def _items(hint: Any) -> Sequence[Any]:
    """What stands at the places of a list, over and over; of another type, itself."""
    if not _is_list(hint):
        return (hint,)
    (item, _) = get_args(hint)
    return get_args(item) if _is_list(item) else (item,)


def _takes(hint: Any, word: str) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_takes(each, word) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return word in get_args(hint)
    if hint is NoneType:
        return word == "None"
    if hint in (int, float):
        try:
            hint(word)
        except ValueError:
            return False
    return True


def _choices(hint: Any) -> list[str]:
    """What is accepted: the words of a choice, else their kind."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    told: list[str] = []
    for each in members:
        if each is not NoneType:
            told += get_args(each) or [_KINDS[each]]
    return told


def _accepted(hint: Any) -> str:
    items = _items(hint)
    if len(items) > 1:
        return f"accepted are pairs of {' and '.join(_ONE[item] for item in items)}"
    apart = ", with a space between them" if _is_list(hint) else ""
    return f"accepted are {', '.join(_choices(items[0]))}{apart}"


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
