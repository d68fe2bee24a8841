"""Prefill and decode in any chunks, from any cache, equal one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headway import HeadwayCache, HeadwayForCausalLM
from properties.strategies import Case, assert_equal, cases, logits

DTYPES = st.sampled_from([torch.float32, torch.float64])


@dataclass(frozen=True)
class Feed:
    """How a batch is fed.

    Attributes:
        chunks: lengths of the pieces, prefill first.
        pads: padding on the left of each row.
        static: a cache of fixed size.
    """

    chunks: list[int]
    pads: list[int]
    static: bool

    @property
    def length(self) -> int:
        """Columns in all."""
        return sum(self.chunks)

    def mask(self) -> Tensor:
        """`(B, length)`."""
        columns = torch.arange(self.length)
        return (columns >= torch.tensor(self.pads)[:, None]).long()

    def cache(self, model: HeadwayForCausalLM) -> HeadwayCache:
        """An empty cache, a little longer than needed if it is of fixed size."""
        return HeadwayCache(model.config, max_cache_len=self.length + 3 if self.static else None)


@st.composite
def feeds(draw: st.DrawFn) -> Feed:
    """Rows are padded inside the first chunk, or not at all."""
    chunks = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    pads = draw(st.lists(st.integers(0, min(3, chunks[0] - 1)), min_size=2, max_size=3))
    return Feed(chunks, pads, draw(st.booleans()))


def decode(
    model: HeadwayForCausalLM, cache: HeadwayCache, tokens: Tensor, feed: Feed, masked: bool
) -> Tensor:
    """Logits of all chunks."""
    parts, end = [], 0
    for chunk in feed.chunks:
        start, end = end, end + chunk
        mask = feed.mask()[:, :end] if masked else None
        parts.append(
            logits(model, tokens[:, start:end], attention_mask=mask, past_key_values=cache)
        )
    return torch.cat(parts, dim=1)


def assert_equal_on_tokens(actual: Tensor, expected: Tensor, mask: Tensor) -> None:
    """Equal wherever there is no padding."""
    assert_equal(actual[mask.bool()], expected[mask.bool()])


@given(cases(), feeds(), DTYPES)
@settings(max_examples=200)
def test_chunks_equal_the_whole(case: Case, feed: Feed, dtype: torch.dtype) -> None:
    model, mask = case.model(dtype), feed.mask()
    tokens = case.tokens(len(feed.pads), feed.length)
    whole = logits(model, tokens, attention_mask=mask)
    chunked = decode(model, feed.cache(model), tokens, feed, masked=any(feed.pads))
    assert_equal_on_tokens(chunked, whole, mask)


@given(cases(), feeds(), DTYPES)
@settings(max_examples=60)
def test_a_cache_that_was_reset_starts_anew(case: Case, feed: Feed, dtype: torch.dtype) -> None:
    model, cache = case.model(dtype), feed.cache(case.model(dtype))
    tokens, masked = case.tokens(len(feed.pads), feed.length), any(feed.pads)
    first = decode(model, cache, tokens, feed, masked)
    cache.reset()
    again = decode(model, cache, tokens, feed, masked)
    assert_equal_on_tokens(again, first, feed.mask())


@given(cases(), feeds(), st.data())
@settings(max_examples=100)
def test_beams_may_be_reordered_between_chunks(case: Case, feed: Feed, data: st.DataObject) -> None:
    model, rows = case.model(torch.float64), len(feed.pads)
    beams = st.lists(st.integers(0, rows - 1), min_size=rows, max_size=rows)
    tokens, mask, end = case.tokens(rows, feed.length), feed.mask(), 0
    cache = feed.cache(model)
    for chunk in feed.chunks:
        start, end = end, end + chunk
        last = logits(
            model, tokens[:, start:end], attention_mask=mask[:, :end], past_key_values=cache
        )
        whole = logits(model, tokens[:, :end], attention_mask=mask[:, :end])
        assert_equal_on_tokens(last, whole[:, start:], mask[:, start:end])
        order = torch.tensor(data.draw(beams))
        cache.reorder_cache(order)
        # The rows so far follow the beams; what comes next stays as drawn.
        tokens = torch.cat([tokens[order, :end], tokens[:, end:]], dim=1)
        mask = mask[order]


@given(cases(), st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(2, 3))
@settings(max_examples=40)
def test_rows_may_be_repeated_and_selected(case: Case, chunks: list[int], times: int) -> None:
    model, cache = case.model(torch.float64), HeadwayCache(case.config())
    length, first = sum(chunks), chunks[0]
    tokens = case.tokens(2 * times, length)
    tokens[:, :first] = tokens[::times, :first].repeat_interleave(times, dim=0)
    logits(model, tokens[::times, :first], past_key_values=cache)
    cache.batch_repeat_interleave(times)
    rest = logits(model, tokens[:, first:], past_key_values=cache)
    assert_equal(rest, logits(model, tokens)[:, first:])
    chosen = torch.tensor([2 * times - 1, 0])
    cache.batch_select_indices(chosen)
    more = torch.cat([tokens[chosen], tokens[:2, :1]], dim=1)
    last = logits(model, more[:, -1:], past_key_values=cache)
    assert_equal(last, logits(model, more)[:, -1:])
