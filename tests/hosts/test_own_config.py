"""An attached model has a configuration of its own, and keeps what is changed in it."""

import json

import pytest
import torch
from tiny import IDENTITY, SIZES, VOCABULARY, fitting, tiny, tiny_config, tokens
from transformers import AutoModelForCausalLM, DynamicCache

import headway
from headway import KVShift, LayerShortcut, OutputGate

SHIFT, GATE = KVShift(init="identity"), OutputGate(init="identity")


def configs(model):
    return {id(m.config) for m in model.modules() if "config" in vars(m)}


def test_models_of_one_configuration_stay_apart(tmp_path):
    config = tiny_config("llama")
    kind = type(tiny("llama"))
    before, (plain, a, b) = config.to_dict(), (kind(config).eval() for _ in range(3))
    headway.attach(a, [SHIFT])
    headway.attach(b, [GATE])
    assert [headway.attached(m) for m in (plain, a, b)] == [[], [SHIFT], [GATE]]
    assert config.to_dict() == before
    plain.save_pretrained(tmp_path / "plain")
    assert "mechanisms" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    a.save_pretrained(tmp_path / "a")
    assert headway.attached(headway.from_pretrained(tmp_path / "a")) == [SHIFT]
    headway.detach(b)
    assert headway.attached(a) == [SHIFT]
    headway.detach(a)
    assert not any(hasattr(c, "mechanisms") for c in (config, a.config, b.config))


@pytest.mark.parametrize("model_type", SIZES)
def test_all_modules_share_it(model_type):
    model = tiny(model_type)
    before, old = model.config.to_dict(), model.config
    assert configs(model) == {id(old)}
    headway.attach(model, fitting(model_type, IDENTITY["everything"]))
    assert configs(model) == {id(model.config)} != {id(old)}
    headway.detach(model)
    assert configs(model) == {id(model.config)}
    assert type(model.config) is type(old)
    assert model.config.to_dict() == old.to_dict() == before


def test_mechanisms_alone_into_one_of_two(tmp_path):
    config = tiny_config("llama")
    a, b = (type(tiny("llama"))(config) for _ in range(2))
    headway.save_mechanisms(headway.attach(tiny("llama"), [SHIFT]), tmp_path)
    headway.load_mechanisms(a, tmp_path)
    assert headway.attached(a) == [SHIFT]
    assert not hasattr(b.config, "mechanisms")


def test_a_peft_model_reads_the_same():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    headway.attach(model, [SHIFT])
    assert model.config is model.get_base_model().config
    assert model.config.mechanisms == [SHIFT.to_dict()]


def test_parts_of_a_composite_one_too():
    model = tiny("llama")
    model.config.part = part = tiny_config("llama")
    model.model.layers[0].config = part
    headway.attach(model, [SHIFT])
    assert model.model.layers[0].config is model.config.part is not part


def test_what_is_changed_holds_on(tmp_path):
    config = tiny_config("llama")
    kind = type(tiny("llama"))
    model, other = kind(config).eval(), kind(config)
    headway.attach(model, [SHIFT])
    model.resize_token_embeddings(VOCABULARY + 3)
    model.set_attn_implementation("eager")
    model.config.use_cache = False
    headway.detach(model)
    assert model.config.vocab_size == VOCABULARY + 3 == model.model.config.vocab_size
    assert model.model.layers[0].self_attn.config._attn_implementation == "eager"
    assert not model.config.use_cache
    assert other.config.vocab_size == VOCABULARY
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    with torch.no_grad():
        ids = tokens(2, 9)
        assert torch.equal(again.eval()(ids).logits, model(ids).logits)


def test_caches_of_it_hold_what_mechanisms_carry():
    model = headway.attach(tiny("llama"), [LayerShortcut(mode="add", init="identity", width=16)])
    layers = len(headway.HeadwayCache(model.config).layers)
    assert layers > len(DynamicCache(config=model.config).layers)
    with torch.no_grad():
        assert len(model(tokens(1, 5), use_cache=True).past_key_values.layers) == layers
