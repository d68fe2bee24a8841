"""The study of growing sinks: what it trains, what it measures, what a fault leaves behind."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from headway import HeadwayError, HeadwayForCausalLM
from headway.corpora.batches import ResidentWindows, Windows, validation_windows
from headway.corpora.tokens import TokenCorpus, build_corpus
from headway.studies.sinks import growth as sink_growth
from headway.studies.sinks.arms import ARMS, COMPARED
from headway.studies.sinks.growth import Plan, grow_sinks, measure
from headway.studies.sinks.page import render
from headway.studies.sinks.results import shared_corpus, write_result
from headway.studies.sinks.table import COLUMNS, sink_table
from headway.training.initialise import seed_weights
from headway.training.run import Step
from headway.waiver.monitor import SinkMonitor
from headway_settings import StudySettings

TIMES = ("seconds", "tokens_per_second", "started", "command")


def steady(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what a clock says."""
    kept = {k: v for k, v in result.items() if k not in TIMES}
    curve = [{k: v for k, v in e.items() if k != "seconds"} for e in result["curve"]]
    return kept | {"curve": curve}


def test_a_run_leaves_a_file_an_arm_and_a_table(asked: StudySettings) -> None:
    found = grow_sinks(replace(asked, arms=("none", "rope")), "headway study sinks")
    assert asked.out is not None
    assert sorted(p.name for p in asked.out.iterdir()) == ["none.json", "rope.json"]
    assert list(found) == ["rope", "none"]  # the order of the arms, not of the words
    for arm, result in found.items():
        assert json.loads((asked.out / f"{arm}.json").read_text()) == result
        assert result["outcome"] == "done"
        assert [e["step"] for e in result["curve"]] == [0, 3, 6]
        assert result["trained_tokens"] == 6 * 2 * 64
        assert result["curve"][0]["loss"] is None
        assert all(e["loss"] > 0 for e in result["curve"][1:])
        assert result["profile"]["samples"] == 4
        assert result["profile"]["tokens"] == 64
        assert result["verdict"]["kind"] == "none"
    table = sink_table(found)
    assert table.columns == COLUMNS
    assert [row[0] for row in table.rows] == ["rope", "none"]
    assert table.rows[0][2] == f"{found['rope']['final']['loss']:.4f}"
    assert found["rope"]["final"]["loss"] != found["none"]["final"]["loss"]


def test_a_run_is_the_same_again(asked: StudySettings, tmp_path: Path) -> None:
    first = grow_sinks(asked, "a")
    second = grow_sinks(replace(asked, out=tmp_path / "again"), "b")
    assert steady(first["rope"]) == steady(second["rope"])
    other = grow_sinks(replace(asked, out=tmp_path / "other", seed=1), "c")
    assert other["rope"]["final"] != first["rope"]["final"]


def test_the_last_reading_is_that_of_the_saved_model(asked: StudySettings) -> None:
    found = grow_sinks(replace(asked, arms=("stream",), save=True), "a")["stream"]
    assert asked.out is not None
    folder = asked.out / "stream-model"
    model = HeadwayForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.num_parameters() == found["parameters"]
    tokens = TokenCorpus.load(asked.corpus or Path())
    ids = validation_windows(tokens.validation, 64, 3 * 64)[:, :-1]
    reading = SinkMonitor(ids).read(model.float())
    # Weights were rounded to 8 bits.
    assert reading.entropy == pytest.approx(found["curve"][-1]["entropy"], rel=1e-3)
    assert reading.hidden_ratio == pytest.approx(found["curve"][-1]["hidden_ratio"], rel=2e-2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer.encode("abc fed")) == "abc fed"
    assert tokenizer.eos_token_id == tokens.eot == model.config.eos_token_id
    grow_sinks(replace(asked, arms=("rope",), save=True), "b")
    assert (asked.out / "rope-model" / "model.safetensors").exists()


