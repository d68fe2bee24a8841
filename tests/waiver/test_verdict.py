"""The rule on vectors: measured and published ones, its lines, and what it says when unsure."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import Plan, plant, text

from headway.waiver.battery import run_battery
from headway.waiver.effects import UNDEFINED, Interval
from headway.waiver.verdict import REASONS, Facts, Thresholds, decide, judge

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "sinks"


def exact(value):
    return Interval(value, value, value)


def facts(natural, encodings, **effects):
    found = {key: exact(value) for key, value in effects.items()}
    return Facts(exact(natural), None, encodings, found)


# Two models of 16M parameters trained on Wikipedia text, windows of 64 tokens: share of heads.
GPT2_LEARNED = facts(
    0.139,
    "absolute",
    repeat_kept=0.040 / 0.139,
    equal_kept=0.0,
    swap_moved=(0.122 + 0.104 + 0.089 + 0.078) / 4 / 0.139,
    isolate_moved=0.284 / 0.139,
)
ROTARY_LLAMA = facts(
    0.144,
    "relative",
    repeat_kept=0.0,
    equal_kept=0.232 / 0.144,
    swap_moved=0.001 / 0.144,
    isolate_moved=0.053 / 0.144,
)
# arXiv 2410.10781, tables 1 and 7.
GPT2_XL = facts(0.77, "absolute", repeat_kept=0.6228 / 0.77, swap_moved=0.5317 / 0.6228)
MISTRAL = facts(0.9749, "relative", repeat_kept=0.0, swap_moved=0.0, isolate_moved=0.9)


def test_calibration():
    assert judge(GPT2_LEARNED, Thresholds())[0] == "position-encoding based"
    assert judge(ROTARY_LLAMA, Thresholds())[0] == "feature based"


def test_every_model_of_the_study_was_judged_as_it_is():
    """Trained on real text after the rule was made; results of the study's command."""
    expected = {
        "learned": "position-encoding based",
        "rope": "feature based",
        "alibi": "feature based",
        "sink_logit": "learned sink",
    }
    for arm, kind in expected.items():
        result = json.loads((RESULTS / f"{arm}.json").read_text(encoding="utf-8"))
        found = result["battery"]
        effects = {
            k: exact(v["value"]) for k, v in found["pooled"].items() if v["value"] is not None
        }
        learned = None
        if found["learned"]:
            rates = [layer["value"] for layer in found["learned"]]
            learned = exact(sum(rates) / len(rates))
        vector = Facts(exact(found["total"]["value"]), learned, found["encodings"], effects)
        assert judge(vector, Thresholds())[0] == kind == result["verdict"]["kind"]


def test_published_vectors_were_not_fitted_on():
    assert judge(GPT2_XL, Thresholds())[0] == "position-encoding based"
    assert judge(MISTRAL, Thresholds())[0] == "feature based"


def test_removing_positions_decides_between_the_two():
    """With the other's number there, each is no longer what it was."""
    for vector, value in ((GPT2_LEARNED, 1.6), (ROTARY_LLAMA, 0.0)):
        effects = {**vector.effects, "equal_kept": exact(value)}
        assert judge(replace(vector, effects=effects), Thresholds())[0] == "mixed"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "feature based"),
        ({"equal_kept": 0.5}, "feature based"),
        ({"equal_kept": 0.5, "swap_moved": 0.15}, "mixed"),
        ({"swap_moved": 0.3}, "mixed"),
        ({"isolate_moved": 0.1}, "mixed"),
        ({"isolate_moved": 0.3, "isolate_control": 0.15}, "mixed"),
        ({"isolate_moved": 0.1, "context_kept": 0.2}, "feature based"),
        ({"isolate_moved": 0.1, "context_kept": 0.3}, "mixed"),
        ({"isolate_moved": 0.1, "context_kept": 0.2, "replace_kept": 0.1}, "mixed"),
        ({"isolate_moved": 0.1, "context_kept": 0.2, "equal_kept": 0.1}, "mixed"),
        ({"token_moved": 0.9, "replace_kept": 0.1, "isolate_moved": 0.0}, "token based"),
        ({"token_moved": 0.9, "replace_kept": 0.5, "isolate_moved": 0.0}, "mixed"),
        ({"token_moved": 0.3}, "mixed"),
        ({"replace_kept": 0.1}, "mixed"),
    ],
)
def test_lines_of_the_rule(changes, kind):
    usual = {"equal_kept": 1.0, "swap_moved": 0.0, "isolate_moved": 0.5, "replace_kept": 0.9}
    assert judge(facts(0.3, "relative", **(usual | changes)), Thresholds())[0] == kind


