"""What cannot be done is refused in one sentence, and the model stays as it was."""

import copy

import pytest
import torch
from tiny import SIZES, make_loud, tiny, tokens
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    DynamicCache,
    MambaConfig,
    StaticCache,
)

import headway
from headway import (
    AttentionResidual,
    HeadwayError,
    KVShift,
    LayerShortcut,
    ResidualStream,
    SelectiveAttention,
    SinkLogit,
)

PAIR = [KVShift(init="identity"), SelectiveAttention(init="identity")]


def refused(words, call, *args, **options):
    with pytest.raises(HeadwayError, match=words) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)


def test_an_unknown_family():
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "state_size": 2}
    model = AutoModelForCausalLM.from_config(MambaConfig(**sizes))
    words = "model_type: 'mamba'.*llama.*docs/add-a-host.md"
    refused(words, headway.attach, model, PAIR)
    assert headway.attached(model) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.nn.Linear(2, 2),
        lambda: AutoModel.from_config(tiny("llama").config),
        lambda: None,
        lambda: "gpt2",
    ],
)
def test_what_is_no_language_model(make):
    refused("model: a .* is not accepted", headway.attach, make(), PAIR)


def test_our_own_decoder():
    config = headway.HeadwayConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, mechanisms=[])
    words = r"model_type: 'headway'.*in its HeadwayConfig\(mechanisms=\[\.\.\.\]\)$"
    refused(words, headway.attach, headway.HeadwayForCausalLM(config), PAIR)


@pytest.mark.parametrize(
    ("kind", "cls", "words"),
    [
        ("t5", AutoModelForSeq2SeqLM, "it is an encoder-decoder"),
        ("bert", AutoModelForCausalLM, "it is an encoder"),
    ],
)
def test_what_is_no_decoder(kind, cls, words):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "d_ff": 8}
    model = cls.from_config(AutoConfig.for_model(kind, vocab_size=20, **sizes))
    refused(
        f"model_type: '{kind}'.*; {words}, and hosts are decoders$", headway.attach, model, PAIR
    )


PLACES = [
    ("gpt_oss", {}, SinkLogit(), "has a learned sink of its own"),
    ("gpt2", {"add_cross_attention": True}, KVShift(), "add_cross_attention"),
    ("gpt2", {"reorder_and_upcast_attn": True}, KVShift(), "reorder_and_upcast_attn"),
    ("opt", {"do_layer_norm_before": False}, AttentionResidual(), "do_layer_norm_before"),
    ("opt", {"layerdrop": 0.1}, ResidualStream(), "layerdrop=0.1"),
    ("bloom", {"apply_residual_connection_post_layernorm": True}, KVShift(), "norms the residual"),
    ("llama", {"num_hidden_layers": 1}, LayerShortcut(), "taps nothing"),
]


@pytest.mark.parametrize(("model_type", "options", "mechanism", "words"), PLACES)
def test_a_mechanism_without_a_place(model_type, options, mechanism, words):
    model = tiny(model_type, **options)
    kind, names = type(model), list(model.state_dict())
    refused(words, headway.attach, model, [mechanism])
    assert type(model) is kind
    assert list(model.state_dict()) == names


def test_lists_without_meaning():
    refused("list is empty", headway.attach, tiny("llama"), [])
    refused("swap them", headway.attach, tiny("llama"), PAIR[::-1])
    refused("is not a mechanism", headway.attach, tiny("llama"), ["kv_shift"])
    refused(r"a KVShift is no list.*\[KVShift\(\)\]", headway.attach, tiny("llama"), KVShift())
    refused("a NoneType is no list", headway.attach, tiny("llama"), None)
    refused("a str is no list", headway.attach, tiny("llama"), "kv_shift")


def test_a_generator_is_read_once():
    model = headway.attach(tiny("llama"), (m for m in PAIR))
    assert headway.attached(model) == PAIR
    assert list(headway.mechanism_parameters(model))


def test_attaching_twice():
    model = headway.attach(tiny("llama"), PAIR)
    refused(r"mechanisms already \(kv_shift, selective_attention\)", headway.attach, model, PAIR)
    assert headway.attached(model) == PAIR


def test_detaching_what_is_not_attached():
    refused("no mechanisms are attached", headway.detach, tiny("llama"))
    refused("no mechanisms are attached", headway.save_mechanisms, tiny("llama"), "nowhere")


def test_a_compiled_model():
    refused("compile then", headway.attach, torch.compile(tiny("llama")), PAIR)
    model = tiny("llama")
    model.compile()
    refused("compile then", headway.attach, model, PAIR)


