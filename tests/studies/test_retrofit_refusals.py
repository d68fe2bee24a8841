"""What cannot be retrofitted is refused in one sentence, with exit code 2; nothing is written."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_comparisons import contents
from small_retrofits import mechanisms_file, settings, words, write_model, write_tokenizer
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import headway
import headway_cli
from headway.studies.retrofit.run import retrofit


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def own(tmp_path):
    """A model to be spoilt."""
    return write_model(tmp_path / "own")


@pytest.fixture
def refused(tmp_path, model, text, capsys, monkeypatch):
    """Run the command line; the sentence it refuses with. `out` must stay as it is."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(told, **changes):
        out = changes.pop("out", tmp_path / "run")
        before = contents(out)
        given = changes.pop("model", model), out, changes.pop("text", text)
        capsys.readouterr()
        assert headway_cli.main(words(*given, **changes)) == 2
        assert contents(out) == before
        assert out.exists() == (before is not None)
        shown = capsys.readouterr()
        assert shown.out == ""
        (line,) = [part for part in shown.err.splitlines() if part.startswith("headway: ")]
        assert "Traceback" not in shown.err
        assert all(part in line for part in told), line

    return run


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seeds": 0}, ["seeds: 0", "1 and more"]),
        ({"steps": -1}, ["steps: -1", "0 and more"]),
        ({"batch_size": 0}, ["batch_size: 0", "1 and more"]),
        ({"context": 1}, ["context: 1", "2 and more"]),
        ({"context": 33}, ["context: 33", "max_position_embeddings", "2 to 32"]),
        ({"validation_tokens": 15}, ["validation_tokens=15", "one context of 16"]),
        ({"max_characters": 0}, ["max_characters: 0", "1 and more"]),
        ({"learning_rate": 0}, ["learning_rate: 0", "above 0"]),
        ({"learning_rate": "nan"}, ["learning_rate: nan", "above 0"]),
        ({"mechanism_learning_rate": -1}, ["mechanism_learning_rate: -1", "above 0"]),
        ({"weight_decay": "inf"}, ["weight_decay: inf", "0 and numbers above"]),
        ({"batch_size": 5000}, ["text: its training split has", "5000 sequences of 16"]),
        ({"mechanisms": "selectiv"}, ["'selectiv' is unknown", "did you mean 'selective'"]),
        ({"mechanisms": "vanilla"}, ["mechanisms: 'vanilla' is unknown", "kv_shift, "]),
        ({"mechanisms": "kv_shift+"}, ["mechanisms: '' is unknown"]),
        ({"mechanisms": "selective+kv_shift"}, ["'selective_attention' stands before", "swap"]),
        ({"mechanisms": "absent.json"}, ["mechanisms: absent.json cannot be read"]),
    ],
    ids=str,
)
def test_settings(refused, changes, told):
    refused(told, **changes)


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        ([], ["mechanisms: the list is empty"]),
        ({"arm": []}, ["is of another form", '[{"name": ..., ...}, ...]']),
        ([{"name": "kv_shit"}], ["mechanism: 'kv_shit'", "did you mean 'kv_shift'"]),
        ([{"name": "kv_shift", "windw": 2}], ["kv_shift.windw: unknown option"]),
        ([{"name": "layer_shortcut", "taps": [0, 5]}], ["layer_shortcut.taps: 5"]),
    ],
    ids=str,
)
def test_files_of_mechanisms(refused, tmp_path, listed, told):
    refused(told, mechanisms=mechanisms_file(tmp_path / "m.json", listed))


def test_a_file_of_mechanisms_that_is_no_json(refused, tmp_path):
    (tmp_path / "m.json").write_text("[")
    refused(["m.json is not JSON"], mechanisms=tmp_path / "m.json")


def test_models_that_are_not_there(refused, tmp_path):
    refused(["is no folder", "config.json"], model=tmp_path / "absent")
    refused(["is no folder"], model="./absent")
    told = "model: 'nobody/no-such-model' is no folder and not in the hub's cache"
    refused([told], model="nobody/no-such-model")
    (tmp_path / "empty").mkdir()
    refused(["empty'", "config.json"], model=tmp_path / "empty")


