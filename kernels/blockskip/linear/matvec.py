"""The Triton kernel for activations that are rounded to int8: dp4a of packed weights, a warp for a weight row.

Inside a block of 32 weights the int8 activations stand in two planes of 16 bytes, as the weights need them: for int4
the low nibbles meet the even activations and the high nibbles the odd ones; for int8 the first half meets the first
half. In tiles nibbles stand in another order, and so do the activations; else only addresses differ: a weight row is
128 adjoining bytes of each tile. So one 16-byte load of int4 weights, or two of int8, and two of activations feed eight
dp4a.

What keeps shared memory and spills out of the loop (`tests/kernels/test_linear_anatomy.py` holds the compiled kernels
to it): K is a constant; activations are loaded through 2-D pointers, so that they land in the weights' layout;
metadata is not vectorised, so that a scale lands in the thread that holds its block; weights of the next step are
loaded by hand and not by `num_stages`, which would copy them through shared memory.
"""

# pyright: reportAttributeAccessIssue=false
# A constexpr has the attributes of its value.

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from ..launching.primitives import interpreting, wide
from ..launching.scopes import enter_scope, exit_scope

ASSEMBLY = tl.constexpr(not interpreting())
UNALIGNED = ("meta", "blocks", "bias")
"""Arguments that the compiler is not told the alignment of, so that it does not vectorise their loads."""


@triton.jit
def signed_byte(word, i: tl.constexpr):
    """Byte i of an int32, with its sign."""
    return (word << (24 - 8 * i)) >> 24


@triton.jit
def dp4a(a, b, c):
    """c + the dot product of four signed bytes with four signed bytes; emulated where there is no inline assembly."""
    if ASSEMBLY:
        return tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
        )
    for i in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues]
        c += signed_byte(a, i) * signed_byte(b, i)
    return c


@triton.jit
def load_some(pointers, ok, CHECK: tl.constexpr):
    """What is loaded once and not again soon, 0 where `ok` is false."""
    if CHECK:
        return tl.load(pointers, mask=ok, other=0, eviction_policy="evict_first")
    return tl.load(pointers, eviction_policy="evict_first")


