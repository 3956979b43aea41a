"""Every public argument, given what it is not: TypeError or ValueError, which names it. One helper checks them all."""

import inspect
import math
from fractions import Fraction

import blockskip as bs
import numpy as np
import pytest
import torch
from blockskip.arguments import choice, flag, integer, number

Q, K, V = (torch.zeros(1, heads, 16, 16) for heads in (4, 2, 2))
PACKED, CU = (Q[0].transpose(0, 1), K[0].transpose(0, 1)), torch.tensor([0, 5, 16], dtype=torch.int32)
X, W = torch.zeros(2, 256), bs.quantize(torch.ones(8, 256))
MAP = bs.TileMap.build(bs.causal(), 16, 16, 8, 8)
TORCHAO = torch.zeros((8, 32), dtype=torch.int8), torch.ones(2, 8)
GGUF = torch.zeros((8, 2, 18), dtype=torch.uint8)
LINEAR = torch.nn.Linear(256, 8)

NO_INTS = [True, 1.0, 1.5, "1", [1], torch.tensor(True), torch.tensor(1.0), torch.tensor([1, 1]), np.bool_(True)]
NO_INTS += [np.float32(1), math.nan, 2**70, -(2**70), 10**5000, 1j, object()]
NO_INDICES = [x for x in NO_INTS if not isinstance(x, torch.Tensor) or not x.ndim]  # a tensor of several ints is one
NO_NUMBERS = [True, "1", [1.0], 1j, torch.tensor(1.0), np.bool_(True), math.nan, math.inf, -math.inf, 10**400, object()]
NO_SCALES = [*NO_NUMBERS, 1e300, -1e39, 2.36e38]  # float32 does not hold them times log2 e
NO_FLAGS = [1, 0, "yes", None, torch.tensor(True), 1.0]
NO_WORDS = [1, None, "", "auto ", ["auto"], b"auto", torch.tensor([1, 2]), {}, "~" * 3000]
NO_TENSORS = [1, "q", [[1.0]], np.zeros((1, 4, 16, 16), np.float32), {}]
NONE = [None]
NO_LENGTHS = [
    5,
    None,
    "12",
    b"12",
    {1: 2},
    (),
    [0],
    [1.5],
    [True],
    [None],
    [2**70],
    [2**59, 2**59],
    (x for x in (1, 2)),
]
NO_LENGTHS += [torch.tensor([1.0]), torch.tensor([True]), torch.tensor([[1, 2]]), np.array([1.5])]
NO_SPECS = [5, None, b"causal()", [], ("causal()",), ("causal()", 5), (5, []), "", "\0", "causal", "causal(1)"]
NO_SPECS += ["~" * 3000 + "causal()", "(" * 3000 + "causal()" + ")" * 3000, "causal() & " * 30000 + "causal()"]
NO_SPECS += ["sliding_window(2.5)", "band(True, 0)", f"sliding_window({2**70})", "sliding_window(" + "9" * 5000 + ")"]
NO_SPECS += ["document(5)", "dense(0)", "__import__('os')", "document([1] * 10**9)", f"document({[0] * 5000})"]


def each(names, values):
    return {name: values for name in names}  # noqa: C420, the values are lists


def attend(**changed):
    return bs.attention(**{"q": Q, "k": K, "v": V, **changed})


def explain(**changed):
    return bs.explain(**{"q": Q, "k": K, "v": V, **changed})


def decode(**changed):
    return bs.decode(**{"q": Q[:, :, :2], "k": K, "v": V, **changed})


def explain_decode(**changed):
    return bs.explain_decode(**{"q": Q[:, :, :2], "k": K, "v": V, **changed})


def varlen(**changed):
    return bs.attention_varlen(**{"q": PACKED[0], "k": PACKED[1], "v": PACKED[1], "cu_seqlens_q": CU, **changed})


def explain_varlen(**changed):
    return bs.explain_varlen(**{"q": PACKED[0], "k": PACKED[1], "v": PACKED[1], "cu_seqlens_q": CU, **changed})


