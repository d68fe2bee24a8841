"""A whole comparison: what it records, for every arm and seed, and that it repeats exactly."""

import json
import math

import pytest
from small_comparisons import (
    all_finite,
    arms_file,
    by_place,
    contents,
    records,
    settings,
)

from headway import HeadwayConfig, HeadwayError, HeadwayForCausalLM, KVShift
from headway.corpora.batches import Windows, validation_windows
from headway.corpora.tokens import TokenCorpus
from headway.report.summary import summarise
from headway.studies.comparison.compare import COST_ROUNDS, compare
from headway.training.initialise import seed_weights
from headway.training.probes import validate
from headway.training.recipe import Recipe
from headway.training.run import train

ARMS = ("vanilla", "kv_shift", "value_stream+selective")


@pytest.fixture(scope="module")
def done(tmp_path_factory, text):
    """Three arms, two seeds; only to be read."""
    out = tmp_path_factory.mktemp("comparison") / "deep" / "run"
    compare(settings(out, text, *ARMS, seeds=2), "headway compare these")
    return out


def of_kind(folder, kind, **fields):
    found = [r for r in records(folder) if r["kind"] == kind]
    return [r for r in found if all(r[k] == v for k, v in fields.items())]


def test_every_arm_and_seed_has_every_record(done):
    for arm in ARMS:
        for seed in (0, 1):
            steps = [r["step"] for r in of_kind(done, "train", arm=arm, seed=seed)]
            assert steps == [1, 2, 3, 4, 5, 6]
            assert [r["step"] for r in of_kind(done, "eval", arm=arm, seed=seed)] == [3, 6]
            assert len(of_kind(done, "learned", arm=arm, seed=seed)) == 1
            (finish,) = of_kind(done, "finish", arm=arm, seed=seed)
            assert (finish["status"], finish["step"], finish["tokens"]) == ("done", 6, 6 * 2 * 16)
        assert len(of_kind(done, "cost", arm=arm)) == 1
    assert len(records(done)) == 6 * (6 + 2 + 1 + 1) + 3


def test_every_number_is_finite_and_the_last_evaluation_is_the_result(done):
    assert all_finite(done)
    for finish in of_kind(done, "finish"):
        last = of_kind(done, "eval", arm=finish["arm"], seed=finish["seed"])[-1]
        assert finish["validation_loss"] == last["validation_loss"]
        assert 0 < finish["test_loss"] < 2 * math.log(257)
        binned = last["position_losses"]
        assert [middle for middle, _ in binned] == sorted({middle for middle, _ in binned})
        assert binned[0][0] == 0
        assert binned[-1][0] <= 15
        assert 0 <= last["repeat_accuracy"] <= 1
        assert [len(layer) for layer in last["prefix_scores"]] == [2, 2]


def test_arms_share_data_and_seeds_do_not(done):
    first = {(r["arm"], r["seed"]): r["loss"] for r in of_kind(done, "train", step=1)}
    assert first["vanilla", 0] != first["vanilla", 1]
    rates = {tuple(r["learning_rate"] for r in of_kind(done, "train", arm=a, seed=0)) for a in ARMS}
    assert len(rates) == 1
    # The first loss is that of the same untrained weights, up to what the mechanism does.
    assert first["kv_shift", 0] == pytest.approx(first["vanilla", 0], abs=0.2)
    assert first["kv_shift", 0] != first["vanilla", 0]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_can_be_repeated_by_hand(done, seed):
    """Weights and order of the data follow from the seed alone."""
    corpus = TokenCorpus.load(done / "corpus")
    config = HeadwayConfig(
        vocab_size=corpus.vocab_size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, initializer_range=0.1, mechanisms=[KVShift()],
    )  # fmt: skip
    model = HeadwayForCausalLM(config)
    seed_weights(model, seed)
    plan = Recipe(steps=6, learning_rate=4e-3, weight_decay=0.1)
    taken = list(train(model, Windows(corpus.train, 16, 2, seed), plan, "float32", False))
    recorded = of_kind(done, "train", arm="kv_shift", seed=seed)
    assert [r["loss"] for r in recorded] == [s.loss for s in taken]
    held = validation_windows(corpus.validation, 16, 64)
    tested = validation_windows(corpus.test, 16, 64)
    (finish,) = of_kind(done, "finish", arm="kv_shift", seed=seed)
    assert finish["validation_loss"] == validate(model, held, 2, "float32").loss
    assert finish["test_loss"] == validate(model, tested, 2, "float32").loss


