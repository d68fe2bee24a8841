"""The decoder with its prologues in one pass equals the decoder without: training and writing."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from headway import HeadwayConfig, HeadwayForCausalLM, KVShift, ResidualStream, SelectiveAttention
from headway.decoder import HeadwayCache, attention
from headway.decoder.projection import merged
from headway.mechanisms.fused import FusedPrologue

pytest.importorskip("triton")
from headway.ops import fused_prologue, prologue_launch
from headway.ops.prologue_launch import Learned, Numbers, Surroundings

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
THREE = [KVShift(), ResidualStream(), SelectiveAttention()]
OTHERS = [ResidualStream(source="first", scale="head"), KVShift(), SelectiveAttention()]


def model_of(mechanisms, **options):
    torch.manual_seed(0)
    config = HeadwayConfig(
        vocab_size=40,
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        mechanisms=mechanisms,
        **{"num_hidden_layers": 2} | options,
    )
    model = HeadwayForCausalLM(config).to(DEVICE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(
    ("mechanisms", "options"),
    [
        (THREE, {}),
        (OTHERS, {"qk_norm": True}),
        ([KVShift(targets=("key",))], {"position": "alibi"}),
    ],
    ids=["three", "others", "alibi"],
)
def test_both_paths_give_the_same(mechanisms, options, monkeypatch):
    seen = []
    torch.manual_seed(1)
    ids = torch.randint(40, (2, 5), device=DEVICE)
    packed = torch.tensor([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]], device=DEVICE)
    for choice in ("reference", "triton"):
        monkeypatch.setenv("HEADWAY_OPS", choice)
        model = model_of(mechanisms, **options)
        out = model(ids, position_ids=packed, labels=ids)
        out.loss.backward()
        grads = [p.grad for p in model.parameters()]
        model.eval()
        with torch.no_grad():
            logits = model(ids).logits
            written = model.generate(ids, max_new_tokens=2, do_sample=False)
            static = model.generate(
                ids, max_new_tokens=2, do_sample=False, cache_implementation="static",
                disable_compile=True,
            )  # fmt: skip
        assert torch.equal(written, static)
        seen.append((out.loss, logits, written, *grads))
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_values_are_handed_on_without_a_copy(compiled, monkeypatch):
    """Those that a layer hands on lie where it projected them, and their gradient finds back."""
    torch.manual_seed(1)
    ids, seen = torch.randint(40, (1, 3), device=DEVICE), []
    for choice in ("reference", "triton"):
        monkeypatch.setenv("HEADWAY_OPS", choice)
        model = model_of([ResidualStream(), KVShift()], num_hidden_layers=3)
        if choice == "triton":
            monkeypatch.setattr(attention, "in_one_piece", merged)
        first, handed = model.model.layers[0], []
        first.register_forward_hook(lambda layer, args, out, kept=handed: kept.append(out[1]))
        called = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        loss = called(ids, labels=ids).loss
        seen.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
        if choice == "triton" and not compiled:
            raw = handed[0].previous
            assert raw.v.untyped_storage().data_ptr() == raw.k.untyped_storage().data_ptr()
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_the_kernels_are_taken_where_they_are_asked_for(monkeypatch):
    calls = []
    asked = FusedPrologue.forward
    monkeypatch.setattr(
        FusedPrologue, "forward", lambda *given, **named: calls.append(1) or asked(*given, **named)
    )
    for choice, count in (("triton", 2), ("reference", 2)):
        monkeypatch.setenv("HEADWAY_OPS", choice)
        model_of(THREE)(torch.zeros(1, 3, dtype=torch.long, device=DEVICE))
        assert len(calls) == count


def given(pieces, **options):
    """Arguments of the operator `headway::prologue`."""

    torch.manual_seed(0)
    batch, length, heads, groups, width = 1, 3, 2, 1, 4
    counts = (heads, groups, groups)
    whole = torch.randn(batch, length, sum(counts), width, device=DEVICE)
    raw = [whole]
    if pieces == 3:
        raw = [x.transpose(1, 2).contiguous() for x in whole.split(counts, dim=2)]
    raw = [x.requires_grad_() for x in raw]
    shapes = [(1, 2), (1, 2), (heads, width), (1,), (groups, width), (1,), (width,), (width,)]
    learned = Learned(*[torch.randn(*s, device=DEVICE).requires_grad_() for s in shapes])
    source = torch.randn(batch, groups, length, width, device=DEVICE).requires_grad_()
    positions = torch.arange(length, device=DEVICE).expand(batch, length)
    cos = torch.randn(1, length, width, device=DEVICE)
    around = Surroundings(positions, cos, cos.sin(), source=source)
    numbers = Numbers(groups, eps=1e-5, scale=0.7, **options)
    flags = tuple(x is not None for x in (*learned, *around[3:]))
    own = [x for x in (*learned, *around[3:]) if x is not None]
    return raw, own, positions, cos, cos.sin(), fused_prologue._code(flags, numbers)


@pytest.mark.parametrize(("pieces", "leaves"), [(1, True), (3, False)])
def test_the_operator_is_well_registered(pieces, leaves):
    torch.library.opcheck(torch.ops.headway.prologue.default, given(pieces, leaves=leaves))


def test_its_gradient_is_traced_with_symbols_for_sizes():
    """As torch.compile(dynamic=True) does, of heads and channels too."""
    *tensors, code = given(3)

    def gradients(raw, *rest):
        found = torch.ops.headway.prologue(raw, *rest, code)
        return torch.autograd.grad([x.float().sum() for x in found[:3]], raw)

    traced = make_fx(gradients, tracing_mode="symbolic")(*tensors)
    for ours, theirs in zip(traced(*tensors), gradients(*tensors), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_it_compiles_whole(monkeypatch):
    monkeypatch.setenv("HEADWAY_OPS", "triton")
    model = model_of(THREE)
    ids = torch.randint(40, (1, 6), device=DEVICE)
    expected = model(ids, labels=ids).loss
    torch.compiler.reset()
    found = torch.compile(model, fullgraph=True, backend="aot_eager")(ids, labels=ids).loss
    torch.testing.assert_close(found, expected)
    weight = model.model.layers[1].self_attn.mechanisms.members["kv_shift"].key
    ours, theirs = (torch.autograd.grad(x, weight)[0] for x in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_copies_are_mapped_one_by_one():
    raw, own, *rest = given(3)
    with torch.no_grad():
        many = [torch.stack([x, 2 * x]) for x in raw]
        mapped = torch.vmap(lambda *raw: torch.ops.headway.prologue(list(raw), own, *rest))(*many)
        for number in (0, 1):
            alone = torch.ops.headway.prologue([x[number] for x in many], own, *rest)
            for ours, theirs in zip(mapped, alone, strict=True):
                assert torch.equal(ours[number], theirs)


def test_a_static_cache_keeps_what_is_learned_in_one_piece(monkeypatch):
    monkeypatch.setenv("HEADWAY_OPS", "triton")
    model = model_of(OTHERS, qk_norm=True).eval()
    cache = HeadwayCache(model.config, max_cache_len=12)
    ids = torch.randint(40, (2, 5), device=DEVICE)
    fused, state = model.model.layers[1].self_attn.fused, cache.state(1)

    def same():
        assert state.stands
        for kept, own in zip(fused._apart(state.numbers), fused._learned(), strict=True):
            assert (kept is None) == (own is None)
            assert kept is None or (torch.equal(kept, own) and kept.data_ptr() % 16 == 0)

    with torch.no_grad():
        model(ids, past_key_values=cache)
        same()
        address = state.numbers.data_ptr()
        fused.query.weight.add_(1.0)
        cache.reset()
        assert not state.stands
        model(ids, past_key_values=cache)
        same()
    assert state.numbers.data_ptr() == address


class Nothing:
    """Stands for a kernel that tracing only has to pass."""

    def __getitem__(self, grid):
        return lambda *args, **named: None


def test_a_traced_token_reads_one_tensor_a_layer(monkeypatch):
    """And none of the parameters that mechanisms learn."""
    monkeypatch.setenv("HEADWAY_OPS", "triton")
    model = model_of(THREE).eval()
    cache = HeadwayCache(model.config, max_cache_len=12)
    ids, graphs = torch.randint(40, (1, 5), device=DEVICE), []

    def backend(graph, inputs):
        graphs.append([node.name for node in graph.graph.nodes if node.op == "placeholder"])
        return graph.forward

    torch.compiler.reset()
    with torch.no_grad():
        model(ids, past_key_values=cache)
        monkeypatch.setattr(prologue_launch, "forward_kernel", Nothing())
        place = torch.full((1, 1), 5, device=DEVICE)
        step = torch.compile(model, fullgraph=True, backend=backend, dynamic=False)
        step(ids[:, :1], past_key_values=cache, position_ids=place)
    (names,) = graphs
    assert not [name for name in names if "mechanisms" in name]
    assert sum("numbers" in name for name in names) == model.config.num_hidden_layers
