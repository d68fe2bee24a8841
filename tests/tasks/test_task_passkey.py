"""Passkey: the prompt says the key where it should, and the answer is the key."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
import torch
from chances import independent, no_more_than, seeded, table_guess, uniform
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from headway import HeadwayError
from headway.tasks import IGNORED, Passkey, Sample, Words, exact_match
from headway.tasks.passkey import FILLER, OPENING

HIDDEN = re.compile(r"\nThe pass key is (\d+)\. Remember it\. (\d+) is the pass key\.\n")


class Pairs(Words):
    """Two zeros are one token, so keys have different lengths."""

    def __call__(self, text: str, /) -> list[int]:
        return super().__call__(text.replace("00", "Ω"))


def answer(sample: Sample, words: Words, row: int) -> str:
    return words.decode(t for t in sample.targets[row].tolist() if t != IGNORED).strip()


@given(st.integers(150, 300), st.integers(1, 6), st.floats(0, 1), st.integers(0, 999))
def test_rows_are_the_prompt(length: int, digits: int, depth: float, seed: int) -> None:
    words = Pairs()
    task = Passkey(encode=words, length=length, digits=digits, depth=depth)
    sample = task.sample(3, seeded(seed))
    assert sample.inputs.shape == (3, length)
    for row in range(3):
        key = answer(sample, words, row)
        last = int(sample.targets[row, -1])
        text = words.decode([*sample.inputs[row].tolist(), last])
        assert text.endswith(f"\nWhat is the pass key? The pass key is {key}")
        assert len(key.replace("Ω", "00")) == digits
        assert key[0] not in "0Ω"
        (found,) = re.findall(HIDDEN.pattern.replace(r"\d", r"[\dΩ]"), text)
        assert found == (key, key)
        assert text.startswith(OPENING)
        before, after = re.split(r"\nThe pass key is .*? is the pass key\.\n", text)
        filler = before.removeprefix(OPENING) + after[: after.rindex("\nWhat")]
        assert (FILLER * 40).startswith(filler)
        scored = (sample.targets[row] != IGNORED).nonzero()[:, 0].tolist()
        assert scored == list(range(length - len(scored), length))


def test_the_depth_is_a_share_of_the_filler() -> None:
    words = Words()
    for depth, part in ((0, "early"), (0.5, "middle"), (1.0, "late")):
        sample = Passkey(encode=words, length=400, depth=depth).sample(2, seeded(1))
        assert sample.slices[part].all()
        text = words.decode(sample.inputs[0].tolist()).removeprefix(OPENING)
        before, *_, after = HIDDEN.split(text)
        ahead, behind = len(words(before)), len(words(after[: after.rindex("\nWhat")]))
        assert abs(ahead - depth * (ahead + behind)) <= 1


def test_keys_and_depths_are_uniform() -> None:
    words = Words()
    sample = Passkey(encode=words, length=220).sample(3_000, seeded(2))
    first = {words(f" {digit}")[0]: digit - 1 for digit in range(1, 10)}
    scored = sample.targets.max(0).values != IGNORED
    keys = sample.targets[:, scored]
    uniform(torch.tensor([first[int(k)] for k in keys[:, 0]]), 9)
    last = {words(str(digit))[0]: digit for digit in range(10)}
    uniform(torch.tensor([last[int(k)] for k in keys[:, -1]]), 10)
    # The room for filler is what the prompt with the key at the end of it has in front.
    place = (sample.inputs == words(" Remember")[0]).long().argmax(1)
    deepest = Passkey(encode=words, length=220, depth=1.0).sample(1, seeded(0))
    nearest = Passkey(encode=words, length=220, depth=0.0).sample(1, seeded(0))
    low, high = ((s.inputs[0] == words(" Remember")[0]).nonzero() for s in (nearest, deepest))
    room = int(high - low)
    uniform(place - int(low), room + 1)
    ahead = (place - int(low))[:, None]
    for i, part in enumerate(("early", "middle", "late")):
        inside = (3 * ahead >= i * room) & ((3 * ahead < (i + 1) * room) | (i == 2))
        assert torch.equal(sample.slices[part], inside.expand_as(sample.targets))


def digits_of(ids: Tensor, words: Words) -> Tensor:
    """The digit that each token is, -1 where it is none."""
    found = torch.full_like(ids, -1)
    for digit in range(10):
        for token in (*words(str(digit)), *words(f" {digit}")):
            found[ids == token] = digit
    return found


def keys_of(sample: Sample, words: Words) -> Tensor:
    """`(B, digits)`."""
    return digits_of(sample.targets[sample.scored].view(len(sample.targets), -1), words)


def test_digits_tell_nothing_of_each_other_or_of_the_depth() -> None:
    words = Words()
    sample = Passkey(encode=words, length=150).sample(6_000, seeded(6))
    keys = keys_of(sample, words)
    for one, other in combinations(range(5), 2):
        independent(keys[:, one], keys[:, other], checks=15)
    third = torch.stack([sample.slices[part][:, 0] for part in ("early", "middle", "late")], 1)
    for digit in keys.T:
        independent(third.long().argmax(1), digit, checks=15)


@pytest.mark.parametrize("filler", [None, torch.arange(100, 130)])
def test_what_is_not_the_key_does_not_tell_it(filler: Tensor | None) -> None:
    """Nor does the place where it stands, which is blank here."""
    words = Words()
    task = Passkey(encode=words, length=130, filler=filler)
    train, test = task.sample(4_000, seeded(7)), task.sample(3_000, seeded(8))
    seen, asked = (s.inputs.masked_fill(digits_of(s.inputs, words) >= 0, 0) for s in (train, test))
    assert (seen == 0).sum(1).min() >= 14
    for place, (answers, wanted) in enumerate(
        zip(keys_of(train, words).T, keys_of(test, words).T, strict=True)
    ):
        guess = table_guess(seen, answers, asked)
        no_more_than(guess == wanted, 1 / 10 if place else 1 / 9)


@given(st.integers(130, 200), st.integers(1, 6), st.floats(0, 1), st.integers(0, 999))
def test_rows_of_one_depth_differ_in_the_key_alone(
    length: int, digits: int, depth: float, seed: int
) -> None:
    words = Words()
    rows = Passkey(encode=words, length=length, digits=digits, depth=depth).sample(8, seeded(seed))
    key = digits_of(rows.inputs, words) >= 0
    assert (key.sum(1) == 3 * digits - 1).all()
    assert (key == key[0]).all()
    rest = rows.inputs.masked_fill(key, 0)
    assert (rest == rest[0]).all()
    assert (rows.scored == rows.scored[0]).all()


def test_real_text_is_cut_from_any_place() -> None:
    words = Words()
    shortest = len(words(OPENING))
    filler = torch.arange(500, 800)
    sample = Passkey(encode=words, length=200, depth=1.0, filler=filler).sample(200, seeded(3))
    begins = sample.inputs[:, shortest] - 500
    assert len(begins.unique()) > 100
    row = sample.inputs[0].tolist()
    text = [token - 500 for token in row if token >= 500]
    assert text == [(text[0] + i) % 300 for i in range(len(text))]


def test_copying_from_the_hidden_line_retrieves_the_key() -> None:
    words = Words()
    task = Passkey(encode=words, length=300)
    sample = task.sample(20, seeded(4))
    logits = torch.zeros(20, 300, words.vocab_size)
    for row, tokens in enumerate(sample.inputs.tolist()):
        begin = tokens.index(words(" Remember")[0]) - 6
        for k in range(5):
            logits[row, 295 + k, tokens[begin + k]] = 1
    assert exact_match(logits, sample)["all"] == 1
    logits[3, 297] = 0
    assert exact_match(logits, sample)["all"] == pytest.approx(19 / 20)


def test_too_short_a_row() -> None:
    words = Words()
    with pytest.raises(HeadwayError, match=r"passkey\.length: 20") as refused:
        Passkey(encode=words, length=20).sample(2, seeded(0))
    (least,) = re.findall(r"at least (\d+)", str(refused.value))
    sample = Passkey(encode=words, length=int(least)).sample(2, seeded(0))
    assert "grass" not in words.decode(sample.inputs[0].tolist())
    with pytest.raises(HeadwayError):
        Passkey(encode=words, length=int(least) - 1).sample(2, seeded(0))


@pytest.mark.parametrize(
    ("field", "value"), [("depth", 1.2), ("digits", 0), ("filler", torch.zeros(0)), ("encode", 3)]
)
def test_refused_values(field: str, value: object) -> None:
    with pytest.raises(HeadwayError, match=rf"passkey\.{field}: "):
        Passkey(**{"encode": Words(), field: value})


def test_with_a_trained_tokenizer() -> None:
    """GPT-2's, whose digits come in groups."""
    folder = os.environ.get("HEADWAY_DATA")
    if folder is None:
        pytest.skip("HEADWAY_DATA names no folder with tokenizers")
    library = pytest.importorskip("tokenizers")
    tokenizer = library.Tokenizer.from_file(str(Path(folder) / "tokenizers" / "gpt2.json"))

    def encode(text: str) -> Sequence[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    sample = Passkey(encode=encode, length=512).sample(50, seeded(5))
    for row, targets in zip(sample.inputs.tolist(), sample.targets.tolist(), strict=True):
        key = tokenizer.decode([t for t in targets if t != IGNORED])
        assert re.fullmatch(r" [1-9]\d{4}", key)
        assert f"The pass key is{key}. Remember it.{key} is the pass key." in tokenizer.decode(row)
