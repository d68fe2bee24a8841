"""Rotation against transformers' Llama, and the properties that it is used for."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from headway.ops.rotary import rotary

POSITIONS = torch.tensor([[0, 1, 2, 0, 1], [5, 6, 7, 300, 4000]])


def test_it_is_llamas_rotation() -> None:
    config = LlamaConfig(
        hidden_size=32,
        num_attention_heads=4,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    )
    x = torch.randn(2, 4, 5, 8, generator=torch.Generator().manual_seed(0))
    cos, sin = LlamaRotaryEmbedding(config)(x, POSITIONS)
    expected, _ = apply_rotary_pos_emb(x, x, cos, sin)
    actual = rotary(POSITIONS, 8, 5000.0, torch.float32)(x)
    # Angles up to 4000 in float32 carry errors of some 1e-4.
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(actual[0], expected[0], rtol=0, atol=1e-6)
    assert (actual[:, :, 1] - x[:, :, 1]).abs().max() > 0.1


def test_scores_depend_on_distance_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 1, 1, 1, 6, generator=generator, dtype=torch.float64)
    turned = []
    for shift in (0, 3, 1000):
        at = rotary(torch.tensor([[7 + shift]]), 6, 100.0, torch.float64)
        before = rotary(torch.tensor([[2 + shift]]), 6, 100.0, torch.float64)
        turned.append((at(q) * before(k)).sum())
    torch.testing.assert_close(turned[1:], [turned[0]] * 2, rtol=0, atol=1e-11)
    assert (turned[0] - (q * k).sum()).abs() > 1e-2


def test_the_first_token_is_not_turned() -> None:
    x = torch.randn(1, 2, 1, 4, dtype=torch.float64)
    assert torch.equal(rotary(torch.zeros(1, 1, dtype=int), 4, 10.0, torch.float64)(x), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_angles_are_counted_in_float32(dtype: torch.dtype) -> None:
    narrow, wide = (rotary(POSITIONS, 8, 1e4, d) for d in (dtype, torch.float64))
    assert narrow.cos.dtype == torch.float32
    assert wide.cos.dtype == torch.float64
    torch.testing.assert_close(narrow.sin.double(), wide.sin, rtol=0, atol=1e-3)
    assert narrow(torch.ones(2, 1, 5, 8, dtype=dtype)).dtype == dtype


def test_compiled_angles_are_the_same() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(rotary, fullgraph=True, backend="aot_eager")
    for dtype in (torch.bfloat16, torch.float64):
        for found, expected in zip(
            compiled(POSITIONS, 8, 1e4, dtype), rotary(POSITIONS, 8, 1e4, dtype), strict=True
        ):
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)


def test_the_operator_of_angles() -> None:
    arguments = (POSITIONS, 8, 100.0, True)
    torch.library.opcheck(torch.ops.headway.rotary_angles.default, arguments)
    copies = torch.stack([POSITIONS, POSITIONS + 3], dim=1)
    found = torch.vmap(lambda p: torch.ops.headway.rotary_angles(p, *arguments[1:]), in_dims=1)(
        copies
    )
    for copy in range(2):
        alone = torch.ops.headway.rotary_angles(copies[:, copy], *arguments[1:])
        for one, other in zip(found, alone, strict=True):
            assert torch.equal(one[copy], other)
