"""`headway train`: what it leaves, what it refuses, and how settings come together."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_trainings import records, run, words, write_text
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import headway
import headway_cli
from command_processes import call
from headway.corpora.midi import midi_of_notes
from headway.corpora.performance import Notes
from headway.corpora.tokens import build_corpus
from headway.training import train_checks
from headway_train_settings import (
    OF_A_NEW_MODEL,
    PRESETS,
    TrainSettings,
    settings_before_flags,
    to_toml,
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text):
    out = tmp_path_factory.mktemp("trained") / "small"
    assert run(out, text, micro_batch_size=2) == 0
    return out


def test_the_metrics_hold_what_was_promised(trained):
    lines = records(trained)
    assert [x["step"] for x in lines if "loss" in x] == [3, 6, 9, 12]
    assert [x["step"] for x in lines if "validation/loss" in x] == [0, 6, 12]
    assert [x["step"] for x in lines if "sample" in x] == [0, 6, 12]
    validated = [x["validation/loss"] for x in lines if "validation/loss" in x]
    assert validated[0] > validated[1] > validated[2]
    last = next(x for x in lines if x["step"] == 12 and "validation/loss" in x)
    assert 0 <= last["context/repeat_accuracy"] <= 1
    assert 0 < last["context/prefix_matching"] <= 1
    assert 0 <= last["sinks/sink_rate"] <= 1
    assert next(x for x in lines if "loss" in x)["tokens"] == 3 * 4 * 64
    assert sorted(p.name for p in trained.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-8"]


def test_the_folder_is_one_of_transformers(trained, capsys):
    folder = trained / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert [m["name"] for m in model.config.mechanisms] == ["kv_shift", "residual_stream"]
    ids = tokenizer("abc", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape == (1, ids.shape[1] + 3)
    profile = headway.profile_sinks(model, torch.randint(1, 200, (2, 16)))
    assert profile.sink_metric().shape == (16,)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "headway train" in card
    assert 'mechanisms = "kv_shift+value_stream"' in card
    results = json.loads((trained / "results.json").read_text())
    assert f"| validation/loss | {results['validation/loss']:.4f} |" in card
    assert results["parameters"] == model.num_parameters()
    capsys.readouterr()


def code_of_card_runs(folder, monkeypatch, capsys):
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(folder)
    exec(compile(code, "README.md", "exec"), {})
    assert "The" in capsys.readouterr().out
    return code


def test_the_card_s_code_runs_in_the_folder(trained, monkeypatch, capsys):
    code = code_of_card_runs(trained / "model", monkeypatch, capsys)
    assert code.startswith("import headway  # registers")


def test_a_finished_run_says_so(trained, text, capsys):
    before = (trained / "metrics.jsonl").read_bytes()
    assert run(trained, text, micro_batch_size=2) == 0
    assert "finished: 12 steps" in capsys.readouterr().out
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_lm_eval_takes_it(trained, text, capsys):
    pytest.importorskip("lm_eval")
    command = ["eval", str(trained / "model"), "--offline-text", str(text), "--limit", "2"]
    assert headway_cli.main([*command, "--json"]) == 0
    assert "perplexity" in capsys.readouterr().out


def test_a_model_of_transformers_with_mechanisms_and_then_trained_on(
    tmp_path, text, monkeypatch, capsys
):
    """A new Llama with KV shift; then the result is trained on, with its own mechanisms."""
    first = tmp_path / "first"
    short = {"steps": 4, "eval_every": 0, "dtype": "bfloat16", "activation_checkpointing": True}
    assert run(first, text, architecture="llama", mechanisms="kv_shift", **short) == 0
    model = headway.from_pretrained(first / "model")
    assert type(model).__name__ == "LlamaForCausalLM"
    more = {"tokenizer": None, "mechanisms": "vanilla", "model": first / "model"}
    assert run(tmp_path / "second", text, **short | more) == 0
    assert "headway.from_pretrained" in code_of_card_runs(
        tmp_path / "second/model", monkeypatch, capsys
    )
    further = headway.from_pretrained(tmp_path / "second/model")
    assert [m.name for m in headway.attached(further)] == ["kv_shift"]
    moved = {
        n for n, p in model.state_dict().items() if not torch.equal(p, further.state_dict()[n])
    }
    assert any("kv_shift" in n or "headway" in n for n in moved)


REFUSED = {
    "unknown mechanism": ({"mechanisms": "kv_shfit"}, "did you mean 'kv_shift'"),
    "unknown architecture": ({"architecture": "lama"}, "did you mean 'llama'"),
    "odd batch": ({"micro_batch_size": 3}, "micro_batch_size: 3 does not divide the 4"),
    "no steps": ({"steps": 0}, "steps: 0 is not accepted"),
    "rate": ({"learning_rate": -1.0}, "learning_rate: -1.0 is not accepted"),
    "shares": ({"warmup": 0.9, "schedule": "wsd"}, "decay: 0.2 and warmup=0.9"),
    "flex on a CPU": ({"attention": "flex_attention"}, "runs on a GPU only"),
    "alone": ({"sharding": "fsdp"}, "'fsdp' needs at least 2 processes"),
    "tensor parallel": ({"tensor_parallel": 2}, "does not divide the number of processes, 1"),
    "both": ({"corpus": "here"}, "it and text are both given"),
    "heads": ({"num_attention_heads": 3}, "hidden_size: 16 is not divisible"),
    "no model": ({"model": "nowhere/at/all", "tokenizer": None}, "nowhere/at/all"),
    "width beside a model": (
        {"model": "nowhere", "tokenizer": None, "hidden_size": 16},
        "hidden_size: 16 and model='nowhere' are both given; accepted is one of them",
    ),
    "architecture beside a model": (
        {"model": "nowhere", "tokenizer": None, "architecture": "llama"},
        "architecture: 'llama' and model='nowhere' are both given",
    ),
    "vocabulary beside a model": (
        {"model": "nowhere", "tokenizer": None, "vocab_size": 300},
        "vocab_size: 300 and model='nowhere' are both given",
    ),
    "folder mistyped": ({"model": "models/smal", "tokenizer": None}, "'models/smal' is no folder"),
    "long context": ({"context": 100_000}, "context=100000"),
    "no text": ({"text": "nowhere"}, "text: 'nowhere' does not exist"),
}
if not torch.cuda.is_available():
    REFUSED["no GPU"] = ({"device": "cuda"}, "device: 'cuda' is not there")


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_is_trained(tmp_path, text, capsys, monkeypatch, name):
    changes, told = REFUSED[name]
    out = tmp_path / "runs" / "run"
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(out, **{"text": text} | changes) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("headway: ")]
    assert told in line
    assert not out.parent.exists()


def test_a_refusal_is_all_of_standard_error(tmp_path):
    """What transformers' Trainer imports has its own things to say in a fresh process."""
    command = [sys.executable, "-m", "headway_cli", "train", "--steps", "0", "--out", "run"]
    sources = str(Path(headway_cli.__file__).parent)
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": sources},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "headway: steps: 0 is not accepted; accepted are 1 and more\n"