def test_costs_are_beside_vanilla(done):
    plain, shifted, _ = of_kind(done, "cost")
    assert plain["arm"] == "vanilla"
    assert (plain["added_parameters"], plain["peak_ratio"]) == (0, 1.0)
    assert plain["step_ratios"] == [1.0] * COST_ROUNDS
    assert shifted["added_parameters"] == 2 * 2 * 2 * 2  # layers, targets, heads, taps
    assert shifted["parameters"] == plain["parameters"] + 16
    assert shifted["peak_ratio"] == shifted["peak_bytes"] / plain["peak_bytes"] > 1
    assert len(shifted["step_seconds"]) == COST_ROUNDS
    for ratio, own, base in zip(
        shifted["step_ratios"], shifted["step_seconds"], plain["step_seconds"], strict=True
    ):
        assert ratio == own / base


def test_memory_is_at_least_weights_optimiser_gradients_and_logits(done):
    (plain,) = of_kind(done, "cost", arm="vanilla")
    weights, logits = 4 * plain["parameters"], 4 * 2 * 16 * 257
    assert 4 * weights <= plain["peak_bytes"] < 4 * weights + 20 * logits


def test_the_header_says_what_was_asked_for(done, text):
    header = json.loads((done / "settings.json").read_text())
    assert header["command"] == "headway compare these"
    assert header["settings"]["steps"] == 6
    assert header["settings"]["arms"] == list(ARMS)
    assert list(header["arms"]) == list(ARMS)
    assert [m["name"] for m in header["arms"][ARMS[2]]] == [
        "residual_stream", "selective_attention"
    ]  # fmt: skip
    assert header["corpus"]["source"] == str(text)
    assert header["device"].startswith("cpu: ")


def test_the_summary_can_be_drawn(done):
    summary = summarise(done)
    assert list(summary["arms"]) == list(ARMS)
    for arm in summary["arms"].values():
        assert (arm["seeds"], arm["diverged"], arm["unfinished"]) == ([0, 1], [], 0)
        assert arm["parameters"] > 0


def test_the_same_comparison_elsewhere_gives_the_same_numbers(done, text, tmp_path):
    compare(settings(tmp_path / "run", text, *ARMS, seeds=2), "again")
    assert by_place(tmp_path / "run") == by_place(done)


def test_fewer_seeds_and_arms_give_the_same_numbers_for_those(done, text, tmp_path):
    compare(settings(tmp_path / "run", text, "kv_shift", seeds=1), "fewer")
    whole = by_place(done)
    for place, record in by_place(tmp_path / "run").items():
        assert record == whole[place]


def test_a_finished_comparison_is_left_as_it_is(done, text):
    before = contents(done)
    compare(settings(done, text, *ARMS, seeds=2), "again")
    assert contents(done) == before


def test_vanilla_alone_is_a_comparison(text, tmp_path):
    compare(settings(tmp_path / "run", text, "vanilla", steps=1, evaluations=3), "alone")
    assert {r["arm"] for r in records(tmp_path / "run")} == {"vanilla"}
    assert [r["step"] for r in of_kind(tmp_path / "run", "eval")] == [1]


def test_a_long_context_has_early_and_late_losses(text, tmp_path):
    compare(settings(tmp_path / "run", text, "vanilla", context=80, validation_tokens=160), "long")
    for row in of_kind(tmp_path / "run", "eval"):
        assert row["in_context_gain"] == row["early_loss"] - row["late_loss"]
        middles = [middle for middle, _ in row["position_losses"]]
        assert len(middles) == len(set(middles)) > 15
        assert middles[-1] <= 79


def test_grouped_heads_bfloat16_and_a_trained_tokenizer(text, tmp_path):
    asked = settings(
        tmp_path / "run", text, "sink_logit", tokenizer="bpe", vocab_size=280,
        num_attention_heads=4, num_key_value_heads=1, dtype="bfloat16", position="alibi",
        num_hidden_layers=1,
    )  # fmt: skip
    compare(asked, "other choices")
    assert all_finite(tmp_path / "run")
    assert len(of_kind(tmp_path / "run", "finish", status="done")) == 2


