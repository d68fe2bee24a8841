"""Induction: the rule holds wherever it is scored, and is nowhere but in the context."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from chances import distributed, mean_is, no_more_than, seeded, uniform
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from headway import HeadwayError
from headway.tasks import IGNORED, Induction, Sample

SMALL = st.builds(
    Induction,
    length=st.integers(4, 40),
    candidates=st.integers(3, 12),
    vocab_size=st.integers(20, 60),
    first_id=st.integers(0, 8),
)


def read(row: list[int]) -> tuple[list[int], list[int]]:
    """Where a row's repeats stand, and which of them are clean: the definition, token by token."""
    followers: dict[int, int] = {}
    spoiled: set[int] = set()
    repeats, clean, at = [], [], 0
    while at < len(row) - 1:
        token, following = row[at], row[at + 1]
        if token not in followers:
            followers[token] = following
            at += 1
            continue
        assert followers[token] == following, f"{token} at {at} brings {following}"
        repeats.append(at)
        if token not in spoiled:
            clean.append(at)
        spoiled.add(following)
        at += 2
    return repeats, clean


def scored_at(row: Tensor) -> list[int]:
    return (row != IGNORED).nonzero()[:, 0].tolist()


@given(SMALL, st.integers(0, 9999))
def test_rows_follow_the_definition(task: Induction, seed: int) -> None:
    samples: dict[str, Sample] = {}
    for scored in ("all", "clean", "first"):
        kind: Literal["all", "clean", "first"] = scored  # type: ignore[assignment]
        made = Induction(**{**task.__dict__, "scored": kind})
        samples[scored] = made.sample(3, seeded(seed))
    inputs = samples["all"].inputs
    assert all(torch.equal(inputs, s.inputs) for s in samples.values())
    assert (inputs[:, 1:] != inputs[:, :-1]).all()
    assert inputs.min() >= task.first_id
    assert inputs.max() < task.vocab_size
    for i, row in enumerate(inputs.tolist()):
        asked = samples["all"].targets[i]
        # What follows the last token is seen in its target alone, if it has one.
        last = int(asked[-1])
        repeats, clean = read([*row, last if last != IGNORED else task.vocab_size])
        assert scored_at(asked) == repeats
        assert scored_at(samples["clean"].targets[i]) == clean
        assert scored_at(samples["first"].targets[i]) == repeats[:1]
        assert (
            scored_at(torch.where(samples["all"].slices["first"][i], asked, IGNORED))
            == (repeats[:1])
        )
        for at in repeats:
            assert asked[at] == ([*row, last])[at + 1]
        for at in clean:
            earlier = [j for j in range(at) if row[j] == row[at]]
            assert earlier
            assert {row[j + 1] for j in earlier} == {int(asked[at])}


def test_an_induction_head_solves_it() -> None:
    sample = Induction().sample(16, seeded(1))
    where = sample.scored.nonzero()
    for copying in ("earliest", "latest"):
        for row, at in where.tolist():
            tokens = sample.inputs[row]
            same = (tokens[:at] == tokens[at]).nonzero()[:, 0]
            found = same[0 if copying == "earliest" else -1]
            assert tokens[found + 1] == sample.targets[row, at]


def test_statistics_are_the_published_ones() -> None:
    task = Induction(scored="all")
    sample = task.sample(4_000, seeded(2))
    # After n different tokens, the next is one of the n - 1 seen before the last, of 511.
    waits, alive = [0.0], 1.0
    for n in range(1, 120):
        waits.append(alive * (n - 1) / 511)
        alive *= 1 - (n - 1) / 511
    first = torch.where(sample.scored, 1, 0).argmax(1)
    kept = first < 80
    distributed(first[kept] // 10, torch.tensor(waits[:80]).view(8, 10).sum(1))
    mean_is(first, sum(i * p for i, p in enumerate(waits)))
    # The published generator's rows: 29.1 tokens, 276 different ones, 119 repeats.
    assert abs(first.double().mean() - 29.1) < 1.0
    different = torch.tensor([len(row.unique()) for row in sample.inputs[:500]])
    assert abs(different.double().mean() - 276) < 3
    assert abs(sample.scored.sum(1).double().mean() - 119) < 3


def test_ids_are_uniform() -> None:
    task = Induction(length=8, candidates=12, vocab_size=60, first_id=11)
    sample = task.sample(12_000, seeded(3))
    uniform(sample.inputs[:, 0] - 11, 49)
    uniform(sample.inputs[:, 7] - 11, 49)


def test_tables_of_the_training_set_do_not_help() -> None:
    task = Induction(vocab_size=400, candidates=64, length=128, scored="all")
    train, test = task.sample(3_000, seeded(4)), task.sample(800, seeded(5))
    pairs = torch.zeros(400, 400)
    scored = train.scored
    rows, answers = train.inputs[scored], train.targets[scored]
    pairs.index_put_((rows, answers), torch.ones(len(rows)), accumulate=True)
    # One answer a row: answers of one row depend on each other.
    at = test.scored.double().multinomial(1, generator=seeded(6))
    asked, wanted = test.inputs.gather(1, at), test.targets.gather(1, at)
    no_more_than(pairs.argmax(1)[asked] == wanted, task.chance)
    no_more_than(pairs.sum(0).argmax() == wanted, task.chance)
    # Nor does copying from a fixed distance, beyond the luck of hitting one of the tokens seen.
    for back in range(1, 16):
        copied = test.inputs.gather(1, (at - back).clamp(min=0))
        no_more_than((copied == wanted) & (at >= back), 0.06)


@pytest.mark.parametrize(
    ("field", "value"), [("length", 3), ("candidates", 8000), ("scored", "last"), ("first_id", -1)]
)
def test_refused_numbers(field: str, value: object) -> None:
    with pytest.raises(HeadwayError, match=f"induction.{field}: {value!r}"):
        Induction(**{field: value})
