"""What a retrofit does in both arms, what it leaves behind, and how it goes on."""

import json
import os
from pathlib import Path

import pytest
import torch
from small_comparisons import contents
from small_retrofits import (
    VOCABULARY,
    logits,
    mechanisms_file,
    settings,
    without_clock,
    write_model,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

import headway
from headway.corpora.batches import Windows
from headway.corpora.tokens import TokenCorpus
from headway.studies import presets
from headway.studies.retrofit import run as study
from headway.studies.retrofit.mechanisms import as_identity, retrofitted
from headway.studies.retrofit.model import arm_model, open_source

PRESETS = [name for name in presets.PRESETS if name != "vanilla"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def run(model, text, tmp_path):
    """Do a tiny retrofit; its summary."""

    def go(**changes):
        asked = settings(model, changes.pop("out", tmp_path / "run"), text, **changes)
        return study.retrofit(asked, "headway retrofit")

    return go


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_start_as_the_model_itself(model, name):
    """To the last bits: a mechanism may add in another order, or hold a share of 1e-8."""
    source = open_source(str(model))
    mechanisms = retrofitted(name, "identity", source.hidden_size)
    assert [m.starts_as_identity for m in mechanisms] == [True] * len(mechanisms) != []
    plain = arm_model(source, [], "all")
    changed = arm_model(source, mechanisms, "all")
    torch.testing.assert_close(logits(changed), logits(plain), rtol=0, atol=1e-4)


def test_an_identity_stays_as_it_is():
    kept = headway.ResidualStream(scale="layer", init="identity")
    assert as_identity(kept) is kept
    assert as_identity(headway.ResidualStream(scale="layer")).scale == "layer"
    with pytest.raises(headway.HeadwayError, match=r"kv_shift\.init.*'clamp'"):
        as_identity(headway.KVShift(constraint="sigmoid"))


def test_both_arms_start_alike_and_end_apart(run):
    summary = run(mechanisms="kv_shift+selective")
    control, mechanism = summary["arms"]["control"], summary["arms"]["mechanism"]
    assert mechanism["loss_before"] == control["loss_before"]
    assert control["loss_after"] < control["loss_before"]
    assert mechanism["loss_after"] != control["loss_after"]
    for seed, ended in mechanism["seeds"].items():
        paired = ended["loss_after"] - control["seeds"][seed]["loss_after"]
        assert summary["difference"]["loss"]["differences"][int(seed)] == paired
    assert [m["name"] for m in summary["mechanisms"]] == ["kv_shift", "selective_attention"]
    assert all(m["init"] == "identity" for m in summary["mechanisms"])
    added = 2 * (2 * 2 * 2 + 4 * 4 + 1 + 2 * 4 + 1)  # layers: taps; weights and slopes of q and v
    assert (control["added_parameters"], mechanism["added_parameters"]) == (0, added)
    assert mechanism["trained_parameters"] == control["trained_parameters"] + added
    assert mechanism["parameters"] == control["parameters"] + added
    assert mechanism["tokens_per_second"] > 0


def test_the_start_of_the_paper_is_kept_where_asked(run):
    summary = run(mechanisms="kv_shift", init="paper", steps=0, seeds=1)
    assert summary["mechanisms"][0]["init"] == "uniform"
    control, mechanism = summary["arms"]["control"], summary["arms"]["mechanism"]
    assert mechanism["loss_before"] != control["loss_before"]
    assert "Attaching alone moved the perplexity" in " ".join(summary["remarks"])


def test_what_was_not_trained_starts_and_does_not_end(run):
    summary = run(mechanisms="value_stream", init="paper", steps=0, seeds=2)
    assert summary["verdict"] in ("better", "worse")  # it has nothing that seeds could draw
    side = "below" if summary["verdict"] == "better" else "above"
    assert summary["headline"].startswith(f"value_stream starts {side} the untouched model: ")


def test_a_file_is_taken_as_written(run, tmp_path):
    file = mechanisms_file(tmp_path / "m.json", [{"name": "selective_attention", "key": True}])
    summary = run(mechanisms=file, steps=0, seeds=1)
    (written,) = summary["mechanisms"]
    assert (written["key"], written["init"]) == (True, "paper")


def test_token_frequencies_are_those_of_the_training_split(run, tmp_path, monkeypatch):
    models = []
    real = study.sizes
    monkeypatch.setattr(study, "sizes", lambda m, own: (models.append(m), real(m, own))[1])
    listed = [{"name": "selective_attention", "token": "frequency", "init": "identity"}]
    run(mechanisms=mechanisms_file(tmp_path / "m.json", listed), steps=0, seeds=1)
    table = models[1].model.headway.token_log_frequency
    counts = torch.bincount(
        torch.from_numpy(TokenCorpus.load(tmp_path / "run" / "corpus").train.astype("int64")),
        minlength=VOCABULARY,
    )
    assert table.argmax() == counts.argmax()


def test_both_arms_see_the_same_batches(run, monkeypatch):
    seen = []

    class Recorded(Windows):
        def __init__(self, tokens, context, batch_size, seed):
            super().__init__(tokens, context, batch_size, seed)
            self.batches = []
            seen.append((seed, self.batches))

        def batch(self, step):
            self.batches.append((step, super().batch(step).tolist()))
            return super().batch(step)

    monkeypatch.setattr(study, "Windows", Recorded)
    run()
    taken = [(seed, batches) for seed, batches in seen if batches]
    assert [seed for seed, _ in taken] == [0, 0, 1, 1]
    (_, first), (_, second), (_, third), (_, fourth) = taken
    assert [step for step, _ in first] == list(range(6))
    assert first == second
    assert third == fourth
    assert first != third


def test_dropout_is_the_same_in_both_arms(tmp_path, text, monkeypatch):
    """With a mechanism that cannot move, the mechanism arm is the control to the bit."""
    dropped = write_model(tmp_path / "dropped", attention_dropout=0.3)
    source = settings(dropped, tmp_path / "run", text, mechanism_learning_rate=1e-30)
    summary = study.retrofit(source, "")
    control, mechanism = summary["arms"]["control"], summary["arms"]["mechanism"]
    assert mechanism["loss_after"] == pytest.approx(control["loss_after"], abs=1e-6)


def test_only_the_mechanism_moves(run, model, tmp_path, monkeypatch):
    models = []
    real = study.sizes
    monkeypatch.setattr(study, "sizes", lambda m, own: (models.append(m), real(m, own))[1])
    summary = run(train="mechanism", mechanisms="kv_shift+selective")
    base = AutoModelForCausalLM.from_pretrained(model).state_dict()
    for trained in models:
        state = trained.state_dict()
        assert all(torch.equal(state[name], base[name]) for name in base)
    assert headway.attached(models[1])
    moved = dict(headway.mechanism_parameters(models[1]))
    fresh = dict(
        headway.mechanism_parameters(
            headway.attach(AutoModelForCausalLM.from_pretrained(model), headway.attached(models[1]))
        )
    )
    assert all(not torch.equal(moved[name], fresh[name]) for name in fresh)
    control, mechanism = summary["arms"]["control"], summary["arms"]["mechanism"]
    assert control["trained_parameters"] == control["steps"] == 0
    assert control["loss_after"] == control["loss_before"] == mechanism["loss_before"]
    assert mechanism["trained_parameters"] == mechanism["added_parameters"] > 0
    assert mechanism["loss_after"] < mechanism["loss_before"]
    assert "nothing to train" in " ".join(summary["remarks"])
    assert "the untouched model" in summary["headline"]

    out = tmp_path / "run"
    assert not (out / "model").exists()
    assert summary["saved"] == "mechanisms"
    assert sum(f.stat().st_size for f in (out / "mechanisms").iterdir()) < 10_000
    again = AutoModelForCausalLM.from_pretrained(model)
    headway.load_mechanisms(again, out / "mechanisms")
    assert torch.equal(logits(again), logits(models[1]))


@pytest.mark.parametrize("train", ["all", "lora"])
def test_the_saved_model_gives_the_same_logits(run, model, tmp_path, monkeypatch, train):
    if train == "lora":
        pytest.importorskip("peft")
    shown = []
    real = study.save_trained

    def save(trained, *others):
        shown.append(logits(trained))
        real(trained, *others)

    monkeypatch.setattr(study, "save_trained", save)
    summary = run(train=train, learning_rate=1e-2)
    (wanted,) = shown
    folder = tmp_path / "run" / "model"
    again = headway.from_pretrained(folder)
    assert [m.name for m in headway.attached(again)] == ["selective_attention"]
    assert not any("lora" in name for name in again.state_dict())
    # A merged matrix is rounded once more.
    torch.testing.assert_close(logits(again), wanted, rtol=0, atol=1e-4 * (train == "lora"))
    plain = AutoModelForCausalLM.from_pretrained(model)
    assert not torch.allclose(logits(plain), wanted, atol=1e-2)
    assert AutoTokenizer.from_pretrained(folder)("ab").input_ids == [98, 99]
    assert summary["saved"] == "model"
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        ".lock", "corpus", "metrics.jsonl", "model", "settings.json", "summary.json"
    }  # fmt: skip


def test_adapters_start_alike_in_both_arms(model):
    pytest.importorskip("peft")
    source = open_source(str(model))

    def adapters(mechanisms, seed):
        torch.manual_seed(seed)
        made = arm_model(source, mechanisms, "lora")
        trained = {n for n, p in made.named_parameters() if p.requires_grad}
        assert all(".lora_" in n or ".headway." in n for n in trained)
        assert any(".headway." in n for n in trained) == bool(mechanisms)
        return {n: p for n, p in made.named_parameters() if ".lora_A." in n}

    identity = retrofitted("short_conv+selective+output_gate", "identity", source.hidden_size)
    control, changed, other = adapters([], 0), adapters(identity, 0), adapters([], 1)
    assert control.keys() == changed.keys()
    assert not any("headway" in name for name in changed)
    assert all(torch.equal(control[n], changed[n]) for n in control)
    assert any(not torch.equal(control[n], other[n]) for n in control)


def test_no_step_at_all(run, tmp_path):
    summary = run(steps=0)
    for arm in summary["arms"].values():
        assert arm["loss_after"] == arm["loss_before"]
        assert arm["tokens"] == 0
    assert summary["difference"]["loss"]["mean"] == 0
    assert summary["verdict"] == "not separable"
    assert "is not separable from the untouched model" in summary["headline"]
    assert summary["remarks"] == ["Nothing was trained: both arms are as they start."]
    assert headway.attached(headway.from_pretrained(tmp_path / "run" / "model"))


def test_one_seed_proves_nothing(run):
    summary = run(seeds=1)
    assert summary["verdict"] == "too few seeds"
    assert summary["difference"]["loss"]["low"] is None
    assert "no interval" in summary["headline"]


class Stop(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("runs", [0, 1, 3])
def test_it_goes_on_where_it_was_stopped(run, tmp_path, monkeypatch, runs):
    whole = without_clock(run(out=tmp_path / "whole"))
    real, started = study.train, []

    def stopped(*given, **options):
        started.append(1)
        for step in real(*given, **options):
            if len(started) > runs and step.number == 3:
                raise Stop
            yield step

    with monkeypatch.context() as patch:
        patch.setattr(study, "train", stopped)
        with pytest.raises(Stop):
            run()
    out = tmp_path / "run"
    assert not (out / "summary.json").exists()
    assert sum(r["kind"] == "finish" for r in records(out)) == runs
    again = run()
    assert without_clock(again) == whole
    for file in ("config.json", "model.safetensors"):
        wanted = (tmp_path / "whole" / "model" / file).read_bytes()
        assert (out / "model" / file).read_bytes() == wanted
    before = contents(out)
    assert without_clock(run()) == whole
    assert contents(out).keys() == before.keys()


def test_it_goes_on_after_a_stop_between_model_and_record(run, tmp_path, monkeypatch):
    real = study.save_trained

    def stopped(*given):
        real(*given)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(study, "save_trained", stopped)
        with pytest.raises(Stop):
            run()
    assert (tmp_path / "run" / "model").exists()
    assert run()["saved"] == "model"


def test_a_run_that_diverges_is_left_out(run, monkeypatch):
    real = study.train

    def lost(model, data, *given, **options):
        if data._seed == 0 and headway.attached(model):
            with torch.no_grad():
                next(model.parameters()).fill_(torch.nan)
        yield from real(model, data, *given, **options)

    monkeypatch.setattr(study, "train", lost)
    summary = run(seeds=3)
    assert summary["arms"]["mechanism"]["diverged"] == [0]
    assert list(summary["difference"]["loss"]["differences"]) == [1, 2]
    assert summary["saved"] is None
    assert "1 of 6 runs diverged" in " ".join(summary["remarks"])


def test_real_text_and_a_trained_model(tmp_path):
    """stories260K on Wikipedia: fine-tuning helps, and the arms start at the very same loss."""
    data = Path(os.environ.get("HEADWAY_DATA", ""))
    trained, articles = data / "models" / "stories260K", data / "wiki" / "validation.jsonl.xz"
    if not trained.is_dir() or not articles.is_file():
        pytest.skip("set HEADWAY_DATA to the folder that holds models/stories260K and wiki")
    asked = settings(
        trained,
        tmp_path / "run",
        articles,
        mechanisms="kv_shift+selective",
        max_characters=200_000,
        context=128,
        steps=20,
        validation_tokens=2_048,
    )
    summary = study.retrofit(asked, "")
    control, mechanism = summary["arms"]["control"], summary["arms"]["mechanism"]
    assert mechanism["loss_before"] == pytest.approx(control["loss_before"], abs=1e-6)
    assert control["loss_after"] < control["loss_before"] - 0.1
    assert mechanism["loss_after"] < mechanism["loss_before"] - 0.1
    corpus = TokenCorpus.load(tmp_path / "run" / "corpus")
    # Documents begin and end as the model was trained to read them.
    assert corpus.train[0] == 1
    ends = (corpus.train == 2).nonzero()[0]
    assert len(ends) == corpus.description.train.documents
    assert (corpus.train[ends[:-1] + 1] == 1).all()
