"""Whole GGUF files: what is read of a good one, and that a bad one is refused before anything of it is believed."""

import struct
from dataclasses import replace

import blockskip as bs
import numpy as np
import pytest
import torch
from blockskip.linear.gguf.header import read_header
from gguf_files import ENTRIES, KINDS, File, Tensor, array, entry, string


def blocks(kind, *shape, seed=0):
    _, weights, nbytes = KINDS[kind]
    count = int(np.prod(shape)) // weights * nbytes
    return np.random.default_rng(seed).integers(0, 60, count, dtype=np.uint8).tobytes()


def tensor(name, kind, *shape):
    return Tensor(name, shape, kind, blocks(kind, *shape))


MIXED = [
    tensor("token_embd.weight", "Q6_K", 7, 512),
    tensor("output_norm.weight", "F32", 512),
    tensor("blk.0.attn_q.weight", "Q4_K", 64, 256),
    tensor("blk.0.attn_k.weight", "Q5_0", 3, 96),
    tensor("blk.0.attn_v.weight", "Q8_0", 3, 96),
    tensor("blk.0.scale", "F16", 3, 5),
    tensor("blk.0.experts", "Q4_0", 4, 3, 64),
    tensor("blk.0.bias", "BF16", 2, 3, 1, 5),
    tensor("rope.index", "I64", 3),
    tensor("one", "I8"),
    tensor("other", "Q3_K", 1, 256),
]


def write(tmp_path, file):
    path = tmp_path / "model.gguf"
    path.write_bytes(file if isinstance(file, bytes) else file.bytes())
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [None, 1, 64, 4096])
def test_a_file_of_mixed_types_is_read_whole(tmp_path, version, alignment):
    more = () if alignment is None else (entry("general.alignment", 4, struct.pack("<I", alignment)),)
    path = write(tmp_path, File(MIXED, ENTRIES + more, version=version, alignment=alignment or 32))
    file = bs.open_gguf(path)
    assert file.version == version and file.path == path
    assert [(t.name, t.kind, t.shape, t.nbytes) for t in file.tensors.values()] == [
        (t.name, t.kind, t.shape, len(t.data)) for t in MIXED
    ]
    for t in MIXED[:-1]:
        found = file.load(t.name)
        if t.kind in ("F32", "F16", "BF16", "I64", "I8"):
            dtype = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I8": "int8"}[t.kind]
            assert found.dtype == getattr(torch, dtype) and tuple(found.shape) == t.shape
            assert found.flatten().view(torch.uint8).numpy().tobytes() == t.data
        elif t.name == "blk.0.experts":
            size = len(t.data) // 4
            assert len(found) == 4
            for i, expert in enumerate(found):
                assert_same(expert, bs.from_gguf(t.data[i * size : (i + 1) * size], t.kind, t.shape[1:]))
        else:
            assert_same(found, bs.from_gguf(t.data, t.kind, t.shape))


def assert_same(a, b):
    assert a.named_tensors().keys() == b.named_tensors().keys()
    assert all(torch.equal(s.view(torch.uint8), t.view(torch.uint8)) for s, t in zip(a.tensors, b.tensors, strict=True))


def test_metadata_keeps_every_type(tmp_path):
    found = bs.open_gguf(write(tmp_path, File(MIXED))).metadata
    scores, flags = found.pop("scores"), found.pop("flags")
    assert found == {
        "general.architecture": "gemma3", "block_count": 62, "eps": 0.5, "large": 2**63, "negative": -3, "double": 0.1,
        "yes": True, "tokens": ["<s>", "", "\udce2\udc96"],
    }  # fmt: skip
    assert type(found["yes"]) is bool and type(found["block_count"]) is int and type(found["eps"]) is float
    assert found["tokens"][2].encode("utf-8", "surrogateescape") == b"\xe2\x96"
    assert scores.dtype == np.float32 and scores.tolist() == [1.5, -2.0]
    assert flags.dtype == np.bool_ and flags.tolist() == [True, False, True]


def test_what_is_loaded_owns_its_memory(tmp_path):
    path = write(tmp_path, File(MIXED))
    before = path.read_bytes()
    file = bs.open_gguf(str(path))
    norm, weight = file.load("output_norm.weight"), file.load("blk.0.attn_v.weight")
    norm.zero_(), weight.data.zero_(), weight.scale.zero_()
    assert path.read_bytes() == before
    assert file.load("output_norm.weight").any() and file.load("blk.0.attn_v.weight").data.any()


