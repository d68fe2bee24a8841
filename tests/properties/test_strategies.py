"""The property suite draws every mechanism that there is, and weights at which each one shows."""

import pytest
import torch
from hypothesis import given, settings

from headway import Mechanism
from properties.strategies import MECHANISMS, Case, cases, logits, one_of_each


def test_every_mechanism_is_drawn() -> None:
    ours = {n for n, cls in Mechanism.registry.items() if cls.__module__.startswith("headway.")}
    assert set(MECHANISMS) == ours


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_drawn_mechanism_changes_the_logits(name: str) -> None:
    @given(cases(one_of_each(name)))
    @settings(max_examples=15)
    def holds(case: Case) -> None:
        assert [m.name for m in case.mechanisms] == [name]
        model, plain, tokens = case.model(), case.plain().model(), case.tokens(2, 9)
        plain.load_state_dict(model.state_dict(), strict=False)
        change = logits(model, tokens) - logits(plain, tokens)
        assert change.abs().max() > 1e-3
        assert torch.isfinite(change).all()

    holds()
