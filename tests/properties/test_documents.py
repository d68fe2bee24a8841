"""Packed documents equal the documents apart; padding on either side changes nothing."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headway import HeadwayCache
from properties.strategies import Case, assert_equal, cases, logits

DOCUMENTS = st.lists(st.integers(1, 6), min_size=2, max_size=4)


def packed(lengths: list[int]) -> Tensor:
    """`(1, T)` positions that restart with every document."""
    return torch.cat([torch.arange(n) for n in lengths])[None]


@given(cases(), DOCUMENTS, st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=150)
def test_packed_documents_equal_documents_apart(
    case: Case, lengths: list[int], dtype: torch.dtype
) -> None:
    model, tokens = case.model(dtype), case.tokens(2, sum(lengths))
    together = logits(model, tokens, position_ids=packed(lengths))
    apart = [logits(model, document) for document in tokens.split(lengths, dim=1)]
    assert_equal(together, torch.cat(apart, dim=1))


@given(cases(), DOCUMENTS, st.booleans(), st.data())
@settings(max_examples=75)
def test_packed_documents_may_be_fed_in_chunks(
    case: Case, lengths: list[int], static: bool, data: st.DataObject
) -> None:
    model, total = case.model(), sum(lengths)
    cut = data.draw(st.integers(1, total - 1))
    tokens, positions = case.tokens(2, total), packed(lengths)
    cache = HeadwayCache(model.config, max_cache_len=total if static else None)
    parts = [
        logits(model, tokens[:, piece], position_ids=positions[:, piece], past_key_values=cache)
        for piece in (slice(0, cut), slice(cut, None))
    ]
    assert_equal(torch.cat(parts, dim=1), logits(model, tokens, position_ids=positions))


@given(
    cases(),
    st.integers(1, 8),
    st.lists(st.integers(0, 7), min_size=2, max_size=3),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=150)
def test_padded_rows_equal_rows_alone(
    case: Case, longest: int, shorter: list[int], left: bool, positions: bool
) -> None:
    model, tokens = case.model(), case.tokens(len(shorter), longest)
    sizes = [max(1, longest - n) for n in shorter]
    columns = torch.arange(longest)
    starts = torch.tensor([longest - n if left else 0 for n in sizes])[:, None]
    ends = starts + torch.tensor(sizes)[:, None]
    mask = ((columns >= starts) & (columns < ends)).long()
    given_too = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if positions else {}
    together = logits(model, tokens, attention_mask=mask, **given_too)
    for row, size in enumerate(sizes):
        inside = mask[row].bool()
        alone = logits(model, tokens[row, inside][None])
        assert alone.shape[1] == size
        assert_equal(together[row, inside][None], alone)
