"""What the tasks of text need of a tokenizer, and one of whole words to try them with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from headway.errors import HeadwayError

_WORD = re.compile(r" ?[^\W\d]+| ?\d|\s|.")


@runtime_checkable
class Encode(Protocol):
    """Text to ids, whole and without special tokens.

    Of the tokenizers library: `lambda text: tokenizer.encode(text, add_special_tokens=False).ids`.
    """

    def __call__(self, text: str, /) -> Sequence[int]: ...


@dataclass
class Words:
    """Words with the space before them, digits and other characters; ids in order of appearance.

    Attributes:
        vocab_size: how many different tokens there may be.
        tokens: those that were seen so far.
    """

    vocab_size: int = 1000
    tokens: list[str] = field(default_factory=list, repr=False)
    _ids: dict[str, int] = field(default_factory=dict, repr=False)

    def __call__(self, text: str, /) -> list[int]:
        """The ids of a text.

        Raises:
            HeadwayError: more different tokens than `vocab_size`.
        """
        return [self._id(token) for token in _WORD.findall(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        return "".join(self.tokens[number] for number in ids)

    def _id(self, token: str) -> int:
        if token not in self._ids:
            if len(self.tokens) >= self.vocab_size:
                raise HeadwayError(
                    f"text: {token!r} is not accepted; accepted are the {self.vocab_size} tokens "
                    "seen so far, or a larger vocab_size"
                )
            self._ids[token] = len(self.tokens)
            self.tokens.append(token)
        return self._ids[token]
