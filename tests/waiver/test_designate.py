"""Chosen elements become waivers, the profile shows it, and the model is left as it was."""

import pytest
import torch
from planted import Plan, plant, plant_bert, plant_gpt2, plant_llama, text
from transformers import BloomConfig, BloomForCausalLM, MistralConfig, MistralForCausalLM

from headway import HeadwayConfig, HeadwayForCausalLM, designate
from headway.decoder.observer import Observer, active
from headway.errors import HeadwayError
from headway.waiver.profile import profile_sinks


def sinks(model, ids, **edits):
    return profile_sinks(model, ids, **edits).sink_metric()


@pytest.mark.parametrize("make", [plant, plant_llama])
def test_by_mask_where_features_choose(make):
    plan = Plan("feature", heads_with_sink=1)
    model, ids = make(plan), text(plan, 6)
    natural = sinks(model, ids)
    with designate(model, [20]):
        profile = profile_sinks(model, ids)
    found = profile.sink_metric()
    assert float(natural[20]) == 0.0
    assert float(found[20]) >= 1 / 3  # one head of two, in all layers but the first
    assert 20 in profile.waivers()
    torch.testing.assert_close(sinks(model, ids), natural)


@pytest.mark.parametrize("make", [plant, plant_gpt2, plant_bert])
def test_by_position_where_encodings_choose(make):
    plan = Plan("position", "learned")
    model, ids = make(plan), text(plan, 6)
    with designate(model, [20], by="position"):
        profile = profile_sinks(model, ids)
    assert profile.sinks() == (20,)
    assert profile.waivers() == (20,)
    with designate(model, [0, 20], by="position"):
        both = profile_sinks(model, ids).received.mean((0, 1))
    assert float(both[0]) > 0.3
    assert float(both[20]) == pytest.approx(0.5, abs=0.05)
    assert sinks(model, ids).argmax() == 0


def test_by_value():
    plan = Plan("position", "learned", small_values=False)
    model, ids = plant(plan), text(plan, 6)
    assert profile_sinks(model, ids).waivers() == ()
    with designate(model, [0], by="value"):
        profile = profile_sinks(model, ids)
    assert profile.waivers() == (0,)
    assert float(profile.value_norm[:, :, 0].max()) == 0.0
    assert float(profile.value_norm[:, :, 1:].min()) > 0.0


def mistral():
    config = MistralConfig(
        vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=8, initializer_range=0.3,
    )  # fmt: skip
    return MistralForCausalLM(config).double().eval()


def bloom():
    config = BloomConfig(vocab_size=40, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)
    return BloomForCausalLM(config).double().eval()


def ours(position):
    config = HeadwayConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, position=position, max_position_embeddings=64,
    )  # fmt: skip
    return HeadwayForCausalLM(config).double().eval()


GENERATING = {
    "rotary": lambda: ours("rope"),
    "ALiBi": lambda: ours("alibi"),
    "learned": lambda: ours("learned"),
    "Mistral with a window": mistral,
    "BLOOM": bloom,
    "GPT-2": lambda: plant_gpt2(Plan("none", "learned")),
}


@torch.no_grad()
@pytest.mark.parametrize("by", ["mask", "position", "value"])
@pytest.mark.parametrize("name", GENERATING)
def test_a_cache_gives_what_a_whole_pass_gives(name, by):
    torch.manual_seed(0)
    model = GENERATING[name]()
    ids = torch.randint(2, 40, (2, 26), generator=torch.Generator().manual_seed(1))
    columns = [11, 22] if by != "position" else [11]
    usual = model(ids).logits
    with designate(model, columns, by=by):
        whole = model(ids).logits
        cache, parts = None, []
        for part in ids.split([20, 1, 1, 1, 1, 1, 1], dim=1):
            out = model(part, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            parts.append(out.logits)
        text = model.generate(ids, max_new_tokens=4, do_sample=False)
        alone = model.generate(ids, max_new_tokens=4, do_sample=False, use_cache=False)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)
    assert torch.equal(text, alone)
    # What is before the first one that was chosen does not notice; what is behind it does.
    if by != "position":
        torch.testing.assert_close(whole[:, :11], usual[:, :11], rtol=0, atol=1e-6)
    assert float((whole[:, 12:] - usual[:, 12:]).abs().max()) > 1e-4
    torch.testing.assert_close(model(ids).logits, usual, rtol=0, atol=1e-9)


def test_edits_inside_add_up():
    plan = Plan("feature")
    model, ids = plant(plan), text(plan, 4)
    with active(Observer(rule=only(20))):
        alone = sinks(model, ids)
        with designate(model, [30]):
            both = sinks(model, ids)
    assert float(alone[30]) == 0.0
    assert float(both[20]) > 0
    assert float(both[30]) > 0
    with designate(model, [20]), designate(model, [30]):
        torch.testing.assert_close(sinks(model, ids), both)


def only(column):
    return lambda query, key: (query != column) | (key == query)


def test_positions_and_values_add_up():
    seen = []
    inner = Observer(positions=lambda p: p + 1, values=lambda v, _columns: v + 1)
    outer = Observer(positions=lambda p: p * 10, values=lambda v, _columns: v * 10, see=seen.append)
    stacked = inner.inside(outer)
    assert int(stacked.positions(torch.tensor(1))) == 20
    assert float(stacked.values(torch.tensor(1.0), torch.tensor(0))) == 20.0
    assert stacked.see is None
    assert inner.inside(None) is inner


@pytest.mark.parametrize("by", ["mask", "position", "value"])
def test_the_model_is_left_as_it_was(by):
    plan = Plan("position", "learned", tokens=32)
    for make in (plant, plant_gpt2, lambda _plan: bloom()):
        model = make(plan)
        model.train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        implementation = model.config._attn_implementation
        with pytest.raises(KeyboardInterrupt):
            _interrupted(model, text(plan, 2), by)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert model.config._attn_implementation == implementation
        for module in model.modules():
            assert module.training
            assert not module._forward_pre_hooks
            assert "forward" not in vars(module)


def _interrupted(model, ids, by):
    with designate(model, [3], by=by):
        profile_sinks(model, ids)
        raise KeyboardInterrupt


def test_a_model_without_editable_positions_is_refused():
    with (
        pytest.raises(HeadwayError, match=r"by: 'position' is not accepted, as .* no position enc"),
        designate(ours("none"), [3], by="position"),
    ):
        pass


@pytest.mark.parametrize("by", ["mask", "position", "value"])
def test_a_model_that_cannot_be_observed_is_refused(by):
    with pytest.raises(HeadwayError, match="model: "), designate(torch.nn.Linear(2, 2), [3], by=by):
        pass


@pytest.mark.parametrize(
    ("positions", "by", "message"),
    [([], "mask", "positions: "), ([-1], "mask", "positions: "), ([1], "magic", "by: 'magic'")],
)
def test_bad_arguments(positions, by, message):
    with pytest.raises(HeadwayError, match=message), designate(ours("rope"), positions, by=by):
        pass


def test_nothing_is_active_afterwards():
    with designate(ours("rope"), [3]):
        pass
    with active(Observer()):
        from headway.decoder.observer import _active

        assert _active.get() == Observer()
