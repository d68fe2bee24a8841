"""Indirect objects: balanced, different prompts whose answer is the name that stands once."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from chances import seeded, uniform

from headway import HeadwayError
from headway.tasks import IGNORED, IndirectObject, NamesSample, Words, name_scores


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
