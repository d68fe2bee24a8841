"""Received attention, block by block, is what the whole matrix of weights says."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from headway.errors import HeadwayError
from headway.ops import choice
from headway.ops import received as module
from headway.ops.received import (
    Scores,
    attend_in_blocks,
    attend_with_lse,
    received_attention,
    received_reference,
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Scores, Tensor, Tensor | None]:
    torch.manual_seed(draw(st.integers(0, 2**16)))
    batch, groups, repeats = (draw(st.integers(1, n)) for n in (2, 2, 3))
    queries, width = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    causal = draw(st.booleans())
    keys = queries + draw(st.integers(0, 3))
    heads = groups * repeats

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    hidden = torch.rand(batch, 1, queries, keys) < 0.7 if draw(st.booleans()) else None
    slopes = normal(1, heads, queries, keys) if draw(st.booleans()) else None
    scores = Scores(
        normal(batch, heads, queries, width),
        normal(batch, groups, keys, width),
        scale=0.7,
        causal=causal,
        window=draw(st.sampled_from([None, 2, 4])) if causal else None,
        visible=None if hidden is None else lambda a, b: hidden[:, :, a:b],
        bias=None if slopes is None else lambda a, b: slopes[:, :, a:b],
        softcap=draw(st.sampled_from([None, 2.0])),
    )
    sinks = normal(heads) if draw(st.booleans()) else None
    return scores, normal(batch, groups, keys, width), sinks


def whole_matrix(scores: Scores, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weights `(B, H, T, S)` and who sees whom, written down once more."""
    q, k = scores.q, scores.k.repeat_interleave(scores.q.shape[1] // scores.k.shape[1], 1)
    queries, keys = q.shape[2], k.shape[2]
    raw = torch.einsum("bhqd,bhkd->bhqk", q, k) * scores.scale
    if scores.softcap:
        raw = scores.softcap * (raw / scores.softcap).tanh()
    if scores.bias:
        raw = raw + scores.bias(0, queries)
    seen = torch.ones(1, 1, queries, keys, dtype=torch.bool)
    if scores.causal:
        seen = seen & (torch.arange(keys) <= torch.arange(queries)[:, None] + keys - queries)
    if scores.window:
        reach = torch.arange(queries)[:, None] + keys - queries - torch.arange(keys)
        seen = seen & (reach < scores.window)
    if scores.visible:
        seen = seen & scores.visible(0, queries)
    # A sink at minus a billion stands for none, so that rows without any key stay zero.
    sink = torch.full((q.shape[1],), -1e9, dtype=raw.dtype) if sinks is None else sinks
    column = sink[None, :, None, None].expand(*raw.shape[:3], 1)
    masked = torch.cat([raw.masked_fill(~seen, float("-inf")), column], -1)
    return masked.softmax(-1)[..., :-1], seen.expand_as(raw)


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 200))
def test_blocks_say_what_the_matrix_says(
    case: tuple[Scores, Tensor, Tensor | None], block: int
) -> None:
    scores, v, sinks = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_SCORES", block)
        out, lse = attend_in_blocks(scores, v, sinks)
        found = received_attention(scores, lse, threshold=0.3)
    weights, seen = whole_matrix(scores, sinks)
    values = v.repeat_interleave(weights.shape[1] // v.shape[1], 1)
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(out, weights @ values, **close)
    torch.testing.assert_close(found.total, weights.sum(-2), **close)
    torch.testing.assert_close(found.peak, weights.amax(-2), **close)
    torch.testing.assert_close(found.over, (weights > 0.3).sum(-2).double(), **close)
    viewers = seen.sum(-2).double()
    torch.testing.assert_close(found.viewers.expand_as(viewers), viewers, **close)
    torch.testing.assert_close(found.mass, weights.sum(-1), **close)
    entropy = -(weights * weights.clamp(min=1e-300).log()).sum(-1)
    torch.testing.assert_close(found.entropy, entropy, rtol=1e-9, atol=1e-9)
    if weights.shape[-1] == weights.shape[-2]:
        torch.testing.assert_close(found.own, weights.diagonal(dim1=-2, dim2=-1), **close)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_flash_attention_gives_the_same(case: tuple[Scores, Tensor, Tensor | None]) -> None:
    """Where a flash kernel takes it; elsewhere the blocks do."""
    scores, v, sinks = case
    scores = replace(scores, visible=None, bias=None, softcap=None, window=None)
    found, expected = attend_with_lse(scores, v, sinks), attend_in_blocks(scores, v, sinks)
    for got, right in zip(found, expected, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-9, atol=1e-10)


def test_uniform_attention_has_a_closed_form() -> None:
    length = 11
    scores = Scores(torch.zeros(1, 2, length, 3), torch.zeros(1, 1, length, 3), 1.0, causal=True)
    _, lse = attend_in_blocks(scores, torch.zeros(1, 1, length, 3))
    received = received_attention(scores, lse, 0.3).mean()
    # Row t spreads 1 / t over its t keys; key k is seen by the rows k .. T.
    rows = 1 / torch.arange(1, length + 1).double()
    expected = torch.stack([rows[k:].mean() for k in range(length)]).float()
    torch.testing.assert_close(received, expected.expand_as(received))
    assert bool((received[..., 0] >= 1 / length).all() and (received <= 1).all())


@pytest.mark.skipif(find_spec("triton") is None, reason="needs the package triton")
@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 2),
    groups=st.integers(1, 2),
    repeats=st.integers(1, 2),
    length=st.sampled_from([1, 5, 63, 130, 300]),
    width=st.sampled_from([4, 16, 24]),
    causal=st.booleans(),
    window=st.sampled_from([None, 1, 100]),
    sink=st.booleans(),
)
@example(
    seed=0, batch=1, groups=1, repeats=2, length=300, width=16, causal=True, window=100, sink=False
)
def test_kernels_equal_the_reference(
    seed: int,
    batch: int,
    groups: int,
    repeats: int,
    length: int,
    width: int,
    causal: bool,
    window: int | None,
    sink: bool,
) -> None:
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    heads = groups * repeats
    # Token by token in memory, as projections are.
    q = torch.randn(batch, length, heads, width, device=device).transpose(1, 2)
    k = torch.randn(batch, length, groups, width, device=device).transpose(1, 2)
    scores = Scores(q, k, 0.6, causal, window=window if causal else None)
    logits = torch.randn(heads, device=device) if sink else None
    _, lse = attend_in_blocks(scores, k, logits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWAY_OPS", "triton")
        found = received_attention(scores, lse, 0.2)
    for name, kernel, plain in zip(
        found._fields, found, received_reference(scores, lse, 0.2), strict=True
    ):
        assert torch.allclose(kernel, plain, rtol=2e-5, atol=2e-5), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_forcing_kernels_that_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_OPS", "triton")
    monkeypatch.setattr(choice, "INTERPRETED", False)
    scores = Scores(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2), 1.0, causal=True)
    with pytest.raises(HeadwayError, match="HEADWAY_OPS: 'triton' cannot run on cpu here"):
        received_attention(scores, torch.zeros(1, 1, 3), 0.3)


def test_memory_is_bounded_by_the_block() -> None:
    scores = Scores(torch.zeros(1, 4, 4096, 8), torch.zeros(1, 4, 4096, 8), 1.0, causal=False)
    sizes = [(stop - start) * 4 * 4096 for start, stop in scores.blocks()]
    assert max(sizes) <= module.BLOCK_SCORES
    assert sum(sizes) == 4 * 4096 * 4096


def test_the_threshold_is_strict() -> None:
    scores = Scores(torch.zeros(1, 1, 2, 1), torch.zeros(1, 1, 2, 1), 1.0, causal=False)
    found = received_attention(scores, attend_in_blocks(scores, scores.k)[1], threshold=0.5)
    assert found.over.sum() == 0
    assert found.peak.unique().tolist() == [0.5]
