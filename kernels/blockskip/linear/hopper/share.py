"""A tile whose steps several programs share: who has which steps, and how their sums come together in one kernel.

The steps of all tiles, of one block of activations' rows after the other, are one line, and each program has a piece of
it (stream-K: Osama et al., 2023). What a program did of a tile that an earlier piece begins is the first that it does;
it leaves that sum in global memory. The program with the tile's first step comes to the tile last, waits for the
others' sums and adds them in the pieces' order, so the bits of a result never vary. Programs take the pieces from the
last one to the first: those that are waited for began earlier, so they end, however few programs the GPU runs at a
time.

Threads of the same number hand over to each other: what thread t of a warp group leaves is read by thread t of the
other program, and each says for itself that its numbers are there, by 64 bits that other memory holds by chance once
in 2^64. Whoever has read them clears them. So the memory need not be cleared beforehand, and a replayed graph finds no
old sums. With few rows the 64 bits stand beside every two numbers (`leave`, `take`): they come with them, in one read.
With more they are one flag a thread, raised after its numbers (`raise_flags`, `await_flags`): half the memory, but a
fence and a second read (1 us of 11 on an NVIDIA H200).

The threads of a warp wait for flags together. If each left its wait by itself the compiler would no longer take the
warp's threads for together in the loops that multiply, and would keep their addresses in a register of each thread: up
to 18 % of a product's time. With tags each thread waits by itself: so few rows wait for memory, not for instructions,
and to wait together took 0.5 us of 10 on an NVIDIA H200.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .constants import TILE_ROWS
from .unpack import result_layout

THREADS = gl.constexpr(128)
"""Of a warp group."""
TAGGED_ROWS = gl.constexpr(8)
"""Rows of activations up to which the 64 bits stand beside the numbers; a thread then has four numbers of a sum."""
AT_ONCE = gl.constexpr(4)
"""Programs whose tagged sums are read at a time."""

WRITTEN = 0x5CA1AB1E0DDBA117
"""Says that numbers are there."""
RAISE = gl.constexpr(f"st.release.gpu.global.u64 [$1], {WRITTEN:#x}; mov.b32 $0, 0;")
AWAIT = gl.constexpr(
    "{ .reg .pred wait; .reg .u64 flag; AGAIN: ld.acquire.gpu.global.u64 flag, [$1]; "
    f"setp.ne.u64 wait, flag, {WRITTEN:#x}; vote.sync.any.pred wait, wait, 0xffffffff; @wait bra.uni AGAIN; "
    "st.relaxed.gpu.global.u64 [$1], 0; mov.b32 $0, 0; }"
)
LEAVE = gl.constexpr(
    f"{{ .reg .b64 two, tag; .reg .b128 all; mov.b64 tag, {WRITTEN:#x}; "
    "mov.b64 two, {$8, $9}; mov.b128 all, {two, tag}; st.relaxed.gpu.global.b128 [$4], all; "
    "mov.b64 two, {$10, $11}; mov.b128 all, {two, tag}; st.relaxed.gpu.global.b128 [$6], all; "
    "mov.b32 $0, 0; mov.b32 $1, 0; mov.b32 $2, 0; mov.b32 $3, 0; }"
)


@gluon.constexpr_function
def taking(stride):
    """PTX of `take`: $0 to $3 are the results, $4 to $7 pointers, $8 the number of programs; stride: bytes between two.

    For programs that there are not, the first one's sums are read again, and not added.
    """
    lines = ["{ .reg .pred wait, live<4>; .reg .u64 at<8>, tag<8>, two<8>; .reg .b128 all<8>; .reg .f32 a, b;"]
    lines += [f"setp.gt.s32 live{c}, $8, {c}; selp.u64 two{c}, {c * stride}, 0, live{c};" for c in range(4)]
    lines += [f"add.u64 at{n}, ${4 + n % 2 * 2}, two{n // 2};" for n in range(8)]
    lines += ["AGAIN:"]
    lines += [f"ld.relaxed.gpu.global.b128 all{n}, [at{n}];" for n in range(8)]
    lines += [f"mov.b128 {{two{n}, tag{n}}}, all{n};" for n in range(8)]
    lines += [f"setp.ne.u64 wait, tag0, {WRITTEN:#x};"]
    lines += [f"setp.ne.or.u64 wait, tag{n}, {WRITTEN:#x}, wait;" for n in range(1, 8)]
    lines += ["@wait bra AGAIN;"]
    lines += ["mov.b64 {$0, $1}, two0; mov.b64 {$2, $3}, two1;"]
    for n in range(2, 8):
        live, first = f"@live{n // 2}", n % 2 * 2
        lines.append(f"mov.b64 {{a, b}}, two{n};")
        lines.append(f"{live} add.f32 ${first}, ${first}, a; {live} add.f32 ${first + 1}, ${first + 1}, b;")
    lines += [f"st.relaxed.gpu.global.u64 [at{n} + 8], 0;" for n in range(8)]
    return "\n".join([*lines, "}"])


@gluon.jit
def piece():
    """Which of the pieces this program has: the first program has the last piece."""
    return gl.num_programs(0) - 1 - gl.program_id(0)


@gluon.jit
def tiles_of(N, CONSTANTS: gl.constexpr):
    """Tiles that a block of activations' rows is multiplied with."""
    return gl.cdiv(N, CONSTANTS.ROW_GROUPS * TILE_ROWS)


