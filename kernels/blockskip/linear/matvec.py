"""The Triton kernels: activations to int8, the dp4a matvec for up to eight rows, and weights back to floats.

Inside a block of 32 weights the int8 activations stand in two planes of 16 bytes, as the weights need them: for int4
the low nibbles meet the even activations and the high nibbles the odd ones; for int8 the first half meets the first
half. So one 16-byte load of int4 weights, or two of int8, and two of activations feed eight dp4a.

What keeps shared memory and spills out of the loop (`tests/kernels/test_linear_anatomy.py` holds the compiled kernels
to it): K is a constant; activations are loaded through 2-D pointers, so that they land in the weights' layout;
metadata is not vectorised, so that a scale lands in the thread that holds its block; weights of the next step are
loaded by hand and not by `num_stages`, which would copy them through shared memory.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ..launching.primitives import wide

ROUND = tl.constexpr(12582912.0)
"""1.5 * 2**23: adding it to a float32 below 2**22 and taking it away rounds to the nearest integer, ties to even."""
NOT_FINITE = tl.constexpr(0x7F800000)


@triton.jit
def signed_byte(word, i: tl.constexpr):
    """Byte i of an int32, with its sign."""
    return (word << (24 - 8 * i)) >> 24


@triton.jit
def dp4a(a, b, c, ASM: tl.constexpr):
    """c + the dot product of four signed bytes with four signed bytes; emulated where there is no inline assembly."""
    if ASM:
        return tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
        )
    for i in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues]
        c += signed_byte(a, i) * signed_byte(b, i)
    return c


@triton.jit
def round_activations(
    x, row_stride, col_stride, codes, step, total,
    K: tl.constexpr, BITS: tl.constexpr, BLOCKS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Row program_id(1) of x, in blocks of 32: int8 codes [rows, 2, K / 8], steps and code sums [rows, K / 32].

    A block's step is its largest magnitude / 127. One with a value that is not finite gets codes 0 and that step, so
    that its products are NaN. OVERLAP: the matvec may be launched while this runs.
    """
    if OVERLAP:
        gdc_launch_dependents()
    ALL: tl.constexpr = K // 32
    row = tl.program_id(1)
    b = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    plane = tl.arange(0, 2)[None, :, None, None]
    word = tl.arange(0, 4)[None, None, :, None]
    byte = tl.arange(0, 4)[None, None, None, :]
    k = word * 8 + byte * 2 + plane if BITS == 4 else plane * 16 + word * 4 + byte
    at = b[:, None, None, None] * 32 + k  # [BLOCKS, 2, 4, 4]
    v = tl.load(x + wide(row) * row_stride + at.to(tl.int64) * col_stride, mask=at < K, other=0.0).to(tl.float32)
    # the magnitude as an integer orders as the float does, with infinity and NaN above all others
    largest = tl.max(tl.reshape(v.to(tl.int32, bitcast=True) & 0x7FFFFFFF, [BLOCKS, 32]), axis=1)
    s = tl.div_rn(largest.to(tl.float32, bitcast=True), 127.0 + tl.zeros([BLOCKS], tl.float32))
    usable = (largest < NOT_FINITE) & (s > 0)
    divisor = tl.reshape(tl.where(usable, s, 1.0), [BLOCKS, 1, 1, 1]) + tl.zeros([BLOCKS, 2, 4, 4], tl.float32)
    v = tl.where(tl.reshape(usable, [BLOCKS, 1, 1, 1]), v, 0.0)
    # a division, because the product with 1 / step may be contracted with the sum and would round otherwise than torch
    code = ((tl.div_rn(v, divisor) + ROUND) - ROUND).to(tl.int32)
    code = tl.minimum(tl.maximum(code, -127), 127)  # a subnormal step is too coarse for the quotient
    packed = tl.reshape(tl.sum((code & 0xFF) << (byte * 8), axis=3), [BLOCKS, 2, 4])
    offset = tl.arange(0, 2)[None, :, None] * (ALL * 4) + b[:, None, None] * 4 + tl.arange(0, 4)[None, None, :]
    tl.store(codes + wide(row) * (ALL * 8) + offset, packed, mask=(b < ALL)[:, None, None])
    tl.store(step + wide(row) * ALL + b, s, mask=b < ALL)
    tl.store(total + wide(row) * ALL + b, tl.sum(tl.reshape(code, [BLOCKS, 32]), axis=1).to(tl.float32), mask=b < ALL)


@triton.jit
def load_some(pointers, ok, CHECK: tl.constexpr):
    """What is loaded once and not again soon, 0 where `ok` is false."""
    if CHECK:
        return tl.load(pointers, mask=ok, other=0, eviction_policy="evict_first")
    return tl.load(pointers, eviction_policy="evict_first")