def test_under_no_grad():
    with torch.no_grad():
        model = headway.attach(tiny("llama"), PAIR)
    assert all(p.requires_grad for _, p in headway.mechanism_parameters(model))


def test_under_inference_mode():
    model = tiny("llama")
    with torch.inference_mode():
        refused("inference_mode", headway.attach, model, PAIR)


def test_parts_are_in_the_mode_of_their_modules():
    for wanted in (True, False):
        model = headway.attach(tiny("llama").train(wanted), PAIR)
        assert {m.training for m in model.modules()} == {wanted}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_dynamically_quantised_model():
    quantise = torch.ao.quantization.quantize_dynamic
    model = quantise(tiny("llama"), {torch.nn.Linear}, dtype=torch.qint8)
    before = model(tokens(2, 9)).logits
    assert torch.equal(headway.attach(model, PAIR)(tokens(2, 9)).logits, before)


def test_on_meta():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny("llama").config)
    headway.attach(model, PAIR)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    real = tiny("llama")
    headway.attach(real, PAIR)
    model.load_state_dict(real.state_dict(), assign=True)
    model.model.rotary_emb = real.model.rotary_emb
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens(2, 9)).logits, real(tokens(2, 9)).logits)


def test_meta_then_initialised():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny("llama").config)
    headway.attach(model, PAIR)
    model.to_empty(device="cpu")
    model.initialize_weights()
    taps = model.model.layers[0].self_attn.headway.mechanisms.members["kv_shift"].key
    assert torch.equal(taps, torch.tensor([[1.0, 0.0]] * 2))


def test_caches_from_elsewhere():
    model, ids = make_loud(headway.attach(tiny("llama"), PAIR)), tokens(2, 9)
    filled = DynamicCache()
    with torch.no_grad():
        tiny("llama")(ids, past_key_values=filled)
        refused("filled elsewhere", model, ids, past_key_values=filled)
        whole = model(ids, use_cache=False).logits
        for empty in (
            DynamicCache(),
            DynamicCache(config=model.config),
            StaticCache(config=model.config, max_cache_len=12),
        ):
            model(ids[:, :5], past_key_values=empty)
            assert isinstance(empty, headway.HeadwayCache)
            rest = model(ids[:, 5:], past_key_values=empty).logits
            torch.testing.assert_close(rest, whole[:, 5:], atol=1e-5, rtol=0)
    refused(
        "cache_implementation: 'quantized'",
        model.generate,
        ids,
        cache_implementation="quantized",
        max_new_tokens=2,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="offloading works where there is a GPU")
@pytest.mark.parametrize("kind", ["offloaded", "offloaded_static"])
def test_offloading_without_a_gpu(kind):
    model = headway.attach(tiny("llama"), PAIR)
    words = f"cache_implementation: '{kind}'.*no GPU"
    refused(words, model.generate, tokens(2, 9), cache_implementation=kind, max_new_tokens=2)


def test_a_layer_called_apart_from_its_model():
    model = headway.attach(tiny("llama"), PAIR)
    x = torch.zeros(1, 3, 32)
    refused("called by its model only", model.model.layers[0].self_attn, x, position_embeddings=())


def test_a_mask_with_holes():
    model = headway.attach(tiny("llama"), PAIR)
    mask = torch.tensor([[1, 0, 1, 1]])
    refused("zeros between its ones", model, tokens(1, 4), attention_mask=mask)


@pytest.mark.parametrize("model_type", SIZES)
def test_a_copy_is_a_model_of_its_own(model_type):
    model = make_loud(headway.attach(tiny(model_type), PAIR))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        assert torch.equal(twin(tokens(2, 9)).logits, model(tokens(2, 9)).logits)
        make_loud(twin, seed=8)
        assert not torch.equal(twin(tokens(2, 9)).logits, model(tokens(2, 9)).logits)
    headway.detach(twin)
    assert headway.attached(model) == PAIR


def test_packed_documents_do_not_see_each_other():
    model = make_loud(headway.attach(tiny("llama"), [KVShift(init="identity")]))
    first, second = tokens(1, 5), tokens(1, 6, seed=1)
    packed = torch.cat([first, second], dim=1)
    positions = torch.cat([torch.arange(5), torch.arange(6)])[None]
    with torch.no_grad():
        together = model(packed, position_ids=positions, use_cache=False).logits
        alone = model(second).logits
    torch.testing.assert_close(together[:, 5:], alone, atol=1e-5, rtol=0)
