"""The battery: effects are the ratios that they say, intervals cover, nothing is left behind."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import SINK_TOKEN, Plan, plant, plant_gpt2, text

from headway import HeadwayConfig, HeadwayForCausalLM
from headway.decoder.observer import Observer, active
from headway.errors import HeadwayError
from headway.waiver.battery import run_battery
from headway.waiver.effects import Bootstrap
from headway.waiver.encodings import encodings_of, swapped
from headway.waiver.profile import profile_sinks


def rate(model, ids, **edits):
    """`(L, T)` sink rate by the profile, an independent way to the same number."""
    with active(Observer(**edits)):
        return profile_sinks(model, ids).sink_rate.mean(1)


def random_model(position="rope", seed=0):
    """Attention sharp enough for accidental sinks in some heads and samples."""
    torch.manual_seed(seed)
    config = HeadwayConfig(
        vocab_size=29,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=48,
        initializer_range=0.8,
        position=position,
    )
    return HeadwayForCausalLM(config).eval()


@pytest.mark.parametrize("position", ["rope", "learned"])
def test_effects_are_ratios_of_profiles(position):
    from headway.waiver.interventions import self_only

    model = random_model(position)
    ids = torch.randint(0, 29, (7, 40), generator=torch.Generator().manual_seed(1))
    battery = run_battery(model, ids, targets=(5, 9), batch_size=3, origin=0)
    natural = rate(model, ids)[:, 0]
    assert float(natural.mean()) > 0
    torch.testing.assert_close(battery.total.value, float(natural.mean()))
    effects = {effect.words: effect for effect in battery.effects}

    def check(words, sinks):
        effect = effects[words]
        assert effect.total.value == pytest.approx(float(sinks.mean() / natural.mean()), abs=1e-5)
        for layer, interval in enumerate(effect.layers):
            if natural[layer] > 0:
                wanted = float(sinks[layer] / natural[layer])
                assert interval.value == pytest.approx(wanted, abs=1e-5)

    encodings = encodings_of(model, ids)
    change = encodings.for_observer(swapped(0, 9))
    check(
        "positions 0 and 9 swapped: column 9",
        rate(model, ids, positions=change)[:, 9],
    )
    rule = self_only((9,))
    check("token 9 sees itself alone: column 9", rate(model, ids, rule=rule)[:, 9])
    exchanged = ids.clone()
    exchanged[:, [0, 9]] = ids[:, [9, 0]]
    check("tokens 0 and 9 exchanged: column 9", rate(model, exchanged)[:, 9])
    check("the first token dropped: the new first token", rate(model, ids[:, 1:])[:, 0])
    # Pooled: the mean of what its members have.
    both = [e.total.value for e in battery.effects if e.key == "swap_moved"]
    assert battery.pooled["swap_moved"].total.value == pytest.approx(sum(both) / 2, abs=1e-6)


def test_context_is_compared_with_the_pass_in_which_nobody_sees_the_block():
    plan = Plan("position", "learned", tokens=32)
    battery = run_battery(plant(plan), text(plan, 4))
    assert battery.pooled["context_kept"].total.value == 1.0


def test_no_sink_no_edits():
    plan = Plan("none")
    battery = run_battery(plant(plan), text(plan, 4))
    assert battery.origin is None
    assert battery.effects == ()
    assert battery.waivers == ()
    assert battery.total.value == 0.0


def test_the_model_is_left_as_it_was():
    plan = Plan("position", "learned", layers=2, tokens=32)
    for make in (plant, plant_gpt2):
        model, ids = make(plan), text(plan, 4)
        model.train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        implementation = model.config._attn_implementation
        run_battery(model, ids)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert model.config._attn_implementation == implementation
        assert all(module.training for module in model.modules())
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks


def test_after_a_failure_too():
    plan = Plan("position", "learned", layers=2, tokens=32)
    model, ids = plant_gpt2(plan), text(plan, 4)
    calls = []

    def stop(done, _all):
        calls.append(done)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_battery(model, ids, progress=stop)
    assert calls == [1, 2, 3, 4, 5]
    assert not model.transformer._forward_pre_hooks
    assert model.config._attn_implementation != "headway_observed"


def test_the_same_seed_gives_the_same_numbers_and_json_goes_through():
    plan = Plan("feature", tokens=32)
    model, ids = plant(plan), text(plan, 5)
    first, again = (run_battery(model, ids, seed=3).to_dict() for _ in range(2))
    assert json.dumps(first) == json.dumps(again)
    other = run_battery(model, ids, seed=4)
    words = {effect.words for effect in other.effects}
    assert words != {effect["words"] for effect in first["effects"]}


def test_progress_counts_every_pass():
    plan = Plan("feature", tokens=32)
    told = []
    run_battery(plant(plan), text(plan, 5), batch_size=2, progress=lambda *n: told.append(n))
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))


def test_damage_stands_beside_every_relocation():
    plan = Plan("token", tokens=32)
    battery = run_battery(plant(plan), text(plan, 5, bos=True))
    for effect in battery.effects:
        if effect.test == "T1":
            assert effect.damage is None
            continue
        assert effect.damage.ratio.value == pytest.approx(
            effect.damage.after / effect.damage.before, rel=1e-6
        )
        assert effect.damage.change.value >= 0


def test_the_new_line_of_a_tokenizer_is_tried():
    class Tokenizer:
        all_special_ids = (SINK_TOKEN,)

        def encode(self, text, add_special_tokens):
            assert text == "\n"
            assert not add_special_tokens
            return [7]

        def decode(self, ids):
            return f"<{ids[0]}>"

    plan = Plan("token", tokens=32)
    battery = run_battery(plant(plan), text(plan, 5, bos=True), tokenizer=Tokenizer())
    assert battery.pooled["newline_kept"].total.value == 0.0


@pytest.mark.parametrize("origin", [-1, 32])
def test_an_origin_that_is_not_there(origin):
    plan = Plan("none", tokens=32)
    with pytest.raises(HeadwayError, match=f"origin: {origin} is not accepted"):
        run_battery(plant(plan), text(plan, 2), origin=origin)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 1)), min_size=2, max_size=20))
def test_the_ratio_lies_in_its_interval_for_equal_samples_and_scales(pairs):
    over, under = (torch.tensor(x, dtype=torch.float64) for x in zip(*pairs, strict=True))
    bootstrap = Bootstrap(len(pairs))
    found = bootstrap.ratio(over, under)
    assert found.value == pytest.approx(float(over.mean() / under.mean()))
    assert found.low <= found.high
    single = (over / under).tolist()
    assert min(single) - 1e-9 <= found.low
    assert found.high <= max(single) + 1e-9
    doubled = bootstrap.ratio(2 * over, under)
    assert tuple(doubled) == pytest.approx(tuple(2 * x for x in found))
    # Resampled jointly: a constant ratio has no spread.
    same = bootstrap.ratio(3 * under, under)
    assert tuple(same) == pytest.approx((3.0, 3.0, 3.0))


def test_intervals_cover():
    """Of 95 % intervals of a mean of 50 normal samples, most hold the truth."""
    bootstrap = Bootstrap(50)
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(200):
        found = bootstrap.mean(torch.randn(50, generator=generator) + 1)
        held += found.low <= 1 <= found.high
    assert 180 <= held <= 197


def test_a_profile_brings_battery_and_verdict_where_they_are_asked_for():
    plan = Plan("feature")
    model, ids = plant(plan), text(plan, 10)
    assert profile_sinks(model, ids).verdict is None
    found = profile_sinks(model, ids, battery=True)
    assert found.verdict.kind == "feature based"
    assert found.battery.origin == 0
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["verdict"]["kind"] == "feature based"
    assert plain["battery"]["origin"] == 0
    assert "verdict" not in profile_sinks(model, ids).to_dict()
