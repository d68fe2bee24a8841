"""Draws without repeats are without repeats, and uniform."""

from __future__ import annotations

import pytest
import torch
from chances import seeded, uniform
from hypothesis import given
from hypothesis import strategies as st

from headway import HeadwayError
from headway.tasks.draws import distinct, repeats, shuffled, walk


@pytest.mark.parametrize(("count", "of"), [(2, 9), (3, 4), (4, 4)])
def test_every_ordered_choice_is_equally_likely(count: int, of: int) -> None:
    drawn = distinct(20_000, count, of, seeded(1))
    codes = (drawn * of ** torch.arange(count)).sum(1)
    possible = torch.cartesian_prod(*[torch.arange(of)] * count)
    possible = possible[~repeats(possible).any(1)]
    number = {int(c): i for i, c in enumerate((possible * of ** torch.arange(count)).sum(1))}
    uniform(torch.tensor([number[c] for c in codes.tolist()]), len(possible))


def test_more_numbers_than_there_are() -> None:
    with pytest.raises(HeadwayError, match="at most 4"):
        distinct(1, 5, 4, seeded(0))


@given(st.integers(0, 99), st.integers(1, 12), st.integers(1, 8))
def test_repeats_are_those_further_left(seed: int, count: int, of: int) -> None:
    values = torch.randint(of, (3, count), generator=seeded(seed))
    expected = [[v in row[:i] for i, v in enumerate(row)] for row in values.tolist()]
    assert repeats(values).tolist() == expected


def test_a_walk_never_stays_and_is_uniform() -> None:
    path = walk(2_000, 12, 5, seeded(2))
    assert (path[:, 1:] != path[:, :-1]).all()
    assert path.min() == 0
    uniform(path[:, 0], 5)
    uniform(path[:, 11], 5)
    uniform((path[:, 6] - path[:, 5]) % 5 - 1, 4)


def test_shuffled_rows_are_in_every_order() -> None:
    rows = shuffled(torch.arange(3).repeat(12_000, 1), seeded(3))
    assert (rows.sort(1).values == torch.arange(3)).all()
    uniform((rows[:, 0] * 2 + (rows[:, 1] > rows[:, 2])), 6)