def test_an_encoder_is_not_trained(tmp_path, text, capsys):
    AutoConfig.for_model("bert", max_position_embeddings=64).save_pretrained(tmp_path / "bert")
    assert run(tmp_path / "run", text, model=tmp_path / "bert", tokenizer=None) == 2
    assert "is an encoder (bert)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_refusal_leaves_a_folder_as_it_was(tmp_path, text, trained, capsys):
    strange, empty = tmp_path / "strange", tmp_path / "empty"
    strange.mkdir()
    (strange / "notes.txt").touch()
    empty.mkdir()
    assert run(strange, text) == 2
    assert "holds other things (notes.txt)" in capsys.readouterr().err
    assert run(empty, "nowhere") == 2
    assert [p.name for p in strange.iterdir()] == ["notes.txt"]
    assert list(empty.iterdir()) == []
    before = sorted(p.name for p in trained.iterdir())
    assert run(trained, text, steps=13) == 2
    assert "steps was 12 and is 13" in capsys.readouterr().err
    assert sorted(p.name for p in trained.iterdir()) == before


def test_processes_that_cannot_share_a_batch(tmp_path, text, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert run(tmp_path / "run", text) == 2
    assert "batch_size: 4 sequences cannot be shared out evenly to 3" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert run(tmp_path / "run", text, sharding="hsdp", replicas=4) == 2
    assert "replicas: 4 copies" in capsys.readouterr().err
    assert run(tmp_path / "run", text, tensor_parallel=2) == 2
    assert "sharding: 'none' is not accepted for 2 groups" in capsys.readouterr().err


def test_a_corpus_that_does_not_fit(tmp_path, text, trained, capsys):
    other = tmp_path / "corpus"
    build_corpus(str(text), "bpe", 300, 100_000).save(other)
    fields = {"corpus": other, "tokenizer": None}
    assert run(tmp_path / "a", None, vocab_size=100, **fields) == 2
    assert "vocab_size: 100 is smaller than the ids" in capsys.readouterr().err
    changes = {"model": trained / "model", "mechanisms": "vanilla", **fields}
    assert run(tmp_path / "b", None, **changes) == 2
    assert "was built with another tokenizer than that of" in capsys.readouterr().err


def test_a_built_corpus_has_its_own_tokenizer(tmp_path, text, capsys):
    short = {"steps": 1, "eval_every": 0}
    for name, others in (("bytes", ("bpe", "characters")), ("bpe", ("bytes",))):
        built = tmp_path / name
        build_corpus(str(text), name, 300, 100_000).save(built)
        for asked in others:
            for source, place in ((None, {"corpus": built}), (built, {})):
                assert run(tmp_path / "refused", source, tokenizer=asked, **place) == 2
                told = f"tokenizer: {asked!r} is not that of the corpus {str(built)!r}"
                assert told in capsys.readouterr().err
                assert not (tmp_path / "refused/run.json").exists()
        for asked in (name, str(built / "tokenizer.json")):
            out = tmp_path / f"{name}-{asked == name}"
            assert run(out, None, corpus=built, tokenizer=asked, **short) == 0


def test_raw_music_is_trained_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "cache"))
    for number in range(20):
        start = np.arange(60) / 8 + number / 100
        notes = Notes(start, start + 0.1, 40 + (np.arange(60) + number) % 40, np.full(60, 64))
        (tmp_path / f"piano/{number}").mkdir(parents=True)
        (tmp_path / f"piano/{number}/piece.mid").write_bytes(midi_of_notes(notes))
    fields = {"tokenizer": None, "steps": 3, "validation_tokens": 64}
    out = tmp_path / "run"
    assert run(out, tmp_path / "piano", vocab_size=400, **fields) == 0
    assert AutoModelForCausalLM.from_pretrained(out / "model").config.vocab_size == 400
    (sample, *_) = [x["sample"] for x in records(out) if "sample" in x]
    assert {name.rpartition("_")[0] for name in sample.split()} <= {
        "NOTE_ON", "NOTE_OFF", "TIME_SHIFT", "VELOCITY"
    }  # fmt: skip
    assert run(tmp_path / "small", tmp_path / "piano", vocab_size=100, **fields) == 2
    assert "vocab_size: 100 is smaller than the ids" in capsys.readouterr().err