def sdpa(**changed):
    return bs.scaled_dot_product_attention(**{"query": Q, "key": K, "value": V, "enable_gqa": True, **changed})


def linear(**changed):
    return bs.linear(**{"x": X, "w": W, **changed})


def explain_linear(**changed):
    return bs.explain_linear(**{"x": X, "w": W, **changed})


def tilemap(**changed):
    return bs.TileMap.build(**{"mask": bs.causal(), "q_len": 16, "kv_len": 16, **changed})


def work(**changed):
    sizes = {"tilemap": MAP, "batch": 1, "q_heads": 2, "kv_heads": 2, "head_dim": 16, "element_bytes": 2}
    return bs.attention_work(**{**sizes, **changed})


def config(**changed):
    return bs.TileConfig(**{"block_m": 64, "block_n": 64, "num_warps": 4, "num_stages": 2, **changed})


def weight(**changed):
    return bs.QuantizedWeight(**{"data": W.data, "scale": W.scale, "zero": W.zero, "dtype": torch.float32, **changed})


def rounded(**changed):
    values, scales = torch.zeros(2, 64, dtype=torch.int8), torch.zeros(2, 2)
    return bs.RoundedActivations(**{"values": values, "scales": scales, "dtype": torch.float32, **changed})


def keep(**changed):
    return bs.causal().keep(**{"q_pos": 3, "k_pos": 2, **changed})


def dense(**changed):
    return bs.causal().dense(**{"q_len": 4, "kv_len": 4, **changed})


def band(**changed):
    return bs.band(**{"left": 1, "right": 0, **changed})


def band_itself(**changed):
    return bs.Band(**{"left": 1, "right": 0, **changed})


def gguf(**changed):
    return bs.from_gguf(**{"data": GGUF, "kind": "Q4_0", "shape": (8, 64), **changed})


def torchao(**changed):
    return bs.from_torchao(**{"qdata": TORCHAO[0], "scale": TORCHAO[1], **changed})


def module(**changed):
    return bs.QuantizedLinear(**{"w": W, **changed})


def swap(**changed):
    return bs.quantize_(**{"module": LINEAR, **changed})


def quantize_kv(**changed):
    return bs.quantize_kv(**{"x": K, **changed})


def quantize(**changed):
    return bs.quantize(**{"weight": torch.ones(8, 256), **changed})


