"""What a decoder costs is counted right, and a matched one costs no less."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.decoder import HeadwayConfig, HeadwayForCausalLM
from headway.mechanisms import LayerShortcut, Mechanism
from headway.training.matched import forward_operations, matching_width, parameter_count

LENGTH = 16


def config(*mechanisms: Mechanism, width: int | None = None) -> HeadwayConfig:
    return HeadwayConfig(
        vocab_size=11,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=width,
        mechanisms=list(mechanisms),
    )


def operations(one: HeadwayConfig) -> int:
    return forward_operations(one, LENGTH)


def test_parameters_are_those_of_the_model() -> None:
    for one in (config(), config(LayerShortcut(taps=(1, 2), width=8))):
        assert parameter_count(one) == HeadwayForCausalLM(one).num_parameters()


def test_operations_are_those_of_its_matrix_products() -> None:
    size, layers, rows = 16, 3, LENGTH
    inner = config(width=24)
    products = 2 * rows * (4 * size**2 + 3 * size * 24) + 2 * 2 * rows**2 * size
    assert operations(inner) == layers * products + 2 * rows * size * 11
    # Two taps: a perceptron each, keys and values of two, and attention over both.
    taps = config(LayerShortcut(taps=(1, 2), width=8), width=24)
    more = 2 * rows * (2 * 2 * size * 8 + 2 * size**2) + 2 * 2 * rows**2 * size
    assert operations(taps) - operations(inner) == more


@given(st.integers(1, 1_000), st.integers(0, 1_000), st.integers(0, 100_000))
def test_a_matched_width_is_the_least_multiple_of_eight_that_costs_enough(
    unit: int, rest: int, more: int
) -> None:
    def cost(one: HeadwayConfig) -> int:
        assert one.intermediate_size is not None
        return rest + unit * one.intermediate_size

    start = config(width=40)
    target = cost(start) + more
    found = matching_width(start, cost, target)
    assert found % 8 == 0
    assert cost(config(width=found)) >= target
    assert more == 0 or cost(config(width=found - 8)) < target


@pytest.mark.parametrize("cost", [parameter_count, operations])
def test_a_plain_decoder_is_matched_to_one_with_a_shortcut(cost: object) -> None:
    assert callable(cost)
    target = cost(config(LayerShortcut(width=50)))
    found = matching_width(config(), cost, target)
    assert cost(config(width=found)) >= target > cost(config(width=found - 8))
