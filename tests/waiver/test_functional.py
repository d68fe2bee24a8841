"""The waiver test: its numbers by another way, its controls, encoders, and bad positions."""

import json

import pytest
import torch
from planted import Plan, plant, plant_bert, plant_gpt2, plant_llama, text

from headway import HeadwayConfig, HeadwayForCausalLM
from headway.errors import HeadwayError
from headway.waiver.functional import _control_columns, waiver_test
from headway.waiver.profile import profile_sinks


@torch.no_grad()
def test_zeroing_is_what_an_edited_model_gives():
    plan = Plan("none", "learned", layers=2, tokens=20)
    model, ids = plant(plan), text(plan, 3)
    found = waiver_test(model, ids, positions=(4,))[0]
    natural = model(ids).logits.log_softmax(-1)

    def without(_module, _inputs, values):
        return values.index_fill(1, torch.tensor([4]), 0.0)

    for layer in model.model.layers:
        layer.self_attn.v_proj.register_forward_hook(without)
    edited = model(ids).logits.log_softmax(-1)
    rest = [i for i in range(20) if i != 4]
    divergence = (natural.exp() * (natural - edited)).sum(-1)[:, rest].mean()
    assert found.zeroed.change.value == pytest.approx(float(divergence), rel=1e-3)
    losses = [
        -logs[:, :-1].gather(-1, ids[:, 1:, None])[..., 0][:, [i - 1 for i in rest if i]].mean()
        for logs in (natural, edited)
    ]
    for perplexity, loss in zip((found.zeroed.before, found.zeroed.after), losses, strict=True):
        assert perplexity == pytest.approx(float(loss.exp()), rel=1e-5)


def test_attention_and_contribution_are_those_of_the_profile():
    plan = Plan("feature", tokens=32)
    model, ids = plant(plan), text(plan, 6)
    profile = profile_sinks(model, ids)
    (found,) = waiver_test(model, ids, positions=(0,), batch_size=4)
    weights = profile.sink_rate[:, :, 0]
    for name, interval in (("received", found.attention), ("contribution", found.contribution)):
        wanted = (getattr(profile, name)[:, :, 0] * weights).sum() / weights.sum()
        assert interval.value == pytest.approx(float(wanted), rel=1e-4)
    assert found.ratio.value == pytest.approx(found.attention.value / found.contribution.value)
    assert found.ratio.low <= found.ratio.value <= found.ratio.high


def test_where_it_is_no_sink_it_may_be_needed():
    """A first token's value in the first layer says to others that they are none."""
    plan = Plan("feature", tokens=32)
    (found,) = waiver_test(plant(plan), text(plan, 6), positions=(0,))
    assert found.zeroed.change.value > 1000 * found.spared.change.value
    assert found.is_waiver


def test_default_positions_are_the_sinks():
    plan = Plan("position", "learned", tokens=32)
    model, ids = plant(plan), text(plan, 4)
    assert [w.position for w in waiver_test(model, ids)] == list(profile_sinks(model, ids).sinks())
    plan = Plan("none", tokens=32)
    assert waiver_test(plant(plan), text(plan, 4)) == ()


@pytest.mark.parametrize("make", [plant_gpt2, plant_llama, plant_bert])
def test_models_of_transformers(make):
    plan = Plan("token", tokens=32)
    (found,) = waiver_test(make(plan), text(plan, 4, bos=True), positions=(0,))
    assert found.is_waiver
    assert (found.zeroed.before is None) is (make is plant_bert)
    json.dumps(found.to_dict())


def test_without_a_head_the_final_states_are_compared():
    plan = Plan("position", "learned", tokens=32, small_values=False)
    model, ids = plant(plan).model, text(plan, 4)
    (found,) = waiver_test(model, ids, positions=(0,))
    assert found.zeroed.measure == "relative change of the final states"
    assert found.zeroed.ratio is None
    assert found.zeroed.change.value > 0.05
    assert not found.is_waiver


def test_grouped_heads_share_values():
    torch.manual_seed(0)
    config = HeadwayConfig(
        vocab_size=29, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.35,
    )  # fmt: skip
    ids = torch.randint(0, 29, (5, 24), generator=torch.Generator().manual_seed(1))
    found = waiver_test(HeadwayForCausalLM(config).eval(), ids, positions=(0, 3))
    assert [w.position for w in found] == [0, 3]
    assert all(w.zeroed.change.value > 0 for w in found)


def test_controls_are_no_sinks_and_differ_between_samples():
    drawn = _control_columns(50, 20, {0, 3}, seed=1)
    assert not ({0, 3} & set(drawn.flatten().tolist()))
    assert len(drawn[0].unique()) > 5
    assert torch.equal(drawn, _control_columns(50, 20, {0, 3}, seed=1))


@pytest.mark.parametrize("position", [-1, 32])
def test_a_position_that_is_not_there(position):
    plan = Plan("none", tokens=32)
    with pytest.raises(HeadwayError, match=f"positions: {position} is not accepted"):
        waiver_test(plant(plan), text(plan, 2), positions=(position,))
