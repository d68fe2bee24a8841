"""On a GPU: the fused prologue against float64, in float32 and bfloat16, all gradients.

An error may be twice that of plain operations in the same precision, and a rounding.
"""

import copy
import itertools

import pytest
import torch
from torch import nn

from headway import KVShift, ResidualStream, SelectiveAttention
from headway.mechanisms.base import Dims
from headway.mechanisms.compose import AttentionMechanisms
from headway.mechanisms.context import QKV, Context, Streams
from headway.mechanisms.fused import FusedPrologue

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

LISTS = [
    [KVShift()],
    [SelectiveAttention()],
    [KVShift(), SelectiveAttention()],
    [ResidualStream(), KVShift(), SelectiveAttention()],
    [KVShift(), ResidualStream(source="first", scale="head"), SelectiveAttention()],
]
HEADS, WIDTHS, LENGTHS = [(12, 12), (8, 2), (5, 1)], [32, 64, 128, 256], [1, 15, 63, 1000]
# Every fifth of all, so that each value meets each other one.
CASES = list(itertools.product(range(len(LISTS)), HEADS, WIDTHS, LENGTHS, [False, True], [1, 3]))[
    ::7
]
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 2**-8}


def turned(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], dim=-1) * sin.to(x.dtype)


class Problem:
    """One layer's prologue in several precisions."""

    def __init__(self, mechanisms, heads, groups, width, length, norm, pieces, dtype):
        torch.manual_seed(length + width)
        dims = Dims(
            hidden_size=heads * width,
            num_attention_heads=heads,
            num_key_value_heads=groups,
            head_dim=width,
        )
        self.counts, self.pieces, self.dtype = (heads, groups, groups), pieces, dtype
        self.mechanisms = AttentionMechanisms(mechanisms, dims, 1).cuda()
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-5) for _ in range(2 * norm)).cuda()
        with torch.no_grad():
            for parameter in [*self.mechanisms.parameters(), *self.norms.parameters()]:
                parameter.add_(0.1 * torch.randn_like(parameter))
        rows = torch.randn(2, length, sum(self.counts) + groups, width, device="cuda").to(dtype)
        self.whole, self.source = rows.split([sum(self.counts), groups], dim=2)
        self.positions = (torch.arange(length, device="cuda") % 700).expand(2, length)
        angles = 6 * torch.rand(1, length, width // 2, device="cuda")
        angles = torch.cat([angles, angles], dim=-1)
        # The dtype's own: rounding them is no error of anybody's.
        self.cos, self.sin = (x.to(dtype).float() for x in (angles.cos(), angles.sin()))

    def solved(self, kind, weights):
        dtype = torch.float64 if kind == "exact" else self.dtype
        mechanisms, norms = copy.deepcopy((self.mechanisms, self.norms))
        if kind == "exact":
            mechanisms, norms = mechanisms.double(), norms.double()
        whole, source = (
            x.to(dtype).contiguous().requires_grad_() for x in (self.whole, self.source)
        )
        raw = QKV(*whole.transpose(1, 2).split(self.counts, dim=1))
        stream = QKV(*[source.transpose(1, 2)] * 3)
        if kind == "kernel":
            fused = FusedPrologue(mechanisms, "triton", *norms)
            given = None if fused.stream is None else stream.v
            out = fused(
                raw, self.positions, None, self.cos, self.sin, given,
                whole if self.pieces == 1 else None,
            )  # fmt: skip
        else:
            plain = [lambda x, n=n: n(x.to(n.weight.dtype)).to(x.dtype) for n in norms]
            ctx = Context(positions=self.positions, streams=Streams(stream, stream))
            q, k, v = mechanisms.prologue(raw, ctx, *plain)
            out = turned(q, self.cos, self.sin), turned(k, self.cos, self.sin), v
        if not weights:
            weights += [torch.randn_like(x).to(self.dtype) for x in out]
        inputs = [whole, source, *mechanisms.parameters(), *norms.parameters()]
        total = sum((o.double() * w).sum() for o, w in zip(out, weights, strict=True))
        return [*out, *torch.autograd.grad(total, inputs, allow_unused=True)]


@pytest.mark.parametrize("dtype", ROUNDING, ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("which", "heads", "width", "length", "norm", "pieces"), CASES)
def test_errors(which, heads, width, length, norm, pieces, dtype):
    problem = Problem(LISTS[which], *heads, width, length, norm, pieces, dtype)
    weights = []
    exact, low = (problem.solved(kind, weights) for kind in ("exact", "low"))
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # memory is filled with NaN
    try:
        ours = problem.solved("kernel", weights)
    finally:
        torch.use_deterministic_algorithms(before)
    for number, (right, plain, found) in enumerate(zip(exact, low, ours, strict=True)):
        if right is None:
            continue
        # What is learned has gradients summed over tokens and channels: where they cancel, they are
        # as uncertain as their terms, which are larger than this.
        floor = 0.0 if number < 5 else weights[0].double().norm().item()
        scale = max(right.norm().item(), floor)
        errors = [(x.double() - right).norm().item() / scale for x in (plain, found)]
        assert errors[1] <= 2 * errors[0] + ROUNDING[dtype], errors
