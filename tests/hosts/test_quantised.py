"""Hosts in 8 and 4 bits: mechanisms stay in full precision, before and after loading."""

import pytest
import torch
from tiny import make_loud, tiny, tokens
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import headway
from headway import KVShift, OutputGate, SelectiveAttention

pytest.importorskip("bitsandbytes")
pytest.importorskip("accelerate")

LIST = [
    KVShift(init="identity"),
    SelectiveAttention(init="identity"),
    OutputGate(init="identity"),
]
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 4}
BITS = {
    8: BitsAndBytesConfig(load_in_8bit=True),
    4: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32),
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IDS = tokens(2, 9).to(DEVICE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    tiny("llama", **SIZES).save_pretrained(path)
    return path


def quantised(folder, bits):
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=BITS[bits], device_map=DEVICE
    ).eval()


def assert_precise(model):
    for name, parameter in headway.mechanism_parameters(model):
        assert parameter.dtype == torch.float32, name
    gate = model.model.layers[0].self_attn.headway.mechanisms.members["output_gate"].gate
    assert type(gate) is torch.nn.Linear
    assert type(model.model.layers[0].self_attn.q_proj) is not torch.nn.Linear


@torch.no_grad()
@pytest.mark.parametrize("bits", BITS)
def test_attaching(bits, folder, tmp_path):
    model = quantised(folder, bits)
    before = model(IDS).logits
    headway.attach(model, LIST)
    assert_precise(model)
    assert torch.equal(model(IDS).logits, before)
    make_loud(model)
    loud = model(IDS).logits
    assert (loud - before).abs().max() > 0.1
    headway.save_mechanisms(model, tmp_path)
    again = headway.load_mechanisms(quantised(folder, bits), tmp_path)
    assert torch.equal(again(IDS).logits, loud)
    written = model.generate(IDS, max_new_tokens=5, do_sample=False)
    assert written.shape == (2, 14)


@torch.no_grad()
@pytest.mark.parametrize("bits", BITS)
def test_loading(bits, folder, tmp_path):
    plain = AutoModelForCausalLM.from_pretrained(folder)
    make_loud(headway.attach(plain, LIST)).save_pretrained(tmp_path / "full")
    options = {"quantization_config": BITS[bits], "device_map": DEVICE}
    model = headway.from_pretrained(tmp_path / "full", **options)
    assert_precise(model)
    expected = quantised(folder, bits)
    headway.save_mechanisms(plain, tmp_path / "alone")
    headway.load_mechanisms(expected, tmp_path / "alone")
    assert torch.equal(model(IDS).logits, expected(IDS).logits)
    model.save_pretrained(tmp_path / "quantised")
    again = headway.from_pretrained(tmp_path / "quantised", device_map=DEVICE)
    assert_precise(again)
    assert torch.equal(again(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("bits", BITS)
def test_training_the_mechanisms_alone(bits, folder):
    model = quantised(folder, bits).requires_grad_(False)
    headway.attach(model, LIST).train()
    model(IDS, labels=IDS).loss.backward()
    for name, parameter in headway.mechanism_parameters(model):
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
