"""Triton kernel of the fused prologue, backward: a program goes through a few tokens from the last
to the first, so that what a shift hands to the token before is there when it is wanted.

Gradients of learned numbers are added up by each program for its own tokens, and those sums by the
caller: no atomics, two runs give the same bits.
"""
# fmt: off

import triton
import triton.language as tl

from headway.ops.prologue_kernels import (
    _angles,
    _gelu_and_slope,
    _load,
    _only_if,
    _places,
    _shares,
    _slope,
)


@triton.jit
def _raw(x, source, before, t, low, high, inside, x_t, s_t, own, other,
         STREAM: tl.constexpr, HAS_BEFORE: tl.constexpr):
    """Token t: raw row, source, and what the shift reads, each as two halves; zeros below 0."""
    there = _only_if(inside, t >= 0)
    raw_low, raw_high = _load(x + t * x_t + low, there), _load(x + t * x_t + high, there)
    source_low, source_high = raw_low, raw_high
    read_low, read_high = raw_low, raw_high
    if STREAM > 0:
        row = source + t * s_t
        source_low, source_high = _load(row + low, there), _load(row + high, there)
    if STREAM == 1:
        read_low = own * raw_low + other * source_low
        read_high = own * raw_high + other * source_high
    if HAS_BEFORE:
        kept = _only_if(inside, t < 0)
        read_low += _load(before + low, kept)
        read_high += _load(before + high, kept)
    return raw_low, raw_high, source_low, source_high, read_low, read_high


@triton.jit
def _through(
    g, tau, t, position, cos, sin, at, low, high, inside, gain_low, gain_high,
    now_low, now_high, then_low, then_high, source_low, source_high,
    tap_now, tap_then, own, other,
    WIDTH: tl.constexpr, ROTATED: tl.constexpr, SHIFT: tl.constexpr, STREAM: tl.constexpr,
    NORM: tl.constexpr, EPS: tl.constexpr, TEMPERED: tl.constexpr,
):
    """Back through rotation, temperature, norm and a late stream.

    Returns the gradient before rotation, what the temperature scaled, both shares of the norm's
    gradient, the shifted row, and the gradients of the late stream's sum and of the shifted row.
    """
    g_low, g_high = _load(g + low, inside), _load(g + high, inside)
    if ROTATED > 0:
        c, s = _angles(cos, sin, at, ROTATED)
        g_low, g_high = g_low * c + g_high * s, g_high * c - g_low * s
    shifted_low, shifted_high = now_low, now_high
    if SHIFT:
        follows = tl.where(position > 0, 1.0, 0.0)
        shifted_low = tap_now * now_low + tap_then * follows * then_low
        shifted_high = tap_now * now_high + tap_then * follows * then_high
    y_low, y_high = shifted_low, shifted_high
    if STREAM == 2:
        y_low = own * y_low + other * source_low
        y_high = own * y_high + other * source_high
    d_low, d_high = g_low, g_high
    if TEMPERED:
        d_low, d_high = tau * g_low, tau * g_high
    norm_low, norm_high = d_low, d_high
    if NORM:
        square = tl.sum(y_low * y_low + y_high * y_high, axis=1)
        scale = tl.rsqrt(square / WIDTH + EPS)[:, None]
        y_low, y_high = y_low * scale, y_high * scale
        norm_low, norm_high = d_low * y_low, d_high * y_high
        d_low, d_high = d_low * gain_low, d_high * gain_high
        along = tl.sum(d_low * y_low + d_high * y_high, axis=1)[:, None] / WIDTH
        d_low, d_high = scale * (d_low - y_low * along), scale * (d_high - y_high * along)
        y_low, y_high = y_low * gain_low, y_high * gain_high
    sum_low, sum_high = d_low, d_high
    if STREAM == 2:
        d_low, d_high = own * d_low, own * d_high
    return (g_low, g_high, y_low, y_high, norm_low, norm_high, shifted_low, shifted_high,
            sum_low, sum_high, d_low, d_high)


