"""Triton kernels of the depth read: attention over the sources that one token has.

Sources come as a tuple of pointers, so that they are never gathered in memory; a tuple may be
longer than their number. A program with one query for its tokens goes from source to source with a
running softmax; one with several heads multiplies small matrices, heads by channels and channels by
sources. Sums are in float32, and nothing is added by atomics: two runs give the same bits.
"""
# fmt: off

import triton
import triton.language as tl

from headway.ops import choice

INTERPRETED = tl.constexpr(choice.INTERPRETED)


@triton.jit
def _exp(x):
    """As the hardware has it: of two."""
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def _inverse_rms(squares, eps, CHANNELS: tl.constexpr):
    return tl.rsqrt(squares / CHANNELS + eps)


@triton.jit
def _load(tensor, at, inside):
    return tl.load(tensor + at, mask=inside, other=0.0)


@triton.jit
def _place(share, CHANNELS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):
    """A block of tokens that have a query in common: which, where, and what is inside."""
    nth = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    channel = tl.arange(0, BLOCK_C)
    token = tl.program_id(1).to(tl.int64) * share + nth
    inside = (nth < share)[:, None] & (channel < CHANNELS)[None, :]
    return token, nth < share, token[:, None] * CHANNELS + channel[None, :], inside


@triton.jit
def _shared_query(query, CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr):
    channel = tl.arange(0, BLOCK_C)
    at = tl.program_id(1).to(tl.int64) * CHANNELS + channel
    return tl.load(query + at, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _if_counted(inside, i, count):
    """`inside`, or nothing where source `i` only fills up the tuple."""
    return inside & (tl.zeros_like(inside).to(tl.int32) + i < count)


@triton.jit(do_not_specialize=["count"])
def shared_forward_kernel(
    query, sources, out, lse, count, share, scale, eps, gain,
    SLOTS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
    NORM_KEYS: tl.constexpr, NORM_VALUES: tl.constexpr,
):
    """A block of `share` tokens that have a query in common."""
    token, real, at, inside = _place(share, CHANNELS, BLOCK_T, BLOCK_C)
    q = _shared_query(query, CHANNELS, BLOCK_C) * scale
    peak = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    mixed = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    row = _load(sources[0], at, inside)
    for i in tl.static_range(SLOTS):
        x = row.to(tl.float32)
        # The next source is on its way while this one is added up.
        if i + 1 < SLOTS:
            row = _load(sources[i + 1], at, _if_counted(inside, i + 1, count))
        if count > i:
            score = tl.sum(q * x, 1)
            if NORM_KEYS:
                size = _inverse_rms(tl.sum(x * x, 1), eps, CHANNELS)
                score *= size
            higher = tl.maximum(peak, score)
            shrink = _exp(peak - higher)
            weight = _exp(score - higher)
            total = total * shrink + weight
            if NORM_VALUES:
                weight *= size
            mixed = mixed * shrink[:, None] + weight[:, None] * x
            peak = higher
    mixed *= (gain / total)[:, None]
    tl.store(out + at, mixed.to(out.dtype.element_ty), mask=inside)
    tl.store(lse + token, peak + tl.log(total), mask=real)


@triton.jit(do_not_specialize=["count"])
def shared_backward_kernel(
    grad, query, sources, out, lse, query_shares, source_grads, count, share, scale, eps, gain,
    SLOTS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
    NORM_KEYS: tl.constexpr, NORM_VALUES: tl.constexpr,
):
    """Also the block's share of the query's gradient, in a row of its own."""
    token, real, at, inside = _place(share, CHANNELS, BLOCK_T, BLOCK_C)
    q = _shared_query(query, CHANNELS, BLOCK_C) * scale
    norm = tl.load(lse + token, mask=real, other=0.0)
    g = _load(grad, at, inside).to(tl.float32)
    spent = tl.sum(g * _load(out, at, inside).to(tl.float32), 1)
    by_query = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    row = _load(sources[0], at, inside)
    for i in tl.static_range(SLOTS):
        x = row.to(tl.float32)
        if i + 1 < SLOTS:
            row = _load(sources[i + 1], at, _if_counted(inside, i + 1, count))
        if count > i:
            along_query = tl.sum(q * x, 1)
            along_grad = tl.sum(g * x, 1) * gain
            score = along_query
            if NORM_KEYS:
                size = _inverse_rms(tl.sum(x * x, 1), eps, CHANNELS)
                score = along_query * size
            weight = _exp(score - norm)
            mixing = weight
            if NORM_VALUES:
                mixing = weight * size
            # A single source has all the weight, whatever `out` was rounded to.
            by_score = tl.where(count > 1, mixing * along_grad - weight * spent, 0.0)
            by_dot = by_score
            if NORM_KEYS:
                by_dot = by_score * size
            by_source = by_dot[:, None] * q + (mixing * gain)[:, None] * g
            if NORM_KEYS:
                by_size = by_score * along_query
                if NORM_VALUES:
                    by_size += weight * along_grad
                by_source -= (by_size * size * size * size / CHANNELS)[:, None] * x
            by_query += by_dot[:, None] * x
            target = source_grads[i] + at
            tl.store(target, by_source.to(target.dtype.element_ty), mask=inside)
    channel = tl.arange(0, BLOCK_C)
    block = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    query_shares += block * CHANNELS
    tl.store(query_shares + channel, tl.sum(by_query, 0) * scale, mask=channel < CHANNELS)


@triton.jit
def _rows(tensors, slot, SLOTS: tl.constexpr, ALIGNED: tl.constexpr):
    """Where the rows of a tile begin, each in a tensor of its own."""
    found = tl.where(slot == 0, tensors[0], tensors[0])
    for i in tl.static_range(1, SLOTS):
        found = tl.where(slot == i, tensors[i], found)
    if ALIGNED:
        found = tl.multiple_of(found, 16)
    return found


@triton.jit
def _tile(rows, real, channel, CHANNELS: tl.constexpr):
    inside = real[:, None] & (channel < CHANNELS)[None, :]
    return tl.load(rows[:, None] + channel[None, :], mask=inside, other=0.0)


@triton.jit
def _store_tile(rows, real, channel, values, CHANNELS: tl.constexpr):
    inside = real[:, None] & (channel < CHANNELS)[None, :]
    target = rows[:, None] + channel[None, :]
    tl.store(target, values.to(target.dtype.element_ty), mask=inside)


@triton.jit
def _dot(a, b, total, PRECISION: tl.constexpr):
    """`total + a b`, with `b` rounded to the kind of `a`."""
    b = b.to(a.dtype)
    if INTERPRETED:
        # The interpreter would multiply the bits of bfloat16 as integers.
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def _add_squares(squares, x, WANTED: tl.constexpr):
    if WANTED:
        squares += tl.sum(x.to(tl.float32) * x.to(tl.float32), 1)
    return squares


@triton.jit(do_not_specialize=["count"])
def heads_forward_kernel(
    query, sources, out, lse, count, tokens, scale, eps, gain,
    HEADS: tl.constexpr, SLOTS: tl.constexpr, CHANNELS: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
    NORM_KEYS: tl.constexpr, NORM_VALUES: tl.constexpr,
    HOLD: tl.constexpr, ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
):
    """`HEADS` queries of one token. With `HOLD` all of its rows are under way before the first is
    needed, and stay in registers; else they are read again."""
    token = tl.program_id(0).to(tl.int64)
    head, slot, channel = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_C)
    real, live = head < HEADS, slot < count
    x_rows = _rows(sources, slot, SLOTS, ALIGNED) + token * CHANNELS
    at = (head * tokens + token) * CHANNELS
    q_rows = query + at
    scores = tl.zeros((BLOCK_H, BLOCK_N), tl.float32)
    squares = tl.zeros((BLOCK_N,), tl.float32)
    if HOLD:
        xs, qs = (), ()
        for start in tl.static_range(0, CHANNELS, BLOCK_C):
            xs += (_tile(x_rows, live, start + channel, CHANNELS),)
            qs += (_tile(q_rows, real, start + channel, CHANNELS),)
        for start in tl.static_range(0, CHANNELS, BLOCK_C):
            x = xs[start // BLOCK_C]
            scores = _dot(qs[start // BLOCK_C], tl.trans(x), scores, PRECISION)
            squares = _add_squares(squares, x, NORM_KEYS)
    else:
        for start in range(0, CHANNELS, BLOCK_C):
            x = _tile(x_rows, live, start + channel, CHANNELS)
            q = _tile(q_rows, real, start + channel, CHANNELS)
            scores = _dot(q, tl.trans(x), scores, PRECISION)
            squares = _add_squares(squares, x, NORM_KEYS)
    scores *= scale
    if NORM_KEYS:
        size = _inverse_rms(squares, eps, CHANNELS)
        scores *= size[None, :]
    scores = tl.where(live[None, :], scores, float("-inf"))
    peak = tl.max(scores, 1)
    weights = _exp(scores - peak[:, None])
    total = tl.sum(weights, 1)
    tl.store(lse + head * tokens + token, peak + tl.log(total), mask=real)
    weights /= total[:, None]
    if NORM_VALUES:
        weights *= size[None, :]
    weights = weights.to(query.dtype.element_ty)
    if HOLD:
        for start in tl.static_range(0, CHANNELS, BLOCK_C):
            x = xs[start // BLOCK_C]
            mixed = _dot(weights, x, None, PRECISION) * gain
            _store_tile(out + at, real, start + channel, mixed, CHANNELS)
    else:
        for start in range(0, CHANNELS, BLOCK_C):
            x = _tile(x_rows, live, start + channel, CHANNELS)
            mixed = _dot(weights, x, None, PRECISION) * gain
            _store_tile(out + at, real, start + channel, mixed, CHANNELS)


@triton.jit
def _give_back(
    q_targets, x_targets, real, live, channel, q, g, x, by_dot, mixing, along_source,
    CHANNELS: tl.constexpr, NORM_KEYS: tl.constexpr, PRECISION: tl.constexpr,
):
    """Gradients of some channels of a token's queries and sources."""
    by_query = _dot(by_dot, x, None, PRECISION)
    _store_tile(q_targets, real, channel, by_query, CHANNELS)
    by_source = _dot(tl.trans(by_dot), q, None, PRECISION)
    by_source = _dot(tl.trans(mixing), g, by_source, PRECISION)
    if NORM_KEYS:
        by_source -= along_source[:, None] * x.to(tl.float32)
    _store_tile(x_targets, live, channel, by_source, CHANNELS)


@triton.jit(do_not_specialize=["count"])
def heads_backward_kernel(
    grad, query, sources, lse, query_grad, source_grads, count, tokens, scale, eps, gain,
    HEADS: tl.constexpr, SLOTS: tl.constexpr, CHANNELS: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
    NORM_KEYS: tl.constexpr, NORM_VALUES: tl.constexpr,
    HOLD: tl.constexpr, ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
):
    """The scores of one token again, then what it gives back."""
    token = tl.program_id(0).to(tl.int64)
    head, slot, channel = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_C)
    real, live = head < HEADS, slot < count
    x_rows = _rows(sources, slot, SLOTS, ALIGNED) + token * CHANNELS
    x_targets = _rows(source_grads, slot, SLOTS, ALIGNED) + token * CHANNELS
    at = (head * tokens + token) * CHANNELS
    q_rows, g_rows, q_targets = query + at, grad + at, query_grad + at
    along_query = tl.zeros((BLOCK_H, BLOCK_N), tl.float32)
    along_grad = tl.zeros((BLOCK_H, BLOCK_N), tl.float32)
    squares = tl.zeros((BLOCK_N,), tl.float32)
    if HOLD:
        xs, qs, gs = (), (), ()
        for start in tl.static_range(0, CHANNELS, BLOCK_C):
            xs += (_tile(x_rows, live, start + channel, CHANNELS),)
            qs += (_tile(q_rows, real, start + channel, CHANNELS),)
            gs += (_tile(g_rows, real, start + channel, CHANNELS),)
        for start in tl.static_range(0, CHANNELS, BLOCK_C):
            x = xs[start // BLOCK_C]
            along_query = _dot(qs[start // BLOCK_C], tl.trans(x), along_query, PRECISION)
            along_grad = _dot(gs[start // BLOCK_C], tl.trans(x), along_grad, PRECISION)
            squares = _add_squares(squares, x, NORM_KEYS)
    else:
        for start in range(0, CHANNELS, BLOCK_C):
            x = _tile(x_rows, live, start + channel, CHANNELS)
            q = _tile(q_rows, real, start + channel, CHANNELS)
            g = _tile(g_rows, real, start + channel, CHANNELS)
            along_query = _dot(q, tl.trans(x), along_query, PRECISION)
            along_grad = _dot(g, tl.trans(x), along_grad, PRECISION)
            squares = _add_squares(squares, x, NORM_KEYS)
    along_query *= scale
    along_grad *= gain
    scores = along_query
    if NORM_KEYS:
        size = _inverse_rms(squares, eps, CHANNELS)
        scores = along_query * size[None, :]
    norm = tl.load(lse + head * tokens + token, mask=real, other=0.0)
    weights = tl.where(live[None, :], _exp(scores - norm[:, None]), 0.0)
    mixing = weights
    if NORM_VALUES:
        mixing = weights * size[None, :]
    by_weight = mixing * along_grad
    by_score = by_weight - weights * tl.sum(by_weight, 1)[:, None]
    by_dot = by_score * scale
    along_source = squares
    if NORM_KEYS:
        by_dot *= size[None, :]
        by_size = by_score * along_query
        if NORM_VALUES:
            by_size += weights * along_grad
        along_source = tl.sum(by_size, 0) * size * size * size / CHANNELS
    kind = query.dtype.element_ty
    by_dot, mixing = by_dot.to(kind), (mixing * gain).to(kind)
    if HOLD:
        for start in tl.static_range(0, CHANNELS, BLOCK_C):
            _give_back(
                q_targets, x_targets, real, live, start + channel,
                qs[start // BLOCK_C], gs[start // BLOCK_C], xs[start // BLOCK_C],
                by_dot, mixing, along_source, CHANNELS, NORM_KEYS, PRECISION,
            )
    else:
        for start in range(0, CHANNELS, BLOCK_C):
            x = _tile(x_rows, live, start + channel, CHANNELS)
            q = _tile(q_rows, real, start + channel, CHANNELS)
            g = _tile(g_rows, real, start + channel, CHANNELS)
            _give_back(
                q_targets, x_targets, real, live, start + channel, q, g, x,
                by_dot, mixing, along_source, CHANNELS, NORM_KEYS, PRECISION,
            )
