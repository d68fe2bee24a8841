"""The fused pass equals prologue and rotation: outputs, all gradients, cached decoding."""

from contextlib import contextmanager

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from tiny import make_loud, tiny, tokens
from torch import nn

import headway
from headway import HeadwayError, KVShift, ResidualStream, SelectiveAttention
from headway.mechanisms.base import Dims
from headway.mechanisms.compose import AttentionMechanisms
from headway.mechanisms.context import QKV, Context, Streams
from headway.mechanisms.fused import FusedPrologue, fusible
from headway.mechanisms.state import DecodeState
from headway.ops.choice import ops_choice, takes_kernel

pytest.importorskip("triton")
from headway.ops import prologue_launch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

SHIFTS = st.builds(
    KVShift,
    targets=st.sampled_from([("key",), ("value",), ("key", "value")]),
    constraint=st.sampled_from(["none", "sigmoid", "clamp"]),
)
TEMPERATURES = st.builds(
    SelectiveAttention,
    query=st.just(True),
    value=st.booleans(),
    token=st.sampled_from(["shared", "none"]),
    init=st.sampled_from(["paper", "identity"]),
)
STREAMS = st.builds(
    ResidualStream,
    source=st.sampled_from(["previous", "first"]),
    scale=st.sampled_from([1.0, 0.5, "layer", "head"]),
)
LISTS = st.one_of(
    SHIFTS.map(lambda m: [m]),
    TEMPERATURES.map(lambda m: [m]),
    st.tuples(SHIFTS, TEMPERATURES).map(list),
    st.tuples(STREAMS, TEMPERATURES).map(list),
    st.tuples(SHIFTS, STREAMS).map(list),
    st.tuples(STREAMS, SHIFTS, TEMPERATURES).map(list),
    st.tuples(SHIFTS, STREAMS, TEMPERATURES).map(list),
)
SIZES = st.fixed_dictionaries(
    {
        "heads": st.sampled_from([(4, 2), (3, 3), (2, 1)]),
        "width": st.sampled_from([4, 6, 16]),
        "rotated": st.sampled_from([4, 2]),
        "length": st.integers(1, 9),
        "batch": st.integers(1, 2),
        "packed": st.booleans(),
        "kept": st.booleans(),
        "norm": st.booleans(),
        "pieces": st.sampled_from([1, 3]),
        "leaves": st.booleans(),
        "seed": st.integers(0, 999),
    }
)


def rotated(x, cos, sin):
    """Pairs half of the rotated channels apart, as in Llama and GPT-NeoX."""
    count = cos.shape[-1]
    turned, rest = x[..., :count], x[..., count:]
    first, second = turned.chunk(2, dim=-1)
    other = torch.cat([-second, first], dim=-1)
    return torch.cat([turned * cos[:, None] + other * sin[:, None], rest], dim=-1)