@pytest.mark.parametrize(
    ("natural", "learned", "kind"),
    [
        (0.0, 0.5, "learned sink"),
        (0.2, 0.5, "learned sink"),
        (0.5, 0.5, "mixed"),
        (0.5, 0.2, "feature based"),
        (0.0, 0.0, "none"),
        (0.0, 0.009, "none"),
    ],
)
def test_a_learned_sink_beside_a_token(natural, learned, kind):
    given = replace(ROTARY_LLAMA, natural=exact(natural), learned=exact(learned))
    assert judge(given, Thresholds())[0] == kind


def test_the_repeat_says_nothing_beside_a_learned_sink():
    """Identity I2: rows that sum to less than one tell equal tokens apart."""
    closed = facts(0.4, "closed", repeat_kept=0.9)
    assert judge(closed, Thresholds())[0] == "position-encoding based"
    assert judge(replace(closed, learned=exact(0.0)), Thresholds())[0] == "mixed"
    guarded = facts(0.4, "closed", repeat_kept=0.9, repeat_guard=0.9)
    assert judge(guarded, Thresholds())[0] == "mixed"


def test_thresholds_can_be_moved():
    stern = Thresholds(stays=2.0, gone=0.0, still=0.0)
    assert judge(ROTARY_LLAMA, stern)[0] == "mixed"
    assert judge(ROTARY_LLAMA, Thresholds(floor=0.2))[0] == "none"
    with pytest.raises(AttributeError):
        stern.gone = 0.1


def test_an_interval_across_the_line_is_not_sure():
    wide = {**ROTARY_LLAMA.effects, "isolate_moved": Interval(0.37, 0.15, 0.6)}
    evidence = judge(replace(ROTARY_LLAMA, effects=wide), Thresholds())[1]
    assert {e.key for e in evidence if not e.sure} == {"isolate_moved"}
    assert all(e.sure for e in judge(ROTARY_LLAMA, Thresholds())[1])


numbers = st.one_of(st.none(), st.floats(0, 3), st.just(math.nan))
KEYS = (
    "equal_kept", "swap_moved", "repeat_kept", "repeat_guard", "isolate_moved", "isolate_control",
    "replace_kept", "token_moved", "context_kept",
)  # fmt: skip


@given(
    natural=st.floats(0, 1),
    learned=st.one_of(st.none(), st.floats(0, 1)),
    encodings=st.sampled_from(["absolute", "relative", "none", "closed"]),
    effects=st.fixed_dictionaries(dict.fromkeys(KEYS, numbers)),
)
def test_every_vector_has_a_class_and_reasons(natural, learned, encodings, effects):
    made = {k: exact(v) for k, v in effects.items() if v is not None}
    rate = None if learned is None else exact(learned)
    kind, evidence = judge(Facts(exact(natural), rate, encodings, made), Thresholds())
    assert kind in REASONS
    assert evidence[0].key == "natural"
    assert all(math.isfinite(e.effect.value) and math.isfinite(e.threshold) for e in evidence)
    # What was not measured is never evidence.
    measured = {"natural", "learned"} | {k for k, v in made.items() if not math.isnan(v.value)}
    assert {e.key for e in evidence} <= measured
    if kind == "position-encoding based":
        assert encodings != "none"
        kept = effects["equal_kept"]
        assert kept is None or math.isnan(kept) or kept <= Thresholds().gone
    if natural <= Thresholds().floor:
        assert kind in ("none", "learned sink")


def test_a_sink_that_goes_with_position_and_token_is_mixed():
    both = facts(0.3, "absolute", equal_kept=0.0, swap_moved=0.5, token_moved=0.5, replace_kept=0.5)
    assert judge(both, Thresholds())[0] == "mixed"


def test_undefined_is_not_evidence():
    assert (
        judge(replace(ROTARY_LLAMA, effects={"equal_kept": UNDEFINED}), Thresholds())[0] == "mixed"
    )


def test_words_hold_the_numbers_and_json_goes_through():
    plan = Plan("position", "learned")
    verdict = decide(run_battery(plant(plan), text(plan, 6)))
    assert verdict.words.startswith(REASONS[verdict.kind])
    for evidence in verdict.evidence:
        assert evidence.says in verdict.words
        assert str(evidence.effect) in verdict.words
    told = json.loads(json.dumps(verdict.to_dict()))
    assert told["thresholds"]["gone"] == Thresholds().gone
    assert told["evidence"][1]["effect"]["value"] == verdict.evidence[1].effect.value
    assert len(told["layers"]) == plan.layers


def test_what_is_not_sure_is_told_in_words():
    plan = Plan("position", "learned")
    battery = run_battery(plant(plan), text(plan, 6))
    total = battery.total._replace(low=0.0)
    verdict = decide(replace(battery, total=total))
    doubtful = [evidence.says for evidence in verdict.evidence if not evidence.sure]
    assert doubtful[0] == "share of heads with the sink: some token is a sink"
    assert verdict.words.endswith(f" Not sure at this number of samples: {'; '.join(doubtful)}.")