def test_other_settings_in_the_same_folder(trained, text, tmp_path, capsys):
    assert run(trained, text, learning_rate=0.5) == 2
    assert "learning_rate was 0.004 and is 0.5" in capsys.readouterr().err
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "thesis.txt").write_text("mine")
    assert run(stranger, text) == 2
    assert "holds other things (thesis.txt)" in capsys.readouterr().err


def test_a_checkpoint_of_another_run(tmp_path, text, capsys):
    out = tmp_path / "run"
    assert run(out, text, eval_every=0, steps=4) == 0
    (out / "results.json").unlink()
    progress = out / "checkpoint-4/progress.json"
    told = json.loads(progress.read_text()) | {"fingerprint": "another"}
    progress.write_text(json.dumps(told))
    assert run(out, text, eval_every=0, steps=4) == 2
    assert "is a checkpoint of another configuration or corpus" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes", [{"learning_rate": 1e6}, {"learning_rate": 1e6, "log_every": 9}]
)
def test_a_run_that_diverges_stops_and_keeps_nothing_of_it(tmp_path, text, capsys, changes):
    out = tmp_path / "run"
    assert run(out, text, eval_every=0, save_every=5, clip=1e9, schedule="cosine", **changes) == 2
    said = capsys.readouterr().err
    assert "the run diverged by step" in said
    assert "Traceback" not in said
    assert not (out / "model").exists()
    assert not [*out.glob("checkpoint-*")]


