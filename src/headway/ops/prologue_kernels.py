"""Triton kernels of the fused prologue, forward: a program takes a few tokens of q, k or v.

One text for all three; the constants say what a list of mechanisms asks of each. A head's channels
are held as two halves, so that both channels of a rotated pair lie in the same place.
"""
# fmt: off

import triton
import triton.language as tl


@triton.jit
def _load(pointer, inside):
    return tl.load(pointer, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _only_if(inside, condition):
    """A mask under a condition, which Triton's interpreter cannot spread as a truth value."""
    return inside & (tl.where(inside, condition.to(tl.int32), 0) > 0)


@triton.jit
def _below(x, FAST: tl.constexpr):
    """The normal distribution's share below x.

    FAST: half plus an odd polynomial of degree 13, cut off at 0 and 1 and within 8e-5 of it, far
    below what 16 bits hold; it was fitted to the smallest largest error.
    """
    if FAST:
        square = tl.minimum(x * x, 14.44)
        even = 3.66579876e-08
        even = even * square + -2.27247041e-06
        even = even * square + 6.06849194e-05
        even = even * square + -0.000931548208
        even = even * square + 0.00931663482
        even = even * square + -0.0657197764
        even = even * square + 0.39867673
        return tl.minimum(tl.maximum(0.5 + x * even, 0.0), 1.0)
    else:
        return 0.5 * (1 + tl.math.erf(x * 0.7071067811865476))


@triton.jit
def _gelu(x, FAST: tl.constexpr):
    return x * _below(x, FAST)


@triton.jit
def _gelu_and_slope(x, FAST: tl.constexpr):
    below = _below(x, FAST)
    # The density by the hardware's exponential, which is of two, its factor in the exponent.
    return x * below, below + x * tl.exp2(x * x * -0.7213475204444817 - 1.3257480647361593)


@triton.jit
def _tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _slope(alpha, OFFSET: tl.constexpr):
    """Of the logarithm of the position, in a temperature."""
    return tl.sigmoid(tl.load(alpha).to(tl.float32)) - OFFSET


@triton.jit
def _places(HEADS: tl.constexpr, WIDTH: tl.constexpr, ROTATED: tl.constexpr):
    """Heads (column), channels of the lower and of the upper half (rows), which exist, and which
    are rotated: pairs half of the rotated channels apart."""
    HALF: tl.constexpr = WIDTH // 2
    TURNED: tl.constexpr = ROTATED // 2
    head = tl.arange(0, triton.next_power_of_2(HEADS))[:, None]
    at = tl.arange(0, triton.next_power_of_2(HALF))[None, :]
    if TURNED == 0 or TURNED == HALF:
        low, high = at, at + HALF
    else:
        low = tl.where(at < TURNED, at, at + TURNED)
        high = tl.where(at < TURNED, at + TURNED, at + HALF)
    return head, at, low, high, (head < HEADS) & (at < HALF)


@triton.jit
def _angles(cos, sin, at, ROTATED: tl.constexpr):
    turned = at < ROTATED // 2
    return tl.load(cos + at, mask=turned, other=1.0).to(tl.float32), _load(sin + at, turned)


@triton.jit
def _shares(mix, head, HEADS: tl.constexpr, MIX: tl.constexpr, SCALE: tl.constexpr):
    """Weights (own, source) of a stream: MIX of them are learned, or SCALE is fixed."""
    if MIX == 0:
        own, other = SCALE, SCALE
    else:
        at = head if MIX > 1 else head * 0
        own, other = _load(mix + at, head < HEADS), _load(mix + MIX + at, head < HEADS)
    return own, other


@triton.jit
def _forward_part(
    x, out, source, tau_out, taps, before, norm, weight, alpha, mix,
    positions, cos, sin, b, first, stop, length,
    x_b, x_h, x_t, out_t, s_b, s_h, s_t, p_b, p_t, c_b, c_t, before_b, before_h,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, ROTATED: tl.constexpr,
    SHIFT: tl.constexpr, HAS_BEFORE: tl.constexpr, NORM: tl.constexpr, EPS: tl.constexpr,
    TOKEN: tl.constexpr, PLACE: tl.constexpr, OFFSET: tl.constexpr,
    STREAM: tl.constexpr, MIX: tl.constexpr, SCALE: tl.constexpr,
    FAST: tl.constexpr, KEEP_TAU: tl.constexpr, REPLACE_ROWS: tl.constexpr,
):
    """Tokens first .. stop of row b. STREAM: 1 before the shift, 2 after it."""
    head, at, low, high, inside = _places(HEADS, WIDTH, ROTATED)
    x += b * x_b + head * x_h
    source += b * s_b + head * s_h
    before += b * before_b + head * before_h
    flat = head * WIDTH
    own, other = _shares(mix, head, HEADS, MIX, SCALE)
    earlier_low = tl.zeros(inside.shape, tl.float32)
    earlier_high = tl.zeros(inside.shape, tl.float32)
    if SHIFT:
        tap_now = _load(taps + head * 2, head < HEADS)
        tap_then = _load(taps + head * 2 + 1, head < HEADS)
        there = _only_if(inside, first > 0)
        earlier_low = _load(x + (first - 1) * x_t + low, there)
        earlier_high = _load(x + (first - 1) * x_t + high, there)
        if STREAM == 1:
            row = source + (first - 1) * s_t
            earlier_low = own * earlier_low + other * _load(row + low, there)
            earlier_high = own * earlier_high + other * _load(row + high, there)
        if HAS_BEFORE:
            kept = _only_if(inside, first == 0)
            earlier_low += _load(before + low, kept)
            earlier_high += _load(before + high, kept)
    if NORM:
        gain_low = _load(norm + low, at < WIDTH // 2)
        gain_high = _load(norm + high, at < WIDTH // 2)
    if TOKEN:
        weight_low = _load(weight + flat + low, inside)
        weight_high = _load(weight + flat + high, inside)
    if PLACE:
        slope = _slope(alpha, OFFSET)

    for t in range(first, stop):
        token = b * length + t
        position = tl.load(positions + b * p_b + t * p_t)
        raw_low, raw_high = _load(x + t * x_t + low, inside), _load(x + t * x_t + high, inside)
        y_low, y_high = raw_low, raw_high
        if STREAM > 0:
            row = source + t * s_t
            source_low, source_high = _load(row + low, inside), _load(row + high, inside)
        if STREAM == 1:
            y_low = own * y_low + other * source_low
            y_high = own * y_high + other * source_high
        if SHIFT:
            now_low, now_high = y_low, y_high
            follows = tl.where(position > 0, 1.0, 0.0)
            y_low = tap_now * now_low + tap_then * follows * earlier_low
            y_high = tap_now * now_high + tap_then * follows * earlier_high
            earlier_low, earlier_high = now_low, now_high
        if STREAM == 2:
            y_low = own * y_low + other * source_low
            y_high = own * y_high + other * source_high
        if NORM:
            square = tl.sum(y_low * y_low + y_high * y_high, axis=1)
            scale = tl.rsqrt(square / WIDTH + EPS)[:, None]
            y_low, y_high = y_low * scale * gain_low, y_high * scale * gain_high
        if PLACE or TOKEN:
            tau = 1.0
            if PLACE:
                tau += slope * tl.log((position + 1).to(tl.float32))
            if TOKEN:
                weighted = _gelu(raw_low, FAST) * weight_low + _gelu(raw_high, FAST) * weight_high
                tau += _tanh(tl.sum(weighted))
            y_low, y_high = tau * y_low, tau * y_high
            if KEEP_TAU:
                tl.store(tau_out + token, tau)
        if ROTATED > 0:
            c, s = _angles(cos + b * c_b + t * c_t, sin + b * c_b + t * c_t, at, ROTATED)
            y_low, y_high = y_low * c - y_high * s, y_high * c + y_low * s
        to = out + token * out_t + flat
        tl.store(to + low, y_low.to(out.dtype.element_ty), mask=inside)
        tl.store(to + high, y_high.to(out.dtype.element_ty), mask=inside)

    if REPLACE_ROWS and HAS_BEFORE:
        # The program of a row's only token; all of its threads have read the earlier row by now.
        tl.debug_barrier()
        tl.store(before + low, earlier_low.to(before.dtype.element_ty), mask=inside)
        tl.store(before + high, earlier_high.to(before.dtype.element_ty), mask=inside)


@triton.jit
def forward_kernel(
    q, k, v, q_out, k_out, v_out, tau,
    taps_k, taps_v, weight_q, alpha_q, weight_v, alpha_v, norm_q, norm_k, mix,
    positions, cos, sin, before_k, before_v, source, batch, length,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, qo_t, ko_t, p_b, p_t, c_b, c_t,
    bk_b, bk_h, bv_b, bv_h, s_b, s_h, s_t,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, ROTATED: tl.constexpr,
    SHIFT_K: tl.constexpr, SHIFT_V: tl.constexpr, TOKEN_Q: tl.constexpr, PLACE_Q: tl.constexpr,
    TOKEN_V: tl.constexpr, PLACE_V: tl.constexpr, NORM: tl.constexpr, EPS: tl.constexpr,
    STREAM: tl.constexpr, MIX: tl.constexpr, SCALE: tl.constexpr,
    HAS_BEFORE_K: tl.constexpr, HAS_BEFORE_V: tl.constexpr, OFFSET: tl.constexpr,
    FAST: tl.constexpr, CHUNK: tl.constexpr, KEEP_TAU: tl.constexpr, REPLACE_ROWS: tl.constexpr,
):
    chunks = tl.cdiv(length, CHUNK)
    b = (tl.program_id(0) // chunks).to(tl.int64)
    first = (tl.program_id(0) % chunks) * CHUNK
    stop = tl.minimum(first + CHUNK, length)
    part = tl.program_id(1)
    if part == 0:
        _forward_part(
            q, q_out, source, tau, taps_k, before_k, norm_q, weight_q, alpha_q, mix,
            positions, cos, sin, b, first, stop, length,
            q_b, q_h, q_t, qo_t, s_b, s_h, s_t, p_b, p_t, c_b, c_t, bk_b, bk_h,
            HEADS, WIDTH, ROTATED, False, False, NORM, EPS, TOKEN_Q, PLACE_Q, OFFSET,
            0, 0, SCALE, FAST, KEEP_TAU, False,
        )
    elif part == 1:
        _forward_part(
            k, k_out, source, tau, taps_k, before_k, norm_k, weight_q, alpha_q, mix,
            positions, cos, sin, b, first, stop, length,
            k_b, k_h, k_t, ko_t, s_b, s_h, s_t, p_b, p_t, c_b, c_t, bk_b, bk_h,
            GROUPS, WIDTH, ROTATED, SHIFT_K, HAS_BEFORE_K, NORM, EPS, False, False, OFFSET,
            0, 0, SCALE, FAST, KEEP_TAU, REPLACE_ROWS,
        )
    else:
        _forward_part(
            v, v_out, source, tau + batch * length, taps_v, before_v, norm_k, weight_v,
            alpha_v, mix, positions, cos, sin, b, first, stop, length,
            v_b, v_h, v_t, ko_t, s_b, s_h, s_t, p_b, p_t, c_b, c_t, bv_b, bv_h,
            GROUPS, WIDTH, 0, SHIFT_V, HAS_BEFORE_V, False, EPS, TOKEN_V, PLACE_V, OFFSET,
            STREAM, MIX, SCALE, FAST, KEEP_TAU, REPLACE_ROWS,
        )


# The same for one new token of each row, free of what a launch's addresses and numbers are: once it
# is compiled for types and sizes, it runs on any of them.
FREE = range(forward_kernel.fn.__code__.co_argcount - len(forward_kernel.fn.__annotations__))
token_kernel = triton.jit(
    forward_kernel.fn, do_not_specialize=FREE, do_not_specialize_on_alignment=FREE
)
