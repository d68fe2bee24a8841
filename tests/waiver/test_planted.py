"""The verdict and the waiver test are right on models whose truth is known by construction."""

from dataclasses import replace

import pytest
from planted import SINK_TOKEN, Plan, plant, plant_bert, plant_gpt2, plant_llama, text

import headway
from headway import KVShift
from headway.waiver.battery import run_battery
from headway.waiver.functional import waiver_test
from headway.waiver.profile import profile_sinks
from headway.waiver.verdict import decide

POSITION = "position-encoding based"
FEATURE, TOKEN, LEARNED = "feature based", "token based", "learned sink"

FITTED = [
    (Plan("position", "learned"), {}, POSITION),
    (Plan("feature", "rope"), {}, FEATURE),
    (Plan("feature", "learned"), {}, FEATURE),
    (Plan("token", "rope"), {"bos": True}, TOKEN),
    (Plan("learned", "rope"), {}, LEARNED),
    (Plan("none", "rope"), {}, "none"),
    (Plan("position and token", "learned"), {"bos": True}, "mixed"),
    (Plan("feature and learned", "rope"), {}, "mixed"),
]
"""The rule was looked at with these, and with the vectors of test_verdict."""
LARGE = {
    "heads": 4,
    "heads_with_sink": 1,
    "layers": 4,
    "code": 12,
    "vocabulary": 90,
    "norm": "layer",
}
SMALL = {"layers": 2, "code": 6, "tokens": 40, "score": 11.0, "norm": "layer"}
HELD_OUT = [
    (Plan("position", "learned", seed=7, **LARGE), {}, POSITION),
    (Plan("position", "learned", seed=8, **SMALL), {}, POSITION),
    (Plan("feature", "none", seed=9, **LARGE), {}, FEATURE),
    (Plan("feature", "alibi", seed=10, **SMALL), {}, FEATURE),
    (Plan("feature", "rope", seed=11, **SMALL), {}, FEATURE),
    (Plan("feature", "learned", seed=12, **LARGE), {"bos": True}, FEATURE),
    (Plan("token", "learned", seed=13, **LARGE), {"bos": True}, TOKEN),
    (Plan("token", "none", seed=14, **SMALL), {"bos": True}, TOKEN),
    (Plan("token", "rope", seed=15), {"scattered": 0.04}, TOKEN),
    (Plan("learned", "alibi", seed=16, **SMALL), {}, LEARNED),
    (Plan("none", "learned", seed=17, **LARGE), {}, "none"),
    (Plan("none", "alibi", seed=18, **SMALL), {}, "none"),
    (Plan("position and token", "learned", seed=19, layers=2), {"bos": True}, "mixed"),
]
"""The rule was not fitted on these."""


def named(cases):
    return [f"{plan.cause}, {plan.position}, seed {plan.seed}" for plan, _, _ in cases]


@pytest.mark.parametrize(("plan", "shape", "kind"), FITTED, ids=named(FITTED))
def test_fitted(plan, shape, kind):
    verdict = decide(run_battery(plant(plan), text(plan, 10, **shape)))
    assert verdict.kind == kind, verdict.words


@pytest.mark.parametrize(("plan", "shape", "kind"), HELD_OUT, ids=named(HELD_OUT))
def test_held_out(plan, shape, kind):
    samples = 30 if "scattered" in shape else 10
    verdict = decide(run_battery(plant(plan), text(plan, samples, **shape)))
    assert verdict.kind == kind, verdict.words


def test_layers_have_their_own_class():
    plan = Plan("feature")
    verdict = decide(run_battery(plant(plan), text(plan, 10)))
    assert verdict.layers == ("none", FEATURE, FEATURE)