class Case:
    """Inputs of one comparison."""

    def __init__(self, mechanisms, heads, width, rotated, length, batch, packed, kept, seed,
                 norm=False, pieces=3, leaves=False):  # fmt: skip
        torch.manual_seed(seed)
        queries, groups = heads
        dims = Dims(
            hidden_size=queries * width,
            num_attention_heads=queries,
            num_key_value_heads=groups,
            head_dim=width,
        )
        self.groups, self.pieces, self.leaves, self.kept = groups, pieces, leaves, kept
        self.mechanisms = AttentionMechanisms(mechanisms, dims, 1).to(DEVICE)
        self.norms = [nn.RMSNorm(width, eps=1e-5).to(DEVICE) if norm else None for _ in range(2)]
        self.parameters = [*self.mechanisms.parameters()]
        for own in filter(None, self.norms):
            self.parameters += own.parameters()
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.clamp_(-2, 2).add_(0.3 * torch.randn_like(parameter))
        self.counts = (queries, groups, groups)
        self.whole = torch.randn(batch, length, sum(self.counts), width, device=DEVICE)
        self.source = torch.randn(batch, length, groups, width, device=DEVICE)
        self.leaves_of = [self.whole.requires_grad_(), self.source.requires_grad_()]
        start = 3 if kept else 0
        positions = torch.arange(start, start + length, device=DEVICE).expand(batch, length)
        if packed:
            positions = positions % 4
        self.positions = positions
        angles = torch.randn(1 if seed % 2 else batch, length, rotated // 2, device=DEVICE)
        angles, factor = torch.cat([angles, angles], dim=-1), 1 + 0.1 * (seed % 3)
        self.cos, self.sin = factor * angles.cos(), factor * angles.sin()
        self.before = [torch.randn(batch, groups, 1, width, device=DEVICE) for _ in range(2)]

    def context(self):
        state = None
        if self.kept:
            state = DecodeState()
            for name, rows in zip(("key", "value"), self.before, strict=True):
                state.before(f"kv_shift.{name}", rows, 1)
        source = QKV(*[self.source.transpose(1, 2)] * 3)
        streams = Streams(source, source)
        return Context(positions=self.positions, state=state, streams=streams)

    def qkv(self):
        return QKV(*self.whole.transpose(1, 2).split(self.counts, dim=1))

    def reference(self):
        raw = self.qkv()
        q, k, v = self.mechanisms.prologue(raw, self.context(), *self.norms)
        out = rotated(q, self.cos, self.sin), rotated(k, self.cos, self.sin), v
        return (*out, raw.v) if self.leaves else out

    def fused(self):
        fused = FusedPrologue(self.mechanisms, "triton", *self.norms)
        ctx = self.context()
        source = None if fused.stream is None else ctx.streams.first.v
        whole = self.whole if self.pieces == 1 else None
        return fused(
            self.qkv(), ctx.positions, ctx.state, self.cos, self.sin, source, whole, self.leaves
        )

    def gradients(self, outs, weights):
        inputs = [*self.leaves_of, *self.parameters]
        total = sum((o * w).sum() for o, w in zip(outs, weights, strict=True))
        return torch.autograd.grad(total, inputs, allow_unused=True)


WHOLE = {
    "heads": (3, 3), "width": 6, "rotated": 4, "length": 9, "batch": 1, "packed": True,
    "kept": True, "norm": True, "pieces": 1, "leaves": True, "seed": 7,
}  # fmt: skip


# Shrinking would take minutes in the interpreter.
@settings(max_examples=8, phases=(Phase.explicit, Phase.generate))
@example([ResidualStream(scale="head"), KVShift(), SelectiveAttention()], WHOLE)
@example([KVShift(), ResidualStream(scale="layer"), SelectiveAttention()], WHOLE)
@example([KVShift(), SelectiveAttention()], WHOLE | {"kept": False, "norm": False, "pieces": 3})
@given(LISTS, SIZES)
def test_outputs_and_gradients(mechanisms, sizes):
    with pytest.MonkeyPatch.context() as patch:
        # Several programs a row, even of a short one.
        patch.setattr(prologue_launch, "FORWARD_CHUNK", 2)
        patch.setattr(prologue_launch, "BACKWARD_CHUNK", 4)
        with poisoned_memory():
            compare(Case(mechanisms, **sizes), mechanisms)


@contextmanager
def poisoned_memory():
    """What is not written comes out as NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def compare(case, mechanisms):
    assert fusible(mechanisms, case.whole.shape[-1])
    expected, found = case.reference(), case.fused()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for ours, theirs in zip(case.fused(), expected[:3], strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    weights = [torch.randn_like(x) for x in expected]
    pairs = zip(case.gradients(found, weights), case.gradients(expected, weights), strict=True)
    for ours, theirs in pairs:
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pieces", [1, 3])
def test_sixteen_bits_err_no_more_than_the_reference_does(pieces):
    """Against float64, at most twice what plain operations in bfloat16 err, and a rounding."""
    mechanisms = [ResidualStream(), KVShift(), SelectiveAttention()]
    sizes = {"heads": (3, 1), "width": 16, "rotated": 16, "length": 12, "batch": 1}
    case = Case(
        mechanisms, **sizes, packed=True, kept=False, seed=1, norm=True, pieces=pieces, leaves=True
    )
    inputs = [case.whole, case.source]
    seen, weights = {}, None
    for kind in ("exact", "reference", "kernel"):
        dtype = torch.float64 if kind == "exact" else torch.bfloat16
        case.whole, case.source = (x.detach().bfloat16().to(dtype).requires_grad_() for x in inputs)
        case.leaves_of = [case.whole, case.source]
        if kind == "exact":
            case.mechanisms.double(), [n.double() for n in case.norms]
        else:
            case.mechanisms.float(), [n.float() for n in case.norms]
        plain = [lambda x, n=n: n(x.to(n.weight.dtype)).to(x.dtype) for n in case.norms]
        norms, case.norms = case.norms, plain if kind != "kernel" else case.norms
        out = case.fused() if kind == "kernel" else case.reference()
        case.norms = norms
        if weights is None:
            weights = [torch.randn_like(x) for x in out]
        kept = [w.to(o.dtype) for w, o in zip(weights, out, strict=True)]
        seen[kind] = [*out, *case.gradients(out, kept)]
    for exact, low, ours in zip(*seen.values(), strict=True):
        scale = exact.double().norm()
        errors = [((x.double() - exact).norm() / scale).item() for x in (low, ours)]
        assert errors[1] <= 2 * errors[0] + 2**-8, errors


def test_two_runs_give_the_same_bits():
    case = Case([KVShift(), SelectiveAttention()], (4, 2), 16, 16, 20, 1, True, False, 0)
    weights = [torch.randn_like(x) for x in case.reference()]
    first, second = (case.gradients(case.fused(), weights) for _ in range(2))
    assert all(a is b or torch.equal(a, b) for a, b in zip(first, second, strict=True))


PAIR = [KVShift(init="identity"), SelectiveAttention(init="identity")]


@pytest.mark.parametrize("model_type", ["llama", "mistral", "phi3", "gpt_neox", "gemma2"])
def test_hosts(model_type, monkeypatch):
    ids = tokens(1, 5).to(DEVICE)
    seen = []
    for choice in ("reference", "triton"):
        monkeypatch.setenv("HEADWAY_OPS", choice)
        host = tiny(model_type, num_hidden_layers=2)
        model = make_loud(headway.attach(host, PAIR)).to(DEVICE)
        model(ids, labels=ids).loss.backward()
        grads = [p.grad.clone() for _, p in headway.mechanism_parameters(model)]
        with torch.no_grad():
            written = model.generate(ids, max_new_tokens=2, do_sample=False)
            static = model.generate(
                ids,
                max_new_tokens=2,
                do_sample=False,
                cache_implementation="static",
                disable_compile=True,
            )
            assert torch.equal(written, static)
            seen.append((model(ids).logits, written, *grads))
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_the_kernels_are_really_taken(monkeypatch):
    calls = []
    asked = FusedPrologue.forward
    monkeypatch.setattr(
        FusedPrologue, "forward", lambda *given: calls.append(given) or asked(*given)
    )
    for choice, count in (("triton", 3), ("reference", 3)):
        monkeypatch.setenv("HEADWAY_OPS", choice)
        headway.attach(tiny("llama"), PAIR).to(DEVICE)(tokens(1, 3).to(DEVICE))
        assert len(calls) == count


@pytest.mark.parametrize(
    "mechanism",
    [
        KVShift(window=2),
        KVShift(granularity="channel"),
        KVShift(targets=("query",)),
        SelectiveAttention(key=True),
        SelectiveAttention(per_head=True),
        SelectiveAttention(token="mlp"),
        ResidualStream(stream="key"),
    ],
)
def test_what_the_pass_cannot_carry(mechanism):
    assert not fusible([mechanism], 16)
    assert not fusible([mechanism, SelectiveAttention()], 16)


def test_what_needs_no_pass():
    assert not fusible([], 16)
    assert not fusible([ResidualStream()], 16)
    assert not fusible([KVShift()], 15)
    assert fusible([KVShift()], 16)


def test_what_the_environment_may_say(monkeypatch):
    monkeypatch.setenv("HEADWAY_OPS", "fast")
    with pytest.raises(HeadwayError, match="HEADWAY_OPS: 'fast' is not accepted"):
        ops_choice()
    monkeypatch.setattr("headway.ops.choice.INTERPRETED", False)
    with pytest.raises(HeadwayError, match="'triton' cannot run on cpu"):
        takes_kernel(torch.zeros(1), "triton")
    assert not takes_kernel(torch.zeros(1), "auto")