@gluon.jit
def all_steps(M, N, CONSTANTS: gl.constexpr):
    """Steps of all tiles of all blocks; times programs they are within 32 bits for one block of up to 1e11 weights, for
    several they are counted in 64."""
    tiles = tiles_of(N, CONSTANTS)
    if CONSTANTS.BLOCKS:
        tiles = gl.cast(tiles, gl.int64) * gl.cdiv(M, CONSTANTS.BLOCK_M)
    return tiles * CONSTANTS.STEPS


@gluon.jit
def coordinates_of(tile, N, CONSTANTS: gl.constexpr):
    """(block of activations' rows, tile of the weight) of a tile in the line."""
    if CONSTANTS.BLOCKS:
        tiles = tiles_of(N, CONSTANTS)
        return tile // tiles, tile % tiles
    else:  # noqa: RET505 - the other way must not be compiled
        return 0, tile


@gluon.jit
def steps_of(count):
    """(begin, end): this program's piece of `count` steps, as `all_steps` counts them."""
    programs = gl.num_programs(0)
    begin, end = piece() * count // programs, (piece() + 1) * count // programs
    return gl.cast(begin, gl.int32), gl.cast(end, gl.int32)


@gluon.jit
def part_of(ROW_GROUP: gl.constexpr, of, CONSTANTS: gl.constexpr):
    """Which part of the memory a warp group of a piece has."""
    return of * CONSTANTS.ROW_GROUPS + ROW_GROUP


@gluon.jit
def flags_of(ROW_GROUP: gl.constexpr, shares, of, CONSTANTS: gl.constexpr):
    """The flags of a piece's sum, one for each thread of a warp group: pointers to int64 [128]."""
    threads = gl.arange(0, THREADS, gl.BlockedLayout([1], [32], [4], [0]))
    return shares.flags + part_of(ROW_GROUP, of, CONSTANTS) * THREADS + threads


