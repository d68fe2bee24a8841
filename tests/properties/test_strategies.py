"""The property suite draws every mechanism that there is, and weights at which each one shows."""

import pytest
import torch
from hypothesis import given, settings

from headway import LayerShortcut, Mechanism
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
        assert torch.isfinite(change).all()
        if reads_its_own_input_alone(case):
            assert change.abs().max() < 1e-4
        else:
            assert change.abs().max() > 1e-3

    holds()


def reads_its_own_input_alone(case: Case) -> bool:
    """A shortcut in the place of self-attention whose one tap is the last layer's own input, with
    no features in between: that is self-attention, where its projections have no biases either."""
    shortcut = case.mechanisms[0]
    if not isinstance(shortcut, LayerShortcut):
        return False
    plain = (shortcut.features, shortcut.mode, shortcut.reach) == ("none", "replace", "context")
    last = case.host["num_hidden_layers"] - 1
    only = (shortcut.taps == "all" and last == 1) or shortcut.taps == (last,)
    return plain and only and not case.host["attention_bias"]
