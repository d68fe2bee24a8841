"""Lists of mechanisms: their order, and somebody's own attention around them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headway import (
    QKV,
    AttentionMechanisms,
    AttentionResidual,
    Context,
    DecodeState,
    HeadwayError,
    KVShift,
    LayerShortcut,
    Mechanism,
    OutputGate,
    ResidualStream,
    ScalableSoftmax,
    ScalarMix,
    SelectiveAttention,
    ShortConv,
    SinkLogit,
    SmearedKey,
    Streams,
    build_mechanisms,
    check_list,
)
from mechanisms.helpers import DIMS, close, context, projections
from properties.strategies import make_loud

IN_ORDER: list[Mechanism] = [
    KVShift(),
    ShortConv(),
    SelectiveAttention(),
    SinkLogit(),
    AttentionResidual(),
    LayerShortcut(),
]


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("second", range(6))
def test_the_list_stands_in_the_order_of_the_data(first: int, second: int) -> None:
    pair = [IN_ORDER[first], IN_ORDER[second]]
    if first < second:
        check_list(pair, DIMS)
        return
    with pytest.raises(HeadwayError) as raised:
        check_list(pair, DIMS)
    message = str(raised.value)
    assert f"'{pair[0].name}'" in message
    assert f"'{pair[1].name}'" in message
    assert ("swap them" in message) == (first > second)
    assert ("written twice" in message) == (first == second)


def test_what_shares_a_place_may_stand_either_way() -> None:
    for pair in (
        [KVShift(), ResidualStream()],
        [SmearedKey(), ResidualStream()],
        [SelectiveAttention(), ScalableSoftmax()],
        [OutputGate(), SinkLogit()],
    ):
        check_list(pair, DIMS)
        check_list(pair[::-1], DIMS)
    with pytest.raises(HeadwayError, match=r"'kv_shift' is not a mechanism; .*from_dict"):
        check_list(["kv_shift"], DIMS)  # type: ignore[list-item]


def test_hooks_run_in_the_order_of_the_list() -> None:
    ctx = context(streams=Streams(projections(1), projections(2)))
    stream, shift = ResidualStream(), KVShift(init="induction", targets=("value",))
    with torch.no_grad():
        added_then_shifted, shifted_then_added = (
            AttentionMechanisms(order, DIMS, 1).double()
            for order in ([stream, shift], [shift, stream])
        )
        for module in (added_then_shifted, shifted_then_added):
            module.members["kv_shift"].value.copy_(torch.tensor([0.0, 1.0]))
        v, other = projections().v, ctx.streams.previous.v

        def shifted(x: Tensor) -> Tensor:
            inside = (ctx.positions > 0)[:, None, :, None]
            return torch.where(inside, x.roll(1, dims=2), torch.zeros_like(x))

        close(added_then_shifted.prologue(projections(), ctx).v, shifted(v + other))
        close(shifted_then_added.prologue(projections(), ctx).v, shifted(v) + other)


def test_qk_norm_stands_between_mixing_and_what_it_would_undo() -> None:
    listed = [KVShift(), ShortConv(), ScalableSoftmax()]
    module = AttentionMechanisms(listed, DIMS, 1)
    make_loud(module)
    module.double()
    shift, conv, scale = module.members.values()
    ctx, before = context(), projections()
    mixed = shift.prologue(before, ctx)
    normed = QKV(2 * mixed.q.tanh(), 3 * mixed.k.sin(), mixed.v)
    expected = scale.prologue(conv.prologue(normed, ctx), ctx)
    actual = module.prologue(before, ctx, lambda q: 2 * q.tanh(), lambda k: 3 * k.sin())
    for name in "qkv":
        close(getattr(actual, name), getattr(expected, name))


def test_raw_projections_are_those_before_every_mechanism() -> None:
    listed = [KVShift(), SelectiveAttention(position=False)]
    module = AttentionMechanisms(listed, DIMS, 1)
    make_loud(module)
    module.double()
    shift, select = module.members.values()
    before = projections()
    expected = select.prologue(shift.prologue(before, context()), context(raw=before))
    close(module.prologue(before, context()).v, expected.v)


def test_names_places_and_what_is_needed() -> None:
    listed = [ResidualStream(), ResidualStream(stream="key"), OutputGate(), LayerShortcut()]
    module = AttentionMechanisms(listed, DIMS, 1)
    assert list(module.members) == ["residual_stream", "residual_stream_2", "output_gate"]
    assert list(AttentionMechanisms(listed, DIMS, 0).members) == ["output_gate"]
    assert not module.needs_lse
    assert AttentionMechanisms([OutputGate(), SinkLogit()], DIMS, 0).needs_lse


class OwnAttention(nn.Module):
    """Somebody's attention: no rotation, keys and values remembered in lists."""

    def __init__(self, mechanisms: AttentionMechanisms, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.project = nn.Linear(12, 4 * 3 + 2 * 2 * 3)
        self.out = nn.Linear(12, 12)
        self.mechanisms = mechanisms

    def forward(
        self, x: Tensor, streams: Streams, memory: dict[str, Any]
    ) -> tuple[Tensor, Streams]:
        first = memory.setdefault("length", 0)
        memory["length"] += x.shape[1]
        q, k, v = self.project(x).split([12, 6, 6], dim=-1)
        raw = QKV(*(y.unflatten(-1, (-1, 3)).transpose(1, 2) for y in (q, k, v)))
        ctx = Context(
            positions=torch.arange(first, memory["length"]).expand(x.shape[:2]),
            hidden=x,
            streams=streams,
            state=memory.setdefault("state", DecodeState()),
        )
        q, k, v = self.mechanisms.prologue(raw, ctx)
        memory["k"] = torch.cat([memory["k"], k], dim=2) if first else k
        memory["v"] = torch.cat([memory["v"], v], dim=2) if first else v
        scores = q @ memory["k"].repeat_interleave(2, dim=1).transpose(-1, -2)
        columns = torch.arange(memory["length"])
        scores = scores.masked_fill(columns > columns[first:, None], float("-inf"))
        out = scores.softmax(-1) @ memory["v"].repeat_interleave(2, dim=1)
        out = self.mechanisms.epilogue(out, scores.logsumexp(-1), ctx)
        return x + self.out(out.transpose(1, 2).flatten(2)), streams.push(raw)


def test_mechanisms_in_somebodys_own_attention_decode_as_they_train() -> None:
    built = build_mechanisms(
        [
            SmearedKey(),
            ResidualStream(),
            ShortConv(),
            SelectiveAttention(),
            SinkLogit(),
            OutputGate(),
        ],
        hidden_size=12,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
    )
    torch.manual_seed(0)
    layers = nn.ModuleList(OwnAttention(mechanisms, i) for i, mechanisms in enumerate(built))
    make_loud(layers)
    layers.double()

    def run(x: Tensor, memories: list[dict[str, Any]]) -> Tensor:
        streams = Streams()
        for layer, memory in zip(layers, memories, strict=True):
            x, streams = layer(x, streams, memory)
        return x

    x = torch.randn(2, 9, 12, dtype=torch.float64)
    with torch.no_grad():
        whole = run(x, [{}, {}])
        memories: list[dict[str, Any]] = [{}, {}]
        chunks = [run(chunk, memories) for chunk in x.split([4, 1, 1, 3], dim=1)]
        close(torch.cat(chunks, dim=1), whole)
        # Without what is carried, the same chunks go wrong.
        forgetful: list[dict[str, Any]] = [{}, {}]
        parts = []
        for chunk in x.split([4, 1, 1, 3], dim=1):
            for memory in forgetful:
                memory["state"] = DecodeState()
            parts.append(run(chunk, forgetful))
        assert (torch.cat(parts, dim=1) - whole).abs().max() > 1e-3


@pytest.mark.parametrize("mechanism", [AttentionResidual(), LayerShortcut(), ScalarMix()])
def test_depth_reads_need_a_whole_model(mechanism: Mechanism) -> None:
    with pytest.raises(HeadwayError, match=rf"'{mechanism.name}' .*HeadwayForCausalLM"):
        build_mechanisms(
            [KVShift(), mechanism], hidden_size=8, num_attention_heads=2, num_hidden_layers=2
        )


def test_a_place_that_one_attention_lacks_is_told_before_the_number_of_layers() -> None:
    with pytest.raises(HeadwayError, match=r"acts on a whole layer, which one attention cannot"):
        build_mechanisms([LayerShortcut(width=64)], hidden_size=64, num_attention_heads=4)
    with pytest.raises(HeadwayError, match=r"'kv_shift' is not a mechanism"):
        build_mechanisms(["kv_shift"], hidden_size=64, num_attention_heads=4)  # type: ignore[list-item]


def test_sizes_that_are_left_out_follow_from_the_others() -> None:
    (module,) = build_mechanisms(
        [KVShift(granularity="channel")], hidden_size=12, num_attention_heads=4
    )
    assert module.members["kv_shift"].key.shape == (4, 3, 2)
