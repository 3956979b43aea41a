"""Codes of a tile to the operand that tensor cores take from registers."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .plan import EXACT_ROWS


def _instructions(kind: str, magic: int, scaled: bool) -> str:
    """PTX that turns one int32 of codes, $4, to four pairs: code - $12, times $16 where `scaled`.

    A code in the lowest bits of `magic`, a number with as many bits after its point as hold it, is that number plus the
    code; so $12 is the zero point plus that number, and the difference is exact.
    """
    scale = f" mul.rn.{kind} t, t, $16;" if scaled else ""
    pairs = [
        f"shr.u32 t, $4, {4 * j}; lop3.b32 t, t, 0x000f000f, {magic:#x}, 0xEA; "
        f"sub.rn.{kind} t, t, $12;{scale} mov.b32 ${j}, t;"
        for j in range(4)
    ]
    return "\n".join(["{", ".reg .b32 t;", *pairs, "}"])


BFLOAT16 = gl.constexpr(_instructions("bf16x2", 0x43004300, scaled=False))
FLOAT16 = gl.constexpr(_instructions("f16x2", 0x64006400, scaled=False))
SCALED_BFLOAT16 = gl.constexpr(_instructions("bf16x2", 0x43004300, scaled=True))
SCALED_FLOAT16 = gl.constexpr(_instructions("f16x2", 0x64006400, scaled=True))
REGISTERS = gl.constexpr("=r,=r,=r,=r," + ",".join(["r"] * 12))
SCALED_REGISTERS = gl.constexpr("=r,=r,=r,=r," + ",".join(["r"] * 16))
BFLOAT16_MAGIC = gl.constexpr(128.0)
FLOAT16_MAGIC = gl.constexpr(1024.0)


SUMMED_ROWS = gl.constexpr(EXACT_ROWS)
"""Rows of activations up to which a group's products are summed before they are scaled: so few sums are scaled sooner
than the codes, and the weights are not rounded."""


@gluon.constexpr_function
def result_layout(BLOCK_M):
    """Of a product [64, BLOCK_M]: by warps of their own for few rows, by a group of warps for more."""
    if BLOCK_M <= SUMMED_ROWS:
        return gl.NVMMADistributedLayout([2, 0], [4, 1], [16, 8])
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_M, 16])


@gluon.constexpr_function
def code_layout(WORDS):
    """[64 rows, WORDS, 8 codes of an int32]: a lane holds one of each block, of rows r and r + 8, as operands do."""
    registers = [[0, 0, 1], [0, 0, 2], [0, 0, 4], [8, 0, 0]]
    registers += [[0, 4 << i, 0] for i in range((WORDS // 4).bit_length() - 1)]
    lanes = [[0, 1, 0], [0, 2, 0], [1, 0, 0], [2, 0, 0], [4, 0, 0]]
    return gl.DistributedLinearLayout(registers, lanes, [[16, 0, 0], [32, 0, 0]], [], [64, WORDS, 8])


@gluon.constexpr_function
def group_layout(GROUPS, BLOCKS):
    """[64 rows, GROUPS, BLOCKS a group, 4 int32, 8 codes]: as `code_layout`, by group and block."""
    registers = [[0, 0, 0, 0, 1], [0, 0, 0, 0, 2], [0, 0, 0, 0, 4], [8, 0, 0, 0, 0]]
    registers += [[0, 0, 1 << i, 0, 0] for i in range(BLOCKS.bit_length() - 1)]
    registers += [[0, 1 << i, 0, 0, 0] for i in range(GROUPS.bit_length() - 1)]
    lanes = [[0, 0, 0, 1, 0], [0, 0, 0, 2, 0], [1, 0, 0, 0, 0], [2, 0, 0, 0, 0], [4, 0, 0, 0, 0]]
    warps = [[16, 0, 0, 0, 0], [32, 0, 0, 0, 0]]
    return gl.DistributedLinearLayout(registers, lanes, warps, [], [64, GROUPS, BLOCKS, 4, 8])


@gluon.constexpr_function
def metadata_layout(GROUPS, BLOCKS):
    """[64 rows, GROUPS]: as `group_layout` needs it."""
    return gl.SliceLayout(2, gl.SliceLayout(3, gl.SliceLayout(4, group_layout(GROUPS, BLOCKS))))


@gluon.jit
def halves(t):
    """[R, W] as two [R, W / 2]."""
    return gl.split(gl.permute(gl.reshape(t, [t.shape[0], 2, t.shape[1] // 2]), (0, 2, 1)))


@gluon.jit
def parts(t, COUNT: gl.constexpr):
    """[R, W] as COUNT of [R, W / COUNT]."""
    if COUNT == 1:
        return (t,)
    else:  # noqa: RET505 - the other way must not be compiled
        first, second = halves(t)
        return parts(first, COUNT // 2) + parts(second, COUNT // 2)


@gluon.jit
def spread(t, GROUPS: gl.constexpr, BLOCKS: gl.constexpr):
    """A number a group, [64, GROUPS], to one a code: [64, GROUPS * BLOCKS * 4, 8]."""
    WORDS: gl.constexpr = GROUPS * BLOCKS * 4
    layout: gl.constexpr = group_layout(GROUPS, BLOCKS)
    t = gl.expand_dims(gl.expand_dims(gl.expand_dims(t, 2), 3), 4)
    t, _ = gl.broadcast(t, gl.full([64, GROUPS, BLOCKS, 4, 8], 0, t.dtype, layout))
    return gl.convert_layout(gl.reshape(t, [64, WORDS, 8]), code_layout(WORDS), assert_trivial=True)


@gluon.jit
def unpack(packed, zero, scale, BLOCK_M: gl.constexpr):
    """int32 [64, WORDS] to the operand [64, 8 WORDS]: code - zero, times scale unless that is None.

    zero, with the magic number, and scale: [64, WORDS, 8], in the operand's dtype.
    """
    WORDS: gl.constexpr = packed.shape[1]
    packed = gl.convert_layout(packed, gl.SliceLayout(2, code_layout(WORDS)), assert_trivial=True)
    packed, _ = gl.broadcast(gl.expand_dims(packed, 2), zero)
    values = differences(packed, zero) if scale is None else scaled_differences(packed, zero, scale)
    values = gl.permute(gl.reshape(values, [64, WORDS // 4, 4, 4, 2]), (0, 1, 3, 2, 4))  # block, pair, int32, half
    operand: gl.constexpr = gl.DotOperandLayout(0, result_layout(BLOCK_M), 2)
    return gl.convert_layout(gl.reshape(values, [64, 8 * WORDS]), operand, assert_trivial=True)


@gluon.jit
def differences(packed, zero):
    """code - zero, exact, of the code that each element's last index picks from its int32."""
    instructions: gl.constexpr = BFLOAT16 if zero.dtype == gl.bfloat16 else FLOAT16
    return gl.inline_asm_elementwise(instructions, REGISTERS, [packed, zero], dtype=zero.dtype, is_pure=True, pack=8)


@gluon.jit
def scaled_differences(packed, zero, scale):
    """(code - zero) * scale, rounded once, of the code that each element's last index picks from its int32."""
    instructions: gl.constexpr = SCALED_BFLOAT16 if scale.dtype == gl.bfloat16 else SCALED_FLOAT16
    return gl.inline_asm_elementwise(
        instructions, SCALED_REGISTERS, [packed, zero, scale], dtype=scale.dtype, is_pure=True, pack=8
    )
