"""The three kinds of models are told apart by their configuration; the rest is refused."""

import json

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from made import SENTENCES, SIZES, llama, loud, own, saved, tokenizer
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedTokenizerFast,
)

import headway
from headway import HeadwayError, KVShift, SelectiveAttention
from headway.corpora import train_bpe
from headway.evaluation.lm_eval_model import HeadwayLM
from headway.evaluation.loading import load_for_evaluation
from headway.evaluation.local_text import score_text
from headway.hosts.loading import device_of

IDENTITY = [KVShift(init="identity"), SelectiveAttention(init="identity")]


def nats(*arguments, **options):
    return score_text(HeadwayLM(*arguments, **options), SENTENCES, "sentences").nats


def attached(change=False):
    model = headway.attach(llama(), IDENTITY)
    if change:
        with torch.no_grad():
            for _, parameter in headway.mechanism_parameters(model):
                parameter.add_(0.5)
    return model


def test_an_attached_identity_changes_no_number(tmp_path):
    plain = nats(str(saved(llama(), tmp_path / "plain")))
    assert nats(str(saved(attached(), tmp_path / "attached"))) == pytest.approx(plain, rel=1e-6)
    headway.save_mechanisms(attached(), tmp_path / "alone")
    options = {"mechanisms": str(tmp_path / "alone")}
    assert nats(str(tmp_path / "plain"), **options) == pytest.approx(plain, rel=1e-6)


def test_changed_mechanisms_count_either_way(tmp_path):
    plain, whole = saved(llama(), tmp_path / "plain"), saved(attached(True), tmp_path / "whole")
    headway.save_mechanisms(attached(True), tmp_path / "alone")
    alone = nats(str(plain), mechanisms=str(tmp_path / "alone"))
    assert alone == nats(str(whole))
    assert alone != pytest.approx(nats(str(plain)), rel=1e-3)


def test_a_folder_is_the_model_that_was_saved(tmp_path):
    for model in (llama(), attached(True), own(), loud(own([KVShift()]))):
        folder = saved(model, tmp_path / type(model).__name__)
        loaded, _ = load_for_evaluation(str(folder), device="cpu")
        assert type(loaded).__name__ == type(model).__name__
        assert not loaded.training
        assert nats(str(folder)) == nats(model, tokenizer=tokenizer())


def test_dtypes(tmp_path):
    folder = str(saved(llama().bfloat16(), tmp_path))
    assert load_for_evaluation(folder)[0].dtype == torch.bfloat16
    assert load_for_evaluation(folder, dtype="float32")[0].dtype == torch.float32
    refused(r"dtype: value is 'int8'; accepted are auto, float32", folder, dtype="int8")


def refused(words, *arguments, **options):
    with pytest.raises(HeadwayError, match=words) as caught:
        load_for_evaluation(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_what_is_not_there(tmp_path):
    refused("is no folder", str(tmp_path / "none"))
    refused("holds no config.json", str(tmp_path))
    folder = str(saved(llama(), tmp_path / "model"))
    refused("mechanisms: .* is no folder", folder, str(tmp_path / "none"))
    refused(r"mechanisms: .* is no folder with a headway\.json", folder, folder)
    (tmp_path / "model" / "tokenizer.json").unlink()
    refused("its tokenizer", folder)


def test_pickles_are_refused(tmp_path):
    saved(llama(), tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    refused("accepted are safetensors only", str(tmp_path))


def test_code_of_the_folder_is_not_run(tmp_path):
    saved(llama(), tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "code.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "foreign", "auto_map": {"AutoConfig": "code.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused("model: .* is not accepted", str(tmp_path))
    with pytest.raises(HeadwayError, match="trust_remote_code: true is not accepted"):
        HeadwayLM(str(tmp_path), trust_remote_code=True)
    assert not ran.exists()


def test_a_field_of_another_kind(tmp_path):
    saved(llama(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"use_cache": "often"}))
    refused("model: .* is not accepted: .*'use_cache'", str(tmp_path))


def test_a_model_that_writes_no_text(tmp_path):
    saved(llama(), tmp_path)
    config = {"model_type": "t5", "vocab_size": 300, "d_model": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused("model: .* is not accepted", str(tmp_path))


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm"])
def test_an_encoder(tmp_path, kind):
    """Loaded as a causal model, it would read the token that it predicts."""
    sizes = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
    switch = "causal" if kind == "xlm" else "is_decoder"
    plain = AutoConfig.for_model(kind, **sizes)
    saved(AutoModelForMaskedLM.from_config(plain), tmp_path / "encoder")
    refused(rf"is an encoder \({kind}\).*{switch}=true$", str(tmp_path / "encoder"))
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **{switch: True}))
    folder = saved(model, tmp_path / "decoder")
    assert type(load_for_evaluation(str(folder), device="cpu")[0]) is type(model)


def test_tokenizers_that_do_not_fit(tmp_path):
    folder = saved(llama(), tmp_path)
    made = train_bpe(SENTENCES, 300)
    PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(folder)
    refused("bos_token or eos_token", str(folder))
    many = train_bpe(SENTENCES, 330)
    PreTrainedTokenizerFast(tokenizer_object=many, eos_token="<|endoftext|>").save_pretrained(
        folder
    )
    refused("a tokenizer of 330 tokens and a model of 300", str(folder))


def test_devices(monkeypatch, tmp_path):
    folder = str(saved(llama(), tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_of("auto") == torch.device("cpu")
    refused("device: 'cuda' is not there", folder, device="cuda")
    refused("device: value is 'gpu'", folder, device="gpu")
    assert HeadwayLM(folder, device="cuda:0").device == torch.device("cpu")  # what lm-eval says


def test_options_of_the_model():
    with pytest.raises(HeadwayError, match="model_args: 'peft' is not known; accepted are pretr"):
        HeadwayLM("gpt2", peft="x")
    with pytest.raises(HeadwayError, match="a loaded model is accepted with its tokenizer"):
        HeadwayLM(llama())
    assert HeadwayLM(llama(), tokenizer=tokenizer(), max_length=32).max_length == 32


def test_a_plain_model_scores_as_in_lm_evals_hf(tmp_path):
    folder = str(saved(llama(), tmp_path))
    theirs = score_text(HFLM(folder, device="cpu"), SENTENCES, "sentences")
    assert theirs.nats == pytest.approx(nats(folder, device="cpu"), rel=1e-6)