def test_models_with_another_config(refused, own):
    def config(**fields):
        file = own / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    config(vocab_size=200)
    refused(["weights of other shapes"], model=own)
    config(num_hidden_layers=3, vocab_size=257)
    refused(["lacks 9 of its tensors", "layers.2"], model=own)
    config(model_type="mamba")
    refused(["model_type: 'mamba'", "accepted are", "llama"], model=own)
    config(model_type="unheard-of")
    refused(["config.json that is not accepted", "unheard-of"], model=own)
    (own / "config.json").write_text("{")
    refused(["own'"], model=own)


def test_code_of_a_model_is_not_run(refused, own, tmp_path):
    (own / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}})
    )
    (own / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    refused(["config.json that is not accepted", "custom code"], model=own)
    assert not (tmp_path / "ran").exists()


def test_models_that_have_mechanisms(refused, own):
    changed = headway.attach(
        AutoModelForCausalLM.from_pretrained(own), [headway.KVShift(init="identity")]
    )
    changed.save_pretrained(own)
    refused(["has mechanisms already", "the plain model"], model=own)


def test_tokenizers(refused, own, tmp_path):
    (own / "tokenizer_config.json").write_text("{")
    refused(["damaged tokenizer"], model=own)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (own / name).unlink()
    refused(["no tokenizer"], model=own)
    write_tokenizer(own, eos_token=None)
    refused(["names no end of text", "eos_token"], model=own)
    # transformers makes one of its own for a GPT-2 without files, which knows one token.
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 257}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
    refused(["no tokenizer"], model=tmp_path / "gpt2")


def test_a_tokenizer_of_another_model(refused, tmp_path):
    small = write_model(tmp_path / "small", vocab_size=80)
    refused(["its vocabulary has 80", "belongs to the model"], model=small)


def test_pickled_and_damaged_weights(refused, own):
    file = own / "model.safetensors"
    tensors = load_file(file)
    file.write_bytes(file.read_bytes()[:-100])
    refused(["damaged safetensors"], model=own)
    file.unlink()
    torch.save(tensors, own / "pytorch_model.bin")
    refused(["safetensors only, never pickles"], model=own)
    (own / "pytorch_model.bin").unlink()
    save_file({n: t for n, t in tensors.items() if "q_proj" not in n}, file, {"format": "pt"})
    refused(["lacks 2 of its tensors", "q_proj"], model=own)


def test_text(refused, tmp_path, text):
    refused(["absent"], text=tmp_path / "absent")
    refused(["max_characters=1"], max_characters=1)
    (tmp_path / "two").mkdir()
    for name in "ab":
        (tmp_path / "two" / f"{name}.txt").write_text(name * 30)
    refused(["2 different document(s)"], text=tmp_path / "two")
    (tmp_path / "two" / "c.txt").write_text("c" * 5)
    refused(["its training split has 6 tokens", "needs 49"], text=tmp_path / "two")
    refused(
        ["validation split has 31 tokens", "one window needs 33"],
        **{"text": tmp_path / "two", "context": 32, "batch_size": 1, "validation_tokens": 32},
    )


def test_a_device_that_is_not_there(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(["device: 'cuda'", "cpu and auto"], device="cuda")


def test_adapters_without_their_package(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    refused(["peft", "pip install peft"], train="lora")


def test_folders_of_other_results(refused, model, text, tmp_path, capsys):
    out = tmp_path / "run"
    retrofit(settings(model, out, text, steps=1, seeds=1), "first")
    refused(["steps was 1 and is 2", "another --out"], steps=2, seeds=1)
    refused(["mechanisms was 'selective'"], mechanisms="kv_shift", steps=1, seeds=1)
    assert headway_cli.main(["compare", "--out", str(out), "--text", str(text)]) == 2
    assert "holds a run with other settings" in capsys.readouterr().err
    before = contents(out)
    assert headway_cli.main(["report", str(out)]) == 2
    assert contents(out) == before

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    refused(["holds other things (thesis.txt)"], out=tmp_path / "full")


def test_a_file_of_mechanisms_that_changed(refused, model, text, tmp_path):
    file = mechanisms_file(tmp_path / "m.json", [{"name": "kv_shift", "init": "identity"}])
    changes = {"mechanisms": file, "steps": 1, "seeds": 1}
    retrofit(settings(model, tmp_path / "run", text, **changes), "first")
    mechanisms_file(tmp_path / "m.json", [{"name": "smeared_key", "init": "identity"}])
    refused(["arms: ", "other mechanisms for mechanism"], **changes)