def test_missing_packages_are_named(tmp_path, text, capsys, monkeypatch):
    monkeypatch.setattr(train_checks, "find_spec", lambda name: None)
    assert headway_cli.main([*words(tmp_path / "a", text), "--report-to", "trackio"]) == 2
    assert "pip install trackio" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert run(tmp_path / "a", text) == 2
    assert "headway train needs the package accelerate" in capsys.readouterr().err


def test_the_printed_configuration_is_the_one_that_is_read(tmp_path, capsys):
    assert headway_cli.main(["train", "--preset", "toy-2l", "--print-config", "--steps", "7"]) == 0
    file = tmp_path / "run.toml"
    told = capsys.readouterr().out
    file.write_text(told)
    found = settings_before_flags(["--config", str(file)])
    asked = TrainSettings(preset="toy-2l", **PRESETS["toy-2l"] | {"steps": 7}, config=file)
    assert found == asked
    keys = {line.removeprefix("# ").partition(" =")[0] for line in told.splitlines()[1:]}
    assert keys == {f.name for f in dataclasses.fields(TrainSettings)} - {"config", "print_config"}
    assert "# text =\n" in told


plain = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=9)
KINDS = {"int": st.integers(1, 10**9), "float": st.floats(1e-9, 1e9), "bool": st.booleans()}
KINDS |= {"str | None": st.none() | plain, "str": plain, "int | None": st.none() | st.integers(1)}
FIELDS = {f.name: KINDS[f.type] for f in dataclasses.fields(TrainSettings) if f.type in KINDS}


@settings(max_examples=40)
@given(st.fixed_dictionaries({}, optional=FIELDS))
def test_any_settings_survive_a_file(tmp_path_factory, values):
    asked = TrainSettings(**values | {"print_config": False})
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(to_toml(asked), encoding="utf-8")
    found = settings_before_flags([f"--config={file}"])
    assert dataclasses.replace(found, config=None) == asked


def test_a_flag_switches_a_preset_off_and_on(capsys):
    for flag, told in (("--no-compile", "compile = false\n"), ("--compile", "compile = true\n")):
        assert call(["train", "--preset", "llama-124m", flag, "--print-config"]) == 0
        assert told in capsys.readouterr().out


def test_the_vocabulary_of_a_preset_is_that_of_a_tokenizer_to_be_trained(trained):
    built = str(trained / "corpus")
    for more in ([], ["--tokenizer", "bpe"], ["--text", "some.txt"]):
        assert settings_before_flags(["--preset", "toy-2l", *more]).vocab_size == 1024
    for more in (["--corpus", built], [f"--text={built}"], ["--tokenizer", "bytes"]):
        assert settings_before_flags(["--preset", "toy-2l", *more]).vocab_size is None


def test_the_sizes_of_a_preset_are_those_of_a_new_model():
    found = settings_before_flags(["--preset", "toy-2l", "--model", "mine"])
    assert (found.steps, found.context) == (400, 128)
    assert all(getattr(found, name) == getattr(TrainSettings, name) for name in OF_A_NEW_MODEL)


def test_flags_come_before_the_file_and_the_file_before_the_preset(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text('preset = "toy-2l"\nsteps = 30\nseed = 4\n[[mechanisms]]\nname = "kv_shift"\n')
    assert headway_cli.main(["train", "--config", str(file), "--seed", "5", "--print-config"]) == 0
    told = capsys.readouterr().out
    assert "steps = 30\n" in told
    assert "seed = 5\n" in told
    assert "hidden_size = 128\n" in told
    assert r'mechanisms = "[{\"name\": \"kv_shift\"}]"' in told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("stepz = 3", "sets 'stepz', which is unknown (did you mean 'steps'?)"),
        ("steps = ", "is not TOML"),
        ('preset = "toy"', "preset: 'toy' is unknown (did you mean 'toy-2l'?)"),
        ('steps = "many"', "train.steps: 'many' is not accepted; accepted is a whole number"),
        (None, "cannot be read"),
    ],
)
def test_wrong_files_are_refused(tmp_path, capsys, content, told):
    file = tmp_path / "run.toml"
    if content is not None:
        file.write_text(content)
    assert call(["train", "--config", str(file), "--out", str(tmp_path / "out")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
