"""Whole folders, mechanisms alone, and what is refused."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import LOUD, SIZES, fitting, make_loud, tiny, tokens
from transformers import AutoConfig, AutoModelForCausalLM

import headway
from headway import HeadwayError, KVShift, OutputGate, SelectiveAttention
from headway.hosts.model import MARK

pytestmark = pytest.mark.filterwarnings("ignore:the logits change at once")
LISTS = ("kv_shift", "everything", "replaced")
PAIR = [KVShift(init="identity"), SelectiveAttention(init="identity")]


def loud_host(model_type, name):
    return make_loud(headway.attach(tiny(model_type), fitting(model_type, LOUD[name])))


def refused(words, call, *args, **options):
    with pytest.raises(HeadwayError, match=words) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)


@torch.no_grad()
def logits(model):
    return model(tokens(2, 11)).logits


@pytest.mark.parametrize("model_type", SIZES)
def test_a_folder_and_back(model_type, tmp_path):
    for name in LISTS:
        model, folder = loud_host(model_type, name), tmp_path / name
        model.save_pretrained(folder)
        again = headway.from_pretrained(folder)
        assert headway.attached(again) == headway.attached(model)
        assert torch.equal(logits(again), logits(model)), name
        again.save_pretrained(tmp_path / "second")
        for file in ("config.json", "model.safetensors"):
            written = (tmp_path / "second" / file).read_bytes()
            assert written == (folder / file).read_bytes(), file
        headway.detach(again)
        headway.detach(model)
        assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("model_type", SIZES)
def test_the_mechanisms_alone(model_type, tmp_path):
    for name in LISTS:
        model, base = loud_host(model_type, name), tiny(model_type)
        before = {n: t.clone() for n, t in base.state_dict().items()}
        headway.save_mechanisms(model, tmp_path)
        assert headway.load_mechanisms(base, tmp_path) is base
        assert torch.equal(logits(base), logits(model)), name
        for other, tensor in base.state_dict().items():
            assert "headway" in other or torch.equal(tensor, before[other])
        make_loud(base, seed=9)
        headway.load_mechanisms(base, tmp_path)
        assert torch.equal(logits(base), logits(model)), name


def test_in_a_fresh_process(tmp_path):
    model = loud_host("llama", "attention composed")
    model.save_pretrained(tmp_path)
    code = (
        "import sys, torch, headway; from safetensors.torch import save_file; "
        "model = headway.from_pretrained(sys.argv[1]); "
        "ids = torch.tensor(eval(sys.argv[2])); "
        "save_file({'logits': model(ids).logits.detach()}, sys.argv[1] + '/logits.safetensors')"
    )
    ids = str(tokens(2, 11).tolist())
    subprocess.run([sys.executable, "-c", code, str(tmp_path), ids], check=True)
    assert torch.equal(load_file(tmp_path / "logits.safetensors")["logits"], logits(model))


@pytest.mark.parametrize("ours_imported", [False, True])
def test_transformers_alone_says_what_to_call(ours_imported, tmp_path):
    loud_host("gpt2", "kv_shift").save_pretrained(tmp_path)
    code = "import headway\n" * ours_imported + (
        "import sys; from transformers import AutoModelForCausalLM\n"
        "AutoModelForCausalLM.from_pretrained(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "load it with headway.from_pretrained(path)" in done.stderr


def test_saved_mechanisms_are_small(tmp_path):
    model = headway.attach(tiny("llama"), PAIR)
    headway.save_mechanisms(model, tmp_path)
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 8_000
    assert sorted(f.name for f in tmp_path.iterdir()) == ["headway.json", "headway.safetensors"]


def test_half_precision_keeps_learned_numbers_in_float32(tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    headway.attach(model, [*PAIR, OutputGate(init="identity")])
    make_loud(model)
    model.save_pretrained(tmp_path)
    for loaded in (model, headway.from_pretrained(tmp_path, dtype=torch.bfloat16)):
        for name, parameter in loaded.named_parameters():
            precise = ".kv_shift." in name or ".selective_attention." in name
            assert parameter.dtype == (torch.float32 if precise else torch.bfloat16), name
        assert torch.equal(logits(loaded), logits(model))


def test_one_of_ours_loads_too(tmp_path):
    own = headway.HeadwayForCausalLM(
        headway.HeadwayConfig(vocab_size=61, hidden_size=16, num_hidden_layers=1, mechanisms=PAIR)
    ).eval()
    own.save_pretrained(tmp_path)
    assert torch.equal(logits(headway.from_pretrained(tmp_path)), logits(own))


def test_folders_that_are_refused(tmp_path):
    absent = "^path_or_hub_id: '[^']*absent' cannot be read"
    refused(absent, headway.from_pretrained, tmp_path / "absent")
    plain = tmp_path / "plain"
    tiny("llama").save_pretrained(plain)
    refused("holds no mechanisms; load it with AutoModel", headway.from_pretrained, plain)
    refused("trust_remote_code", headway.from_pretrained, plain, trust_remote_code=True)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text(
        '{"model_type": "mamba", "mechanisms": [{"name": "kv_shift"}]}'
    )
    refused("model_type: 'mamba'.*add-a-host", headway.from_pretrained, foreign)
    (foreign / "config.json").write_text("{ not json")
    refused("cannot be read|not accepted", headway.from_pretrained, foreign)


def edited(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.fixture
def saved(tmp_path):
    loud_host("llama", "everything").save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_with_an_unknown_mechanism(saved):
    edited(saved, mechanisms=[{"name": "kv_shyft"}])
    refused("'kv_shyft' is unknown", headway.from_pretrained, saved)


def test_a_folder_with_other_sizes(saved):
    edited(saved, num_key_value_heads=4)
    refused("weights of other shapes", headway.from_pretrained, saved)


def test_a_folder_that_lacks_mechanisms_tensors(saved):
    file = saved / "model.safetensors"
    tensors = {n: t for n, t in load_file(file).items() if "kv_shift" not in n}
    save_file(tensors, file, metadata={"format": "pt"})
    refused("lacks 6 of its mechanisms' tensors", headway.from_pretrained, saved)


def test_fields_of_the_configuration(saved):
    model = headway.from_pretrained(
        saved, use_cache=False, attention_dropout=0.25, dtype="bfloat16", output_attentions=True
    )
    assert not model.config.use_cache
    assert model.model.layers[0].self_attn.attention_dropout == 0.25
    assert model.config._attn_implementation == "eager"
    assert model.dtype == torch.bfloat16
    other = headway.from_pretrained(saved, dtype="auto", attn_implementation="eager")
    assert (other.config._attn_implementation, other.dtype) == ("eager", torch.float32)
    refused("use_cache", headway.from_pretrained, saved, use_cache="often")


def test_a_configuration_that_is_given(saved):
    given = AutoConfig.from_pretrained(saved)
    given.use_cache = False
    before = given.to_dict()
    for config in (given, str(saved), headway.from_pretrained(saved, use_cache=False).config):
        model = headway.from_pretrained(saved, config=config)
        assert model.config.use_cache == (config == str(saved))
        assert headway.attached(model) == LOUD["everything"]
    assert given.to_dict() == before
    assert given._attn_implementation == MARK
    plain = tiny("llama").config
    refused("config: it names no mechanisms", headway.from_pretrained, saved, config=plain)


def test_the_report_of_loading(saved):
    file = saved / "model.safetensors"
    tensors = load_file(file) | {"more": torch.zeros(1)}
    save_file(tensors, file, metadata={"format": "pt"})
    model, report = headway.from_pretrained(saved, output_loading_info=True)
    assert headway.attached(model) == LOUD["everything"]
    assert (set(report["unexpected_keys"]), set(report["missing_keys"])) == ({"more"}, set())


def test_a_whole_folder_is_not_the_mechanisms_alone(saved):
    words = "no headway.json, .*loaded by headway.from_pretrained"
    refused(words, headway.load_mechanisms, tiny("llama"), saved)


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    model = headway.attach(tiny("llama"), PAIR)
    refused("path: .*cannot be made a folder", headway.save_mechanisms, model, tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"not a safetensors file"])
def test_a_damaged_folder(saved, content):
    (saved / "model.safetensors").write_bytes(content)
    refused("path_or_hub_id: .*damaged", headway.from_pretrained, saved)


def test_a_truncated_folder(saved):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused("path_or_hub_id: .*damaged", headway.from_pretrained, saved)


def test_a_pickle_is_never_read(saved):
    state = load_file(saved / "model.safetensors")
    (saved / "model.safetensors").unlink()
    torch.save(state, saved / "pytorch_model.bin")
    refused("safetensors only, never pickles", headway.from_pretrained, saved)


def state(model):
    return {n: t.clone() for n, t in model.state_dict().items()}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: (p / "headway.json").unlink(), "no headway.json, hence save_mechanisms did not"),
        (lambda p: (p / "headway.json").write_text("{"), "damaged headway.json"),
        (lambda p: (p / "headway.json").write_text("[]"), "headway.json of another form"),
        (lambda p: (p / "headway.safetensors").unlink(), "safetensors"),
        (lambda p: (p / "headway.safetensors").write_bytes(b"\x80\x04]"), "damaged safetensors"),
        (
            lambda p: save_file({"x": torch.zeros(1)}, p / "headway.safetensors"),
            "does not hold what its description says",
        ),
        (
            lambda p: (p / "headway.json").write_text(
                (p / "headway.json").read_text().replace('"window": 1', '"window": 2')
            ),
            "does not hold what its description says",
        ),
        (
            lambda p: (p / "headway.json").write_text(
                (p / "headway.json").read_text().replace('"kv_shift"', '"kv"')
            ),
            "mechanism: 'kv' is unknown",
        ),
    ],
)
def test_saved_mechanisms_that_are_refused(spoil, words, tmp_path):
    headway.save_mechanisms(headway.attach(tiny("llama"), PAIR), tmp_path)
    spoil(tmp_path)
    model = tiny("llama")
    before, kind = state(model), type(model)
    refused(words, headway.load_mechanisms, model, tmp_path)
    assert type(model) is kind
    assert headway.attached(model) == []
    after = state(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)


@pytest.mark.parametrize(
    ("model_type", "options", "words"),
    [
        ("llama", {"hidden_size": 48}, "hidden_size=32; this one has hidden_size=48"),
        ("llama", {"num_key_value_heads": 4}, "num_key_value_heads=2; this one has"),
        ("mistral", {}, "model_type='llama'; this one has model_type='mistral'"),
    ],
)
def test_mechanisms_of_another_model(model_type, options, words, tmp_path):
    headway.save_mechanisms(headway.attach(tiny("llama"), PAIR), tmp_path)
    refused(words, headway.load_mechanisms, tiny(model_type, **options), tmp_path)


def test_mechanisms_beside_others(tmp_path):
    headway.save_mechanisms(headway.attach(tiny("llama"), PAIR), tmp_path)
    model = headway.attach(tiny("llama"), PAIR[:1])
    refused(
        "kv_shift with its options is attached; detach", headway.load_mechanisms, model, tmp_path
    )
    assert headway.attached(model) == PAIR[:1]


def test_pushing_while_saving(tmp_path):
    model = headway.attach(tiny("llama"), PAIR)
    refused("model.push_to_hub", model.save_pretrained, tmp_path, push_to_hub=True)


def test_a_hub_id_without_a_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("cannot be read", headway.from_pretrained, "nobody/no-such-model-here")
    refused("cannot be read", headway.load_mechanisms, tiny("llama"), "nobody/no-such-model-here")


def test_detached_models_are_plain_folders(tmp_path):
    model = headway.attach(tiny("llama"), PAIR)
    headway.detach(model)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again.eval()), logits(model))
    assert "mechanisms" not in json.loads((tmp_path / "config.json").read_text())
