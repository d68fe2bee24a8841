"""Triton kernels of the fused prologue: one program a token, all heads of it in one row."""
# fmt: off

import triton
import triton.language as tl


@triton.jit
def _gelu(x):
    return 0.5 * x * (1 + tl.math.erf(x * 0.7071067811865476))


@triton.jit
def _gelu_slope(x):
    density = 0.3989422804014327 * tl.exp(-0.5 * x * x)
    return 0.5 * (1 + tl.math.erf(x * 0.7071067811865476)) + x * density


@triton.jit
def _tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _slope(alpha, OFFSET: tl.constexpr):
    """Of the logarithm of the position, in a temperature."""
    return tl.sigmoid(tl.load(alpha).to(tl.float32)) - OFFSET


@triton.jit
def _tanh_slope(above, alpha, count, PLACE: tl.constexpr, OFFSET: tl.constexpr):
    """Of the token part's tanh, from what a temperature has above one."""
    if PLACE:
        above -= _slope(alpha, OFFSET) * count
    return 1 - above * above


@triton.jit
def _load(pointer, inside):
    return tl.load(pointer, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _only_if(inside, condition):
    """A mask under a condition, which Triton's interpreter cannot spread as a truth value."""
    return inside & (tl.where(inside, condition.to(tl.int32), 0) > 0)


@triton.jit
def _partner(channel, ROTATED: tl.constexpr):
    """The channel that a rotated one is paired with, and the sign of the pair's sine."""
    half: tl.constexpr = ROTATED // 2
    other = tl.where(channel < half, channel + half, channel - half)
    return tl.where(channel < ROTATED, other, channel), tl.where(channel < half, -1.0, 1.0)


@triton.jit
def _mixed(
    row, before, offset, before_offset, step, t, position, taps, head, inside,
    SHIFT: tl.constexpr, HAS_BEFORE: tl.constexpr,
):
    """A row of keys or values mixed with the one before it."""
    now = _load(row + offset, inside)
    if not SHIFT:
        return now
    earlier = _load(row + offset - step, _only_if(inside, (position > 0) & (t > 0)))
    if HAS_BEFORE:
        first = _only_if(inside, (position > 0) & (t == 0))
        earlier += _load(before + before_offset, first)
    return _load(taps + head * 2, inside) * now + _load(taps + head * 2 + 1, inside) * earlier


@triton.jit
def forward_kernel(
    q, k, v, q_out, k_out, v_out, tau_q, tau_v,
    taps_k, taps_v, weight_q, alpha_q, weight_v, alpha_v,
    positions, cos, sin, before_k, before_v, length,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, qo_t, ko_t, p_b, p_t, c_b, c_t,
    bk_b, bk_h, bv_b, bv_h,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, ROTATED: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    SHIFT_K: tl.constexpr, SHIFT_V: tl.constexpr, TOKEN_Q: tl.constexpr, PLACE_Q: tl.constexpr,
    TOKEN_V: tl.constexpr, PLACE_V: tl.constexpr,
    HAS_BEFORE_K: tl.constexpr, HAS_BEFORE_V: tl.constexpr, OFFSET: tl.constexpr,
    KEEP_TAU: tl.constexpr, REPLACE_ROWS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    b, t = token // length, token % length
    position = tl.load(positions + b * p_b + t * p_t)
    count = tl.log((position + 1).to(tl.float32))
    angles = b * c_b + t * c_t

    # Queries
    at = tl.arange(0, BLOCK_Q)
    inside, head, channel = at < HEADS * WIDTH, at // WIDTH, at % WIDTH
    pair, sign = _partner(channel, ROTATED)
    turned = inside & (channel < ROTATED)
    row = q + b * q_b + t * q_t
    x = _load(row + head * q_h + channel, inside)
    other = _load(row + head * q_h + pair, turned)
    tau = 1.0
    if PLACE_Q:
        tau += _slope(alpha_q, OFFSET) * count
    if TOKEN_Q:
        tau += _tanh(tl.sum(_gelu(x) * _load(weight_q + at, inside), axis=0))
    c = tl.load(cos + angles + channel, mask=turned, other=1.0).to(tl.float32)
    s = _load(sin + angles + channel, turned)
    y = tau * (x * c + sign * other * s)
    tl.store(q_out + token * qo_t + at, y.to(q_out.dtype.element_ty), mask=inside)
    if KEEP_TAU:
        tl.store(tau_q + token, tau)

    # Keys
    at = tl.arange(0, BLOCK_K)
    inside, head, channel = at < GROUPS * WIDTH, at // WIDTH, at % WIDTH
    pair, sign = _partner(channel, ROTATED)
    turned = inside & (channel < ROTATED)
    row, first = k + b * k_b + t * k_t, before_k + b * bk_b
    own, kept = head * k_h + channel, head * bk_h + channel
    x = _mixed(
        row, first, own, kept, k_t, t, position, taps_k, head, inside, SHIFT_K, HAS_BEFORE_K
    )
    own, kept = head * k_h + pair, head * bk_h + pair
    other = _mixed(
        row, first, own, kept, k_t, t, position, taps_k, head, turned, SHIFT_K, HAS_BEFORE_K
    )
    c = tl.load(cos + angles + channel, mask=turned, other=1.0).to(tl.float32)
    s = _load(sin + angles + channel, turned)
    y = x * c + sign * other * s
    tl.store(k_out + token * ko_t + at, y.to(k_out.dtype.element_ty), mask=inside)

    # Values
    row, first = v + b * v_b + t * v_t, before_v + b * bv_b
    own, kept = head * v_h + channel, head * bv_h + channel
    tau = 1.0
    if PLACE_V:
        tau += _slope(alpha_v, OFFSET) * count
    if TOKEN_V:
        raw = _load(row + own, inside)
        tau += _tanh(tl.sum(_gelu(raw) * _load(weight_v + at, inside), axis=0))
    x = _mixed(
        row, first, own, kept, v_t, t, position, taps_v, head, inside, SHIFT_V, HAS_BEFORE_V
    )
    tl.store(v_out + token * ko_t + at, (tau * x).to(v_out.dtype.element_ty), mask=inside)
    if KEEP_TAU:
        tl.store(tau_v + token, tau)

    if REPLACE_ROWS:
        # The program of a row's only token; all of its threads have read the earlier rows by now.
        tl.debug_barrier()
        if HAS_BEFORE_K:
            now = tl.load(k + b * k_b + head * k_h + channel, mask=inside)
            tl.store(before_k + b * bk_b + head * bk_h + channel, now, mask=inside)
        if HAS_BEFORE_V:
            now = tl.load(v + b * v_b + head * v_h + channel, mask=inside)
            tl.store(before_v + b * bv_b + head * bv_h + channel, now, mask=inside)


# The same for one new token of each row, free of what a launch's addresses and numbers are: once it
# is compiled for types and sizes, it runs on any of them.
FREE = range(forward_kernel.fn.__code__.co_argcount - len(forward_kernel.fn.__annotations__))
token_kernel = triton.jit(
    forward_kernel.fn, do_not_specialize=FREE, do_not_specialize_on_alignment=FREE
)


@triton.jit
def _turned_back(g, angles, cos, sin, head_at, channel, pair, sign, inside, turned):
    """The gradient before rotation."""
    c = tl.load(cos + angles + channel, mask=turned, other=1.0).to(tl.float32)
    s = _load(sin + angles + pair, turned)
    return _load(g + head_at + channel, inside) * c - sign * _load(g + head_at + pair, turned) * s


@triton.jit
def _unrotated(row, angles, cos, sin, at, channel, pair, sign, inside, turned):
    """What was rotated, from a contiguous row of results: the inverse of each pair's matrix."""
    c = tl.load(cos + angles + channel, mask=turned, other=1.0).to(tl.float32)
    s = _load(sin + angles + channel, turned)
    c_pair = tl.load(cos + angles + pair, mask=turned, other=1.0).to(tl.float32)
    s_pair = _load(sin + angles + pair, turned)
    mixed = _load(row + at, inside) * c_pair
    mixed -= sign * _load(row + at - channel + pair, turned) * s
    return mixed / (c * c_pair + s * s_pair)


@triton.jit
def backward_kernel(
    gq, gk, gv, q_out, k, v, dq, dk, dv, tau_q, tau_v, query_shares, value_shares, slope_shares,
    taps_k, taps_v, weight_q, alpha_q, weight_v, alpha_v,
    positions, cos, sin, before_k, before_v, tokens, length,
    gq_b, gq_h, gq_t, gk_b, gk_h, gk_t, gv_b, gv_h, gv_t,
    k_b, k_h, k_t, v_b, v_h, v_t, p_b, p_t, c_b, c_t, bk_b, bk_h, bv_b, bv_h,
    PROGRAMS: tl.constexpr,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, ROTATED: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    SHIFT_K: tl.constexpr, SHIFT_V: tl.constexpr, TOKEN_Q: tl.constexpr, PLACE_Q: tl.constexpr,
    TOKEN_V: tl.constexpr, PLACE_V: tl.constexpr,
    HAS_BEFORE_K: tl.constexpr, HAS_BEFORE_V: tl.constexpr, OFFSET: tl.constexpr,
):
    program = tl.program_id(0)
    at_q = tl.arange(0, BLOCK_Q)
    in_q, head_q, channel_q = at_q < HEADS * WIDTH, at_q // WIDTH, at_q % WIDTH
    pair_q, sign_q = _partner(channel_q, ROTATED)
    turned_q = in_q & (channel_q < ROTATED)
    at = tl.arange(0, BLOCK_K)
    inside, head, channel = at < GROUPS * WIDTH, at // WIDTH, at % WIDTH
    pair, sign = _partner(channel, ROTATED)
    turned = inside & (channel < ROTATED)

    share_q = tl.zeros([BLOCK_Q], dtype=tl.float32)
    share_v = tl.zeros([BLOCK_K], dtype=tl.float32)
    key_now = tl.zeros([BLOCK_K], dtype=tl.float32)
    key_then = tl.zeros([BLOCK_K], dtype=tl.float32)
    value_now = tl.zeros([BLOCK_K], dtype=tl.float32)
    value_then = tl.zeros([BLOCK_K], dtype=tl.float32)
    share_slope_q = 0.0
    share_slope_v = 0.0

    for step in range(tl.cdiv(tokens - program, PROGRAMS)):
        token = (program + step * PROGRAMS).to(tl.int64)
        b, t = token // length, token % length
        position = tl.load(positions + b * p_b + t * p_t)
        count = tl.log((position + 1).to(tl.float32))
        angles = b * c_b + t * c_t
        has_next = t + 1 < length
        after = tl.load(positions + b * p_b + (t + 1) * p_t, mask=has_next, other=0) > 0

        # Queries
        g = _turned_back(
            gq + b * gq_b + t * gq_t, angles, cos, sin, head_q * gq_h, channel_q, pair_q, sign_q,
            in_q, turned_q,
        )
        tau = tl.load(tau_q + token)
        x = _unrotated(
            q_out + token * HEADS * WIDTH, angles, cos, sin, at_q, channel_q,
            pair_q, sign_q, in_q, turned_q,
        )
        # A temperature of exactly zero has left nothing to tell the query from.
        x = x / tl.where(tau == 0, 1.0, tau)
        d_tau = tl.sum(g * x, axis=0)
        d = tau * g
        if PLACE_Q:
            share_slope_q += d_tau * count
        if TOKEN_Q:
            inner = d_tau * _tanh_slope(tau - 1, alpha_q, count, PLACE_Q, OFFSET)
            d += inner * _load(weight_q + at_q, in_q) * _gelu_slope(x)
            share_q += inner * _gelu(x)
        tl.store(dq + token * HEADS * WIDTH + at_q, d.to(dq.dtype.element_ty), mask=in_q)

        # Keys
        g = _turned_back(
            gk + b * gk_b + t * gk_t, angles, cos, sin, head * gk_h, channel, pair, sign,
            inside, turned,
        )
        d = g
        if SHIFT_K:
            offset = head * k_h + channel
            row = k + b * k_b + t * k_t + offset
            key_now += g * _load(row, inside)
            earlier = _load(row - k_t, _only_if(inside, (position > 0) & (t > 0)))
            if HAS_BEFORE_K:
                kept = before_k + b * bk_b + head * bk_h + channel
                earlier += _load(kept, _only_if(inside, (position > 0) & (t == 0)))
            key_then += g * earlier
            follower = _only_if(inside, has_next & after)
            g_next = _turned_back(
                gk + b * gk_b + (t + 1) * gk_t, angles + c_t, cos, sin, head * gk_h, channel, pair,
                sign, follower, follower & turned,
            )
            d = _load(taps_k + head * 2, inside) * g
            d += _load(taps_k + head * 2 + 1, inside) * tl.where(follower, g_next, 0.0)
        tl.store(dk + token * GROUPS * WIDTH + at, d.to(dk.dtype.element_ty), mask=inside)

        # Values
        g = _load(gv + b * gv_b + t * gv_t + head * gv_h + channel, inside)
        tau = tl.load(tau_v + token)
        row = v + b * v_b + t * v_t + head * v_h + channel
        x = _load(row, inside)
        mixed = x
        d = tau * g
        if SHIFT_V:
            earlier = _load(row - v_t, _only_if(inside, (position > 0) & (t > 0)))
            if HAS_BEFORE_V:
                kept = before_v + b * bv_b + head * bv_h + channel
                earlier += _load(kept, _only_if(inside, (position > 0) & (t == 0)))
            now, then = _load(taps_v + head * 2, inside), _load(taps_v + head * 2 + 1, inside)
            mixed = now * x + then * earlier
            value_now += d * x
            value_then += d * earlier
            follower = _only_if(inside, has_next & after)
            tau_next = tl.load(tau_v + token + 1, mask=has_next, other=0.0)
            g_next = _load(gv + b * gv_b + (t + 1) * gv_t + head * gv_h + channel, follower)
            d = now * d + then * tau_next * g_next
        d_tau = tl.sum(g * mixed, axis=0)
        if PLACE_V:
            share_slope_v += d_tau * count
        if TOKEN_V:
            inner = d_tau * _tanh_slope(tau - 1, alpha_v, count, PLACE_V, OFFSET)
            d += inner * _load(weight_v + at, inside) * _gelu_slope(x)
            share_v += inner * _gelu(x)
        tl.store(dv + token * GROUPS * WIDTH + at, d.to(dv.dtype.element_ty), mask=inside)

    tl.store(query_shares + program * HEADS * WIDTH + at_q, share_q, mask=in_q)
    shares = value_shares + program * 5 * GROUPS * WIDTH + at
    tl.store(shares, key_now, mask=inside)
    tl.store(shares + GROUPS * WIDTH, key_then, mask=inside)
    tl.store(shares + 2 * GROUPS * WIDTH, value_now, mask=inside)
    tl.store(shares + 3 * GROUPS * WIDTH, value_then, mask=inside)
    tl.store(shares + 4 * GROUPS * WIDTH, share_v, mask=inside)
    tl.store(slope_shares + program * 2, share_slope_q)
    tl.store(slope_shares + program * 2 + 1, share_slope_v)