def test_arms_from_a_file(text, tmp_path):
    arms = {"wide": [{"name": "kv_shift", "window": 3}], "shortcut": [{"name": "layer_shortcut",
            "taps": [0], "width": 8}]}  # fmt: skip
    compare(settings(tmp_path / "run", text, arms_file(tmp_path / "a.json", arms)), "file")
    header = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert header["arms"]["wide"][0]["window"] == 3
    assert header["arms"]["shortcut"][0]["taps"] == [0]
    assert len(of_kind(tmp_path / "run", "finish", status="done")) == 3


def test_matching_parameters_adds_a_vanilla_of_nearly_that_size(text, tmp_path):
    asked = settings(tmp_path / "run", text, "shortcut", "kv_shift", match="parameters", steps=2)
    compare(asked, "matched")
    sizes = {r["arm"]: r["parameters"] for r in of_kind(tmp_path / "run", "cost")}
    assert list(sizes) == ["vanilla", "shortcut", "kv_shift", "vanilla_wide"]
    unit = 3 * 16 * 2  # one more channel in every feed-forward part
    assert abs(sizes["vanilla_wide"] - sizes["shortcut"]) <= unit / 2
    assert sizes["vanilla_wide"] > sizes["vanilla"]
    assert len(of_kind(tmp_path / "run", "finish", arm="vanilla_wide", status="done")) == 1


@pytest.mark.parametrize(
    ("arms", "told"),
    [
        (("kv_shift",), ["match", "adds 16 parameters", "(96)", "use 'none'"]),
        (("vanilla",), ["match", "adds 0 parameters", "use 'none'"]),
    ],
)
def test_matching_is_refused_where_there_is_nothing_to_widen(text, tmp_path, arms, told):
    with pytest.raises(HeadwayError) as caught:
        compare(settings(tmp_path / "run", text, *arms, match="parameters"), "unmatched")
    assert all(part in str(caught.value) for part in told), str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_diverging_arm_is_recorded_and_the_others_go_on(text, tmp_path):
    # A stream scaled by 1e38 overflows at once; the other arms train.
    arms = {"lost": [{"name": "residual_stream", "scale": 3e38}], "kept": [{"name": "kv_shift"}]}
    asked = settings(tmp_path / "run", text, arms_file(tmp_path / "a.json", arms), seeds=2)
    compare(asked, "diverging")
    status = {(r["arm"], r["seed"]): r["status"] for r in of_kind(tmp_path / "run", "finish")}
    assert status == {
        (arm, seed): "diverged" if arm == "lost" else "done"
        for arm in ("vanilla", "lost", "kept")
        for seed in (0, 1)
    }
    lost = of_kind(tmp_path / "run", "finish", arm="lost")
    assert [(r["step"], r["validation_loss"], r["test_loss"]) for r in lost] == [
        (1, None, None)
    ] * 2
    assert len(of_kind(tmp_path / "run", "cost")) == 3
    assert summarise(tmp_path / "run")["arms"]["lost"]["diverged"] == [0, 1]
    before = contents(tmp_path / "run")
    compare(asked, "diverging")  # a diverged run has ended: it is not tried again
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("steps", [2, 30])
def test_a_learning_rate_beyond_all_measure_diverges_everywhere(text, tmp_path, steps):
    """Two steps show finite losses; then the weights are lost, as the validation finds first."""
    out = tmp_path / "run"
    compare(settings(out, text, learning_rate=1e30, steps=steps, evaluations=1), "too fast")
    finishes = of_kind(out, "finish")
    assert [r["status"] for r in finishes] == ["diverged"] * 2
    assert [r["step"] for r in finishes] == [min(steps, 3)] * 2
    assert [r["step"] for r in of_kind(out, "train", arm="vanilla")] == [1, 2]
    assert of_kind(out, "eval") == []
    assert all_finite(out)
    assert summarise(out)["arms"]["vanilla"]["diverged"] == [0]
