"""Saving and loading: what comes back is the same model, or a sentence that says why not."""

import json

import pytest
import torch
from small_models import COMPOSED, LISTS, small, tokens
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from headway import HeadwayConfig, HeadwayError, HeadwayForCausalLM, HeadwayModel
from headway.mechanisms import SelectiveAttention


def edit_config(folder, change):
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


@pytest.fixture
def saved(tmp_path):
    model = small(COMPOSED)
    model.save_pretrained(tmp_path)
    return model, tmp_path


@pytest.mark.parametrize("name", LISTS)
def test_round_trip(name, tmp_path):
    model = small(LISTS[name], qk_norm=True, position="learned")
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"config.json", "model.safetensors"}
    assert not list(tmp_path.glob("*.bin"))
    ids = tokens(2, 9)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, HeadwayConfig)
    assert config.mechanism_list() == LISTS[name]
    for loader in (HeadwayForCausalLM, AutoModelForCausalLM):
        loaded = loader.from_pretrained(tmp_path)
        assert type(loaded) is HeadwayForCausalLM
        assert loaded.dtype == torch.float64
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    body = AutoModel.from_pretrained(tmp_path)
    assert type(body) is HeadwayModel
    assert torch.equal(body(ids).last_hidden_state, model.model(ids).last_hidden_state)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads(tmp_path, tied):
    small(COMPOSED, tie_word_embeddings=tied).save_pretrained(tmp_path)
    loaded = HeadwayForCausalLM.from_pretrained(tmp_path)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied


def test_sharded_round_trip(saved, tmp_path):
    model, _ = saved
    shards = tmp_path / "shards"
    model.save_pretrained(shards, max_shard_size="50KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    ids = tokens(2, 9)
    assert torch.equal(HeadwayForCausalLM.from_pretrained(shards)(ids).logits, model(ids).logits)


def test_token_frequencies_are_saved(tmp_path):
    model = small([SelectiveAttention(token="frequency")])
    model.model.set_token_counts(torch.arange(1, 62))
    model.save_pretrained(tmp_path)
    loaded = HeadwayForCausalLM.from_pretrained(tmp_path)
    assert loaded.model.token_log_frequency.abs().max() > 1
    ids = tokens(2, 9)
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_other_sizes(saved):
    _, folder = saved
    edit_config(folder, lambda c: c.update(hidden_size=64, head_dim=16, intermediate_size=96))
    for loader in (HeadwayForCausalLM, AutoModelForCausalLM):
        with pytest.raises(HeadwayError, match="other shapes than its configuration"):
            loader.from_pretrained(folder)


@pytest.mark.parametrize("loader", [HeadwayForCausalLM, AutoModelForCausalLM, HeadwayModel])
@pytest.mark.parametrize("asked", [{}, {"use_safetensors": False}])
def test_pickles_are_refused(saved, loader, asked):
    model, folder = saved
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(HeadwayError, match="safetensors only, never pickles"):
        loader.from_pretrained(folder, **asked)


def test_a_pickle_beside_safetensors_is_not_read(saved):
    model, folder = saved
    (folder / "pytorch_model.bin").write_bytes(b"no pickle at all")
    ids = tokens(2, 9)
    loaded = HeadwayForCausalLM.from_pretrained(folder, use_safetensors=False)
    assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize("content", [b"", b"neither a header nor weights", None])
def test_a_damaged_file(saved, content):
    _, folder = saved
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(HeadwayError, match="damaged safetensors file"):
        HeadwayForCausalLM.from_pretrained(folder)


def test_an_older_configuration(saved):
    model, folder = saved
    new = ("qk_norm", "norm", "attention_bias", "attention_multiplier", "position", "rope_theta")

    def age(fields):
        for name in new:
            del fields[name]
        for mechanism in fields["mechanisms"]:
            if mechanism["name"] == "kv_shift":
                mechanism.pop("granularity")

    edit_config(folder, age)
    ids = tokens(2, 9)
    assert torch.equal(HeadwayForCausalLM.from_pretrained(folder)(ids).logits, model(ids).logits)


def test_a_mechanism_is_drawn_where_the_checkpoint_has_none(tmp_path):
    plain = small([])
    plain.save_pretrained(tmp_path)
    edit_config(tmp_path, lambda c: c.update(mechanisms=[{"name": "kv_shift", "init": "identity"}]))
    ids = tokens(2, 9)
    loaded = HeadwayForCausalLM.from_pretrained(tmp_path)
    assert "kv_shift" in loaded.model.layers[0].self_attn.mechanisms.members
    assert torch.equal(loaded(ids).logits, plain(ids).logits)