@triton.jit
def load_metadata(
    table, n0, rows, b0, N, ALL: tl.constexpr, GROUP: tl.constexpr, BLOCKS: tl.constexpr, HALF: tl.constexpr
):
    """[rows, BLOCKS]: a table's numbers of the weight rows n0 + rows, each group's once for each of its blocks.

    table: [N, groups], row for row with the weights. ALL: blocks of 32 in a row; GROUP: weights that share a number.
    HALF: which of a block's two groups it is, where they are of 16; else 0.
    """
    SHARE: tl.constexpr = 1 if GROUP == 16 else GROUP // 32  # pyright: ignore[reportAssignmentType]
    COUNT: tl.constexpr = (BLOCKS + SHARE - 1) // SHARE
    ROW: tl.constexpr = ALL * 32 // GROUP
    g = (b0 // SHARE + tl.arange(0, COUNT))[None, :]
    if GROUP == 16:
        g = g * 2 + HALF
    at = table + wide(n0) * ROW + rows[:, None] * ROW + g
    return repeated(load_some(at, g < ROW, ALL % BLOCKS != 0), BLOCKS)


@triton.jit
def load_tile_metadata(
    table, n0, rows, b0, N, ALL: tl.constexpr, GROUP: tl.constexpr, BLOCKS: tl.constexpr, HALF: tl.constexpr
):
    """As `load_metadata`, of a table in tiles: [N / 64, tiles, 64, 256 / GROUP]. HALF: 0."""
    SHARE: tl.constexpr = GROUP // 32
    COUNT: tl.constexpr = (BLOCKS + SHARE - 1) // SHARE
    GROUPS: tl.constexpr = 256 // GROUP
    g = (b0 // SHARE + tl.arange(0, COUNT))[None, :]
    at = table + wide(n0 // 64) * (ALL * 2048 // GROUP) + (n0 % 64 + rows[:, None]) * GROUPS
    at += g // GROUPS * (64 * GROUPS) + g % GROUPS
    return repeated(load_some(at, g < ALL // SHARE, ALL % BLOCKS != 0), BLOCKS)


@triton.jit
def repeated(values, BLOCKS: tl.constexpr):
    """[rows, BLOCKS] of [rows, groups]: each number for all the blocks of its group.

    They are loaded once and repeated here: a load with repeated addresses goes through shared memory in Triton 3.6.
    """
    COUNT: tl.constexpr = values.shape[1]
    if COUNT < BLOCKS:
        spread = tl.broadcast_to(values[:, :, None], [values.shape[0], COUNT, BLOCKS // COUNT])
        values = tl.reshape(spread, [values.shape[0], BLOCKS])
    return values


@triton.jit
def load_weights(data, meta, n0, rows, b0, N, FORMAT: tl.constexpr, BLOCKS: tl.constexpr, LOAD_METADATA: tl.constexpr):
    """A tuple: int32 of codes [rows, BLOCKS * 4] (two for int8), then what there is of `meta`, [rows, BLOCKS] each.

    data begins at row n0, or in tiles at the row of tiles that it is in.

    In groups of 16 the scales of the blocks' second halves come last.
    """
    ALL: tl.constexpr = FORMAT.in_features // 32
    GROUP: tl.constexpr = FORMAT.group_size
    BITS: tl.constexpr = FORMAT.bits
    SPAN: tl.constexpr = 256  # pyright: ignore[reportAssignmentType]
    CHECK: tl.constexpr = ALL % BLOCKS != 0
    word = (b0 * 4 + tl.arange(0, BLOCKS * 4))[None, :]
    if FORMAT.packing == "tiles":  # a tile is 64 rows of 32 words
        at = data + (n0 % 64 + rows[:, None]) * 32 + word // 32 * 2048 + word % 32
    else:
        at = data + rows[:, None] * (ALL * BITS) + word
    loaded = (load_some(at, word < ALL * 4, CHECK),)
    if BITS == 8:
        loaded += (load_some(at + ALL * 4, word < ALL * 4, CHECK),)
    loaded += (LOAD_METADATA(meta.scale, n0, rows, b0, N, ALL, GROUP, BLOCKS, 0),)  # pyright: ignore[reportCallIssue]
    if meta.scale_step is not None:
        loaded += (LOAD_METADATA(meta.scale_step, n0, rows, b0, N, ALL, SPAN, BLOCKS, 0),)  # pyright: ignore[reportCallIssue]
    if meta.shift is not None:
        loaded += (LOAD_METADATA(meta.shift, n0, rows, b0, N, ALL, GROUP, BLOCKS, 0),)  # pyright: ignore[reportCallIssue]
    if meta.shift_step is not None:
        loaded += (LOAD_METADATA(meta.shift_step, n0, rows, b0, N, ALL, SPAN, BLOCKS, 0),)  # pyright: ignore[reportCallIssue]
    if GROUP == 16:
        loaded += (LOAD_METADATA(meta.scale, n0, rows, b0, N, ALL, GROUP, BLOCKS, 1),)  # pyright: ignore[reportCallIssue]
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
def multiply(sums, loaded, meta, codes, blocks, rows, b0, FORMAT: tl.constexpr, BLOCKS: tl.constexpr):
    """`sums` with BLOCKS blocks more: a tuple of float32 [rows, BLOCKS], one for each row of activations.

    blocks: pointers to the steps and the code sums of the first of these rows.
    """
    ALL: tl.constexpr = FORMAT.in_features // 32
    GROUP: tl.constexpr = FORMAT.group_size
    BITS: tl.constexpr = FORMAT.bits
    CENTRE: tl.constexpr = FORMAT.centre
    OFFSET: tl.constexpr = FORMAT.offset
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
        dot = dp4a(first, load_activations(a, word < ALL * 4, CHECK), tl.zeros(first.shape, tl.int32))
        if GROUP == 16:
            first_whole = block_sums(dot, BLOCKS)
            dot = tl.zeros(first.shape, tl.int32)
        dot = dp4a(second, load_activations(a + ALL * 4, word < ALL * 4, CHECK), dot)
        whole = block_sums(dot, BLOCKS)
        x_step = load_activations(blocks[0] + m * ALL + b, b < ALL, CHECK)
        # every product that is added is an explicit fma: the compiler rounds no row otherwise, however many there are
        if GROUP == 16:
            new += (tl.fma(x_step, tl.fma(second_s, whole, s * first_whole), sums[m]),)
        elif meta.shift is not None:
            count = load_activations(blocks[1] + m * ALL + b, b < ALL, CHECK)
            if OFFSET:
                value = tl.fma(shift, count, s * (whole - CENTRE * count))  # below 2**24, and so exact
                new += (tl.fma(x_step, value, sums[m]),)
            else:
                new += (tl.fma(s * x_step, tl.fma(-shift, count, whole), sums[m]),)
        elif CENTRE == 0:
            new += (tl.fma(s * x_step, whole, sums[m]),)
        else:
            count = load_activations(blocks[1] + m * ALL + b, b < ALL, CHECK)
            new += (tl.fma(s * x_step, whole - CENTRE * count, sums[m]),)
    return new


@triton.jit(do_not_specialize_on_alignment=UNALIGNED)
def matvec(
    data, meta, codes, blocks, bias, out,
    FORMAT: tl.constexpr, CONFIG: tl.constexpr, ROWS: tl.constexpr, OVERLAP: tl.constexpr, LOAD_METADATA: tl.constexpr,
):  # fmt: skip
    """out [M, N] = activations x weights^T + bias: ROWS rows of it and CONFIG.block_n weight rows a program.

    data: int32 view of the packed weight; meta: its `format.Metadata`; FORMAT: its `format.Format`.
    codes, blocks: as `round_activations` leaves them. bias: None or [N]. out: a dense `View`, M at least ROWS.
    CONFIG: `plan.MatvecConfig`, with CONFIG.blocks blocks of 32 weights a step.
    OVERLAP: it is launched early, loads its first weights and then waits for the activations.
    LOAD_METADATA: `load_metadata`, or a function of the same arguments for metadata that lies otherwise.
    Of a weight in tiles a program's rows are of one tile: CONFIG.block_n divides 64.
    Sums run in an order that FORMAT and CONFIG fix: a row's bits depend on no other row.
    Grid: (blocks of N, blocks of M).
    """
    enter_scope("program")
    N = out.shape[1]
    BLOCK_N: tl.constexpr = CONFIG.block_n
    BLOCKS: tl.constexpr = CONFIG.blocks
    ALL: tl.constexpr = FORMAT.in_features // 32
    BITS: tl.constexpr = FORMAT.bits
    LAST: tl.constexpr = (ALL - 1) // BLOCKS * BLOCKS
    n0 = tl.program_id(0) * BLOCK_N
    n = tl.arange(0, BLOCK_N)
    rows = tl.minimum(n, N - 1 - n0)  # rows past the end read the last one again
    data += wide(n0 // 64) * (ALL * 256) if FORMAT.packing == "tiles" else wide(n0) * (ALL * BITS)
    first = tl.minimum(tl.program_id(1) * ROWS, out.shape[0] - ROWS)  # the last rows may be done twice, alike
    codes += wide(first) * (ALL * 8)
    x_blocks = (blocks.step + wide(first) * ALL, blocks.total + wide(first) * ALL)
    sums = ()
    for _ in tl.static_range(ROWS):  # pyright: ignore[reportGeneralTypeIssues]
        sums += (tl.zeros([BLOCK_N, BLOCKS], tl.float32),)
    loaded = load_weights(data, meta, n0, rows, 0, N, FORMAT, BLOCKS, LOAD_METADATA)
    if OVERLAP:
        gdc_wait()
    # N is at least 1, which the compiler does not know: it would unroll the loop whole, and spill for many rows
    last = LAST if ROWS <= 4 else tl.minimum(N, 1) * LAST
    for b0 in tl.range(0, last, BLOCKS):
        following = load_weights(data, meta, n0, rows, b0 + BLOCKS, N, FORMAT, BLOCKS, LOAD_METADATA)
        sums = multiply(sums, loaded, meta, codes, x_blocks, rows, b0, FORMAT, BLOCKS)
        loaded = following
    sums = multiply(sums, loaded, meta, codes, x_blocks, rows, LAST, FORMAT, BLOCKS)
    for m in tl.static_range(ROWS):  # pyright: ignore[reportGeneralTypeIssues]
        y = tl.sum(sums[m], axis=1)
        if bias is not None:
            y += tl.load(bias + n0 + rows).to(tl.float32)
        tl.store(out.ptr + wide(first + m) * N + n0 + n, y.to(out.ptr.dtype.element_ty), mask=n0 + n < N)
    exit_scope("program")