@triton.jit
def load_metadata(
    table,
    n0,
    rows,
    b0,
    group_stride,
    ALL: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCKS: tl.constexpr,
    HALF: tl.constexpr = 0,  # pyright: ignore[reportArgumentType]
):
    """[rows, BLOCKS]: each group's value once for each of its blocks. group_stride None: it lies row for row.

    In groups of 16 a block has two: HALF says which.
    """
    SHARE: tl.constexpr = 1 if GROUP == 16 else GROUP // 32  # pyright: ignore[reportAssignmentType]
    COUNT: tl.constexpr = (BLOCKS + SHARE - 1) // SHARE
    CHECK: tl.constexpr = ALL % BLOCKS != 0
    ROW: tl.constexpr = ALL * 32 // GROUP
    g = (b0 // SHARE + tl.arange(0, COUNT))[None, :]
    if GROUP == 16:
        g = g * 2 + HALF
    if group_stride is None:
        at = table + wide(n0) * ROW + rows[:, None] * ROW + g
    else:
        at = table + wide(n0) + rows[:, None] + g.to(tl.int64) * group_stride
    values = load_some(at, g < ROW, CHECK)
    if SHARE > 1:  # loaded once and repeated: a load with repeated addresses goes through shared memory in Triton 3.6
        spread = tl.broadcast_to(values[:, :, None], [values.shape[0], COUNT, BLOCKS // COUNT])
        values = tl.reshape(spread, [values.shape[0], BLOCKS])
    return values


@triton.jit
def load_weights(
    data,
    meta,
    n0,
    rows,
    b0,
    group_stride,
    K: tl.constexpr,
    GROUP: tl.constexpr,
    BITS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """A tuple: int32 of codes [rows, BLOCKS * 4] (two for int8), then what there is of `meta`, [rows, BLOCKS] each.

    In groups of 16 the scales of the blocks' second halves come last.
    """
    # `metadata.SPAN`, weights of a row that share a step: kernels see no ints of other modules
    SPAN: tl.constexpr = 256  # pyright: ignore[reportAssignmentType]
    ALL: tl.constexpr = K // 32
    CHECK: tl.constexpr = ALL % BLOCKS != 0
    word = (b0 * 4 + tl.arange(0, BLOCKS * 4))[None, :]
    at = data + rows[:, None] * (ALL * BITS) + word
    loaded = (load_some(at, word < ALL * 4, CHECK),)
    if BITS == 8:
        loaded += (load_some(at + ALL * 4, word < ALL * 4, CHECK),)
    loaded += (load_metadata(meta.scale, n0, rows, b0, group_stride, ALL, GROUP, BLOCKS),)
    if meta.scale_step is not None:
        loaded += (load_metadata(meta.scale_step, n0, rows, b0, group_stride, ALL, SPAN, BLOCKS),)
    if meta.shift is not None:
        loaded += (load_metadata(meta.shift, n0, rows, b0, group_stride, ALL, GROUP, BLOCKS),)
    if meta.shift_step is not None:
        loaded += (load_metadata(meta.shift_step, n0, rows, b0, group_stride, ALL, SPAN, BLOCKS),)
    if GROUP == 16:
        loaded += (load_metadata(meta.scale, n0, rows, b0, group_stride, ALL, GROUP, BLOCKS, HALF=1),)
    return loaded


@triton.jit
def load_activations(pointers, ok, CHECK: tl.constexpr):
    """What every program reads: it stays in the caches."""
    if CHECK:
        return tl.load(pointers, mask=ok, other=0)
    return tl.load(pointers)


@triton.jit
def decoded(loaded, step, AT: tl.constexpr, STEP_AT: tl.constexpr):
    """What was loaded at AT in float32: a number, or a code that is worth the step at STEP_AT."""
    value = loaded[AT].to(tl.float32)
    if step is not None:
        value *= loaded[STEP_AT].to(tl.float32)
    return value


@triton.jit
def block_sums(dot, BLOCKS: tl.constexpr):
    """Float32 [rows, BLOCKS], the sums of each block's four of [rows, BLOCKS * 4]; in one thread."""
    return tl.sum(tl.reshape(dot, [dot.shape[0], BLOCKS, 4]), axis=2).to(tl.float32)


@triton.jit
def multiply(
    sums,
    loaded,
    meta,
    codes,
    step,
    total,
    rows,
    b0,
    K: tl.constexpr,
    GROUP: tl.constexpr,
    BITS: tl.constexpr,
    CENTRE: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCKS: tl.constexpr,
    ASM: tl.constexpr,
):
    """`sums` with BLOCKS blocks more: a tuple of float32 [rows, BLOCKS], one for each row of activations."""
    ALL: tl.constexpr = K // 32
    CHECK: tl.constexpr = ALL % BLOCKS != 0
    SCALE: tl.constexpr = BITS // 4
    SHIFT: tl.constexpr = SCALE + 1 if meta.scale_step is None else SCALE + 2
    word = rows[:, None] * 0 + (b0 * 4 + tl.arange(0, BLOCKS * 4))[None, :]  # 2-D: they land in the weights' layout
    b = rows[:, None] * 0 + (b0 + tl.arange(0, BLOCKS))[None, :]
    if BITS == 4:
        first, second = loaded[0] & 0x0F0F0F0F, (loaded[0] >> 4) & 0x0F0F0F0F
    else:
        first, second = loaded[0], loaded[1]
    s = decoded(loaded, meta.scale_step, SCALE, SCALE + 1)
    if meta.shift is not None:
        shift = decoded(loaded, meta.shift_step, SHIFT, SHIFT + 1)
    if GROUP == 16:  # int8 codes with a scale alone
        second_s = decoded(loaded, meta.scale_step, len(loaded) - 1, SCALE + 1)
    new = ()
    for m in tl.static_range(len(sums)):  # pyright: ignore[reportGeneralTypeIssues]
        a = codes + m * ALL * 8 + word
        dot = dp4a(first, load_activations(a, word < ALL * 4, CHECK), tl.zeros(first.shape, tl.int32), ASM)
        if GROUP == 16:
            first_whole = block_sums(dot, BLOCKS)
            dot = tl.zeros(first.shape, tl.int32)
        dot = dp4a(second, load_activations(a + ALL * 4, word < ALL * 4, CHECK), dot, ASM)
        whole = block_sums(dot, BLOCKS)
        x_step = load_activations(step + m * ALL + b, b < ALL, CHECK)
        # code sums are integers below 2**24: what is subtracted for an integer zero point is exact
        if GROUP == 16:
            new += (sums[m] + x_step * (s * first_whole + second_s * whole),)
        elif meta.shift is not None:
            count = load_activations(total + m * ALL + b, b < ALL, CHECK)
            if OFFSET:
                new += (sums[m] + x_step * (s * (whole - CENTRE * count) + shift * count),)
            else:
                new += (sums[m] + s * x_step * (whole - shift * count),)
        elif CENTRE == 0:
            new += (sums[m] + s * x_step * whole,)
        else:
            count = load_activations(total + m * ALL + b, b < ALL, CHECK)
            new += (sums[m] + s * x_step * (whole - CENTRE * count),)
    return new


@triton.jit(do_not_specialize_on_alignment=["meta", "step", "total", "bias"])
def matvec(
    data,
    meta,
    codes,
    step,
    total,
    bias,
    out,
    group_stride,
    N,
    K: tl.constexpr,
    GROUP: tl.constexpr,
    BITS: tl.constexpr,
    CENTRE: tl.constexpr,
    OFFSET: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCKS: tl.constexpr,
    ASM: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """out [ROWS, N] = activations x weights^T + bias, BLOCK_N weight rows a program, BLOCKS blocks of 32 a step.

    data: int32 view of the packed weight. meta: `launch.Metadata`, [N, K / GROUP] and steps [N, K / 256]; OFFSET says
    that its shift is added to (code - CENTRE) * scale and is no zero point. codes, step, total as `round_activations`
    leaves them; bias may be None. Sums run in an order that the constants fix. group_stride: None, or N for metadata
    [K / GROUP, N], which costs a cache line a value: kept to show that. OVERLAP: it is launched early, loads its first
    weights and then waits for the activations.
    """
    ALL: tl.constexpr = K // 32
    LAST: tl.constexpr = (ALL - 1) // BLOCKS * BLOCKS
    n0 = tl.program_id(0) * BLOCK_N
    n = tl.arange(0, BLOCK_N)
    rows = tl.minimum(n, N - 1 - n0)  # rows past the end read the last one again
    data += wide(n0) * (ALL * BITS)
    sums = ()
    for _ in tl.static_range(ROWS):  # pyright: ignore[reportGeneralTypeIssues]
        sums += (tl.zeros([BLOCK_N, BLOCKS], tl.float32),)
    loaded = load_weights(data, meta, n0, rows, 0, group_stride, K, GROUP, BITS, BLOCKS)
    if OVERLAP:
        gdc_wait()
    # N is at least 1, which the compiler does not know: it would unroll the loop whole, and spill for many rows
    last = LAST if ROWS <= 4 else tl.minimum(N, 1) * LAST
    for b0 in tl.range(0, last, BLOCKS):
        following = load_weights(data, meta, n0, rows, b0 + BLOCKS, group_stride, K, GROUP, BITS, BLOCKS)
        sums = multiply(sums, loaded, meta, codes, step, total, rows, b0, K, GROUP, BITS, CENTRE, OFFSET, BLOCKS, ASM)
        loaded = following
    sums = multiply(sums, loaded, meta, codes, step, total, rows, LAST, K, GROUP, BITS, CENTRE, OFFSET, BLOCKS, ASM)
    for m in tl.static_range(ROWS):  # pyright: ignore[reportGeneralTypeIssues]
        y = tl.sum(sums[m], axis=1)
        if bias is not None:
            y += tl.load(bias + n0 + rows).to(tl.float32)
        tl.store(out + wide(m) * N + n0 + n, y.to(out.dtype.element_ty), mask=n0 + n < N)


matvec_scalar = triton.jit(do_not_specialize_on_alignment=["meta", "step", "total", "bias", "codes"])(matvec.fn)
"""The same kernel told nothing of where the activations begin: it loads 4 bytes at a time. Kept to show the cost."""
