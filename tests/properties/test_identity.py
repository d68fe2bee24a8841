"""A mechanism that starts at the identity leaves the model as it is."""

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from headway import Mechanism
from properties.strategies import (
    MECHANISMS,
    Case,
    accepted,
    assert_equal,
    cases,
    compositions,
    logits,
)

IDENTITY: dict[str, dict[str, Any]] = {
    "kv_shift": {"init": "identity"},
    "smeared_key": {"init": "identity"},
    "residual_stream": {"init": "identity"},
    "short_conv": {"init": "identity"},
    "selective_attention": {"init": "identity"},
    "scalable_softmax": {"init": "identity", "bias": True},
    "sink_logit": {"init": "identity"},
    "output_gate": {"init": "identity"},
    "attention_residual": {"total": "count"},
    "layer_shortcut": {"init": "identity", "mode": "add"},
    "scalar_mix": {"init": "identity"},
}
ROUNDED = {"smeared_key", "attention_residual"}
"""Those whose start is the identity only up to float32 rounding."""


def identities(name: str) -> SearchStrategy[Mechanism]:
    """Drawn instances with their other options, starting at the identity."""
    start = IDENTITY[name]
    tried = MECHANISMS[name].map(lambda m: accepted(dataclasses.replace, m, **start))
    return tried.filter(lambda mechanism: mechanism is not None)


def compare(case: Case, length: int) -> None:
    names = {m.name for m in case.mechanisms}
    # SDPA gives no log-sum-exp, so that a sink makes eager stand in for it.
    if "sink_logit" in names:
        case = dataclasses.replace(case, host=case.host | {"attn_implementation": "eager"})
    model, plain = case.model(initial=True), case.plain().model()
    missing, _ = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    tokens = case.tokens(2, length)
    actual, expected = logits(model, tokens), logits(plain, tokens)
    if names & ROUNDED:
        assert_equal(actual, expected, 3e-6)
    else:
        assert torch.equal(actual, expected)


def test_every_mechanism_has_an_identity() -> None:
    assert set(IDENTITY) == set(MECHANISMS)


@pytest.mark.parametrize("name", IDENTITY)
def test_each_mechanism_starts_at_the_plain_model(name: str) -> None:
    @given(cases(identities(name).map(lambda m: (m,))), st.integers(1, 12))
    @settings(max_examples=20)
    def holds(case: Case, length: int) -> None:
        compare(case, length)

    holds()


@given(cases(compositions(st.one_of(*map(identities, IDENTITY)), most=8)), st.integers(1, 12))
@settings(max_examples=100)
def test_a_list_of_identities_is_the_plain_model(case: Case, length: int) -> None:
    compare(case, length)
