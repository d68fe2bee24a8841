"""Triton kernel of the gated feed-forward's backward: one pass over gate and up side by side."""
# fmt: off

import triton
import triton.language as tl


@triton.jit
def backward_kernel(
    both, grad, d_both, product, width,
    BLOCK: tl.constexpr, WIDE: tl.constexpr,
):
    """Rows of `both` and `d_both` have 2 `width` numbers, those of the others `width`."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gates = both + row * 2 * width + at
    gate = tl.load(gates, mask=inside, other=0.0).to(WIDE)
    up = tl.load(gates + width, mask=inside, other=0.0).to(WIDE)
    g = tl.load(grad + row * width + at, mask=inside, other=0.0).to(WIDE)
    share = 1 / (1 + tl.exp(-gate))
    silu = gate * share
    kind: tl.constexpr = product.dtype.element_ty
    to = d_both + row * 2 * width + at
    tl.store(to, (g * up * (share + silu * (1 - share))).to(kind), mask=inside)
    tl.store(to + width, (g * silu).to(kind), mask=inside)
    tl.store(product + row * width + at, (silu * up).to(kind), mask=inside)