ATTENTION = {
    **each(("q", "k", "v"), NO_TENSORS + NONE),
    "mask": [1, "causal()", Q, lambda *args: True],
    "scale": NO_SCALES,
    "q_start": NO_INTS,
    "kv_len": [*NO_INTS, 0, 17],
    **each(("skip", "impl", "route"), NO_WORDS),
    "config": [1, "64", (64, 64, 4), (64.0, 64, 4, 2), (64, 64, True, 2), [64, 64, 4, "2"]],
    **each(("return_lse", "record", "ring"), NO_FLAGS),
    "sinks": [*NO_TENSORS, torch.zeros(3), torch.zeros(1, 4), torch.zeros(4).half(), torch.zeros(4, dtype=torch.int32)],
    "softcap": [*NO_NUMBERS, 0, -1.0, 1e-45, 1e39],
    **each(("k_scale", "v_scale"), [*NO_TENSORS, *NO_NUMBERS, 1.0, torch.ones(2)]),  # K is no float8
    "kv_start": [*NO_TENSORS, torch.zeros(3, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)],
}
DECODE_TOO = (
    "q",
    "k",
    "v",
    "kv_len",
    "scale",
    "impl",
    "return_lse",
    "ring",
    "sinks",
    "softcap",
    "kv_start",
    "k_scale",
    "v_scale",
)
DECODE = {
    **{name: ATTENTION[name] for name in DECODE_TOO},
    "window": [*NO_INTS, 0],
    "splits": [*NO_INTS, 0, "most", None],
}
NO_CU = [*NO_TENSORS, CU.long(), CU.float(), CU[:1], CU[None], torch.tensor(3, dtype=torch.int32), CU.to("meta")]
VARLEN = {
    **{name: ATTENTION[name] for name in ("q", "k", "v", "scale", "impl", "config", "return_lse", "sinks", "softcap")},
    "mask": [*ATTENTION["mask"], bs.sink(3), bs.chunked(4)],
    "cu_seqlens_q": [*NO_CU, None],
    "cu_seqlens_k": [*NO_CU, CU[:2]],
    **each(("max_seqlen_q", "max_seqlen_k"), [*NO_INTS, 0, -1]),
}
LINEAR_CALL = {
    "x": NO_TENSORS + NONE,
    "w": [*NO_TENSORS, None, X],
    "bias": NO_TENSORS,
    "impl": NO_WORDS,
    "route": NO_WORDS,
    "activations": NO_WORDS,
}
COUNTS = [*NO_INTS, 0, -1, None]
QUANTIZE = {"bits": [*NO_INTS, 5, None], "group_size": [*NO_INTS, 48, None], "metadata": NO_WORDS}
CALLS = {
    attend: ATTENTION,
    explain: ATTENTION,
    decode: DECODE,
    explain_decode: DECODE,
    varlen: VARLEN,
    explain_varlen: VARLEN,
    sdpa: {
        **each(("query", "key", "value"), NO_TENSORS + NONE),
        "attn_mask": NO_TENSORS,
        "dropout_p": [*NO_NUMBERS, 0.5],
        "scale": NO_SCALES,
        **each(("is_causal", "enable_gqa"), NO_FLAGS),
    },
    linear: LINEAR_CALL,
    explain_linear: LINEAR_CALL,
    tilemap: {
        "mask": [1, None, "causal()", [], Q],
        **each(("q_len", "kv_len", "block_m", "block_n"), COUNTS),
        "q_start": NO_INTS,
        **each(("batch", "head"), [*NO_INTS, -1, None]),
    },
    work: {
        "tilemap": [1, None, bs.causal()],
        **each(("batch", "q_heads", "kv_heads", "head_dim", "element_bytes"), COUNTS),
        "skip": NO_WORDS,
    },
    config: each(("block_m", "block_n", "num_warps", "num_stages"), [*NO_INTS, 0, 48, None, 64.0]),
    weight: {
        "data": NO_TENSORS + NONE,
        "scale": NO_TENSORS + NONE,
        **each(("zero", "minimum", "middle", "scale_step", "minimum_step"), NO_TENSORS),
        "dtype": [1, None, "float32", float, torch.int8, torch.complex64],
    },
    W.dequantize: {"dtype": [1, "float32", float, torch.int8, torch.bool, torch.complex64]},
    W.error: {"weight": NO_TENSORS + NONE},
    keep: each(("q_pos", "k_pos", "batch", "head", "q_row"), NO_INDICES),
    dense: {
        **each(("q_len", "kv_len"), [*NO_INTS, -1, None]),
        **each(("batch", "head"), NO_INDICES),
        "q_start": NO_INTS,
    },
    bs.causal().mod: {"q_start": NO_INTS},
    band: {"left": NO_INTS, "right": NO_INTS},
    band_itself: {"left": NO_INTS, "right": NO_INTS},
    bs.sliding_window: {"window": COUNTS},
    bs.prefix_lm: {"prefix": [*NO_INTS, -1, None]},
    bs.sink: {"count": [*NO_INTS, -1, None]},
    bs.chunked: {"size": COUNTS},
    bs.dilated: {"stride": COUNTS},
    bs.document: {"lengths": NO_LENGTHS},
    bs.dense: {"tensor": [*NO_TENSORS, None, torch.zeros(4, 4), torch.zeros(4, dtype=torch.bool)]},
    bs.mask_mod: {"fn": [None, 1, "f"]},
    bs.Mask.from_spec: {"spec": NO_SPECS},
    quantize: {"weight": [*NO_TENSORS, None, torch.ones(8, 256).double()], **QUANTIZE, "symmetric": NO_FLAGS},
    quantize_kv: {
        "x": [*NO_TENSORS, None, torch.ones(2, 3), K.double(), K.int()],
        "scale": [*NO_TENSORS, 1.0, torch.ones(5), torch.ones(1, 1), torch.ones(()).half()],
    },
    swap: {"module": [1, None, LINEAR.weight], **QUANTIZE, "select": [1, "all", []], "activations": NO_WORDS},
    module: {
        "w": [*NO_TENSORS, None, X],
        "bias": [*NO_TENSORS, torch.ones(8).int(), torch.ones(9)],
        "activations": NO_WORDS,
    },
    bs.round_activations: {"x": [*NO_TENSORS, None, torch.ones(2, 33), torch.ones(2, 64).int(), torch.tensor(1.0)]},
    rounded: {
        "values": [*NO_TENSORS, None, torch.ones(2, 64), torch.ones(2, 33).to(torch.int8)],
        "scales": [*NO_TENSORS, None, torch.ones(2, 3), torch.ones(2, 2).half(), torch.ones(2, 4)[:, ::2]],
        "dtype": [1, None, "float32", float, torch.int8, torch.complex64],
    },
    gguf: {
        "data": [1, "q", None, [1], torch.zeros(8), b""],
        "shape": [8, None, "88", (8,), (8.0, 64), (8, 64, 1), (True, 64), (0, 64), (8, 2**70), torch.Size((8, 65))],
        "kind": NO_WORDS,
    },
    bs.open_gguf: {"path": [1, None, ["a"], b"model.gguf"]},
    torchao: {"qdata": NO_TENSORS + NONE, "scale": NO_TENSORS + NONE, "zero_point": NO_TENSORS, "packing": NO_WORDS},
}
CASES = [(call, name) for call, arguments in CALLS.items() for name in arguments]


