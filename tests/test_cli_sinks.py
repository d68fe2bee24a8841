"""`headway sinks`: what it prints, what it writes, and what it refuses, in one sentence each."""

import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

import headway
import headway_cli
from headway import KVShift, SinkLogit
from headway.corpora import read_documents
from headway.corpora.splits import split_documents
from headway.corpora.tokens import build_corpus
from sink_models import SENTENCES, model, saved

ASKED = ("--tokens", "16", "--samples", "6", "--no-battery")


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.jsonl"
    rows = [json.dumps({"text": sentence}) for sentence in SENTENCES * 20]
    path.write_text("\n".join(rows), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_table_json_and_files(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(model("llama"), tmp_path / "model")
    words = ["sinks", folder, "--text", text, *ASKED, "--bos", "yes", "--out", "out/deep"]
    assert headway_cli.main(words) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert (
        "Position 0 holds '<|endoftext|>' in every sample, a special token; it was put" in said.out
    )
    assert re.search(r"^layer +strongest sink +heads with it", said.out, re.MULTILINE)
    assert len(re.findall(r"^[012]  ", said.out, re.MULTILINE)) == 3
    assert said.out.rstrip().endswith("The page: out/deep/report.html")
    assert re.search(r"^profiled 3 attentions in .* s$", said.err, re.MULTILINE)
    out = tmp_path / "out" / "deep"
    assert {file.name for file in out.iterdir()} == {"report.html", "profile.json", "heads.csv"}
    data = json.loads((out / "profile.json").read_text())
    assert data["verdict"] is None
    assert data["facts"]["command"].startswith("headway sinks ")
    assert data["profile"]["first"]["bos_added"] is True
    assert data["profile"]["tokens"] == 16
    assert len(list(csv.reader((out / "heads.csv").open()))) == 1 + 3 * 4 * 16
    assert "No interventions were made" in (out / "report.html").read_text()

    assert headway_cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["profile"] == data["profile"]

    # The same samples and numbers as in Python.
    from headway.waiver.loading import load_for_profile
    from headway.waiver.samples import sample_text

    loaded, tokenizer = load_for_profile(folder)
    samples = sample_text(tokenizer, read_documents(text, 10**6), 16, 6, bos="yes")
    profile = headway.profile_sinks(loaded, samples.input_ids, tokenizer=tokenizer)
    found = torch.tensor(told["profile"]["received"])
    torch.testing.assert_close(found, profile.received, rtol=1e-4, atol=1e-6)


def test_the_interventions_are_made(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(model("gpt2"), tmp_path / "model")
    words = ["sinks", folder, "--text", text, "--tokens", "40", "--samples", "4", "--json"]
    assert headway_cli.main([*words, "--threshold", "0.02", "--out", "out"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["verdict"]["kind"]
    assert told["battery"]["effects"]
    assert told == json.loads((tmp_path / "out" / "profile.json").read_text())
    assert "measurements of interventions" in said.err
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"Why these tokens: {told['verdict']['kind']}" in page


def test_what_it_takes(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An encoder with its special tokens, our own model, one with mechanisms, one without head."""
    headless = AutoModel.from_config(AutoConfig.for_model("bert", **small()))
    models: dict[str, Any] = {
        "bert": model("bert"),
        "bare": headless,
        "own": model("headway", mechanisms=[KVShift(), SinkLogit()]),
        "attached": headway.attach(model("llama"), [KVShift(init="identity")]),
    }
    for name, made in models.items():
        folder = saved(made, tmp_path / name, around=name == "bert")
        words = ["sinks", folder, "--text", text, *ASKED, "--json", "--out", f"out-{name}"]
        assert headway_cli.main(words) == 0, name
        told = json.loads(capsys.readouterr().out)
        assert told["profile"]["causal"] is (name in ("own", "attached")), name
        if name == "bert":
            assert told["profile"]["token_texts"][0] == "[CLS]"
            assert told["profile"]["token_texts"][-1] == "[SEP]"
        if name == "own":
            assert max(max(row) for row in told["profile"]["mass"]) < 1


def test_a_built_corpus_is_read_from_its_test_split(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it is in the model's own tokens."""
    folder = saved(model("llama"), tmp_path / "model")
    build_corpus(text, f"{folder}/tokenizer.json", 0, 10**6).save(tmp_path / "own")
    raw = split_documents(read_documents(text, 10**6))["test"]
    (tmp_path / "raw.jsonl").write_text("\n".join(json.dumps({"text": part}) for part in raw))
    told = []
    for source in ("own", "raw.jsonl"):
        words = ["sinks", folder, "--text", source, *ASKED, "--samples", "3", "--json"]
        assert headway_cli.main(words) == 0
        told.append(json.loads(capsys.readouterr().out)["profile"])
    assert told[0] == told[1]
    build_corpus(text, "bytes", 0, 10**6).save(tmp_path / "other")
    assert headway_cli.main(["sinks", folder, "--text", "other", *ASKED]) == 2
    assert "'other' is a built corpus of another tokenizer than" in capsys.readouterr().err


def small() -> dict[str, Any]:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return sizes | {"vocab_size": 300, "intermediate_size": 48, "max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--threshold", "1"], "threshold: value is 1.0; accepted are numbers between 0 and 1"),
        (["--batch-size", "0"], "batch_size: value is 0; accepted are 1 and more"),
        (["--tokens", "1"], "tokens: value is 1; accepted are 2 and more"),
        (["--tokens", "65"], "tokens: value is 65; accepted are up to 64, the size of the model's"),
        (["--samples", "9999"], "samples: value is 9999; the text holds"),
        (["--text", "none.txt"], "none.txt"),
        (["--out", "model/config.json"], "is a file; accepted is a folder"),
        (["--out", "model/config.json/x"], "cannot be written"),
    ],
)
def test_wrong_use_is_one_sentence(
    words: list[str], told: str, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(model("gpt2", n_positions=64), tmp_path / "model")
    capsys.readouterr()
    assert headway_cli.main(["sinks", "model", "--text", text, *ASKED, *words]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("headway: ")
    assert told in line


def encoder_decoder(folder: Path) -> None:
    config = AutoConfig.for_model(
        "t5", vocab_size=300, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4
    )
    saved(AutoModelForSeq2SeqLM.from_config(config), folder)
    (folder / "model.safetensors").unlink()  # it is refused before its weights are read


def without_attention(folder: Path) -> None:
    saved(model("mamba"), folder)


def code_of_its_own(folder: Path) -> None:
    saved(model("codegen", n_embd=32, n_head=4, n_layer=1, rotary_dim=8, n_positions=64), folder)


def pixels(folder: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    saved(AutoModel.from_config(AutoConfig.for_model("vit", **sizes)), folder)


def pickled(folder: Path) -> None:
    saved(model("llama"), folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_tokenizer(folder: Path) -> None:
    saved(model("llama"), folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def missing_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    saved(model("llama"), folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.self_attn.q_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def not_finite(folder: Path) -> None:
    made = model("llama")
    made.model.layers[1].self_attn.v_proj.weight.data[0] = float("nan")
    saved(made, folder)


def nothing(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (encoder_decoder, "(t5) is an encoder-decoder"),
        (without_attention, "no attention was observed in MambaModel"),
        (code_of_its_own, "CodeGenForCausalLM (codegen) computes attention by code of its own"),
        (pixels, "(vit) reads pixel_values; accepted is a model that reads tokens"),
        (pickled, "accepted are safetensors only"),
        (no_tokenizer, "(its tokenizer)"),
        (missing_weights, "lacks 1 of its tensors, such as 'model.layers.1.self_attn.q_proj"),
        (not_finite, "values are not finite at head 0"),
        (nothing, "'model' is no folder and not in the hub's cache"),
    ],
)
def test_models_that_cannot_be_profiled(
    make: Any,
    told: str,
    tmp_path: Path,
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    make(tmp_path / "model")
    capsys.readouterr()
    assert headway_cli.main(["sinks", "model", "--text", text, *ASKED]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("headway: ")
    assert told in line
    assert not os.path.exists("runs")
