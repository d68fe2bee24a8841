"""Taking tokens back from a cache: right with recording on, else right or refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headway import HeadwayCache, HeadwayError, KVShift, ShortConv, SmearedKey
from properties.strategies import Case, assert_equal, cases, logits

LENGTHS = st.tuples(st.integers(0, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))


@given(cases(), LENGTHS, st.booleans())
@settings(max_examples=150)
def test_a_recording_cache_goes_back(
    case: Case, lengths: tuple[int, int, int, int], in_pieces: bool
) -> None:
    unrecorded, kept, dropped, more = lengths
    model, cache = case.model(), HeadwayCache(case.config())
    tokens = case.tokens(2, unrecorded + kept + more)
    if unrecorded:
        logits(model, tokens[:, :unrecorded], past_key_values=cache)
    cache.activate_past_recording()
    rejected = (case.tokens(2, dropped) + 1) % model.config.vocab_size
    fed = torch.cat([tokens[:, unrecorded : unrecorded + kept], rejected], dim=1)
    parts = [
        logits(model, piece, past_key_values=cache)
        for piece in fed.split(1 if in_pieces else kept + dropped, dim=1)
    ]
    whole = logits(model, torch.cat([tokens[:, :unrecorded], fed], dim=1))
    assert_equal(torch.cat(parts, dim=1), whole[:, unrecorded:])
    cache.crop(-dropped)
    rest = logits(model, tokens[:, unrecorded + kept :], past_key_values=cache)
    assert_equal(rest, logits(model, tokens)[:, unrecorded + kept :])
    # And once more, from where the first crop ended.
    cache.crop(-more)
    again = logits(model, tokens[:, unrecorded + kept :], past_key_values=cache)
    assert_equal(again, rest)


@given(cases(), LENGTHS)
@settings(max_examples=100)
def test_without_recording_a_crop_is_right_or_refused(
    case: Case, lengths: tuple[int, int, int, int]
) -> None:
    _, kept, dropped, more = lengths
    model, cache = case.model(), HeadwayCache(case.config())
    tokens = case.tokens(2, kept + more)
    rejected = (case.tokens(2, dropped) + 1) % model.config.vocab_size
    logits(model, tokens[:, :kept], past_key_values=cache)
    logits(model, rejected, past_key_values=cache)
    if any(isinstance(m, KVShift | ShortConv | SmearedKey) for m in case.mechanisms):
        with pytest.raises(HeadwayError, match="activate_past_recording"):
            cache.crop(-dropped)
    else:
        cache.crop(-dropped)
        rest = logits(model, tokens[:, kept:], past_key_values=cache)
        assert_equal(rest, logits(model, tokens)[:, kept:])


@given(cases(), st.integers(1, 4))
@settings(max_examples=15)
def test_a_static_cache_refuses_to_go_back(case: Case, dropped: int) -> None:
    model, cache = case.model(), HeadwayCache(case.config(), max_cache_len=8)
    logits(model, case.tokens(2, 6), past_key_values=cache)
    with pytest.raises(HeadwayError, match="static cache"):
        cache.crop(-dropped)
