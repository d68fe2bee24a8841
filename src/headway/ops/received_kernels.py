"""Triton kernels of received attention: columns and rows of the weights, tile by tile.

Each program owns a tile of keys (or of queries) and goes along the other side, so that sums need no
atomics and come out the same each time.
"""
# fmt: off

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = 1.4426950408889634


@triton.jit
def _seen(query, key, LENGTH, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """Which queries (column) see which keys (row)."""
    found = (query < LENGTH) & (key < LENGTH)
    if CAUSAL:
        found = found & (key <= query)
    if WINDOW:
        found = found & (query - key < WINDOW)
    return found


@triton.jit
def _tile(pointer, rows, channels, stride, LENGTH, WIDTH: tl.constexpr):
    inside = (rows[:, None] < LENGTH) & (channels[None, :] < WIDTH)
    return tl.load(pointer + rows[:, None] * stride + channels[None, :], mask=inside, other=0.0)


@triton.jit
def _column_tile(
    keys, key, q, lse, at, channels, sums, largest, counts, LENGTH, q_row, scale, threshold,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, WIDTH: tl.constexpr, BLOCK_Q: tl.constexpr,
    PRECISION: tl.constexpr, INSIDE: tl.constexpr,
):
    """Adds what the queries from `at` on give; INSIDE: all of them see all of the keys."""
    query = at + tl.arange(0, BLOCK_Q)
    queries = _tile(q, query, channels, q_row, LENGTH, WIDTH)
    norm = tl.load(lse + query, mask=query < LENGTH, other=0.0)
    # Keys along the rows of the product: a row's sum stays within the threads that hold it.
    scores = tl.dot(keys, tl.trans(queries), input_precision=PRECISION)
    weights = tl.exp2(scores * scale - norm[None, :])
    if not INSIDE:
        seen = _seen(query[None, :], key[:, None], LENGTH, CAUSAL, WINDOW)
        weights = tl.where(seen, weights, 0.0)
    sums += tl.sum(weights, 1)
    largest = tl.maximum(largest, tl.max(weights, 1))
    counts += tl.sum(tl.where(weights > threshold, 1.0, 0.0), 1)
    return sums, largest, counts


@triton.jit
def columns_kernel(
    q, k, lse, total, peak, over, LENGTH, HEADS, GROUPS, scale, threshold,
    q_batch, q_head, q_row, k_batch, k_head, k_row,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):
    """Sum, maximum and count over a threshold of each key's column, in base 2."""
    batch_head = tl.program_id(1).to(tl.int64)
    batch, head = batch_head // HEADS, batch_head % HEADS
    group = head // (HEADS // GROUPS)
    first = tl.program_id(0) * BLOCK_K
    key = first + tl.arange(0, BLOCK_K)
    channels = tl.arange(0, BLOCK_D)
    keys = _tile(k + batch * k_batch + group * k_head, key, channels, k_row, LENGTH, WIDTH)
    q += batch * q_batch + head * q_head
    lse += batch_head * LENGTH
    sums = tl.zeros((BLOCK_K,), tl.float32)
    largest = tl.zeros((BLOCK_K,), tl.float32)
    counts = tl.zeros((BLOCK_K,), tl.float32)
    # Only tiles on an edge need a mask: the diagonal, the end of the sequence, a window.
    start = (first // BLOCK_Q) * BLOCK_Q if CAUSAL else 0
    stop = tl.minimum(LENGTH, first + BLOCK_K + WINDOW) if WINDOW else LENGTH
    full = tl.cdiv(first + BLOCK_K, BLOCK_Q) * BLOCK_Q if CAUSAL else 0
    full = stop if WINDOW else tl.minimum(full, stop)
    tail = stop if WINDOW else tl.maximum(full, LENGTH // BLOCK_Q * BLOCK_Q)
    for at in range(start, full, BLOCK_Q):
        sums, largest, counts = _column_tile(
            keys, key, q, lse, at, channels, sums, largest, counts, LENGTH, q_row, scale, threshold,
            CAUSAL, WINDOW, WIDTH, BLOCK_Q, PRECISION, False,
        )
    for at in range(full, tail, BLOCK_Q):
        sums, largest, counts = _column_tile(
            keys, key, q, lse, at, channels, sums, largest, counts, LENGTH, q_row, scale, threshold,
            CAUSAL, WINDOW, WIDTH, BLOCK_Q, PRECISION, True,
        )
    for at in range(tail, stop, BLOCK_Q):
        sums, largest, counts = _column_tile(
            keys, key, q, lse, at, channels, sums, largest, counts, LENGTH, q_row, scale, threshold,
            CAUSAL, WINDOW, WIDTH, BLOCK_Q, PRECISION, False,
        )
    inside = key < LENGTH
    tl.store(total + batch_head * LENGTH + key, sums, mask=inside)
    tl.store(peak + batch_head * LENGTH + key, largest, mask=inside)
    tl.store(over + batch_head * LENGTH + key, counts, mask=inside)


@triton.jit
def _row_tile(
    queries, query, k, norm, at, channels, sums, spread, LENGTH, k_row, scale,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, INSIDE: tl.constexpr,
):
    """Adds what the queries give to the keys from `at` on; INSIDE: they see all of them."""
    key = at + tl.arange(0, BLOCK_K)
    keys = _tile(k, key, channels, k_row, LENGTH, WIDTH)
    logs = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale - norm[:, None]
    if not INSIDE:
        seen = _seen(query[:, None], key[None, :], LENGTH, CAUSAL, WINDOW)
        # A weight of zero times a finite logarithm.
        logs = tl.where(seen, logs, -1e4)
    weights = tl.exp2(logs)
    return sums + tl.sum(weights, 1), spread - tl.sum(weights * logs, 1)


@triton.jit
def rows_kernel(
    q, k, lse, own, mass, entropy, LENGTH, HEADS, GROUPS, scale,
    q_batch, q_head, q_row, k_batch, k_head, k_row,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):
    """Weight on the token itself, sum and entropy (nats) of each query's row."""
    batch_head = tl.program_id(1).to(tl.int64)
    batch, head = batch_head // HEADS, batch_head % HEADS
    group = head // (HEADS // GROUPS)
    first = tl.program_id(0) * BLOCK_Q
    query = first + tl.arange(0, BLOCK_Q)
    channels = tl.arange(0, BLOCK_D)
    queries = _tile(q + batch * q_batch + head * q_head, query, channels, q_row, LENGTH, WIDTH)
    k += batch * k_batch + group * k_head
    inside = query < LENGTH
    norm = tl.load(lse + batch_head * LENGTH + query, mask=inside, other=0.0)
    same = _tile(k, query, channels, k_row, LENGTH, WIDTH).to(tl.float32)
    paired = tl.sum(queries.to(tl.float32) * same, 1)
    tl.store(own + batch_head * LENGTH + query, tl.exp2(paired * scale - norm), mask=inside)
    sums = tl.zeros((BLOCK_Q,), tl.float32)
    spread = tl.zeros((BLOCK_Q,), tl.float32)
    start = tl.maximum(0, first - WINDOW) // BLOCK_K * BLOCK_K if WINDOW else 0
    stop = tl.minimum(LENGTH, first + BLOCK_Q) if CAUSAL else LENGTH
    # The keys before the first query are seen by all; a window masks every tile.
    full = first // BLOCK_K * BLOCK_K if CAUSAL else LENGTH // BLOCK_K * BLOCK_K
    full = start if WINDOW else full
    for at in range(start, full, BLOCK_K):
        sums, spread = _row_tile(
            queries, query, k, norm, at, channels, sums, spread, LENGTH, k_row, scale,
            CAUSAL, WINDOW, WIDTH, BLOCK_K, PRECISION, True,
        )
    for at in range(full, stop, BLOCK_K):
        sums, spread = _row_tile(
            queries, query, k, norm, at, channels, sums, spread, LENGTH, k_row, scale,
            CAUSAL, WINDOW, WIDTH, BLOCK_K, PRECISION, False,
        )
    tl.store(mass + batch_head * LENGTH + query, sums, mask=inside)
    tl.store(entropy + batch_head * LENGTH + query, spread * 0.6931471805599453, mask=inside)


def received_sums(
    q: Tensor, k: Tensor, lse: Tensor, scale: float, causal: bool, window: int, threshold: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Total, peak and over `(B, H, T)` of keys, own, mass and entropy `(B, H, T)` of queries,
    float32.

    Args:
        q: `(B, H, T, D)`, D at most 256.
        k: `(B, G, T, D)`.
        lse: `(B, H, T)`.
        scale: factor on the scores.
        causal: query `i` sees no key past `i`.
        window: a query sees this many keys, itself included; 0 for all.
        threshold: of `over`.
    """
    batch, heads, length, width = q.shape
    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k))
    # Base 2 throughout: the exponential of the hardware is one of two.
    norm = (lse.float() * LOG2_E).contiguous()
    outputs = [torch.empty(batch, heads, length, device=q.device) for _ in range(6)]
    strides = (*q.stride()[:3], *k.stride()[:3])
    # A tile of 32 KiB leaves room for those under way in the memory that a program has.
    wide = width * q.element_size() > 256
    held, passed = (64, 32) if wide else (128, 64)
    options = {
        "CAUSAL": causal, "WINDOW": window, "WIDTH": width,
        "BLOCK_D": max(16, triton.next_power_of_2(width)),
        # Three passes of TF32 are as exact as float32.
        "PRECISION": "tf32x3" if q.dtype == torch.float32 else "tf32",
        "num_warps": 4 if width <= 64 else 8,
        "num_stages": 2 if wide else 3,
    }
    shared = (length, heads, k.shape[1], scale * LOG2_E)
    grid = (triton.cdiv(length, held), batch * heads)
    columns_kernel[grid](
        q, k, norm, *outputs[:3], *shared, threshold, *strides,
        BLOCK_K=held, BLOCK_Q=passed, **options,
    )
    rows_kernel[grid](
        q, k, norm, *outputs[3:], *shared, *strides, BLOCK_Q=held, BLOCK_K=passed, **options
    )
    total, peak, over, own, mass, entropy = outputs
    return total, peak, over, own, mass, entropy
