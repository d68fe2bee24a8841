"""The tokenizer of whole words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway import HeadwayError
from headway.tasks import Encode, Words


@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    words = Words()
    assert words.decode(words(text)) == text


def test_tokens_are_words_and_digits() -> None:
    words = Words()
    assert [words.decode([i]) for i in words("One day, 42 men\n left.")] == (
        ["One", " day", ",", " 4", "2", " men", "\n", " left", "."]
    )
    assert words(" day day") == [1, 1]
    assert isinstance(words, Encode)


def test_a_full_vocabulary() -> None:
    words = Words(vocab_size=2)
    words("a b")
    with pytest.raises(HeadwayError, match="' c'"):
        words(" c")
