"""n-grams: the last n - 1 tokens tell the answer, fewer do not."""

from __future__ import annotations

import pytest
import torch
from chances import happens, no_more_than, seeded, uniform
from hypothesis import given
from hypothesis import strategies as st

from headway import HeadwayError
from headway.tasks import IGNORED, NGram, Sample

TASK = NGram()


def asked(sample: Sample, tokens: int) -> list[tuple[tuple[int, ...], int]]:
    """For each answer, the last `tokens` tokens and the answer."""
    rows, places = sample.scored.nonzero(as_tuple=True)
    windows = torch.stack([sample.inputs[rows, places - k] for k in range(tokens)], 1)
    answers = sample.targets[rows, places].tolist()
    return [(tuple(w), a) for w, a in zip(windows.tolist(), answers, strict=True)]


def test_the_table() -> None:
    table = TASK.table()
    assert table.shape == (200, 3)
    assert len(table[:, :2].unique(dim=0)) == 200
    uniform(torch.cat([NGram(world=w).table() for w in range(20)]), 32)
    assert not torch.equal(table, NGram(world=1).table())
    assert torch.equal(table, NGram(length=10).table())


@given(st.integers(2, 4), st.integers(1, 8), st.integers(0, 999))
def test_rows_are_ngrams_from_any_place(order: int, contexts: int, seed: int) -> None:
    task = NGram(order=order, contexts=contexts, vocab_size=9, length=14)
    table = {tuple(gram) for gram in task.table().tolist()}
    sample = task.sample(4, seeded(seed))
    for row, targets in zip(sample.inputs.tolist(), sample.targets.tolist(), strict=True):
        places = [at for at, answer in enumerate(targets) if answer != IGNORED]
        assert places == list(range(places[0], 14, order))
        assert order - 2 <= places[0] <= 2 * order - 3
        for at in places:
            assert (*row[at - order + 2 : at + 1], targets[at]) in table
            assert at == 13 or row[at + 1] == targets[at]


def test_a_trigram_table_solves_it_and_a_bigram_table_does_not() -> None:
    train, test = TASK.sample(300, seeded(1)), TASK.sample(300, seeded(2))
    learned = dict(asked(train, 2))
    assert len(learned) == 200
    assert all(learned[window] == answer for window, answer in asked(test, 2))
    counts = torch.zeros(32, 32)
    for (last,), answer in asked(train, 1):
        counts[last, answer] += 1
    hits = [int(counts[last].argmax()) == answer for (last,), answer in asked(test, 1)]
    possible = torch.zeros(32, 32)
    for _, last, answer in TASK.table().tolist():
        possible[last, answer] += 1
    ceiling = float(possible.max(1).values.sum()) / 200
    assert ceiling < 0.4
    no_more_than(torch.tensor(hits), ceiling)


def test_contexts_and_beginnings_are_uniform() -> None:
    sample = TASK.sample(3_000, seeded(3))
    numbers = {tuple(c): i for i, (*c, _) in enumerate(TASK.table().tolist())}
    uniform(torch.tensor([numbers[w[::-1]] for w, _ in asked(sample, 2)]), 200)
    uniform(sample.scored.long().argmax(1) - 1, 3)


def test_chance_is_the_commonest_answer() -> None:
    sample = TASK.sample(400, seeded(4))
    answers = sample.targets[sample.scored]
    commonest = TASK.table()[:, 2].bincount().argmax()
    happens(answers == commonest, TASK.chance)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"contexts": 5, "vocab_size": 2}, "contexts"),
        ({"order": 1}, "order"),
        ({"order": 14}, "order"),
        ({"length": 2}, "length"),
    ],
)
def test_refused_numbers(given: dict[str, int], field: str) -> None:
    with pytest.raises(HeadwayError, match=f"ngram.{field}: {given[field]}"):
        NGram(**given)