@pytest.mark.parametrize(("call", "name"), CASES, ids=lambda x: x if isinstance(x, str) else x.__qualname__)
def test_what_an_argument_is_not_is_refused_by_name(call, name):
    for value in CALLS[call][name]:
        with pytest.raises((TypeError, ValueError)) as caught:
            call(**{name: value})
        message = str(caught.value)
        assert name in message, f"{type(value)}: {message}"
        assert len(message) < 1000, message[:200]


def test_every_argument_of_every_public_call_is_in_the_table():
    makers = {
        bs.attention: attend, bs.explain: explain, bs.decode: decode, bs.explain_decode: explain_decode,
        bs.attention_varlen: varlen, bs.explain_varlen: explain_varlen,
        bs.scaled_dot_product_attention: sdpa, bs.linear: linear, bs.explain_linear: explain_linear,
        bs.TileMap.build: tilemap, bs.attention_work: work, bs.TileConfig: config, bs.QuantizedWeight: weight,
        bs.quantize: quantize, bs.quantize_: swap, bs.QuantizedLinear: module, bs.from_gguf: gguf,
        bs.from_torchao: torchao, bs.band: band, bs.Band: band_itself,
        bs.RoundedActivations: rounded, bs.quantize_kv: quantize_kv,
    }  # fmt: skip
    results = {
        "Mask",
        "TileMap",
        "Work",
        "causal",
        "GGUFFile",
        "GGUFTensor",
    }  # made by other calls, or without an argument
    for name in set(bs.__all__) - results - {"__version__"}:
        call = getattr(bs, name)
        wanted = set(inspect.signature(call).parameters)
        assert wanted == set(CALLS[makers.get(call, call)]), name


