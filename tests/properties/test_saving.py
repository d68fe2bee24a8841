"""What is written to disk or JSON comes back, also when it was written before an option existed."""

import dataclasses
import json
import tempfile

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from headway import HeadwayConfig, Mechanism
from properties.strategies import ANY_MECHANISM, MECHANISMS, Case, accepted, cases, logits


@given(ANY_MECHANISM)
@settings(max_examples=200)
def test_a_mechanism_survives_json(mechanism: Mechanism) -> None:
    read = Mechanism.from_dict(json.loads(json.dumps(mechanism.to_dict())))
    assert read == mechanism
    assert type(read) is type(mechanism)


@pytest.mark.parametrize("name", MECHANISMS)
def test_json_that_lacks_options_takes_their_defaults(name: str) -> None:
    options = [field.name for field in dataclasses.fields(Mechanism.registry[name])]

    @given(MECHANISMS[name], st.sets(st.sampled_from(options)))
    @settings(max_examples=30)
    def holds(mechanism: Mechanism, lacking: set[str]) -> None:
        kept = {k: v for k, v in vars(mechanism).items() if k not in lacking}
        expected = accepted(type(mechanism), **kept)
        assume(expected is not None)
        data = {k: v for k, v in mechanism.to_dict().items() if k not in lacking}
        assert Mechanism.from_dict(json.loads(json.dumps(data))) == expected

    holds()


@given(cases())
@settings(max_examples=60)
def test_a_configuration_survives_json(case: Case) -> None:
    config = case.config()
    read = HeadwayConfig.from_dict(json.loads(config.to_json_string(use_diff=False)))
    assert tuple(read.mechanism_list()) == case.mechanisms
    assert read.dims() == config.dims()


@given(cases(), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
@settings(max_examples=40)
def test_a_saved_model_gives_the_same_logits(case: Case, dtype: torch.dtype) -> None:
    model, tokens = case.model(dtype), case.tokens(2, 7)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        read = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=case.host["attn_implementation"]
        ).eval()
    assert set(read.state_dict()) == set(model.state_dict())
    assert torch.equal(logits(read, tokens), logits(model, tokens))