def test_a_product_with_what_is_loaded(tmp_path, device):
    file = bs.open_gguf(write(tmp_path, File(MIXED)))
    for name in ("token_embd.weight", "blk.0.attn_q.weight"):
        w = file.load(name).to(device)
        x = torch.ones(9, w.shape[1], device=device)
        torch.testing.assert_close(bs.linear(x, w), x @ w.dequantize().T)


def test_a_file_without_tensors_or_metadata(tmp_path):
    file = bs.open_gguf(write(tmp_path, File([], (), alignment=1)))
    assert file.tensors == {} and file.metadata == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blk.0.attn_q", "name: given 'blk.0.attn_q'; must be one of the 12 names"),
        (3, "name: given 3; must be one of the 12 names"),
        ("other", "name: tensor 'other' is Q3_K, which is not read; allowed are Q4_0, .*Q6_K"),
        ("flat", r"name: tensor 'flat' is Q4_0 \[32\]; a quantised one needs \[N, K\]"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, name, message):
    file = bs.open_gguf(write(tmp_path, File([*MIXED, tensor("flat", "Q4_0", 32)])))
    with pytest.raises(ValueError, match=message):
        file.load(name)


SMALL = [tensor("a", "Q4_0", 2, 32), tensor("b", "F32", 3)]
HUGE = 2**63
WRONG = {
    "magic": (File(SMALL, magic=b"GGML"), "magic: found b'GGML'; b'GGUF' is needed"),
    "version 1": (File(SMALL, version=1), "version: found 1; allowed are 2, 3, little-endian"),
    "version 4": (File(SMALL, version=4), "version: found 4; allowed"),
    "big-endian": (File(SMALL, version=3 << 24), "version: found 50331648, the file is big-endian; allowed"),
    "tensor count": (File(SMALL, tensor_count=HUGE), "tensor count: needs at least"),
    "one tensor too many": (File(SMALL[:1], (), tensor_count=2), "tensor 1: needs at least"),
    "metadata count": (File(SMALL, entry_count=HUGE), "metadata count: needs at least"),
    "length of a key": (File(SMALL, (struct.pack("<Q", HUGE),) * 9), "key of metadata entry 0: needs at least 92233"),
    "length of a text": (
        File(SMALL, (string("k") + struct.pack("<IQ", 8, HUGE),)),
        "metadata 'k': needs at least 9223372036854775808 bytes at byte",
    ),
    "length of an array": (File(SMALL, (entry("k", 9, array(12, HUGE, b"")),)), "metadata 'k': needs at least"),
    "length of an array of texts": (File(SMALL, (entry("k", 9, array(8, HUGE, b"")),)), "metadata 'k': needs"),
    "length of an array of bools": (File(SMALL, (entry("k", 9, array(7, HUGE, b"")),)), "metadata 'k': needs"),
    "an array of arrays": (File(SMALL, (entry("k", 9, array(9, 1, b"")),)), "metadata 'k': found type 9; allowed"),
    "a type": (File(SMALL, (entry("k", 13, b""),)), "metadata 'k': found type 13; allowed are 0 to 12"),
    "a bool": (File(SMALL, (entry("k", 7, b"\2"),)), "metadata 'k': found 2 for a bool; 0 or 1 is needed"),
    "a key twice": (File(SMALL, ENTRIES[:1] * 2), "metadata 'general.architecture': stands twice"),
    "a key that is no text": (File(SMALL, (entry(b"\xff", 7, b"\1"),)), "key of metadata entry 0: is no UTF-8"),
    "alignment 0": (
        File(SMALL, (entry("general.alignment", 4, struct.pack("<I", 0)),)),
        "metadata 'general.alignment': found 0; a power of two is needed",
    ),
    "alignment 48": (File(SMALL, (entry("general.alignment", 4, struct.pack("<I", 48)),)), "found 48; a power of two"),
    "alignment as a text": (File(SMALL, (entry("general.alignment", 8, "32"),)), "found '32'; a power of two"),
    "alignment as a bool": (File(SMALL, (entry("general.alignment", 7, b"\1"),)), "found True; a power of two"),
    "an overlap": (
        File([SMALL[0], replace(SMALL[1], offset=32)]),
        r"tensor 'b': begins at byte \d+, inside tensor 'a', which ends at \d+; tensors must not overlap",
    ),
    "a name twice": (File([*SMALL, SMALL[0]]), "tensor 'a': stands twice; names must differ"),
}
TENSORS = {
    "dimensions": ({"dims": (1,) * 5}, "tensor 'a': found 5 dimensions; at most 4 are allowed"),
    "a dimension of 0": ({"dims": (32, 0)}, r"tensor 'a': found dimensions \[32, 0\]; each must be at least 1"),
    "half a block": ({"dims": (48, 2)}, r"tensor 'a': found dimensions \[48, 2\]; Q4_0 needs a multiple of 32 first"),
    "no dimension": ({"dims": ()}, r"tensor 'a': found dimensions \[\]; Q4_0 needs a multiple of 32 first"),
    "a huge dimension": ({"dims": (HUGE, 1)}, r"tensor 'a': Q4_0 \[1, 9223372036854775808\] needs bytes"),
    "dimensions that overflow 64 bits": ({"dims": (2**32, 2**32, 2**32, 2**32)}, "tensor 'a': Q4_0 .* needs bytes"),
    "dimensions whose product wraps to 0": ({"dims": (2**62, 8)}, "tensor 'a': Q4_0 .* needs bytes"),
    "one row too many": ({"dims": (32, 9)}, r"tensor 'a': Q4_0 \[9, 32\] needs bytes \d+ to \d+; the file has \d+"),
    "a kind": ({"number": 99}, r"tensor 'a': found kind 99; known are 0 \(F32\), .*14 \(Q6_K\)"),
    "a kind that was removed": ({"number": 4}, "tensor 'a': found kind 4; known are"),
    "an offset past the end": ({"offset": 4096}, "tensor 'a': Q4_0 .* needs bytes"),
    "a huge offset": ({"offset": HUGE}, "tensor 'a': Q4_0 .* needs bytes"),
    "an offset that wraps": ({"offset": 2**64 - 32}, "tensor 'a': Q4_0 .* needs bytes"),
    "an offset between": ({"offset": 8}, "tensor 'a': found offset 8; a multiple of the alignment 32 is needed"),
}
WRONG |= {what: (File([replace(SMALL[0], **change), SMALL[1]]), says) for what, (change, says) in TENSORS.items()}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_file_must_not_say(tmp_path, what):
    file, message = WRONG[what]
    path = write(tmp_path, file)
    with pytest.raises(ValueError, match=message) as caught:
        bs.open_gguf(path)
    assert str(caught.value).startswith(f"path: {path}: ") and len(str(caught.value)) < 1000


