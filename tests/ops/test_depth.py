"""Reading over depth, against plain formulas."""

import torch

from headway.ops.depth import pseudo_query_weights, weighted_sum

SOURCES = [torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]


def test_static_and_per_position_weights() -> None:
    static = torch.tensor([0.5, -2.0, 3.0])
    expected = 0.5 * SOURCES[0] - 2 * SOURCES[1] + 3 * SOURCES[2]
    torch.testing.assert_close(weighted_sum(SOURCES, static), expected)
    moving = torch.randn(2, 3, 3)
    expected = sum(moving[..., i, None] * source for i, source in enumerate(SOURCES))
    torch.testing.assert_close(weighted_sum(SOURCES, moving), expected)


def test_pseudo_queries_weigh_by_direction() -> None:
    query = torch.randn(4)
    weights = pseudo_query_weights(SOURCES, query, 1e-6)
    logits = [(s / s.pow(2).mean(-1, keepdim=True).sqrt()) @ query for s in SOURCES]
    torch.testing.assert_close(weights, torch.stack(logits, -1).softmax(-1), rtol=0, atol=1e-5)
    scaled = pseudo_query_weights([100 * SOURCES[0], *SOURCES[1:]], query, 1e-6)
    torch.testing.assert_close(scaled, weights, rtol=0, atol=1e-4)
    flat = pseudo_query_weights(SOURCES, torch.zeros(4), 1e-6)
    torch.testing.assert_close(flat, torch.full((2, 3, 3), 1 / 3))
