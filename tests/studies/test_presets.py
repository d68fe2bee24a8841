"""Arms: every preset is a model that trains; what is no arm is refused by name."""

import json
import math

import pytest
import torch

from headway import HeadwayConfig, HeadwayError, HeadwayForCausalLM, KVShift, SelectiveAttention
from headway.studies.presets import PRESETS, resolve_arms
from headway.training.initialise import seed_weights
from headway_settings import DEMO_ARMS


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains(name):
    arms = resolve_arms([name], 16)
    assert list(arms) == (["vanilla"] if name == "vanilla" else ["vanilla", name])
    config = HeadwayConfig(
        vocab_size=31,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        mechanisms=arms[name],
    )
    model = HeadwayForCausalLM(config)
    seed_weights(model, 0)
    ids = torch.randint(0, 31, (2, 12), generator=torch.Generator().manual_seed(0))
    loss = model(ids, labels=ids).loss
    loss.backward()
    assert math.isfinite(loss.item())
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(parameter.grad.isfinite().all()), parameter_name


def test_every_preset_but_vanilla_changes_the_model():
    plain = HeadwayConfig(hidden_size=16, num_attention_heads=2, vocab_size=31)
    for name in PRESETS.keys() - {"vanilla"}:
        mechanisms = resolve_arms([name], 16)[name]
        assert mechanisms, name
        changed = HeadwayConfig(
            hidden_size=16, num_attention_heads=2, vocab_size=31, mechanisms=mechanisms
        )
        assert changed.mechanisms != plain.mechanisms


def test_the_arms_of_the_demo_are_presets():
    assert list(resolve_arms(DEMO_ARMS, 64)) == list(DEMO_ARMS)


def test_presets_are_joined_by_plus_and_vanilla_comes_first():
    arms = resolve_arms(["kv_shift+selective", "vanilla"], 16)
    assert list(arms) == ["vanilla", "kv_shift+selective"]
    assert arms["kv_shift+selective"] == [KVShift(), SelectiveAttention()]


def refused(names, *told):
    with pytest.raises(HeadwayError) as caught:
        resolve_arms(names, 16)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert all(part in sentence for part in ("arms", *told)), sentence


@pytest.mark.parametrize("name", ["kv_shft", "selective+kv_shft"])
def test_an_unknown_preset_names_the_nearest(name):
    refused([name], "'kv_shft' is unknown", "did you mean 'kv_shift'?", "accepted are", "vanilla")


@pytest.mark.parametrize("name", ["", "kv_shift+", "+", "qqqq"])
def test_a_name_like_none_is_refused_with_the_list(name):
    refused([name], "is unknown", "accepted are", "output_gate")


def test_an_arm_twice_or_none_is_refused():
    refused(["kv_shift", "selective", "kv_shift"], "kv_shift selective kv_shift", "once")
    refused([], "none")


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "arms.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return [str(path)]

    return write


def test_arms_from_a_file(file):
    names = file({"mine": [{"name": "kv_shift", "window": 2}], "gate": [{"name": "output_gate"}]})
    arms = resolve_arms(names, 16)
    assert list(arms) == ["vanilla", "mine", "gate"]
    assert arms["mine"] == [KVShift(window=2)]
    assert arms["vanilla"] == []


def test_an_empty_vanilla_in_a_file_is_the_plain_model(file):
    arms = resolve_arms(file({"mine": [{"name": "kv_shift"}], "vanilla": []}), 16)
    assert list(arms) == ["vanilla", "mine"]


def test_vanilla_with_mechanisms_is_refused(file):
    refused(file({"vanilla": [{"name": "kv_shift"}]}), "'vanilla' has mechanisms", "accepted")


def test_an_arm_without_mechanisms_is_refused(file):
    refused(file({"mine": []}), "'mine' has no mechanism", "vanilla")


@pytest.mark.parametrize("content", ["", "{", "\xff{}", "nonsense"])
def test_a_file_that_is_no_json_is_refused(file, content):
    names = file(content)
    refused(names, names[0], "is not JSON", "accepted is")


@pytest.mark.parametrize("content", [[], "text", 3, {"a": "kv_shift"}, {"a": {"name": "kv_shift"}}])
def test_json_of_another_form_is_refused(file, content):
    names = file(json.dumps(content))
    refused(names, names[0], "another form", 'accepted is {"arm": [')


def test_a_file_that_is_missing_or_a_folder_is_refused(tmp_path):
    refused([str(tmp_path / "none.json")], "none.json cannot be read (No such file", "accepted")
    (tmp_path / "folder.json").mkdir()
    refused([str(tmp_path / "folder.json")], "folder.json cannot be read", "accepted")
