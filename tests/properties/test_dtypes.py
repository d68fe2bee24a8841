"""bfloat16 stays near float32, and float64 is computed in float64."""

import dataclasses

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from properties.strategies import Case, assert_equal, cases, logits


@torch.no_grad()
def soften(model: torch.nn.Module) -> None:
    """Weights of trained size: sharp attention turns bfloat16 rounding into other choices."""
    for parameter in model.parameters():
        parameter.mul_(0.7)


@given(cases(), st.integers(1, 12))
@settings(max_examples=100)
def test_bfloat16_stays_near_float32(case: Case, length: int) -> None:
    model, tokens = case.model(), case.tokens(2, length)
    soften(model)
    rounded = logits(model.to(torch.bfloat16), tokens)
    assert rounded.dtype == torch.bfloat16
    exact = logits(model.to(torch.float32), tokens)
    assert (rounded.float() - exact).norm() < 0.06 * exact.norm()


@given(cases(), st.integers(1, 12))
@settings(max_examples=60)
def test_float64_agrees_with_float32_and_is_no_float32(case: Case, length: int) -> None:
    narrow, wide, tokens = case.model(), case.model(torch.float64), case.tokens(2, length)
    # The same function by the other implementation shows how finely it is computed.
    other = dataclasses.replace(case, host=case.host | {"attn_implementation": "eager"})
    computed = logits(wide, tokens)
    assert computed.dtype == torch.float64
    assert_equal(logits(narrow, tokens).double(), computed, 1e-4)
    assert_equal(logits(other.model(torch.float64), tokens), computed, 1e-12)