def test_a_file_cut_anywhere_is_refused(tmp_path):
    file = File(SMALL)
    whole = file.bytes()
    end = len(whole) - 32 + SMALL[1].shape[0] * 4  # what follows is padding
    for cut in range(end):
        with pytest.raises(ValueError, match=r"needs (at least \d+ )?bytes|magic: needs"):
            read_header(memoryview(whole[:cut]))
    assert list(bs.open_gguf(write(tmp_path, whole[:end])).tensors) == ["a", "b"]
    with pytest.raises(ValueError, match=r"path: .*: tensor 'b': F32 \[3\] needs bytes \d+ to \d+; the file has \d+"):
        bs.open_gguf(write(tmp_path, whole[: end - 1]))


def test_a_file_with_any_byte_changed_is_read_inside_its_bounds_or_refused():
    """Each byte of the header as 0, as 255, with its highest bit the other way, one more: all lengths among them."""
    file = File(SMALL)
    whole = file.bytes()
    opened = 0
    for at in range(file.header_bytes):
        for value in {0, 255, whole[at] ^ 128, whole[at] + 1 & 255} - {whole[at]}:
            changed = bytearray(whole)
            changed[at] = value
            try:
                found = read_header(memoryview(changed))
            except ValueError:
                continue
            opened += 1
            for t in found.tensors.values():
                assert t.start >= file.header_bytes - 8 and t.start + t.nbytes <= len(whole)
    assert opened > 0


def test_paths(tmp_path):
    empty = tmp_path / "empty.gguf"
    empty.touch()
    with pytest.raises(ValueError, match=r"path: .*empty.gguf: is empty; a GGUF file is needed"):
        bs.open_gguf(empty)
    with pytest.raises(FileNotFoundError):
        bs.open_gguf(tmp_path / "none.gguf")
    with pytest.raises(TypeError, match="path: given int; a str"):
        bs.open_gguf(3)
