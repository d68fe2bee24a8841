"""The normal distribution inside the fused prologue, for 16 bits and for more."""

import pytest
import torch

pytest.importorskip("triton")
import triton
import triton.language as tl

from headway.ops.prologue_kernels import _gelu_and_slope

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@triton.jit
def both_kernel(x, gelu, slope, FAST: tl.constexpr, COUNT: tl.constexpr):
    at = tl.arange(0, COUNT)
    value, steep = _gelu_and_slope(tl.load(x + at), FAST)
    tl.store(gelu + at, value)
    tl.store(slope + at, steep)


@pytest.mark.parametrize(("fast", "error"), [(True, 8e-5), (False, 1e-6)])
def test_gelu_and_its_slope(fast, error):
    """The share below x errs by at most `error`, so its product with x by as much of x."""
    x = torch.linspace(-12, 12, 4096, device=DEVICE)
    gelu, slope = torch.empty_like(x), torch.empty_like(x)
    both_kernel[(1,)](x, gelu, slope, FAST=fast, COUNT=len(x))
    wide = x.double().requires_grad_()
    right = torch.nn.functional.gelu(wide)
    (steep,) = torch.autograd.grad(right.sum(), wide)
    assert (gelu - right).abs().le(error * x.abs() + 1e-9).all()
    assert (slope - steep).abs().max() <= error
    assert torch.equal(gelu[x >= 6], x[x >= 6])
    assert not fast or torch.equal(gelu[x <= -6], torch.zeros_like(x[x <= -6]))
