"""The family that docs/add-a-host.md shows does what Headway's own do."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from tiny import GROUPED, IDENTITY, LOUD, make_loud, tokens
from transformers import AutoModelForCausalLM

import headway
from headway import HeadwayError, KVShift
from headway.hosts import family

pytestmark = pytest.mark.filterwarnings("ignore:the logits change at once")
PAGE = Path(__file__).parents[2] / "docs" / "add-a-host.md"
VARIANTS = {
    "plain": {},
    "norms of queries and keys": {"qk_layernorm": True},
    "parallel sublayers": {"use_parallel_residual": True},
    "dropout, biases": {"use_qkv_bias": True, "hidden_dropout": 0.1},
}


@pytest.fixture
def page(monkeypatch):
    """Runs the first block of the page, which registers the family until the test ends."""
    monkeypatch.setattr(family, "_registered", {})
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names = {"__name__": "page"}
    exec(compile(blocks[0], "add-a-host.md", "exec"), names)
    return blocks, names


@pytest.fixture(params=VARIANTS)
def model(request, page, monkeypatch):
    monkeypatch.setitem(tiny.SIZES, "stablelm", GROUPED | VARIANTS[request.param])
    return tiny.tiny("stablelm")


def test_it_is_short_and_its_check_holds(page):
    (shown, check), names = page
    assert len(shown.splitlines()) < 80
    exec(compile(check, "add-a-host.md", "exec"), names)


@torch.no_grad()
def test_identity_then_back_to_the_bit(model):
    ids = tokens(2, 11)
    before, names = model(ids).logits, list(model.state_dict())
    for name, mechanisms in IDENTITY.items():
        headway.attach(model, mechanisms)
        torch.testing.assert_close(model(ids).logits, before, atol=1e-5, rtol=1e-5)
        make_loud(model)
        assert (model(ids).logits - before).abs().max() > 1e-3, f"{name} does nothing"
        headway.detach(model)
        assert torch.equal(model(ids).logits, before), name
    assert list(model.state_dict()) == names


@torch.no_grad()
def test_identity_where_kernels_run(model, monkeypatch):
    """A family that says `fuses` without being like Llama would be found here."""
    monkeypatch.setenv("HEADWAY_OPS", "triton")
    ids = tokens(1, 6)
    before = model(ids).logits
    headway.attach(model, IDENTITY["kv_shift"])
    torch.testing.assert_close(model(ids).logits, before, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_decoding_equals_the_whole(model):
    ids = tokens(2, 14)
    model.double()
    for mechanisms in LOUD.values():
        make_loud(headway.attach(model, mechanisms))
        whole = model(ids, use_cache=False).logits
        cache, steps = None, []
        for part in ids.split([6, 3, 1, 1, 3], dim=1):
            step = model(part, past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            steps.append(step.logits)
        torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-9, rtol=1e-9)
        headway.detach(model)


@torch.no_grad()
def test_left_padding_and_beams(model):
    make_loud(headway.attach(model, LOUD["everything"]))
    ids, mask = tokens(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[0, :4] = 0
    options = {"max_new_tokens": 4, "do_sample": False}
    padded = model.generate(ids, attention_mask=mask, **options)
    alone = model.generate(ids[:1, 4:], **options)
    assert torch.equal(padded[:1, 4:], alone)
    beams = model.generate(ids, num_beams=3, **options)
    assert torch.equal(beams, model.generate(ids, num_beams=3, use_cache=False, **options))


def test_gradients_with_and_without_checkpointing(model):
    make_loud(headway.attach(model, LOUD["everything"])).train()
    ids, found = tokens(2, 11), []
    for _ in range(2):
        model.zero_grad()
        torch.manual_seed(0)  # dropout
        model(ids, labels=ids).loss.backward()
        found.append({n: p.grad for n, p in model.named_parameters()})
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, atol=1e-6, rtol=1e-4, msg=name)


@torch.no_grad()
def test_dropout_is_the_models_own(model):
    ids, drawn = tokens(2, 11), []
    for mechanisms in ([], IDENTITY["kv_shift"], IDENTITY["attention_residual"]):
        model.train()
        if mechanisms:
            headway.attach(model, mechanisms)
        torch.manual_seed(0)
        drawn.append(model(ids).logits)
        if mechanisms:
            headway.detach(model)
    for found in drawn[1:]:
        torch.testing.assert_close(found, drawn[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_saved_and_loaded(model, tmp_path):
    ids = tokens(2, 9)
    make_loud(headway.attach(model, LOUD["attention composed"])).save_pretrained(tmp_path)
    again = headway.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_unknown_without_the_page(page, monkeypatch):
    monkeypatch.setitem(tiny.SIZES, "stablelm", GROUPED)
    monkeypatch.setattr(family, "_registered", {})
    model = AutoModelForCausalLM.from_config(tiny.tiny_config("stablelm"))
    with pytest.raises(HeadwayError, match=r"model_type: 'stablelm'.*docs/add-a-host.md"):
        headway.attach(model, [KVShift(init="identity")])


def test_registering(page):
    shown = family.families()["stablelm"]
    family.register_family(again := replace(shown, name="StableLM once more"))
    assert family.families()["stablelm"] is again
    assert "stablelm" not in family.own_families()
    for types, words in (((), "model_types: it is empty"), (("stablelm", "llama"), "'llama' has")):
        with pytest.raises(HeadwayError, match=words):
            family.register_family(replace(shown, model_types=types))
    assert family.families()["stablelm"] is again