def test_numbers_of_numpy_and_torch_are_numbers():
    for kind in (np.int64, np.int8, np.uint32, torch.tensor):
        assert bs.sliding_window(kind(7)) == bs.sliding_window(7) and type(bs.sliding_window(kind(7)).left) is int
        assert type(bs.TileConfig(kind(64), 64, 4, 2).block_m) is int
    expected = bs.attention(Q + 1, K + 1, V, scale=0.5)
    for scale in (np.float32(0.5), np.float16(0.5), np.float64(0.5), Fraction(1, 2)):
        assert torch.equal(bs.attention(Q + 1, K + 1, V, scale=scale), expected)
        assert bs.decode(Q[:, :, :1], K, V, scale=scale).shape == (1, 4, 1, 16)
        assert bs.scaled_dot_product_attention(Q, K, V, scale=scale, enable_gqa=True).shape == Q.shape
    assert bs.document(np.array([3, 4])) == bs.document(torch.tensor([3, 4])) == bs.document((3, 4))
    assert bs.document(torch.tensor(3)) == bs.document([3])


def test_large_limits_that_fit_are_no_limits():
    for window in (2**31, 2**40, 2**60 - 1):
        assert torch.equal(bs.attention(Q, K, V, bs.sliding_window(window)), bs.attention(Q, K, V, bs.causal()))
        assert torch.equal(bs.decode(Q[:, :, :2], K, V, window=window), bs.decode(Q[:, :, :2], K, V))
        assert bs.TileMap.build(bs.sliding_window(window), 16, 16).kept_pairs == 16 * 17 // 2
        assert bs.TileMap.build(bs.chunked(window) | bs.band(-3, window), 16, 16).kept_pairs == 256


def test_a_tile_map_is_not_found_by_a_number_that_only_equals_its_own():
    tilemap = bs.TileMap.build(bs.causal(), 16, 16, 8, 8)
    assert bs.TileMap.build(bs.causal(), 16, 16, 8, 8) is tilemap
    with pytest.raises(TypeError, match=r"block_m: given 8\.0"):
        bs.TileMap.build(bs.causal(), 16, 16, 8.0, 8)
    with pytest.raises(TypeError, match="row: given True"):
        MAP.tile(True, 0)
    with pytest.raises(TypeError, match="block: given 8"):
        MAP.to_block_mask(8)


def test_the_checks_themselves():
    assert integer("n", np.int16(-3)) == -3 and type(number("x", 2)) is float
    assert flag("f", False) is False and choice("c", np.int64(4), (4, 8)) == 4 and choice("c", "a", ("a",)) == "a"
    with pytest.raises(ValueError, match=r"n: given an int of 16610 bits; must be at most 3"):
        integer("n", 10**5000, most=3)
    with pytest.raises(ValueError, match=r"n: given 1152921504606846976; its size must be below 2\*\*60"):
        integer("n", 2**60)
    with pytest.raises(TypeError, match=r"n: given tensor\(True\); an int is needed"):
        integer("n", torch.tensor(True))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("metadata", ["bfloat16", "uint8"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_weight_that_would_come_back_as_infinity_is_refused(bits, symmetric, metadata, dtype):
    largest = torch.finfo(dtype).max
    weight = torch.randn((3, 256), generator=torch.Generator().manual_seed(0)).to(dtype)
    for factor, edge in ((0.5, 1), (1.0, 1), (1.0, -1)):
        some = weight.clone()
        some[1, 7] = edge * factor * largest
        try:
            back = bs.quantize(some, bits, symmetric=symmetric, metadata=metadata).dequantize()
        except ValueError as error:
            assert factor == 1 or "steps end at" in str(error)
            assert "come back from int" in str(error) or "steps end at" in str(error)
        else:
            assert back.isfinite().all()
    with pytest.raises(
        ValueError, match=r"weight: holds magnitudes up to 65504, which come back from int4 as infinity"
    ):
        bs.quantize(torch.full((1, 256), 65504.0).half(), metadata=metadata, symmetric=symmetric)
    assert bs.quantize(torch.full((1, 256), 65504.0), metadata=metadata).dequantize().isfinite().all()