@triton.jit
def _backward_part(
    g, x, source, g_leave, dx, d_source, tau, taps, before, norm, weight, alpha, mix,
    weight_share, norm_share, head_share, slope_share,
    positions, cos, sin, b, first, stop, length,
    g_b, g_h, g_t, x_b, x_h, x_t, dx_t, s_b, s_h, s_t, gl_b, gl_h, gl_t,
    p_b, p_t, c_b, c_t, before_b, before_h,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, ROTATED: tl.constexpr,
    SHIFT: tl.constexpr, HAS_BEFORE: tl.constexpr, NORM: tl.constexpr, EPS: tl.constexpr,
    TOKEN: tl.constexpr, PLACE: tl.constexpr, OFFSET: tl.constexpr,
    STREAM: tl.constexpr, MIX: tl.constexpr, SCALE: tl.constexpr, LEAVES: tl.constexpr,
    FAST: tl.constexpr, FROM_OUT: tl.constexpr,
):
    """FROM_OUT: `x` is what the forward pass gave, from which the raw row is told."""
    TEMPERED: tl.constexpr = TOKEN or PLACE
    head, at, low, high, inside = _places(HEADS, WIDTH, ROTATED)
    known = head < HEADS
    g += b * g_b + head * g_h
    x += b * x_b + head * x_h
    source += b * s_b + head * s_h
    g_leave += b * gl_b + head * gl_h
    before += b * before_b + head * before_h
    positions += b * p_b
    cos += b * c_b
    sin += b * c_b
    tau += b * length
    flat = head * WIDTH
    own, other = _shares(mix, head, HEADS, MIX, SCALE)
    tap_now, tap_then, gain_low, gain_high = 1.0, 0.0, 1.0, 1.0
    if SHIFT:
        tap_now, tap_then = _load(taps + head * 2, known), _load(taps + head * 2 + 1, known)
    if NORM:
        gain_low = _load(norm + low, at < WIDTH // 2)
        gain_high = _load(norm + high, at < WIDTH // 2)
    if TOKEN:
        weight_low = _load(weight + flat + low, inside)
        weight_high = _load(weight + flat + high, inside)
    if PLACE:
        slope = _slope(alpha, OFFSET)
    d_weight_low = tl.zeros(inside.shape, tl.float32)
    d_weight_high = tl.zeros(inside.shape, tl.float32)
    d_norm_low = tl.zeros(inside.shape, tl.float32)
    d_norm_high = tl.zeros(inside.shape, tl.float32)
    d_now = tl.zeros(inside.shape, tl.float32)
    d_then = tl.zeros(inside.shape, tl.float32)
    d_own = tl.zeros(inside.shape, tl.float32)
    d_other = tl.zeros(inside.shape, tl.float32)
    d_slope = 0.0

    t = stop - 1
    raw_low, raw_high, source_low, source_high, now_low, now_high = _raw(
        x, source, before, t, low, high, inside, x_t, s_t, own, other, STREAM, HAS_BEFORE
    )
    # What the token after these hands back through the shift, if it is of the same document.
    after_low = tl.zeros(inside.shape, tl.float32)
    after_high = tl.zeros(inside.shape, tl.float32)
    if SHIFT:
        there = stop < length
        following = tl.load(positions + stop * p_t, mask=there, other=0)
        next_inside = _only_if(inside, there & (following > 0))
        _, _, next_source_low, next_source_high, next_low, next_high = _raw(
            x, source, before, stop, low, high, next_inside, x_t, s_t, own, other, STREAM, False
        )
        scale_then = 1.0
        if TEMPERED:
            scale_then = tl.load(tau + stop, mask=there, other=0.0)
        next_at = tl.where(there, stop, stop - 1)
        _, _, _, _, _, _, _, _, _, _, after_low, after_high = _through(
            g + stop * g_t, scale_then, stop, following, cos + next_at * c_t, sin + next_at * c_t,
            at, low, high, next_inside, gain_low, gain_high,
            next_low, next_high, now_low, now_high, next_source_low, next_source_high,
            tap_now, tap_then, own, other,
            WIDTH, ROTATED, SHIFT, STREAM, NORM, EPS, TEMPERED,
        )

    for step in range(0, stop - first):
        t = stop - 1 - step
        token = b * length + t
        position = tl.load(positions + t * p_t)
        scaled = 1.0
        if TEMPERED:
            scaled = tl.load(tau + t)
        if FROM_OUT:
            if ROTATED > 0:
                c, s = _angles(cos + t * c_t, sin + t * c_t, at, ROTATED)
                one = c * c + s * s
                raw_low, raw_high = (
                    (raw_low * c + raw_high * s) / one, (raw_high * c - raw_low * s) / one
                )
            # A temperature of exactly zero has left nothing to tell the row from.
            kept = tl.where(scaled == 0, 1.0, scaled)
            raw_low, raw_high = raw_low / kept, raw_high / kept
            now_low, now_high = raw_low, raw_high
        then = _raw(
            x, source, before, t - 1, low, high, inside, x_t, s_t, own, other, STREAM, HAS_BEFORE
        )
        (g_low, g_high, y_low, y_high, norm_low, norm_high, shifted_low, shifted_high,
         sum_low, sum_high, d_low, d_high) = _through(
            g + t * g_t, scaled, t, position, cos + t * c_t, sin + t * c_t,
            at, low, high, inside, gain_low, gain_high,
            now_low, now_high, then[4], then[5], source_low, source_high,
            tap_now, tap_then, own, other,
            WIDTH, ROTATED, SHIFT, STREAM, NORM, EPS, TEMPERED,
        )
        if NORM:
            d_norm_low += norm_low
            d_norm_high += norm_high
        if STREAM == 2 and MIX > 0:
            d_own += sum_low * shifted_low + sum_high * shifted_high
            d_other += sum_low * source_low + sum_high * source_high
        if SHIFT:
            follows = tl.where(position > 0, 1.0, 0.0)
            back_low = tap_now * d_low + tap_then * after_low
            back_high = tap_now * d_high + tap_then * after_high
            after_low, after_high = follows * d_low, follows * d_high
            # One after the other: each is one instruction, a product of two added would be three.
            d_now += d_low * now_low
            d_now += d_high * now_high
            d_then += after_low * then[4]
            d_then += after_high * then[5]
            d_low, d_high = back_low, back_high
        if STREAM == 1:
            if MIX > 0:
                d_own += d_low * raw_low + d_high * raw_high
                d_other += d_low * source_low + d_high * source_high
            sum_low, sum_high = d_low, d_high
            d_low, d_high = own * d_low, own * d_high
        if STREAM > 0:
            to = d_source + token * HEADS * WIDTH + flat
            kind: tl.constexpr = d_source.dtype.element_ty
            tl.store(to + low, (other * sum_low).to(kind), mask=inside)
            tl.store(to + high, (other * sum_high).to(kind), mask=inside)
        if TEMPERED:
            d_tau = tl.sum(g_low * y_low + g_high * y_high)
            count = tl.log((position + 1).to(tl.float32))
            risen = scaled - 1
            if PLACE:
                d_slope += d_tau * count
                risen -= slope * count
            if TOKEN:
                inner = d_tau * (1 - risen * risen)
                gelu_low, steep_low = _gelu_and_slope(raw_low, FAST)
                gelu_high, steep_high = _gelu_and_slope(raw_high, FAST)
                d_low += inner * weight_low * steep_low
                d_high += inner * weight_high * steep_high
                d_weight_low += inner * gelu_low
                d_weight_high += inner * gelu_high
        if LEAVES:
            d_low += _load(g_leave + t * gl_t + low, inside)
            d_high += _load(g_leave + t * gl_t + high, inside)
        to = dx + token * dx_t + flat
        tl.store(to + low, d_low.to(dx.dtype.element_ty), mask=inside)
        tl.store(to + high, d_high.to(dx.dtype.element_ty), mask=inside)
        raw_low, raw_high, source_low, source_high, now_low, now_high = then

    if TOKEN:
        tl.store(weight_share + flat + low, d_weight_low, mask=inside)
        tl.store(weight_share + flat + high, d_weight_high, mask=inside)
    if NORM:
        tl.store(norm_share + flat + low, d_norm_low, mask=inside)
        tl.store(norm_share + flat + high, d_norm_high, mask=inside)
    if PLACE:
        tl.store(slope_share, d_slope)
    line = tl.arange(0, triton.next_power_of_2(HEADS))
    if SHIFT:
        tl.store(head_share + line, tl.sum(d_now, axis=1), mask=line < HEADS)
        tl.store(head_share + HEADS + line, tl.sum(d_then, axis=1), mask=line < HEADS)
    if MIX > 0:
        tl.store(head_share + 2 * HEADS + line, tl.sum(d_own, axis=1), mask=line < HEADS)
        tl.store(head_share + 3 * HEADS + line, tl.sum(d_other, axis=1), mask=line < HEADS)


@triton.jit
def backward_kernel(
    gq, gk, gv, g_leave, q, k, v, dq, dk, dv, d_source, tau, shares,
    taps_k, taps_v, weight_q, alpha_q, weight_v, alpha_v, norm_q, norm_k, mix,
    positions, cos, sin, before_k, before_v, source, batch, length,
    gq_b, gq_h, gq_t, gk_b, gk_h, gk_t, gv_b, gv_h, gv_t, gl_b, gl_h, gl_t,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, dq_t, dk_t, p_b, p_t, c_b, c_t,
    bk_b, bk_h, bv_b, bv_h, s_b, s_h, s_t,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, ROTATED: tl.constexpr,
    SHIFT_K: tl.constexpr, SHIFT_V: tl.constexpr, TOKEN_Q: tl.constexpr, PLACE_Q: tl.constexpr,
    TOKEN_V: tl.constexpr, PLACE_V: tl.constexpr, NORM: tl.constexpr, EPS: tl.constexpr,
    STREAM: tl.constexpr, MIX: tl.constexpr, SCALE: tl.constexpr, LEAVES: tl.constexpr,
    HAS_BEFORE_K: tl.constexpr, HAS_BEFORE_V: tl.constexpr, OFFSET: tl.constexpr,
    FAST: tl.constexpr, CHUNK: tl.constexpr, SHARE: tl.constexpr, FROM_OUT: tl.constexpr,
):
    """`shares` has SHARE numbers a program: see `headway.ops.prologue_launch.Shares`."""
    chunks = tl.cdiv(length, CHUNK)
    b = (tl.program_id(0) // chunks).to(tl.int64)
    first = (tl.program_id(0) % chunks) * CHUNK
    stop = tl.minimum(first + CHUNK, length)
    part = tl.program_id(1)
    mine = shares + tl.program_id(0).to(tl.int64) * SHARE
    Q: tl.constexpr = HEADS * WIDTH
    K: tl.constexpr = GROUPS * WIDTH
    AFTER_Q: tl.constexpr = Q * (TOKEN_Q + NORM)
    AFTER_V: tl.constexpr = AFTER_Q + K * (TOKEN_V + NORM)
    AFTER_K: tl.constexpr = AFTER_V + 2 * GROUPS
    AFTER_HEADS: tl.constexpr = AFTER_K + 4 * GROUPS
    if part == 0:
        _backward_part(
            gq, q, source, g_leave, dq, d_source, tau, taps_k, before_k, norm_q, weight_q, alpha_q,
            mix, mine, mine + Q * TOKEN_Q, mine, mine + AFTER_HEADS,
            positions, cos, sin, b, first, stop, length,
            gq_b, gq_h, gq_t, q_b, q_h, q_t, dq_t, s_b, s_h, s_t, gl_b, gl_h, gl_t,
            p_b, p_t, c_b, c_t, bk_b, bk_h,
            HEADS, WIDTH, ROTATED, False, False, NORM, EPS, TOKEN_Q, PLACE_Q, OFFSET,
            0, 0, SCALE, False, FAST, FROM_OUT,
        )
    elif part == 1:
        _backward_part(
            gk, k, source, g_leave, dk, d_source, tau, taps_k, before_k, norm_k, weight_q, alpha_q,
            mix, mine, mine + AFTER_Q + K * TOKEN_V, mine + AFTER_V, mine,
            positions, cos, sin, b, first, stop, length,
            gk_b, gk_h, gk_t, k_b, k_h, k_t, dk_t, s_b, s_h, s_t, gl_b, gl_h, gl_t,
            p_b, p_t, c_b, c_t, bk_b, bk_h,
            GROUPS, WIDTH, ROTATED, SHIFT_K, HAS_BEFORE_K, NORM, EPS, False, False, OFFSET,
            0, 0, SCALE, False, FAST, False,
        )
    else:
        _backward_part(
            gv, v, source, g_leave, dv, d_source, tau + batch * length, taps_v, before_v, norm_k,
            weight_v, alpha_v, mix, mine + AFTER_Q, mine, mine + AFTER_K, mine + AFTER_HEADS + 1,
            positions, cos, sin, b, first, stop, length,
            gv_b, gv_h, gv_t, v_b, v_h, v_t, dk_t, s_b, s_h, s_t, gl_b, gl_h, gl_t,
            p_b, p_t, c_b, c_t, bv_b, bv_h,
            GROUPS, WIDTH, 0, SHIFT_V, HAS_BEFORE_V, False, EPS, TOKEN_V, PLACE_V, OFFSET,
            STREAM, MIX, SCALE, LEAVES, FAST, False,
        )