@pytest.mark.parametrize(
    ("make", "plan", "kind"),
    [
        (plant_gpt2, Plan("position", "learned", seed=21), POSITION),
        (plant_gpt2, Plan("feature", "learned", seed=22), FEATURE),
        (plant_llama, Plan("feature", "rope", heads_with_sink=1, seed=23), FEATURE),
        (plant_llama, Plan("token", "rope", heads_with_sink=1, seed=24), TOKEN),
    ],
    ids=["GPT-2, position", "GPT-2, feature", "Llama, feature", "Llama, token"],
)
def test_models_of_transformers(make, plan, kind):
    ids = text(plan, 10, bos=kind == TOKEN)
    battery = run_battery(make(plan), ids)
    assert decide(battery).kind == kind
    assert battery.encodings == ("absolute" if make is plant_gpt2 else "relative")
    assert battery.pooled["swap_moved"].damage is None
    swaps = [effect for effect in battery.effects if effect.key == "swap_moved"]
    assert all(effect.damage.measure == "KL of the logits, nats" for effect in swaps)
    assert all(effect.damage.before > 1 for effect in swaps)


@pytest.mark.parametrize("cause", ["position", "token"])
def test_an_encoder(cause):
    plan = Plan(cause, "learned", seed=25)
    ids = text(plan, 10)
    ids[:, 20] = SINK_TOKEN
    battery = run_battery(plant_bert(plan), ids, targets=(5, 10, 30))
    assert decide(battery).kind == (POSITION if cause == "position" else TOKEN)
    assert battery.origin == (0 if cause == "position" else 20)
    (waiver,) = battery.waivers
    assert waiver.is_waiver
    assert waiver.zeroed.before is None
    assert waiver.zeroed.measure == "KL of the logits, nats"


def test_where_positions_cannot_be_edited_the_repeat_tells():
    plan = Plan("feature", "rope")
    model = plant_llama(plan)
    inner = model.model.forward

    def forward(input_ids=None, attention_mask=None, **options):
        return inner(input_ids, attention_mask, **options)

    model.model.forward = forward
    battery = run_battery(model, text(plan, 10))
    assert battery.encodings == "closed"
    assert "equal_kept" not in battery.pooled
    assert any("takes no position_ids" in sentence for sentence in battery.skipped)
    verdict = decide(battery)
    assert verdict.kind == FEATURE
    assert "repeat_kept" in [evidence.key for evidence in verdict.evidence]


WAIVERS = [plan for plan, _, kind in FITTED[:4]]


@pytest.mark.parametrize("plan", WAIVERS, ids=[f"{p.cause}, {p.position}" for p in WAIVERS])
@pytest.mark.parametrize("small", [True, False], ids=["small values", "large values"])
def test_a_sink_is_a_waiver_if_its_values_are_small(plan, small):
    plan = replace(plan, small_values=small)
    model, ids = plant(plan), text(plan, 10, bos=plan.cause == "token")
    (found,) = waiver_test(model, ids, positions=(0,))
    assert found.receives_much
    assert found.small_values is small
    assert found.not_missed is small
    assert found.is_waiver is small
    assert (
        decide(run_battery(model, ids)).kind
        == {p.cause: kind for p, _, kind in FITTED[:4]}[plan.cause]
    )
    assert profile_sinks(model, ids).waivers() == ((0,) if small else ())


def test_a_token_that_is_a_sink_anywhere_is_placed():
    plan = Plan("token", "rope", seed=15)
    battery = run_battery(plant(plan), text(plan, 30, scattered=0.04))
    assert (battery.placed, battery.origin) == (SINK_TOKEN, plan.tokens // 4)
    assert f"Token {SINK_TOKEN} is a sink wherever it stands" in decide(battery).words


@pytest.mark.parametrize(
    ("make", "plan"), [(plant_llama, Plan("feature")), (plant_gpt2, Plan("position", "learned"))]
)
def test_mechanisms_that_change_nothing_change_no_number(make, plan):
    model, ids = make(plan), text(plan, 10)
    plain = profile_sinks(model, ids, battery=True)
    headway.attach(model, [KVShift(init="identity")])
    found = profile_sinks(model, ids, battery=True)
    assert {"T2", "T3"} <= {effect.test for effect in found.battery.effects}
    assert found.battery.skipped == plain.battery.skipped
    assert found.battery.encodings == plain.battery.encodings
    assert found.verdict == plain.verdict
    for ours, theirs in zip(found.battery.effects, plain.battery.effects, strict=True):
        assert ours.words == theirs.words
        assert ours.total == pytest.approx(theirs.total, abs=1e-9, nan_ok=True)
