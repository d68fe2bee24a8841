"""Indirect objects: balanced, different prompts whose answer is the name that stands once."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path

import pytest
import torch
from chances import independent, no_more_than, seeded, table_guess, uniform
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from headway import HeadwayError
from headway.tasks import IGNORED, IndirectObject, NamesSample, Words, name_scores
from headway.tasks.ioi import OPENINGS, PLACES, THINGS


def texts(sample: NamesSample, words: Words) -> list[tuple[str, str, str]]:
    """Each prompt with its right and its wrong name."""
    found = []
    for row, targets, wrong in zip(
        sample.inputs.tolist(), sample.targets.tolist(), sample.wrong.tolist(), strict=True
    ):
        (last,) = [i for i, target in enumerate(targets) if target != IGNORED]
        decoded = (words.decode(row[: last + 1]), words.decode([targets[last]]))
        found.append((*decoded, words.decode([wrong])))
    return found


def test_the_answer_is_the_name_that_stands_once() -> None:
    words = Words()
    task = IndirectObject(encode=words)
    sample = task.sample(1_000, seeded(1))
    names = "|".join(task.kept)
    prompts = texts(sample, words)
    for i, (text, right, wrong) in enumerate(prompts):
        first, second, subject = re.findall(rf" ({names})\b", text)
        assert first != second
        assert subject == (second if i % 2 == 0 else first)
        assert (right, wrong) == (f" {first if i % 2 == 0 else second}", f" {subject}")
        assert text.endswith(" to")
    assert len({text for text, *_ in prompts}) == 1_000
    abba = sample.slices["abba"][:, 0]
    assert abba.tolist() == [True, False] * 500
    assert torch.equal(sample.slices["baba"], ~sample.slices["abba"])
    for one, other in zip(prompts[::2], prompts[1::2], strict=True):
        assert one[1:] == other[:0:-1]


def test_there_are_enough_prompts_and_the_published_ones_are_among_them() -> None:
    words = Words()
    task = IndirectObject(encode=words, names=("John", "Mary"))
    assert task.prompts >= 200
    found = {text for text, *_ in texts(task.sample(task.prompts, seeded(2)), words)}
    assert len(found) == task.prompts
    assert "After John and Mary went to the store, John gave a bottle of milk to" in found
    others = {
        ("Tom", "James"): "When Tom and James went to the park, James gave the ball to",
        ("Dan", "Emily"): "When Dan and Emily went to the shops, Dan gave an apple to",
        ("Sam", "Amy"): "After Sam and Amy went to the park, Amy gave a drink to",
    }
    for names, prompt in others.items():
        task = IndirectObject(encode=words, names=names)
        assert prompt in {t for t, *_ in texts(task.sample(task.prompts, seeded(3)), words)}


def test_names_are_uniform() -> None:
    words = Words()
    task = IndirectObject(encode=words)
    number = {identity: i for i, identity in enumerate(task.kept.values())}
    sample = task.sample(8_000, seeded(4))
    right = sample.targets.max(1).values
    uniform(torch.tensor([number[int(n)] for n in right[::2]]), len(number))


WORDS = Words()
BLANK = "#"
(PAD,) = WORDS(BLANK)
TASK = IndirectObject(encode=WORDS, pad=PAD)


@given(st.integers(1, 20), st.integers(0, 999))
def test_without_the_third_name_both_answers_are_as_likely(pairs: int, seed: int) -> None:
    sample = TASK.sample(2 * pairs, seeded(seed))
    assert ((sample.inputs[::2] != sample.inputs[1::2]).sum(1) == 1).all()
    right, wrong = sample.targets.max(1).values, sample.wrong
    assert torch.equal(right[::2], wrong[1::2])
    assert torch.equal(wrong[::2], right[1::2])


def numbers_of(names: Tensor) -> Tensor:
    """Of the names that ids are, -1 where one is none."""
    number = torch.full((WORDS.vocab_size,), -1)
    number[torch.tensor(list(TASK.kept.values()))] = torch.arange(len(TASK.kept))
    return number[names]


def names_in(sample: NamesSample) -> tuple[Tensor, Tensor]:
    """Numbers of the three names of each row `(B, 3)`, and the rows without them."""
    names = numbers_of(sample.inputs)
    return names[names >= 0].view(-1, 3), sample.inputs.masked_fill(names >= 0, PAD)


def frames_of(rows: Tensor) -> Tensor:
    """Numbers of opening, place and thing `(B, 3)` of rows whose names are blank."""
    numbers = {
        opening.format(A=BLANK, B=BLANK, S=BLANK, place=place, thing=thing): (o, p, t)
        for (o, opening), (p, place), (t, thing) in product(
            enumerate(OPENINGS), enumerate(PLACES), enumerate(THINGS)
        )
    }
    different, which = rows.unique(dim=0, return_inverse=True)
    found = [numbers[WORDS.decode(row).rstrip(BLANK)] for row in different.tolist()]
    return torch.tensor(found)[which]


def test_names_are_drawn_apart_from_the_frame_and_from_the_order() -> None:
    names, rest = names_in(TASK.sample(12_000, seeded(8)))
    frames = frames_of(rest)
    for name, part in product((0, 1), range(3)):
        independent(names[::2, name], frames[::2, part], checks=13)
    for one, other in combinations(range(3), 2):
        independent(frames[::2, one], frames[::2, other], checks=13)
    # One order of each pair of rows, which hang together: of half of them the second.
    once = torch.cat([torch.arange(0, 6_000, 2), torch.arange(6_001, 12_000, 2)])
    for drawn in (names[once, 2], *frames[once].T):
        independent(drawn, once % 2, checks=13)


def test_tables_of_the_training_set_do_not_help() -> None:
    train, test = TASK.sample(8_000, seeded(9)), TASK.sample(8_000, seeded(10))
    (names, seen), (others, asked) = names_in(train), names_in(test)
    answers, wanted = (numbers_of(s.targets.max(1).values[::2]) for s in (train, test))
    from_frame = table_guess(seen[::2], answers, asked[::2])
    no_more_than(from_frame == wanted, 1 / len(TASK.kept))
    # The third name is never the answer, which is all that it tells.
    from_third = table_guess(names[::2, 2:], answers, others[::2, 2:])
    no_more_than(from_third == wanted, 1 / (len(TASK.kept) - 1))


def test_names_must_be_one_token_that_the_corpus_knows() -> None:
    words = Words()
    names = ("John", "Mary", "Lou Ann", "Tom")
    assert list(IndirectObject(encode=words, names=names).kept) == ["John", "Mary", "Tom"]
    counts = torch.zeros(words(" Tom")[0])
    counts[words(" John")], counts[words(" Mary")] = 3, 1
    known = IndirectObject(encode=words, names=names, counts=counts)
    assert list(known.kept) == ["John", "Mary"]
    with pytest.raises(HeadwayError, match=r"ioi\.names: .* two names"):
        IndirectObject(encode=words, names=names, counts=counts, min_count=2)


def test_scores_by_hand() -> None:
    words = Words()
    sample = IndirectObject(encode=words).sample(4, seeded(5))
    logits = torch.zeros(4, sample.inputs.shape[1], 1000)
    rows, at = sample.scored.nonzero(as_tuple=True)
    right = sample.targets[rows, at]
    logits[rows, at, right] = torch.tensor([5.0, 1.0, 5.0, 0.0])
    logits[rows, at, sample.wrong] = torch.tensor([0.0, 2.0, 2.0, 0.0])
    logits[2, at[2], 999] = 9.0
    scores = name_scores(logits, sample)
    torch.testing.assert_close(scores["all"]["difference"], torch.tensor(7 / 4))
    assert scores["all"]["preferred"] == 0.5
    assert scores["all"]["accuracy"] == 0.25
    assert scores["abba"]["preferred"] == 1
    assert scores["baba"]["preferred"] == 0
    chances = logits[rows, at].softmax(-1)
    expected = chances[torch.arange(4), right][1::2].mean()
    torch.testing.assert_close(scores["baba"]["right"], expected)
    expected = chances[torch.arange(4), sample.wrong].mean()
    torch.testing.assert_close(scores["all"]["wrong"], expected)


def test_what_stands_behind_a_prompt_does_not_count() -> None:
    words = Words()
    sample = IndirectObject(encode=words, pad=7).sample(200, seeded(6))
    last = sample.scored.long().argmax(1)
    assert len(last.unique()) > 1
    behind = torch.arange(sample.inputs.shape[1]) > last[:, None]
    assert (sample.inputs[behind] == 7).all()


def test_refusals() -> None:
    words = Words()
    task = IndirectObject(encode=words, names=("John", "Mary"))
    for batch in (3, task.prompts + 2):
        with pytest.raises(HeadwayError, match=f"batch: {batch} .* up to {task.prompts}"):
            task.sample(batch, seeded(0))

    def bytes_of(text: str) -> Sequence[int]:
        return list(text.encode())

    with pytest.raises(HeadwayError, match=r"ioi\.names"):
        IndirectObject(encode=bytes_of)

    def begins_anew(text: str) -> Sequence[int]:
        """A tokenizer that marks the beginning of a text."""
        return words(text) if text in (" John", " Mary") else [999, *words(text)]

    with pytest.raises(HeadwayError, match=r"ioi\.encode"):
        IndirectObject(encode=begins_anew, names=("John", "Mary"))


def test_with_a_trained_tokenizer() -> None:
    """GPT-2's, which keeps these names whole."""
    folder = os.environ.get("HEADWAY_DATA")
    if folder is None:
        pytest.skip("HEADWAY_DATA names no folder with tokenizers")
    library = pytest.importorskip("tokenizers")
    tokenizer = library.Tokenizer.from_file(str(Path(folder) / "tokenizers" / "gpt2.json"))

    def encode(text: str) -> Sequence[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    task = IndirectObject(encode=encode)
    assert len(task.kept) > 40
    sample = task.sample(200, seeded(7))
    for row, targets in zip(sample.inputs.tolist(), sample.targets.tolist(), strict=True):
        (last,) = [i for i, target in enumerate(targets) if target != IGNORED]
        assert encode(tokenizer.decode(row[: last + 1])) == row[: last + 1]
