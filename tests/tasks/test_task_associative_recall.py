"""Associative recall: pairs, queries and their distances as zoology defines them."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from chances import distributed, no_more_than, seeded, uniform
from hypothesis import given
from hypothesis import strategies as st

from headway import HeadwayError
from headway.tasks import IGNORED, AssociativeRecall

FILLERS: tuple[Literal["random", "values", "zero"], ...] = ("random", "values", "zero")


@given(st.integers(1, 6), st.integers(0, 10), st.sampled_from(FILLERS), st.integers(0, 999))
def test_rows_follow_the_definition(
    pairs: int, more: int, filler: Literal["random", "values", "zero"], seed: int
) -> None:
    length = 4 * pairs + 2 * more
    task = AssociativeRecall(vocab_size=60, length=length, pairs=pairs, filler=filler)
    sample = task.sample(4, seeded(seed))
    for i, (row, targets) in enumerate(
        zip(sample.inputs.tolist(), sample.targets.tolist(), strict=True)
    ):
        keys, values = row[: 2 * pairs : 2], row[1 : 2 * pairs : 2]
        assert len(set(keys)) == len(set(values)) == pairs
        assert all(1 <= key < 30 for key in keys)
        assert all(30 <= value < 60 for value in values)
        asked = [at for at, answer in enumerate(targets) if answer != IGNORED]
        assert sorted(row[at] for at in asked) == sorted(keys)
        for at in asked:
            assert at % 2 == 0
            assert at >= 2 * pairs
            first = row.index(row[at])
            assert row[first + 1] == targets[at]
            assert bool(sample.slices["near"][i, at]) == (at - first <= length / 2)
            assert bool(sample.slices["far"][i, at]) == (at - first > length / 2)
        rest = [row[at] for at in range(2 * pairs, length) if at not in asked]
        if filler == "zero":
            assert not any(rest)
        if filler == "values":
            assert all(token >= 30 for token in rest)


def test_a_lookup_solves_it() -> None:
    sample = AssociativeRecall(filler="values").sample(200, seeded(1))
    for row, at in sample.scored.nonzero().tolist():
        same = (sample.inputs[row, :at] == sample.inputs[row, at]).nonzero()[:, 0]
        assert len(same) == 1
        assert sample.inputs[row, int(same) + 1] == sample.targets[row, at]


def test_keys_take_places_one_after_the_other() -> None:
    task = AssociativeRecall(vocab_size=30, length=12, pairs=2, power=0.5, filler="zero")
    sample = task.sample(20_000, seeded(2))
    found = [(sample.inputs[:, 4::2] == sample.inputs[:, [2 * k]]).long().argmax(1) for k in (0, 1)]
    p = task.gaps()
    torch.testing.assert_close(
        p, torch.arange(1, 5).double() ** -0.5 / sum(n**-0.5 for n in range(1, 5))
    )
    joint = p[:, None] * p / (1 - p[:, None])
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    number = torch.full((4, 4), -1)
    for n, (i, j) in enumerate(pairs):
        number[i, j] = n
    distributed(number[found[0], found[1]], torch.stack([joint[i, j] for i, j in pairs]))


def test_the_default_distances_follow_the_power_law() -> None:
    task = AssociativeRecall()
    sample = task.sample(8_000, seeded(3))
    place = (sample.scored[:, 16::2] & (sample.inputs[:, 16::2] == sample.inputs[:, :1])).long()
    distributed(place.argmax(1), task.gaps())


def test_ids_are_uniform() -> None:
    task = AssociativeRecall(vocab_size=50, length=20, pairs=5)
    sample = task.sample(5_000, seeded(4))
    uniform(sample.inputs[:, 2] - 1, 24)
    uniform(sample.inputs[:, 3] - 25, 25)
    # Filler is any id, that of the row's keys too, which are unevenly asked for elsewhere.
    filler = sample.inputs[:, 11]
    uniform(filler, 50)


def test_tables_of_the_training_set_do_not_help() -> None:
    task = AssociativeRecall(vocab_size=100, length=32, pairs=4)
    train, test = task.sample(6_000, seeded(5)), task.sample(3_000, seeded(6))
    counts = torch.zeros(100, 100)
    rows, answers = train.inputs[train.scored], train.targets[train.scored]
    counts.index_put_((rows, answers), torch.ones(len(rows)), accumulate=True)
    first = test.scored.long().argmax(1, keepdim=True)  # answers of a row are not independent
    asked, wanted = test.inputs.gather(1, first), test.targets.gather(1, first)
    no_more_than(counts.argmax(1)[asked] == wanted, task.chance)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"length": 63}, "length"),
        ({"vocab_size": 64}, "vocab_size"),
        ({"pairs": 17}, "pairs"),
        ({"filler": "none"}, "filler"),
    ],
)
def test_refused_numbers(given: dict[str, int], field: str) -> None:
    with pytest.raises(HeadwayError, match=f"associative_recall.{field}: {given[field]!r}"):
        AssociativeRecall(**given)
