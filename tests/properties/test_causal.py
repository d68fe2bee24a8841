"""No token sees the future, and every token sees the past."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from properties.strategies import MECHANISMS, VOCABULARY, Case, cases, logits, one_of_each


def change(case: Case, tokens: torch.Tensor, columns: slice) -> torch.Tensor:
    """Other tokens in these columns."""
    changed = tokens.clone()
    changed[:, columns] = (changed[:, columns] + 1 + case.seed % (VOCABULARY - 1)) % VOCABULARY
    return changed


def check(case: Case, length: int, at: int) -> None:
    model, tokens = case.model(), case.tokens(2, length)
    before = logits(model, tokens)
    after = logits(model, change(case, tokens, slice(at, None)))
    assert torch.equal(before[:, :at], after[:, :at])
    assert not torch.equal(before[:, at], after[:, at])
    moved = logits(model, change(case, tokens, slice(at - 1, at)))
    assert (moved[:, at:] - before[:, at:]).abs().max() > 1e-4


LENGTHS = st.integers(2, 11).flatmap(lambda t: st.tuples(st.just(t), st.integers(1, t - 1)))


@given(cases(), LENGTHS)
@settings(max_examples=150)
def test_logits_depend_on_earlier_tokens_alone(case: Case, lengths: tuple[int, int]) -> None:
    check(case, *lengths)


@pytest.mark.parametrize("name", MECHANISMS)
def test_each_mechanism_alone_is_causal(name: str) -> None:
    @given(cases(one_of_each(name)), LENGTHS)
    @settings(max_examples=15)
    def holds(case: Case, lengths: tuple[int, int]) -> None:
        check(case, *lengths)

    holds()
