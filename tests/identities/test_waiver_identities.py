"""Exact statements about repeated tokens, self-only rows and position ids, in every layer."""

from dataclasses import replace

import pytest
import torch

from headway import (
    HeadwayConfig,
    HeadwayModel,
    KVShift,
    OutputGate,
    ResidualStream,
    SinkLogit,
)
from headway.decoder.block import Depth
from headway.decoder.forward_pass import start_pass
from headway.mechanisms.context import Streams

T = 12
IN_LOGITS = ("rope", "alibi", "none")
EVERY = (*IN_LOGITS, "learned")
EQUAL = 1e-12
APART = 1e-2


def build(position, mechanisms=()):
    torch.manual_seed(0)
    config = HeadwayConfig(
        vocab_size=31,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        position=position,
        mechanisms=list(mechanisms),
    )
    return HeadwayModel(config).double().eval()


def states(model, ids, position_ids=None):
    """`(L, T, hidden_size)`: the output of every layer for one row."""
    out = model(ids, position_ids=position_ids, output_hidden_states=True, use_cache=False)
    return torch.stack(out.hidden_states[1:])[:, 0]


def states_with_self_only_row(model, ids, row, layers=range(4)):
    """As `states`, where in `layers` the query at `row` sees only itself, at its own position."""
    x = model.embed_tokens(ids)
    run = start_pass(model.config, x, None, None, None)
    if model.embed_positions is not None:
        x = x + model.embed_positions(run.positions)
    # a query at position p of its document sees the p keys before it, and itself
    reach = run.positions.clone()
    reach[:, row] = 0
    cut = replace(run, visible=replace(run.visible, positions=reach, whole_rows=False))
    depth, streams, outputs = Depth(x, None, None), Streams(), []
    for i, layer in enumerate(model.layers):
        depth, streams = layer(depth, streams, cut if i in layers else run)
        outputs.append(depth.hidden[0])
    return torch.stack(outputs)


def spread(hidden):
    """The largest difference between positions, layer by layer."""
    return (hidden - hidden[:, :1]).abs().amax((1, 2))


def gap(left, right):
    """The largest difference, layer by layer."""
    return (left - right).abs().flatten(1).amax(1)


def one_token():
    return torch.full((1, T), 5)


def text():
    return torch.randperm(31)[:T][None]


@pytest.mark.parametrize("position", EVERY)
def test_i1_a_repeated_token_has_one_state(position):
    repeated = spread(states(build(position), one_token()))
    if position in IN_LOGITS:
        assert (repeated < EQUAL).all()
    else:
        assert (repeated > APART).all()
    assert (spread(states(build(position), text())) > APART).all()


@pytest.mark.parametrize("position", IN_LOGITS)
@pytest.mark.parametrize(
    ("mechanisms", "kept"),
    [
        ([ResidualStream(), OutputGate()], True),
        ([SinkLogit()], False),
        ([SinkLogit(learned=False)], False),
        ([KVShift()], False),
    ],
    ids=["rows sum to one", "learned sink", "softmax off by one", "first token has no previous"],
)
def test_i2_rows_must_sum_to_one(position, mechanisms, kept):
    repeated = spread(states(build(position, mechanisms), one_token()))
    assert (repeated < EQUAL).all() if kept else (repeated > APART).all()


def test_i2_a_sink_without_weight_keeps_i1():
    repeated = spread(states(build("rope", [SinkLogit(init="identity")]), one_token()))
    assert (repeated < 1e-9).all()


@pytest.mark.parametrize("position", EVERY)
@pytest.mark.parametrize("row", [3, T - 1])
def test_i3_a_self_only_row_is_a_first_token(position, row):
    model, ids = build(position), text()
    cut = states_with_self_only_row(model, ids, row)[:, row : row + 1]
    alone = states(model, ids[:, row : row + 1])
    if position in IN_LOGITS:
        assert (gap(cut, alone) < EQUAL).all()
    else:
        assert (gap(cut, alone) > APART).all()
    assert (gap(states(model, ids)[:, row : row + 1], alone) > APART).all()


@pytest.mark.parametrize("position", IN_LOGITS)
def test_i3_needs_every_layer(position):
    model, ids = build(position), text()
    cut = states_with_self_only_row(model, ids, 3, layers=range(2))[:, 3:4]
    difference = gap(cut, states(model, ids[:, 3:4]))
    assert (difference[:2] < EQUAL).all()
    assert (difference[2:] > APART).all()


@pytest.mark.parametrize("position", IN_LOGITS)
def test_i3_tokens_before_the_row_do_not_notice(position):
    model, ids = build(position), text()
    whole, cut = states(model, ids), states_with_self_only_row(model, ids, 3)
    assert (gap(whole[:, :3], cut[:, :3]) < EQUAL).all()
    # in the first layer a changed query changes its own row alone
    assert gap(whole[:1, 4:], cut[:1, 4:]) < EQUAL
    assert (gap(whole[1:, 4:], cut[1:, 4:]) > APART).all()


@pytest.mark.parametrize("position", EVERY)
def test_i4_a_uniform_shift_of_position_ids(position):
    model, ids = build(position), text()
    shifted = states(model, ids, (torch.arange(T) + 7)[None])
    difference = gap(shifted, states(model, ids))
    if position in IN_LOGITS:
        assert (difference < 1e-11).all()
    else:
        assert (difference > APART).all()


def test_i4_another_id_for_the_first_token_alone():
    model, ids = build("rope"), text()
    position_ids = torch.arange(T)[None].clone()
    position_ids[0, 0] = 7
    moved, usual = states(model, ids, position_ids), states(model, ids)
    assert (gap(moved[:, :1], usual[:, :1]) < EQUAL).all()
    assert (gap(moved[:, 1:], usual[:, 1:]) > APART).all()
