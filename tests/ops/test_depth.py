"""Reading over depth: what the reference says, against plain formulas."""

from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from headway.errors import HeadwayError
from headway.ops.depth import Normed, depth_attention, depth_reference, weighted_sum

SOURCES = [torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
NORMED = ("none", "keys", "both")


def test_static_and_per_position_weights() -> None:
    static = torch.tensor([0.5, -2.0, 3.0])
    expected = 0.5 * SOURCES[0] - 2 * SOURCES[1] + 3 * SOURCES[2]
    torch.testing.assert_close(weighted_sum(SOURCES, static), expected)
    moving = torch.randn(2, 3, 3)
    expected = sum(moving[..., i, None] * source for i, source in enumerate(SOURCES))
    torch.testing.assert_close(weighted_sum(SOURCES, moving), expected)


def test_a_shared_query_weighs_by_direction() -> None:
    query = torch.randn(4, generator=torch.Generator().manual_seed(3))
    read = depth_attention(query, SOURCES, normed="keys", eps=1e-6)
    logits = [(s / (s.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()) @ query for s in SOURCES]
    weights = torch.stack(logits, -1).softmax(-1)
    torch.testing.assert_close(read, weighted_sum(SOURCES, weights), rtol=0, atol=1e-5)
    scaled = depth_attention(query, [100 * s for s in SOURCES], normed="keys", eps=1e-6)
    torch.testing.assert_close(scaled, 100 * read, rtol=1e-4, atol=1e-3)
    flat = depth_attention(torch.zeros(4), SOURCES, gain=3.0)
    torch.testing.assert_close(flat, SOURCES[0] + SOURCES[1] + SOURCES[2])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, list[Tensor], Normed]:
    torch.manual_seed(draw(st.integers(0, 2**16)))
    rows = draw(st.sampled_from([(1,), (2, 3), (5,)]))
    count, channels, heads = (
        draw(st.integers(1, 5)),
        draw(st.integers(1, 6)),
        draw(st.integers(0, 3)),
    )
    sources = [torch.randn(*rows, channels, dtype=torch.float64) for _ in range(count)]
    shape = (heads, *rows, channels) if heads else (channels,)
    return torch.randn(*shape, dtype=torch.float64), sources, draw(st.sampled_from(NORMED))


def one_softmax(query: Tensor, sources: list[Tensor], normed: str) -> Tensor:
    """The definition over stacked sources, scale 0.7, eps 0.1, gain 1.3."""
    raw = torch.stack(sources, -2)
    small = raw / (raw.pow(2).mean(-1, keepdim=True) + 0.1).sqrt()
    keys, values = raw if normed == "none" else small, small if normed == "both" else raw
    heads = query if query.dim() > 1 else query.expand(1, *sources[0].shape)
    weights = (0.7 * torch.einsum("h...c,...nc->h...n", heads, keys)).softmax(-1)
    out = 1.3 * torch.einsum("h...n,...nc->h...c", weights, values)
    return out if query.dim() > 1 else out[0]


@given(cases())
def test_it_is_one_softmax_over_sources(case: tuple[Tensor, list[Tensor], Normed]) -> None:
    query, sources, normed = case
    found = depth_reference(query, sources, normed, 0.1, 0.7, 1.3)
    torch.testing.assert_close(found, one_softmax(query, sources, normed), rtol=1e-10, atol=1e-10)


@given(cases(), st.randoms())
def test_sources_have_no_order_and_equal_ones_give_themselves(
    case: tuple[Tensor, list[Tensor], Normed], random: Random
) -> None:
    query, sources, normed = case
    read = depth_attention(query, sources, normed=normed, eps=0.1)
    shuffled = random.sample(sources, len(sources))
    torch.testing.assert_close(depth_attention(query, shuffled, normed=normed, eps=0.1), read)
    same = depth_attention(query, [sources[0]] * len(sources), normed="keys")
    torch.testing.assert_close(same, sources[0].expand_as(same))


@pytest.mark.parametrize("normed", NORMED)
@pytest.mark.parametrize("heads", [0, 2])
def test_gradients_of_the_reference(normed: Normed, heads: int) -> None:
    torch.manual_seed(0)
    shape = (heads, 2, 3, 4) if heads else (4,)
    tensors = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in
               (shape, (2, 3, 4), (2, 3, 4))]  # fmt: skip

    def read(query: Tensor, *sources: Tensor) -> Tensor:
        return depth_reference(query, sources, normed, 0.1, 0.7, 1.3)

    assert torch.autograd.gradcheck(read, tensors)


def test_float64_is_not_for_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_OPS", "triton")
    sources = [s.double() for s in SOURCES]
    with pytest.raises(HeadwayError, match=r"'triton' cannot read torch.float64 .* accepted are"):
        depth_attention(torch.zeros(4), sources)
