"""Hops: the answers are those of the definition, character by character."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from chances import happens, no_more_than, seeded, uniform
from hypothesis import given
from hypothesis import strategies as st

from headway import HeadwayError
from headway.tasks import IGNORED, Hops

TASK = Hops()


def led_to(text: list[int], hops: int, at: int) -> int | None:
    """Where `hops` hops from `at` lead."""
    for _ in range(hops):
        earlier = [j for j in range(at) if text[j] == text[at]]
        if not earlier:
            return None
        at = earlier[-1] + 1
    return at


SMALL = st.builds(
    Hops,
    characters=st.integers(2, 5),
    min_hops=st.integers(0, 2),
    max_hops=st.integers(2, 6),
    length=st.integers(2, 30),
)


@given(SMALL, st.integers(0, 9999))
def test_answers_follow_the_definition(task: Hops, seed: int) -> None:
    sample = task.sample(3, seeded(seed))
    some = replace(task, scored="existing").sample(3, seeded(seed))
    for i, (row, targets) in enumerate(
        zip(sample.inputs.tolist(), sample.targets.tolist(), strict=True)
    ):
        hops, text = row[0] + task.min_hops, row[1:]
        assert targets[0] == task.blank
        assert all(a != b for a, b in itertools.pairwise(text))
        assert {c - task.first_character for c in text} <= set(range(task.characters))
        for at, answer in enumerate(targets[1:]):
            place = led_to(text, hops, at)
            expected = task.missing if place is None else text[place]
            assert answer == expected
            kept = int(some.targets[i, at + 1])
            assert kept == (IGNORED if place is None else expected)
            assert bool(sample.slices["existing"][i, at + 1]) == (place is not None)
            assert bool(sample.slices["missing"][i, at + 1]) == (place is None)
            for k in range(task.min_hops, task.max_hops + 1):
                part = bool(sample.slices[f"hops_{k}"][i, at + 1])
                assert part == (k == hops and place is not None)
    assert torch.equal(sample.inputs, some.inputs)
    assert not some.scored[:, 0].any()


def test_sizes_are_the_published_ones() -> None:
    sample = TASK.sample(4, seeded(1))
    assert sample.inputs.shape == (4, 99)
    assert (TASK.first_character, TASK.missing, TASK.blank, TASK.vocab_size) == (17, 21, 22, 30)


def test_numbers_of_hops_and_characters_are_uniform() -> None:
    sample = TASK.sample(6_000, seeded(2))
    uniform(sample.inputs[:, 0], 17)
    uniform(sample.inputs[:, 50] - 17, 4)
    fixed = Hops(hops=5).sample(50, seeded(3))
    assert (fixed.inputs[:, 0] == 5).all()


def test_the_last_answer_exists_for_many_hops() -> None:
    """The longest question of the default must have an answer often enough to be measured."""
    sample = Hops(hops=16).sample(500, seeded(4))
    assert sample.slices["existing"][:, -1].float().mean() > 0.5


@pytest.mark.parametrize(("hops", "echo"), [(2, 0.505), (8, 0.27), (16, 0.25)])
def test_tables_of_the_training_set_do_not_help(hops: int, echo: float) -> None:
    # Two hops come back to the character they left half of the time; with more this fades.
    task = Hops(hops=hops, scored="existing")
    train, test = task.sample(4_000, seeded(5)), task.sample(4_000, seeded(6))

    def last(sample: torch.Tensor) -> torch.Tensor:
        return sample[:, -1] - task.first_character

    counts = torch.zeros(4, 30)
    known = train.scored[:, -1]
    where = (last(train.inputs)[known], train.targets[known, -1])
    counts.index_put_(where, torch.ones(int(known.sum())), accumulate=True)
    asked = test.scored[:, -1]
    right = counts.argmax(1)[last(test.inputs)] == test.targets[:, -1]
    no_more_than(right[asked], echo)


def test_one_hop_never_leads_to_the_same_character() -> None:
    task = Hops(hops=1, scored="existing")
    sample = task.sample(4_000, seeded(7))
    asked = sample.scored[:, -1]
    assert (sample.inputs != sample.targets)[sample.scored].all()
    happens((sample.targets[:, -1] == (sample.inputs[:, -1] - 16) % 4 + 17)[asked], 1 / 3)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"max_hops": 1, "min_hops": 2}, "max_hops"),
        ({"hops": 17}, "hops"),
        ({"vocab_size": 22}, "vocab_size"),
        ({"characters": 1}, "characters"),
    ],
)
def test_refused_numbers(given: dict[str, int], field: str) -> None:
    with pytest.raises(HeadwayError, match=f"hops.{field}: {given[field]}"):
        Hops(**given)
