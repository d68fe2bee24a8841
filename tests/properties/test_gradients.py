"""Analytic gradients equal numeric ones in float64, for inputs and parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

from headway import QKV, Context, Dims, LayerShortcut, Mechanism, Streams
from headway.mechanisms.base import MechanismModule
from headway.ops.attention import alibi_slopes, eager_attention, merge
from headway.ops.depth import depth_attention, weighted_sum
from headway.ops.rotary import rotary
from headway.ops.shift import mix_previous
from headway.ops.temperature import position_temperature, token_temperature
from headway.ops.visibility import Visibility
from properties.strategies import MECHANISMS, make_loud

POSITIONS = st.sampled_from([[0, 1, 2], [0, 0, 1], [0, 1, 0], [2, 3, 4]])
GROUPS = st.sampled_from([(2, 2), (2, 1)])


def noise(*shape: int) -> Tensor:
    """Float64 inputs whose gradient is checked."""
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def visibility(positions: Tensor, alibi: bool = False) -> Visibility:
    """Over these positions, from column 0."""
    slopes = alibi_slopes(2, positions.device) if alibi else None
    return Visibility(positions, 0, positions.shape[1], False, slopes)


@given(POSITIONS, st.integers(1, 4), st.booleans())
@settings(max_examples=15)
def test_mix_previous(positions: list[int], window: int, channel: bool) -> None:
    taps = noise(2, 3, window + 1) if channel else noise(2, window + 1)
    inputs = (noise(1, 2, 3, 3), taps, torch.tensor([positions]), noise(1, 2, window, 3))
    assert gradcheck(mix_previous, inputs)


@given(POSITIONS, st.integers(1, 2))
@settings(max_examples=8)
def test_temperatures(positions: list[int], heads: int) -> None:
    assert gradcheck(position_temperature, (torch.tensor([positions]), noise(heads)))
    assert gradcheck(token_temperature, (noise(1, heads, 3, 4), noise(heads, 4)))


@given(POSITIONS, GROUPS, st.booleans())
@settings(max_examples=15)
def test_eager_attention_and_its_log_sum_exp(
    positions: list[int], groups: tuple[int, int], alibi: bool
) -> None:
    heads, key_value_heads = groups
    visible = visibility(torch.tensor([positions]).clamp(max=2), alibi)
    k, v = noise(1, key_value_heads, 3, 2), noise(1, key_value_heads, 3, 2)
    assert gradcheck(
        lambda *qkv: eager_attention(*qkv, visible, 0.8), (noise(1, heads, 3, 2), k, v)
    )


@given(st.integers(1, 3))
@settings(max_examples=3)
def test_merge(count: int) -> None:
    tensors = [noise(1, 2, 3, 2) for _ in range(count)] + [noise(1, 2, 3) for _ in range(count)]

    def merged(*given: Tensor) -> tuple[Tensor, Tensor]:
        return merge(list(zip(given[:count], given[count:], strict=True)))

    assert gradcheck(merged, tensors)


@given(st.integers(1, 3), st.booleans())
@settings(max_examples=5)
def test_reading_over_depth(count: int, learned: bool) -> None:
    sources = [noise(1, 2, 4) for _ in range(count)]

    def read(weights: Tensor, *given: Tensor) -> Tensor:
        if learned:
            return depth_attention(weights, given, normed="keys", eps=1e-6)
        return weighted_sum(given, weights)

    assert gradcheck(read, (noise(4) if learned else noise(count), *sources))


@given(POSITIONS, st.sampled_from([2, 4]))
@settings(max_examples=5)
def test_rotation(positions: list[int], width: int) -> None:
    turn = rotary(torch.tensor([positions]), width, 100.0, torch.float64)
    assert gradcheck(turn, (noise(1, 2, 3, width),))


class Hooked(nn.Module):
    """One mechanism's module, called with plain tensors."""

    def __init__(self, mechanism: Mechanism, dims: Dims, positions: Tensor) -> None:
        super().__init__()
        built = mechanism.build(dims, dims.num_hidden_layers - 1)
        assert built is not None
        self.mechanism, self.built, self.positions = mechanism, built, positions

    def forward(self, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, other: Tensor) -> Any:
        """Everything that the mechanism computes."""
        visible = visibility(self.positions)
        if isinstance(self.mechanism, LayerShortcut):
            return self.built(
                hidden,
                [other, other * hidden, hidden][: len(self.built.taps)],
                lambda q, k, v, slot: eager_attention(q, k, v, visible, 0.8),
                0.8,
            )
        if not isinstance(self.built, MechanismModule):
            return self.built([other, other * hidden, hidden, other - hidden])
        qkv = QKV(q, k, v)
        ctx = Context(
            positions=self.positions,
            hidden=hidden,
            raw=QKV(q.sin(), k.sin(), v.sin()),
            streams=Streams(QKV(q.cos(), k.cos(), v.cos()), QKV(q * q, k * k, v * v)),
            log_frequency=torch.linspace(-1, 1, 3, dtype=torch.float64)[None],
        )
        out, lse = eager_attention(q, k, v, visible, 0.8)
        return (*self.built.prologue(qkv, ctx), self.built.epilogue(out, lse, ctx))


@pytest.mark.parametrize("name", MECHANISMS)
def test_each_mechanism(name: str) -> None:
    @given(MECHANISMS[name], POSITIONS, GROUPS, st.booleans(), st.integers(0, 100))
    @settings(max_examples=10)
    def holds(
        mechanism: Mechanism,
        positions: list[int],
        groups: tuple[int, int],
        qk_norm: bool,
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        heads, key_value_heads = groups
        dims = Dims(
            hidden_size=3,
            num_attention_heads=heads,
            num_key_value_heads=key_value_heads,
            head_dim=2,
            num_hidden_layers=3,
            qk_norm=qk_norm,
        )
        module = Hooked(mechanism, dims, torch.tensor([positions]).clamp(max=2))
        make_loud(module)
        module.double()
        names = [n for n, _ in module.named_parameters()]
        inputs = [noise(1, heads, 3, 2), noise(1, key_value_heads, 3, 2)]
        inputs += [noise(1, key_value_heads, 3, 2), noise(1, 3, 3), noise(1, 3, 3)]

        def call(*given: Tensor) -> Any:
            parameters = dict(zip(names, given[5:], strict=True))
            return functional_call(module, parameters, given[:5])

        assert gradcheck(call, (*inputs, *module.parameters()))

    holds()
