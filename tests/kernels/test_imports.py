"""Imported weights: bit for bit what the formats' definitions say, decoded here in numpy; and through `linear`."""

import blockskip as bs
import numpy as np
import pytest
import torch
from blockskip.linear.gguf import blocks as gguf

IMPLS = ("reference", "tiled", "triton")
SHAPES = [(1, 32), (7, 96), (13, 256), (5, 32 * 33)]
GGUF = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
NBYTES = {"Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34)}
NBYTES |= {"Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210)}
HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}  # where float16 numbers are


def halves(rng, count):
    """float16 of many magnitudes and both signs, zero and subnormals among them."""
    values = (rng.standard_normal(count) * 10.0 ** rng.integers(-6, 3, count)).astype(np.float16)
    values[rng.random(count) < 0.05] = 0
    return values


def gguf_blocks(kind, n, k, seed=0):
    """Raw bytes [N, blocks a row, bytes of a block], with any codes and metadata of every magnitude."""
    rng = np.random.default_rng(seed)
    weights, size = NBYTES[kind]
    blocks = rng.integers(0, 256, (n, k // weights, size), dtype=np.uint8)
    for at in HALVES.get(kind, (0,)):
        blocks[..., at : at + 2] = halves(rng, n * (k // weights)).view(np.uint8).reshape(n, -1, 2)
    return blocks


def half(block, at):
    return np.float32(block[at : at + 2].view(np.float16)[0])


def nibbles(run):
    return np.concatenate([run & 15, run >> 4]).astype(np.float32)


def decode_q4_0(block):
    return (nibbles(block[2:]) - np.float32(8)) * half(block, 0)


def decode_q4_1(block):
    return nibbles(block[4:]) * half(block, 0) + half(block, 2)


def decode_q8_0(block):
    return block[2:].view(np.int8).astype(np.float32) * half(block, 0)


def fifth_bits(block, at):
    """16 times the bits of a little-endian 32-bit number at byte `at`: those of the first code, the second, ..."""
    word = int.from_bytes(block[at : at + 4].tobytes(), "little")
    return np.array([16 * (word >> j & 1) for j in range(32)], np.float32)


def decode_q5_0(block):
    return (nibbles(block[6:]) + fifth_bits(block, 2) - np.float32(16)) * half(block, 0)


def decode_q5_1(block):
    return (nibbles(block[8:]) + fifth_bits(block, 4)) * half(block, 0) + half(block, 2)


def decode_q4_k(block):
    return decode_k(block, block[16:].reshape(4, 32), np.zeros(32, np.uint8))


def decode_q5_k(block):
    return decode_k(block, block[48:].reshape(4, 32), block[16:48])


def decode_k(block, runs, fifth):
    """Eight times 32 weights; the 6-bit codes of the last four stand in spare bits of the others.

    Bit j of the bytes `fifth` is the fifth bit of the codes of the j-th 32.
    """
    packed, out = block[4:16], []
    for j in range(8):
        if j < 4:
            scale, minimum = packed[j] & 63, packed[j + 4] & 63
        else:
            scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4)
            minimum = (packed[j + 4] >> 4) | (packed[j] >> 6 << 4)
        codes = ((runs[j // 2] >> (4 * (j % 2)) & 15) + 16 * (fifth >> j & 1)).astype(np.float32)
        out.append(half(block, 0) * np.float32(scale) * codes - half(block, 2) * np.float32(minimum))
    return np.concatenate(out)


def decode_q6_k(block):
    """Weight by weight: 128 share 64 bytes of nibbles and 32 bytes, whose four pairs of bits are of every 32nd."""
    out = np.empty(256, np.float32)
    for i in range(256):
        upper, j = divmod(i, 128)
        nibble = int(block[64 * upper + j % 64]) >> (4 if j >= 64 else 0) & 15
        pair = int(block[128 + 32 * upper + j % 32]) >> (2 * (j // 32)) & 3
        scale = np.float32(block[192 + i // 16].view(np.int8))
        out[i] = half(block, 208) * scale * np.float32((nibble | pair << 4) - 32)
    return out


DECODE = {
    "Q4_0": decode_q4_0, "Q4_1": decode_q4_1, "Q5_0": decode_q5_0, "Q5_1": decode_q5_1, "Q8_0": decode_q8_0,
    "Q4_K": decode_q4_k, "Q5_K": decode_q5_k, "Q6_K": decode_q6_k,
}  # fmt: skip


def decoded(kind, blocks):
    rows = [np.concatenate([DECODE[kind](block) for block in row]) for row in blocks]
    return torch.from_numpy(np.stack(rows))


def same_bits(a, b):
    return a.dtype == b.dtype == torch.float32 and torch.equal(a.view(torch.int32), b.view(torch.int32))


def shapes_of(kind):
    return [(n, k) for n, k in [*SHAPES, (3, 512)] if k % NBYTES[kind][0] == 0]


@pytest.mark.parametrize("kind", GGUF)
def test_gguf_blocks_decode_bit_for_bit(kind):
    for n, k in shapes_of(kind):
        blocks = gguf_blocks(kind, n, k)
        expected = decoded(kind, blocks)
        w = bs.from_gguf(torch.from_numpy(blocks).flatten(), kind, (n, k))
        assert tuple(w.shape) == (n, k) and w.dtype == torch.float32
        assert same_bits(w.dequantize(), expected)
        assert same_bits(bs.from_gguf(blocks.tobytes(), (n, k), kind).dequantize(), expected)  # in either order
        odd = torch.from_numpy(np.concatenate([np.zeros(1, np.uint8), blocks.ravel()]))[1:]  # at an odd address
        assert same_bits(bs.from_gguf(odd, (n, k), kind).dequantize(), expected)


@pytest.mark.parametrize("kind", GGUF)
def test_the_kernel_makes_the_same_bits(device, kind):
    """Contracted or not: a code times its scale is exact in float32 wherever a minimum is added."""
    from blockskip.linear import prepared

    n, k = 5, 768
    blocks = gguf_blocks(kind, n, k)
    w, out = bs.from_gguf(torch.from_numpy(blocks), kind, (n, k)).to(device), torch.empty((n, k), device=device)
    one = prepared.prepare_dequantize(w, out)
    prepared.dequantize[one.grid](*one.arguments, **one.constants)
    assert same_bits(out.cpu(), decoded(kind, blocks))


@pytest.mark.parametrize("kind", GGUF)
def test_a_large_weight_is_decoded_in_parts(kind, monkeypatch):
    blocks = torch.from_numpy(gguf_blocks(kind, 137, 256))
    whole = bs.from_gguf(blocks, kind, (137, 256))
    monkeypatch.setattr(gguf, "QUANTIZE_ELEMENTS", 64 * 256)
    parts = bs.from_gguf(blocks, kind, (137, 256))
    assert all(
        torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip(whole.tensors, parts.tensors, strict=True)
    )


def test_gguf_keeps_what_it_is_given_in_float16():
    bits = {"Q4_0": 4.5, "Q4_1": 5.0, "Q5_0": 8.5, "Q5_1": 9.0, "Q8_0": 8.5}
    bits |= {"Q4_K": 4.625, "Q5_K": 8.625, "Q6_K": 8.5625}
    for kind, size in bits.items():
        blocks = gguf_blocks(kind, 4, 512)
        w = bs.from_gguf(torch.from_numpy(blocks), kind, (4, 512))
        assert w.bits_per_weight == size and w.group_size == (16 if kind == "Q6_K" else 32)
        assert w.bits == (4 if kind in ("Q4_0", "Q4_1", "Q4_K") else 8)
        assert f"| {kind} |" in bs.from_gguf.__doc__ and f", {size:g} |" in bs.from_gguf.__doc__
        step, at = w.scale if w.scale_step is None else w.scale_step, HALVES.get(kind, (0,))[0]
        given = torch.from_numpy(blocks[..., at : at + 2].copy()).view(torch.int16)[..., 0]
        assert step.dtype == torch.float16 and torch.equal(step.view(torch.int16), given)


def gentle(kind, n, k):
    """Blocks whose values are of the order of 1, so that a product's error can be judged."""
    blocks = gguf_blocks(kind, n, k, seed=3)
    rng = np.random.default_rng(4)
    coded = 30 if kind.endswith("_K") else 1  # how large the codes are that it is a step of
    for at in HALVES.get(kind, (0,)):
        size = 0.02 / coded if at != 2 else (0.1 / coded if kind.endswith("_K") else -0.1)
        values = (rng.uniform(0.5, 1.5, blocks.shape[:2]) * size).astype(np.float16)
        blocks[..., at : at + 2] = values.view(np.uint8).reshape(*blocks.shape[:2], 2)
    return torch.from_numpy(blocks)


def check_linear(w, rows, impl, device):
    """Against float64 products of what dequantizes, activations rounded as `linear` says for up to eight rows."""
    x = torch.randn((rows, w.shape[1]), generator=torch.Generator().manual_seed(rows))
    weight = w.dequantize(torch.float64)
    given = x.double()
    if rows <= 8:
        blocks = x.unflatten(1, (-1, 32))
        step = blocks.abs().amax(-1, keepdim=True) / 127
        given = ((blocks / step).round().double() * step.double()).flatten(1)
    # what is summed is a code's product and the offset's apart: their magnitudes bound the roundings of the sum
    spread = weight.abs() + 2 * magnitude(w)
    allowed = (w.shape[1] + 8) * torch.finfo(torch.float32).eps / 2 * (given.abs() @ spread.T)
    out = bs.linear(x.to(device), w.to(device), impl=impl)
    assert ((out.cpu().double() - given @ weight.T).abs() <= allowed).all()


def magnitude(w):
    """|offset| of each weight, float64 [N, K]; 0 where there is none."""
    if w.offset is None:
        return torch.zeros(w.shape, dtype=torch.float64)
    offset = w.offset.double()
    if w.minimum_step is not None:
        offset *= w.minimum_step.double().repeat_interleave(256 // w.group_size, 1)
    return offset.abs().repeat_interleave(w.group_size, 1)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("rows", [1, 3, 9])
@pytest.mark.parametrize("kind", GGUF)
def test_gguf_through_linear(device, kind, rows, impl):
    n, k = (11, 512) if kind.endswith("_K") else (11, 160)
    check_linear(bs.from_gguf(gentle(kind, n, k), kind, (n, k)), rows, impl, device)


def torchao(n, k, group_size, dtype=torch.bfloat16, seed=0):
    """Codes uint8 [N, K] from 0 to 15, scale and zero [K / group_size, N], and their float32 values."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (n, k), generator=generator, dtype=torch.uint8)
    scale = (torch.rand((k // group_size, n), generator=generator) * 0.02 + 0.01).to(dtype)
    zero = torch.randn((k // group_size, n), generator=generator).to(dtype)
    per_weight = [t.float().T.repeat_interleave(group_size, 1) for t in (scale, zero)]
    return codes, scale, zero, (codes.float() - 8) * per_weight[0] + per_weight[1]


def int4_packed(codes):
    """As FBGEMM's pack_int4 does it for torchao: signed nibbles, the low one first."""
    signed = codes.to(torch.int8) - 8
    return (signed[:, ::2] & 15) | (signed[:, 1::2] << 4)


def tinygemm_packed(codes):
    return codes[:, ::2] << 4 | codes[:, 1::2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("n", "k", "group_size"), [(1, 32, 32), (7, 192, 64), (13, 256, 128), (5, 512, 256), (3, 384, 384)]
)
def test_torchao_decodes_bit_for_bit(n, k, group_size, dtype):
    codes, scale, zero, expected = torchao(n, k, group_size, dtype)
    for packed, packing in ((int4_packed(codes), "int4"), (tinygemm_packed(codes), "tinygemm")):
        w = bs.from_torchao(packed, scale, zero, packing=packing)
        assert tuple(w.shape) == (n, k) and w.dtype == dtype and w.group_size == min(group_size, 128)
        assert torch.equal(w.codes(), codes)
        assert same_bits(w.dequantize(torch.float32), expected)
    symmetric = bs.from_torchao(int4_packed(codes), scale)
    assert symmetric.symmetric and torch.equal(
        symmetric.dequantize(torch.float32),
        bs.from_torchao(int4_packed(codes), scale, torch.zeros_like(scale)).dequantize(torch.float32),
    )


def test_tinygemm_means_what_torch_s_own_product_computes():
    codes, scale, zero, _ = torchao(32, 64, 32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 2)
    scales_and_zeros = torch.stack([scale, zero], -1)
    eye = torch.eye(64, dtype=torch.bfloat16)
    out = torch.ops.aten._weight_int4pack_mm_for_cpu(eye, packed, 32, scales_and_zeros)
    w = bs.from_torchao(tinygemm_packed(codes), scales_and_zeros[..., 0], scales_and_zeros[..., 1], packing="tinygemm")
    assert torch.equal(out.T, w.dequantize())


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("rows", [1, 3, 9])
def test_torchao_through_linear(device, rows, impl):
    codes, scale, zero, _ = torchao(11, 384, 128)
    check_linear(bs.from_torchao(int4_packed(codes), scale, zero), rows, impl, device)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"kind": "Q3_K"},
            ValueError,
            "kind: given 'Q3_K'; allowed are Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K",
        ),
        ({"shape": (2, 80)}, ValueError, "shape: given K 80; must be a multiple of 32, Q4_0's block"),
        ({"shape": (2, 128), "kind": "Q4_K"}, ValueError, "given K 128; must be a multiple of 256"),
        ({"shape": (64,)}, ValueError, r"shape: given \(64,\)"),
        ({"shape": (0, 64)}, ValueError, r"shape: given \(0, 64\)"),
        ({"shape": (3, 64)}, ValueError, "data: given 72 bytes; 108 are needed for 3x64 in Q4_0"),
        ({"data": b""}, ValueError, "data: given 0 bytes; 72 are needed"),
        ({"data": torch.zeros(72)}, TypeError, r"data: given torch\.float32"),
        ({"data": [0] * 72}, TypeError, "data: given list"),
    ],
)
def test_errors_of_gguf(change, error, message):
    with pytest.raises(error, match=message):
        bs.from_gguf(**{"data": bytes(72), "shape": (2, 64), "kind": "Q4_0", **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"packing": "tile_packed_to_4d"},
            ValueError,
            "packing: given 'tile_packed_to_4d'; allowed are int4, tinygemm",
        ),
        (
            {"packing": "tinygemm"},
            TypeError,
            r"qdata: given torch\.int8; torch\.uint8 is needed for packing='tinygemm'",
        ),
        ({"qdata": torch.zeros(4, 64)}, TypeError, r"qdata: given torch\.float32; torch\.int8"),
        ({"qdata": torch.zeros(1, 2, 16, 4, dtype=torch.int8)}, ValueError, r"qdata: given shape \(1, 2, 16, 4\)"),
        ({"qdata": [1]}, TypeError, "qdata: given list"),
        ({"scale": torch.ones(4, 2)}, ValueError, r"scale: given shape \(4, 2\); \[K / group_size, N\] of K 128, N 4"),
        ({"scale": torch.ones(8, 4)}, ValueError, r"scale: given shape \(8, 4\).*32, 64 or a multiple of 128"),
        ({"scale": torch.ones(3, 4)}, ValueError, r"scale: given shape \(3, 4\)"),
        ({"scale": torch.ones(4)}, ValueError, r"scale: given shape \(4,\)"),
        ({"scale": torch.ones(2, 4, dtype=torch.int8)}, TypeError, r"scale: given torch\.int8; a float dtype"),
        (
            {"zero_point": torch.ones(2, 4, dtype=torch.int8)},
            TypeError,
            r"zero_point: given torch\.int8; a float dtype",
        ),
        ({"zero_point": torch.ones(4, 4)}, ValueError, r"zero_point: given shape \(4, 4\); must be scale's \(2, 4\)"),
        ({"zero_point": 8}, TypeError, "zero_point: given int"),
    ],
)
def test_errors_of_torchao(change, error, message):
    given = {"qdata": torch.zeros(4, 64, dtype=torch.int8), "scale": torch.ones(2, 4), "zero_point": torch.ones(2, 4)}
    with pytest.raises(error, match=message):
        bs.from_torchao(**{**given, **change})
