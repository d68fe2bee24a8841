"""The gated half of a feed-forward equals its reference, values and gradients."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from headway.ops.swiglu import gated_linear, reference_gated_linear

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def drawn(rows, width, out, dtype, seed=0):
    torch.manual_seed(seed)
    both = torch.randn(*rows, 2 * width, device=DEVICE, dtype=dtype, requires_grad=True)
    weight = torch.randn(out, width, device=DEVICE, dtype=dtype, requires_grad=True)
    return both, weight


def solved(function, both, weight, upstream):
    out = function(both, weight)
    return [out, *torch.autograd.grad((out * upstream.to(out.dtype)).sum(), [both, weight])]


@given(
    rows=st.sampled_from([(1,), (3,), (2, 5), (1, 1)]),
    width=st.sampled_from([1, 15, 16, 63, 1000, 1500]),
    out=st.integers(1, 6),
    seed=st.integers(0, 99),
)
@settings(max_examples=12, deadline=None)
def test_values_and_gradients(rows, width, out, seed):
    both, weight = drawn(rows, width, out, torch.float64, seed)
    upstream = torch.randn(*rows, out, device=DEVICE, dtype=torch.float64)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # memory is filled with NaN
    try:
        found = solved(gated_linear, both, weight, upstream)
    finally:
        torch.use_deterministic_algorithms(before)
    expected = solved(reference_gated_linear, both, weight, upstream)
    for ours, right in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding(dtype):
    """At most twice as far from float64 as the reference in the same dtype."""
    both, weight = drawn((2, 9), 130, 20, dtype)
    upstream = torch.randn(2, 9, 20, device=DEVICE)
    wide = [x.detach().double().requires_grad_() for x in (both, weight)]
    exact = solved(reference_gated_linear, *wide, upstream.to(dtype).double())
    plain = solved(reference_gated_linear, both, weight, upstream)
    for right, low, ours in zip(
        exact, plain, solved(gated_linear, both, weight, upstream), strict=True
    ):
        errors = [(x.double() - right).norm().item() for x in (low, ours)]
        assert errors[1] <= 2 * errors[0]


def test_gradients_of_a_slice():
    """Rows that do not lie side by side, and a gradient that is one number everywhere."""
    both, weight = drawn((4, 6), 8, 3, torch.float64)
    halves = [f(both[::2, 1:], weight).sum() for f in (gated_linear, reference_gated_linear)]
    found, expected = (torch.autograd.grad(x, [both, weight]) for x in halves)
    torch.testing.assert_close(found, expected)


def test_operator():
    both, _ = drawn((3,), 20, 5, torch.float32)
    opcheck(
        torch.ops.headway.swiglu_backward.default,
        (torch.randn(3, 20, device=DEVICE), both.detach()),
    )


def test_only_gate_and_up_are_kept():
    both, weight = drawn((4,), 8, 3, torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        gated_linear(both, weight)
    assert kept == [both.shape, weight.shape]


def test_autocast():
    both, weight = drawn((4,), 8, 3, torch.float32)
    with torch.autocast(DEVICE, torch.bfloat16):
        out = gated_linear(both, weight)
    assert out.dtype == torch.bfloat16
    for gradient in torch.autograd.grad(out.sum(), [both, weight]):
        assert gradient.dtype == torch.float32


def test_a_frozen_weight_costs_no_product():
    both, weight = drawn((4,), 8, 3, torch.float32)
    products = []
    with FlopCounterMode(display=False) as counter:
        for learns in (True, False):
            out = gated_linear(both, weight.requires_grad_(learns))
            before = counter.get_total_flops()
            torch.autograd.backward(out.sum())
            products.append(counter.get_total_flops() - before)
    assert products[0] == 2 * products[1] > 0