def test_a_rerun_adds_what_is_missing_and_keeps_the_rest(
    asked: StudySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = replace(asked, arms=("rope", "alibi"))
    whole = grow_sinks(replace(both, out=tmp_path / "whole"), "a")
    assert both.out is not None

    def break_off(plan: Plan, model: Any) -> dict[str, Any]:
        if model.config.position == "alibi":
            raise KeyboardInterrupt
        return measure(plan, model)

    monkeypatch.setattr(sink_growth, "measure", break_off)
    with pytest.raises(KeyboardInterrupt):
        grow_sinks(both, "a")
    assert [p.name for p in both.out.iterdir()] == ["rope.json"]
    kept = (both.out / "rope.json").stat().st_mtime_ns
    monkeypatch.setattr(sink_growth, "measure", measure)
    continued = grow_sinks(both, "a")
    assert (both.out / "rope.json").stat().st_mtime_ns == kept
    assert {a: steady(r) for a, r in continued.items()} == {a: steady(r) for a, r in whole.items()}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 5}, "steps was 6 and is 5"),
        ({"seed": 2}, "seed was 0 and is 2"),
        ({"rates": (("rope", 0.5),)}, "learning_rate was 0.004 and is 0.5"),
        ({"size": "paper"}, "size was .*'layers': 2"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(
    asked: StudySettings, changes: dict[str, Any], told: str
) -> None:
    grow_sinks(asked, "a")
    with pytest.raises(HeadwayError, match=f"out: .* holds 'rope' of other settings: {told}"):
        grow_sinks(replace(asked, **changes), "b")


def test_other_text_in_the_same_folder_is_refused(asked: StudySettings, tmp_path: Path) -> None:
    grow_sinks(asked, "a")
    other = replace(asked, text=None, corpus=tmp_path / "other", arms=("alibi",))
    words = ["".join(random.Random(i).choices("xyz ", k=900)) for i in range(9)]
    (tmp_path / "words").mkdir()
    for number, word in enumerate(words):
        (tmp_path / "words" / f"{number}.txt").write_text(word)
    with pytest.raises(HeadwayError, match="other settings: corpus was"):
        grow_sinks(replace(other, text=str(tmp_path / "words")), "b")


def test_an_arm_out_of_time_is_measured_and_run_again(asked: StudySettings) -> None:
    short = grow_sinks(replace(asked, seconds=1e-9), "a")["rope"]
    assert short["outcome"] == "out of time"
    assert short["trained_steps"] == 1
    assert [e["step"] for e in short["curve"]] == [0, 1]
    assert sink_table({"rope": short}).rows[0][0] == "rope (out of time at step 1)"
    assert short["final"]["loss"] > 0
    whole = grow_sinks(asked, "b")["rope"]
    assert (whole["outcome"], whole["trained_steps"]) == ("done", 6)


def test_a_diverged_arm_is_recorded_as_that(asked: StudySettings) -> None:
    wild = replace(asked, rates=(("rope", 1e30),))
    result = grow_sinks(wild, "a")["rope"]
    assert result["outcome"] == "diverged"
    assert 1 <= result["trained_steps"] < 6
    row = sink_table({"rope": result}).rows[0]
    assert row[0].startswith("rope (diverged at step ")
    assert set(row[2:]) == {"n/a"}
    assert asked.out is not None
    before = (asked.out / "rope.json").read_bytes()
    grow_sinks(wild, "b")
    assert (asked.out / "rope.json").read_bytes() == before
    assert "rope" in render({"rope": result})


def test_an_arm_that_breaks_before_its_reading_is_recorded_too(
    asked: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: Any, *rest: Any) -> Iterator[Step]:
        model.model.norm.weight.data[:] = 1.0
        yield Step(1, 128, 5.0, 1e-3, 1.0)
        model.model.layers[1].self_attn.q_proj.weight.data[0, 0] = torch.inf
        yield Step(3, 384, 5.0, 1e-3, 1.0)

    monkeypatch.setattr(sink_growth, "train", broken)
    result = grow_sinks(asked, "a")["rope"]
    assert (result["outcome"], result["trained_steps"]) == ("diverged", 1)
    assert [e["step"] for e in result["curve"]] == [0]


def planted(plan: Plan) -> HeadwayForCausalLM:
    """Learned positions, and heads that look for the channel that only position 0 has."""
    config = ARMS["learned"].config("small", plan.corpus.vocab_size)
    model = HeadwayForCausalLM(config)
    seed_weights(model, 0)
    stack = model.model
    with torch.no_grad():
        stack.embed_tokens.weight[:, :2] = torch.tensor([0.0, 1.0])
        assert stack.embed_positions is not None
        stack.embed_positions.weight[:] = 0.0
        stack.embed_positions.weight[0, 0] = 20.0
        for layer in stack.layers:
            attention: Any = layer.self_attn
            firsts = [h * attention.head_dim for h in range(config.num_attention_heads)]
            attention.q_proj.weight[:] = attention.k_proj.weight[firsts] = 0.0
            attention.q_proj.weight[firsts, 1] = attention.k_proj.weight[firsts, 0] = 8.0
    return model


def test_a_planted_sink_is_found_with_its_cause(asked: StudySettings, tmp_path: Path) -> None:
    plan = Plan(asked, "a", tmp_path, torch.device("cpu"))
    measured = measure(plan, planted(plan))
    assert measured["final"]["sink_rate"] == 1.0
    assert measured["final"]["strongest"] == 0
    assert measured["battery"]["origin"] == 0
    assert measured["verdict"]["kind"] == "position-encoding based"
    result = {"arm": "learned", "outcome": "done", "learning_rate": 1.0, **measured}
    written = json.loads(write_result(tmp_path, result).read_text())
    assert sink_table({"learned": written}) == sink_table({"learned": result})
    row = dict(zip(COLUMNS, sink_table({"learned": result}).rows[0], strict=True))
    assert row["sink at 0"] == "100.0 %"
    assert row["strongest"] == "0 (100.0 %)"
    assert row["verdict"] == "position-encoding based"


def test_arms_differ_from_the_rotary_one_by_what_their_names_say() -> None:
    configs = {name: arm.config("paper", 4096) for name, arm in ARMS.items()}
    rope = configs["rope"].to_dict()
    for name in COMPARED:
        changed = {k for k, v in configs[name].to_dict().items() if rope[k] != v}
        assert changed <= {"position" if name in ("learned", "alibi", "none") else "mechanisms"}
        assert bool(changed) == (name != "rope")
    sizes = {}
    with torch.device("meta"):
        for name, config in configs.items():
            sizes[name] = HeadwayForCausalLM(config).num_parameters()
    assert all(26e6 < sizes[name] < 30e6 for name in COMPARED)
    assert sizes["stream"] * 2 < 14e6  # bytes in bfloat16: one file
    assert configs["stream"].max_position_embeddings == 512


@given(
    st.integers(1, 20),
    st.integers(1, 5),
    st.integers(0, 3),
    st.lists(st.integers(0, 90), max_size=4),
)
def test_windows_on_the_device_are_the_same(
    context: int, batch_size: int, seed: int, steps: list[int]
) -> None:
    tokens = np.random.default_rng(0).integers(0, 60_000, 211).astype(np.uint16)
    here = Windows(tokens, context, batch_size, seed)
    there = ResidentWindows(tokens, context, batch_size, seed, torch.device("cpu"))
    for step in steps:
        assert torch.equal(here.batch(step), there.batch(step))


def test_a_corpus_is_built_once_by_those_who_come_at_once(text: Path, tmp_path: Path) -> None:
    built: list[int] = []

    def build() -> TokenCorpus:
        built.append(1)
        return build_corpus(str(text), "bytes", 257, 2_000_000)

    found: list[TokenCorpus] = []

    def come() -> None:
        found.append(shared_corpus(tmp_path / "deep" / "corpus", build))

    threads = [threading.Thread(target=come) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert len({c.description.train.sha256 for c in found}) == 1
    assert len(found) == 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"arms": ("ropes",)}, r"arms: 'ropes' is unknown.*accepted are learned, rope"),
        ({"arms": ("rope", "rope")}, "names an arm twice"),
        ({"rates": (("rop", 1.0),)}, "rates: 'rop' is unknown"),
        ({"rates": (("rope", 0.0),)}, "rates of rope: 0.0 is not accepted"),
        ({"steps": 0}, "steps: 0 is not accepted; accepted are 1 and more"),
        ({"batch_size": -1}, "batch_size: -1 is not accepted"),
        ({"seconds": 0.0}, "seconds: 0.0 is not accepted; accepted are numbers above 0"),
        ({"learning_rate": float("nan")}, "learning_rate: nan is not accepted"),
        ({"seed": -1}, "seed: -1 is not accepted"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    asked: StudySettings, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(HeadwayError, match=told):
        grow_sinks(replace(asked, **changes), "a")
    assert asked.out is not None
    assert not asked.out.exists()


def test_real_text_is_learned(asked: StudySettings, tmp_path: Path) -> None:
    data = Path(os.environ.get("HEADWAY_DATA", "")) / "wiki" / "validation.jsonl.xz"
    if not os.environ.get("HEADWAY_DATA") or not data.exists():
        pytest.skip("set HEADWAY_DATA to the folder that holds wiki/validation.jsonl.xz")
    real = replace(asked, text=str(data), corpus=tmp_path / "tokens", steps=60)
    curve = grow_sinks(real, "a")["rope"]["curve"]
    assert curve[-1]["loss"] < curve[1]["loss"] - 0.3
