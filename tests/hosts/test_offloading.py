"""Layers that accelerate keeps on the CPU or on disk until they run, with mechanisms in them."""

import pytest
import torch
from tiny import LOUD, fitting, make_loud, tiny, tokens

import headway
from headway import HeadwayConfig, HeadwayForCausalLM, KVShift, OutputGate
from headway.hosts.family import family_of
from headway.hosts.offloading import keep_loaded

pytest.importorskip("accelerate")
pytestmark = [
    pytest.mark.filterwarnings("ignore:the logits change at once"),
    pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded modules"),
]

CASES = [("llama", name) for name in ("kv_shift", "everything", "token shortcut")]
CASES += [("gpt2", "attention composed"), ("bloom", "replaced")]


def offloaded(stack, folder):
    return headway.from_pretrained(
        folder, device_map={stack: "disk", "lm_head": "cpu"}, offload_folder=folder / "offloaded"
    )


def assert_same(found, expected):
    with torch.no_grad():
        ids = tokens(2, 9)
        assert torch.equal(found(ids).logits, expected(ids).logits)
        options = {"max_new_tokens": 4, "do_sample": False}
        assert torch.equal(found.generate(ids, **options), expected.generate(ids, **options))


@pytest.mark.parametrize(("model_type", "name"), CASES)
def test_offloaded_layers(model_type, name, tmp_path):
    plain = tiny(model_type, tie_word_embeddings=False)
    model = make_loud(headway.attach(plain, fitting(model_type, LOUD[name])))
    model.save_pretrained(tmp_path / "saved")
    found = offloaded(family_of(model.config).stack, tmp_path / "saved")
    away = {n for n, p in found.named_parameters() if p.is_meta}
    assert away
    assert not away & {n for n, _ in headway.mechanism_parameters(found)}
    assert_same(found, model)
    assert {n for n, p in found.named_parameters() if p.is_meta} == away

    found.save_pretrained(tmp_path / "again")
    again = headway.from_pretrained(tmp_path / "again")
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


def test_learned_numbers_stay_in_float32(tmp_path):
    plain = tiny("llama", tie_word_embeddings=False).to(torch.bfloat16)
    headway.attach(plain, [KVShift(), OutputGate()]).save_pretrained(tmp_path)
    found = offloaded("model", tmp_path)
    kinds = {p.dtype for n, p in headway.mechanism_parameters(found) if "kv_shift" in n}
    assert kinds == {torch.float32}
    assert_same(found, headway.from_pretrained(tmp_path))


def test_one_of_ours(tmp_path):
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = HeadwayConfig(**sizes, mechanisms=[KVShift()], tie_word_embeddings=False)
    model = make_loud(HeadwayForCausalLM(config).eval())
    model.save_pretrained(tmp_path)
    assert_same(offloaded("model", tmp_path), model)


def test_weights_that_wait_on_the_cpu():
    from accelerate import cpu_offload

    expected = make_loud(headway.attach(tiny("llama"), LOUD["everything"]))
    found = make_loud(headway.attach(tiny("llama"), LOUD["everything"]))
    cpu_offload(found, execution_device="cpu")
    keep_loaded(found)
    assert any(p.is_meta for p in found.parameters())
    assert not any(p.is_meta for _, p in headway.mechanism_parameters(found))
    assert_same(found, expected)
