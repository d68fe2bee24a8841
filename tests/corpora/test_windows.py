"""Windows: a pure function of seed and step, each token once an epoch, refused when too short."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway.corpora import Windows, validation_windows
from headway.errors import HeadwayError

TOKENS = np.arange(5_000, dtype=np.uint16)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int]:
    """A context and a number of tokens that holds at least one window."""
    context = draw(st.integers(1, 40))
    return context, draw(st.integers(context + 1, 500))


def test_a_batch_is_int64_windows_of_consecutive_tokens() -> None:
    batch = Windows(TOKENS, 16, 8, 0).batch(3)
    assert batch.shape == (8, 17)
    assert batch.dtype == torch.int64
    assert torch.equal(batch - batch[:, :1], torch.arange(17).expand(8, 17))


@given(st.integers(0, 5), st.lists(st.integers(0, 200), min_size=1, max_size=10))
def test_the_batch_depends_on_seed_and_step_alone(seed: int, steps: list[int]) -> None:
    used = Windows(TOKENS, 64, 8, seed)
    for step in steps:
        assert torch.equal(used.batch(step), Windows(TOKENS, 64, 8, seed).batch(step))


def test_large_token_ids_survive() -> None:
    tokens = np.full(50, 4_000_000_000, dtype=np.uint32)
    assert Windows(tokens, 8, 2, 0).batch(0).unique().tolist() == [4_000_000_000]


@given(shapes(), st.integers(1, 9), st.integers(0, 3))
def test_no_token_is_read_twice_in_an_epoch(
    shape: tuple[int, int], batch_size: int, seed: int
) -> None:
    context, count = shape
    tokens = np.arange(count, dtype=np.uint16)
    windows = Windows(tokens, context, batch_size, seed)
    an_epoch = max(1, (count - 1) // context - 1)
    steps = range(-(-3 * an_epoch // batch_size))
    rows = torch.cat([windows.batch(step) for step in steps])[: 3 * an_epoch]
    for epoch in rows.split(an_epoch):
        assert len(epoch[:, :-1].unique()) == an_epoch * context
        assert len(epoch[:, 1:].unique()) == an_epoch * context


def test_nearly_all_tokens_are_read_in_an_epoch() -> None:
    windows = Windows(TOKENS, 16, 1, 0)
    rows = torch.cat([windows.batch(step) for step in range(311)])
    assert len(rows[:, :-1].unique()) == 311 * 16


def test_epochs_and_seeds_differ() -> None:
    first = Windows(TOKENS, 16, 311, 0)
    assert not torch.equal(first.batch(0), first.batch(1))
    assert not torch.equal(first.batch(0), Windows(TOKENS, 16, 311, 1).batch(0))
    offsets = {int(first.batch(epoch)[:, 0].min()) for epoch in range(40)}
    assert len(offsets) > 10
    assert offsets <= set(range(16))


@given(shapes(), st.integers(1, 600))
def test_validation_windows_lie_evenly_without_overlap(
    shape: tuple[int, int], count_tokens: int
) -> None:
    context, count = shape
    tokens = np.arange(count, dtype=np.uint16)
    if count_tokens < context:
        with pytest.raises(HeadwayError, match=f"validation_tokens={count_tokens}"):
            validation_windows(tokens, context, count_tokens)
        return
    windows = validation_windows(tokens, context, count_tokens)
    assert windows.dtype == torch.int64
    assert windows.shape == (min(count_tokens, count - 1) // context, context + 1)
    assert torch.equal(windows, validation_windows(tokens, context, count_tokens))
    gaps = windows[:, 0].diff()
    assert windows[0, 0] == 0
    if len(gaps):
        assert gaps.min() >= context
        assert gaps.max() - gaps.min() <= 1
        assert windows[-1, -1] == count - 1


def test_a_short_split_is_told() -> None:
    with pytest.raises(HeadwayError, match=r"context=16: the train split has 16 tokens .* 17"):
        Windows(TOKENS[:16], 16, 1, 0)
    with pytest.raises(HeadwayError, match="context=16: the validation split has 9 tokens"):
        validation_windows(TOKENS[:9], 16, 64)
    with pytest.raises(HeadwayError, match="the test split has 0 tokens"):
        validation_windows(TOKENS[:0], 16, 64, split="test")
    assert Windows(TOKENS[:17], 16, 2, 0).batch(0).shape == (2, 17)


@pytest.mark.parametrize(
    ("context", "batch_size", "seed", "field"),
    [(0, 1, 0, "context=0"), (1, 0, 0, "batch_size=0"), (1, 1, -1, "seed=-1")],
)
def test_numbers_out_of_range_are_told(
    context: int, batch_size: int, seed: int, field: str
) -> None:
    with pytest.raises(HeadwayError, match=f"{field}: .* accepted"):
        Windows(TOKENS, context, batch_size, seed)
