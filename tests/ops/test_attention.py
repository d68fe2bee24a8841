"""Every backend computes the same attention, stated here as plain loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from headway import HeadwayError
from headway.ops.attention import BACKENDS, alibi_slopes, attend, merge, scores
from headway.ops.visibility import Visibility

POSITIONS = {
    "whole": [[0, 1, 2, 3, 4]] * 2,
    "packed": [[0, 1, 0, 1, 2], [0, 0, 1, 2, 3]],
    "left padded": [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]],
}


def inputs(
    heads: int, groups: int, queries: int, keys: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Projections of head width 4."""
    generator = torch.Generator().manual_seed(heads + queries)
    shapes = ((2, heads, queries, 4), (2, groups, keys, 4), (2, groups, keys, 4))
    q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return q.to(dtype), k.to(dtype), v.to(dtype)


def loop(
    q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scale: float
) -> tuple[Tensor, Tensor]:
    """The definition: one query and one key at a time, sums by `math`."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    lse = torch.zeros(q.shape[:3], dtype=torch.float64)
    repeats = q.shape[1] // k.shape[1]
    for b, h, t in torch.cartesian_prod(*(torch.arange(n) for n in q.shape[:3])).tolist():
        column = int(visible.offset) + t
        powers = {}
        for s in range(column - int(visible.positions[b, t]), column + 1):
            score = scale * sum((q[b, h, t].double() * k[b, h // repeats, s].double()).tolist())
            if visible.slopes is not None:
                score -= float(visible.slopes[h]) * (column - s)
            powers[s] = math.exp(score)
        total = sum(powers.values())
        lse[b, h, t] = math.log(total)
        for s, power in powers.items():
            out[b, h, t] += power / total * v[b, h // repeats, s].double()
    return out, lse


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("need_lse", [True, False])
@pytest.mark.parametrize("alibi", [True, False])
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("kind", POSITIONS)
def test_whole_sequences(kind: str, groups: int, alibi: bool, need_lse: bool, backend: str) -> None:
    positions = torch.tensor(POSITIONS[kind])
    slopes = alibi_slopes(4, positions.device) if alibi else None
    visible = Visibility(positions, 0, 5, kind == "whole", slopes)
    q, k, v = inputs(4, groups, 5, 5)
    out, lse = attend(q, k, v, visible, 0.7, backend, need_lse)
    expected, expected_lse = loop(q, k, v, visible, 0.7)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    if need_lse or backend == "eager":
        torch.testing.assert_close(lse, expected_lse, rtol=0, atol=1e-12)
    else:
        assert lse is None


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize("fixed", [True, False])
def test_queries_after_earlier_keys(fixed: bool, queries: int, backend: str) -> None:
    positions = torch.tensor([[3, 4], [1, 2]])[:, :queries]
    offset = torch.tensor(3) if fixed else 3
    keys = 8 if fixed else 3 + queries
    visible = Visibility(positions, offset, keys, False, alibi_slopes(4, positions.device))
    q, k, v = inputs(4, 2, queries, keys)
    out, lse = attend(q, k, v, visible, 0.5, backend, need_lse=True)
    expected, expected_lse = loop(q, k, v, visible, 0.5)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(lse, expected_lse, rtol=0, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention runs on GPUs only")
@pytest.mark.parametrize("alibi", [True, False])
@pytest.mark.parametrize("kind", POSITIONS)
def test_flex_attention_is_the_same(kind: str, alibi: bool) -> None:
    positions = torch.tensor(POSITIONS[kind])
    slopes = alibi_slopes(4, positions.device) if alibi else None
    visible = Visibility(positions, 0, 5, kind == "whole", slopes)
    q, k, v = (x.repeat(1, 1, 1, 4).float() for x in inputs(4, 2, 5, 5))
    expected, expected_lse = loop(q, k, v, visible, 0.2)
    there = Visibility(positions.cuda(), 0, 5, visible.whole_rows, slopes.cuda() if alibi else None)
    q, k, v = (x.cuda().requires_grad_() for x in (q, k, v))
    gradients = []
    for backend, tolerance in (("eager", 1e-5), ("flex_attention", 5e-3)):
        out, lse = attend(q, k, v, there, 0.2, backend, need_lse=True)
        torch.testing.assert_close(out.cpu().double(), expected, rtol=0, atol=tolerance)
        torch.testing.assert_close(lse.cpu().double(), expected_lse, rtol=0, atol=tolerance)
        gradients.append(torch.autograd.grad(out.square().sum() + lse.square().sum(), (q, k, v)))
    for eager, flex in zip(*gradients, strict=True):
        torch.testing.assert_close(flex, eager, rtol=2e-2, atol=2e-2)


def test_flex_attention_is_refused_on_a_cpu() -> None:
    visible = Visibility(torch.tensor(POSITIONS["whole"]), 0, 5, True)
    with pytest.raises(HeadwayError, match=r"runs on a GPU only; .* sdpa and eager"):
        attend(*inputs(4, 4, 5, 5, torch.float32), visible, 1.0, "flex_attention")


def test_an_unknown_backend_is_refused() -> None:
    visible = Visibility(torch.tensor(POSITIONS["whole"]), 0, 5, True)
    with pytest.raises(HeadwayError) as raised:
        attend(*inputs(4, 4, 5, 5), visible, 1.0, "flash")
    assert "'flash' is unknown" in str(raised.value)
    assert all(backend in str(raised.value) for backend in BACKENDS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_scores_and_log_sum_exp_are_kept_in_float32(dtype: torch.dtype) -> None:
    visible = Visibility(torch.tensor(POSITIONS["packed"]), 0, 5, False)
    q, k, v = inputs(4, 2, 5, 5, dtype)
    out, lse = attend(q, k, v, visible, 0.7, "eager")
    expected, expected_lse = loop(q, k, v, visible, 0.7)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=0, atol=tolerance)
    # Scores far outside float16's range neither overflow nor turn into NaN.
    huge, _ = attend(100 * q, 100 * k, v, visible, 0.7, "eager")
    assert torch.isfinite(huge).all()


def test_scores_are_minus_infinity_where_nothing_is_seen() -> None:
    visible = Visibility(torch.tensor(POSITIONS["packed"]), 0, 5, False)
    q, k, _ = inputs(4, 2, 5, 5)
    assert torch.equal(scores(q, k, visible, 1.0).isneginf(), ~visible.mask().expand(2, 4, 5, 5))
    seen = visible.mask()[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]


def test_merging_parts_is_one_softmax_over_all_keys() -> None:
    positions = torch.tensor(POSITIONS["packed"])
    visible = Visibility(positions, 0, 5, False)
    q, *_ = inputs(4, 2, 5, 5)
    pairs = [inputs(4, 2, 5, 5)[1:], inputs(6, 2, 5, 5)[1:], inputs(8, 2, 5, 5)[1:]]
    # Very uneven parts: one of them has almost all the weight.
    pairs[1] = (8 * pairs[1][0], pairs[1][1])
    out, lse = merge([attend(q, k, v, visible, 0.7, "eager") for k, v in pairs])
    logits = torch.cat([scores(q, k, visible, 0.7) for k, _ in pairs], dim=-1)
    values = torch.cat([v.repeat_interleave(2, dim=1) for _, v in pairs], dim=2)
    torch.testing.assert_close(out, logits.softmax(-1) @ values, rtol=0, atol=1e-12)
    torch.testing.assert_close(lse, logits.logsumexp(-1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("heads", "powers"),
    [
        (1, [8]),
        (2, [4, 8]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (3, [4, 8, 2]),
        (6, [2, 4, 6, 8, 1, 3]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
    ],
)
def test_alibi_slopes(heads: int, powers: list[float]) -> None:
    slopes = alibi_slopes(heads, torch.device("cpu"))
    torch.testing.assert_close(slopes, torch.tensor([2.0**-p for p in powers]))