@gluon.constexpr_function
def thread_layout(BLOCK_M):
    """[128 threads, BLOCK_M / 8, 4]: each thread has what is its."""
    registers = [[0, 0, 1], [0, 0, 2], *([0, 1 << i, 0] for i in range((BLOCK_M // 8).bit_length() - 1))]
    lanes = [[1 << i, 0, 0] for i in range(5)]
    return gl.DistributedLinearLayout(registers, lanes, [[32, 0, 0], [64, 0, 0]], [], [128, BLOCK_M // 8, 4])


@gluon.jit
def by_thread(acc):
    """A warp group's sum, [64, BLOCK_M], as [128 threads, BLOCK_M / 8, 4]: what each thread has of it."""
    BLOCK_M: gl.constexpr = acc.shape[1]
    acc = gl.reshape(acc, [4, 2, 8, BLOCK_M // 8, 4, 2])  # warp, half of its rows, row; columns of eight: pair, number
    mine = gl.reshape(gl.permute(acc, (0, 2, 4, 3, 1, 5)), [THREADS, BLOCK_M // 8, 4])
    return gl.convert_layout(mine, thread_layout(BLOCK_M), assert_trivial=True)


@gluon.jit
def from_threads(t):
    """What `by_thread` made of a sum, as the sum."""
    BLOCK_M: gl.constexpr = t.shape[1] * 8
    t = gl.permute(gl.reshape(t, [4, 8, 4, BLOCK_M // 8, 2, 2]), (0, 4, 1, 3, 2, 5))
    return gl.convert_layout(gl.reshape(t, [64, BLOCK_M]), result_layout(BLOCK_M), assert_trivial=True)


@gluon.jit
def tagged_sums_of(ROW_GROUP: gl.constexpr, shares, of, CONSTANTS: gl.constexpr):
    """Where a warp group's part of a piece's sum is: pointers to float32 [64, BLOCK_M], every other two with tags."""
    BLOCK_M: gl.constexpr = CONSTANTS.BLOCK_M
    layout: gl.constexpr = result_layout(BLOCK_M)
    i = gl.arange(0, TILE_ROWS, gl.SliceLayout(1, layout))
    j = gl.arange(0, BLOCK_M, gl.SliceLayout(0, layout))
    part = gl.cast(part_of(ROW_GROUP, of, CONSTANTS), gl.int64) * (TILE_ROWS * BLOCK_M * 2)
    return shares.sums + part + (i[:, None] * BLOCK_M + j[None, :]) * 2


@gluon.jit
def sums_of(ROW_GROUP: gl.constexpr, shares, of, CONSTANTS: gl.constexpr):
    """Where a warp group's part of a piece's sum is, as `by_thread` has it: pointers to float32, four of a thread and
    the next thread's four side by side."""
    COUNT: gl.constexpr = CONSTANTS.BLOCK_M // 8
    layout: gl.constexpr = thread_layout(CONSTANTS.BLOCK_M)
    thread = gl.arange(0, THREADS, gl.SliceLayout(1, gl.SliceLayout(2, layout)))
    column = gl.arange(0, COUNT, gl.SliceLayout(0, gl.SliceLayout(2, layout)))
    number = gl.arange(0, 4, gl.SliceLayout(0, gl.SliceLayout(1, layout)))
    part = gl.cast(part_of(ROW_GROUP, of, CONSTANTS), gl.int64) * (TILE_ROWS * CONSTANTS.BLOCK_M)
    at = gl.expand_dims(column * (THREADS * 4), 0) + gl.expand_dims(thread * 4, 1)
    return shares.sums + part + (gl.expand_dims(at, 2) + gl.expand_dims(gl.expand_dims(number, 0), 1))


@gluon.jit
def raise_flags(flags):
    """Tells those who wait for these flags that what the same threads stored before is there."""
    gl.inline_asm_elementwise(RAISE, "=r,l,~{memory}", [flags], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def await_flags(flags):
    """Waits until each thread's flag is raised, and lowers it."""
    gl.inline_asm_elementwise(AWAIT, "=r,l,~{memory}", [flags], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def leave(pointers, acc):
    """Stores acc [64, 8], two numbers and their tag at a time: at the first one's pointer."""
    gl.inline_asm_elementwise(
        LEAVE, "=r,=r,=r,=r,l,l,l,l,r,r,r,r,~{memory}", [pointers.to(gl.int64), acc],
        dtype=gl.int32, is_pure=False, pack=4,
    )  # fmt: skip


@gluon.jit
def take(pointers, programs, STRIDE: gl.constexpr):
    """The sum [64, 8] of what the first `programs` of four leave, in their order, once it is there. Tags are cleared.

    pointers: of the first of them; STRIDE: float32 numbers from one to the next.
    """
    asm: gl.constexpr = taking(STRIDE * 4)
    programs = gl.full(pointers.shape, 0, gl.int32, pointers.type.layout) + programs
    return gl.inline_asm_elementwise(
        asm, "=f,=f,=f,=f,l,l,l,l,r,r,r,r,~{memory}", [pointers.to(gl.int64), programs],
        dtype=gl.float32, is_pure=False, pack=4,
    )  # fmt: skip


@gluon.jit
def contribute(ROW_GROUP: gl.constexpr, acc, shares, CONSTANTS: gl.constexpr):
    """Leaves this program's sum of a tile for the program that has the tile's first step."""
    BLOCK_M: gl.constexpr = CONSTANTS.BLOCK_M
    if shares.sums is not None:
        if BLOCK_M <= TAGGED_ROWS:
            leave(tagged_sums_of(ROW_GROUP, shares, piece(), CONSTANTS), acc)
        else:
            gl.store(sums_of(ROW_GROUP, shares, piece(), CONSTANTS), by_thread(acc))
            raise_flags(flags_of(ROW_GROUP, shares, piece(), CONSTANTS))


@gluon.jit
def collect(ROW_GROUP: gl.constexpr, acc, shares, tile, M, N, CONSTANTS: gl.constexpr):
    """acc + what the programs with the tile's later steps contribute, in their order."""
    BLOCK_M: gl.constexpr = CONSTANTS.BLOCK_M
    if shares.sums is not None:
        SIZE: gl.constexpr = CONSTANTS.ROW_GROUPS * TILE_ROWS
        steps = tile + 1  # times STEPS: up to the tile's end
        if CONSTANTS.BLOCKS:
            steps = gl.cast(steps, gl.int64)
        last = (steps * CONSTANTS.STEPS * gl.num_programs(0) - 1) // all_steps(M, N, CONSTANTS)
        end = gl.cast(last, gl.int32) + 1
        if BLOCK_M <= TAGGED_ROWS:
            for of in range(piece() + 1, end, AT_ONCE):
                pointers = tagged_sums_of(ROW_GROUP, shares, of, CONSTANTS)
                acc += take(pointers, end - of, SIZE * BLOCK_M * 2)
        else:
            mine = by_thread(acc)
            for of in range(piece() + 1, end):
                await_flags(flags_of(ROW_GROUP, shares, of, CONSTANTS))
                mine += gl.load(sums_of(ROW_GROUP, shares, of, CONSTANTS))
            acc = from_threads(mine)
    return acc
