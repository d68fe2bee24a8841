"""A real small Llama: its text stays what it was, cached and attached, saved and loaded."""

import os
from pathlib import Path

import pytest
import torch
from tiny import IDENTITY
from transformers import AutoModelForCausalLM, AutoTokenizer

import headway


@pytest.fixture(scope="module")
def folder():
    path = Path(os.environ.get("HEADWAY_DATA", "")) / "models" / "stories260K"
    if not os.environ.get("HEADWAY_DATA") or not path.is_dir():
        pytest.skip("set HEADWAY_DATA to the folder that holds models/stories260K")
    return path


@torch.no_grad()
def test_the_story_stays(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    greedy = {"max_new_tokens": 40, "do_sample": False, "pad_token_id": 0}
    ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
    before, logits = model.generate(ids, **greedy), model(ids).logits
    for name, mechanisms in IDENTITY.items():
        headway.attach(model, mechanisms)
        assert torch.equal(model.generate(ids, **greedy), before), name
        torch.testing.assert_close(model(ids).logits, logits, atol=1e-5, rtol=0)
        headway.detach(model)
    headway.attach(model, IDENTITY["attention composed"])
    for _, parameter in headway.mechanism_parameters(model):
        parameter.add_(0.05 * torch.randn_like(parameter))
    told = model.generate(ids, **greedy)
    assert not torch.equal(told, before)
    assert torch.equal(told, model.generate(ids, use_cache=False, **greedy))
    model.save_pretrained(tmp_path)
    again = headway.from_pretrained(tmp_path)
    assert torch.equal(again.generate(ids, **greedy), told)
