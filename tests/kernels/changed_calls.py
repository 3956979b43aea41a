"""Calls of every operation, changed in one argument or two, and what they launch: for the tests of repeated calls."""

import itertools

import blockskip as bs
import torch
from blockskip.attention import eager
from blockskip.attention.decode import eager as decode_eager
from blockskip.attention.varlen import eager as varlen_eager
from blockskip.linear import eager as linear_eager


def draw(device, *shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def shifted(tensor):
    """The same values, strides and shape, 4 bytes off a multiple of 16."""
    flat = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    return flat[1:].view(tensor.shape).copy_(tensor)


def negated(tensor):
    """The negative of the values by a bit that torch looks at and a kernel does not; of the same strides."""
    view = torch._neg_view(tensor.clone())
    assert view.is_neg() and view.stride() == tensor.stride()
    return view


def rounded_on_cpu(tensor):
    """`round_activations` without a launch: tests put others in the place of launches."""
    rounded = bs.round_activations(tensor.cpu())
    return bs.RoundedActivations(rounded.values.to(tensor.device), rounded.scales.to(tensor.device), rounded.dtype)


def transposed(tensor):
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def sink_changes(device):
    """Values of `sinks` for four heads."""
    sinks = draw(device, 4)
    strided = sinks.repeat_interleave(2)[::2]
    return [sinks, strided, shifted(sinks), negated(sinks), sinks[:3], sinks.clone().requires_grad_()]


def start_changes(device):
    """Values of `kv_start` for two rows."""
    starts = torch.tensor([3, 0], dtype=torch.int32, device=device)
    return [starts, starts + 1, starts[0], starts.repeat_interleave(2)[::2], starts.long(), 3]


def scale_changes(device):
    """Values of `k_scale` and `v_scale` for two KV heads."""
    scales = draw(device, 2)
    strided = scales.repeat_interleave(2)[::2]
    return [None, scales, strided, scales[1], shifted(scales), negated(scales), scales[:1], scales.double(), 2.0, "2"]


def in_float8(make):
    """The same changes, one of each argument, of calls whose keys and values are float8."""

    def changes(device):
        first, changes = make(device)
        k, v = (first[name].to(torch.float8_e4m3fn) for name in ("k", "v"))
        scales = {"k_scale": scale_changes(device), "v_scale": scale_changes(device)}
        caches = {"k": [v, transposed(k), k.float()], "v": [k, v[..., :8]]}
        few = {name: values[:1] for name, values in changes.items()} | caches | scales
        return first | {"k": k, "v": v, "k_scale": scales["k_scale"][1]}, few

    return changes


def attention_changes(device):
    """Argument -> values that each make another call of the first one, in more than the data or only there."""
    q, k, v = (draw(device, 2, heads, n, 16, seed=heads + n) for heads, n in ((4, 10), (2, 20), (2, 20)))
    v = draw(device, 2, 2, 20, 16, seed=1)
    lengths = torch.tensor([7, 20], dtype=torch.int32, device=device)
    many = torch.ones(10, 20, dtype=torch.bool, device=device).tril(5)
    first = {"q": q, "k": k, "v": v, "mask": bs.sliding_window(6), "impl": "triton"}
    return first, {
        "q": [q + 1, shifted(q), transposed(q), q[:, :, :9], q[:, :2], q.half(), q.clone().requires_grad_()],
        "k": [k + 1, shifted(k), negated(k), transposed(k), k[:, :1].expand(-1, 2, -1, -1), k[:, :, :19], v, q],
        "v": [v + 1, shifted(v), transposed(v), k, v[:, :, :, :8]],
        "mask": [None, bs.causal(), bs.sliding_window(7), bs.sink(2), bs.sink(3), bs.dense(many), bs.dense(~many),
                 bs.mask_mod(lambda b, h, q, k: q >= k), bs.band(6, 2), "causal"],
        "scale": [1, 1.0, True, 0, -1.0, 0.5, "1"],
        "q_start": [0, False, 1, True, 10, 11, 1.0],
        "kv_len": [0, 1, True, 16, 17, 20, 21, "20", lengths, lengths - 1, lengths[0], lengths.long(),
                   lengths.repeat(2)[::2]],
        "skip": ["none", "mask", "map", "bounds", "fast"],
        "impl": ["tiled", "reference", "auto", "cuda"],
        "config": [(16, 16, 1, 1), bs.TileConfig(16, 32, 1, 1), bs.TileConfig(32, 16, 1, 1), 3],
        "return_lse": [True],
        "record": [True],
        "ring": [True, 1],
        "route": ["prefill", "executorch", "decode", "fast"],
        "sinks": sink_changes(device),
        "softcap": [2, 2.0, True, 0.0],
        "kv_start": start_changes(device),
        "k_scale": [draw(device, 2)],
        "v_scale": [2.0],
    }  # fmt: skip


def decode_changes(device):
    q, k, v = (draw(device, 2, heads, n, 16, seed=heads + n) for heads, n in ((4, 1), (2, 40), (2, 41)))
    v = v[:, :, :40].contiguous()
    lengths = torch.tensor([7, 40], dtype=torch.int32, device=device)
    return {"q": q, "k": k, "v": v, "window": 30, "impl": "triton"}, {
        "q": [q + 1, shifted(q), negated(q), q[:, :2], q.half(), q.expand(-1, -1, 3, -1), q.clone().requires_grad_()],
        "k": [k + 1, shifted(k), transposed(k), k[:, :, :39], v],
        "v": [v + 1, shifted(v), transposed(v), k],
        "kv_len": [1, True, 16, 40, 41, lengths, lengths - 1, lengths[1]],
        "window": [None, 1, True, 29, 31],
        "scale": [1, True, 0, -1.0],
        "splits": ["auto", 1, True, 2, 3, 0, "two"],
        "impl": ["tiled", "reference", "cuda"],
        "return_lse": [True],
        "ring": [True, 1],
        "sinks": sink_changes(device),
        "softcap": [2, 2.0, True, 0.0],
        "kv_start": start_changes(device),
        "k_scale": [draw(device, 2)],
        "v_scale": [2.0],
    }


def varlen_changes(device):
    q, k, v = (draw(device, n, heads, 16, seed=heads + n) for heads, n in ((4, 30), (2, 40), (2, 41)))
    v = v[:40].contiguous()
    cu_q, cu_k = (torch.tensor(cu, dtype=torch.int32, device=device) for cu in ([0, 7, 30], [0, 40, 40]))
    first = {"q": q, "k": k, "v": v, "cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, "impl": "triton"}
    return first, {
        "q": [q + 1, shifted(q), negated(q), q[:, :2], q[:29], q.half(), k, q.clone().requires_grad_()],
        "k": [k + 1, shifted(k), k.transpose(0, 1).contiguous().transpose(0, 1), k[:39], v],
        "v": [v + 1, shifted(v), k, v[..., :8]],
        "cu_seqlens_q": [cu_q + 1, cu_q[:2], cu_q.long(), cu_q.repeat_interleave(2)[::2], negated(cu_q), cu_k, 3],
        "cu_seqlens_k": [None, cu_k - 1, cu_k[1:], cu_k.repeat_interleave(2)[::2], cu_q, "2"],
        "max_seqlen_q": [1, True, 16, 23, 0, 999],
        "max_seqlen_k": [1, 40, "40"],
        "mask": [None, bs.causal(), bs.sliding_window(7), bs.band(6, 2), bs.sink(2), "causal"],
        "scale": [1, True, 0, -1.0],
        "config": [(16, 16, 1, 1), bs.TileConfig(16, 32, 1, 1), 3],
        "impl": ["tiled", "reference", "cuda"],
        "return_lse": [True],
        "sinks": sink_changes(device),
        "softcap": [2, 2.0, True, 0.0],
    }


def linear_changes(device):
    def in_float32(w):  # what the interpreter need not change is kept ready
        tensors = {name: t.float() if t.is_floating_point() else t for name, t in w.named_tensors().items()}
        return bs.QuantizedWeight(**{"zero": None, "dtype": torch.float32, **tensors})

    weight, x, bias = draw(device, 48, 256), draw(device, 2, 256, seed=1), draw(device, 48, seed=2)
    kinds = [{"symmetric": True}, {"group_size": 64}, {"bits": 8}, {"metadata": "uint8"}]
    weights = [in_float32(bs.quantize(weight, **kind)) for kind in kinds]
    w = in_float32(bs.quantize(weight))
    many, some = draw(device, 20, 256, seed=3), draw(device, 20, 256, seed=3, dtype=torch.float16)
    minimum = bs.QuantizedWeight(w.data, w.scale, None, w.dtype, minimum=w.zero)
    middle = bs.QuantizedWeight(w.data, w.scale, None, w.dtype, middle=w.zero)
    off = bs.QuantizedWeight(shifted(w.data), shifted(w.scale), w.zero, w.dtype)
    return {"x": x, "w": w, "bias": bias, "impl": "triton"}, {
        "x": [
            x + 1,
            shifted(x),
            negated(x),
            x[:1],
            x[0],
            x[None],
            x.half(),
            x.T.contiguous().T,
            many,
            some,
            some + 1,
            *(rounded_on_cpu(t) for t in (x, x.half(), many)),
        ],
        "w": [*weights, minimum, middle, off, w.rows(0, 32), in_float32(bs.quantize(weight + 1)), weight],
        "bias": [None, bias + 1, shifted(bias), negated(bias), bias[:32], bias.half(), bias.clone().requires_grad_()],
        "impl": ["tiled", "reference", "cuda"],
        "route": ["matvec", "fused", "dequantize", "fast"],
        "activations": ["int8", "float", "float8"],
    }


OPERATIONS = {
    "attention": (bs.attention, attention_changes, eager, "check"),
    "decode": (bs.decode, decode_changes, decode_eager, "check_decode"),
    "attention float8": (bs.attention, in_float8(attention_changes), eager, "check"),
    "decode float8": (bs.decode, in_float8(decode_changes), decode_eager, "check_decode"),
    "varlen": (bs.attention_varlen, varlen_changes, varlen_eager, "check"),
    "linear": (bs.linear, linear_changes, linear_eager, "check"),
}


def flat(arguments):
    """The tensors that a call is given, those of a weight too."""
    for value in arguments.values():
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, bs.QuantizedWeight):
            yield from value.tensors
        elif isinstance(value, bs.RoundedActivations):
            yield from (value.values, value.scales)


def described(argument, inputs):
    """An argument of a kernel: of an input which one, of other tensors their kind, of a mask's tables all they hold."""
    if type(argument).__name__ in ("TileRuns", "MaskBits", "RowBits"):
        return str(argument)
    if isinstance(argument, tuple):
        return tuple(described(item, inputs) for item in argument)
    if isinstance(argument, torch.Tensor):
        kind = argument.dtype, argument.shape, argument.stride()
        return inputs.get(argument.data_ptr(), kind)
    return type(argument), argument


def outcome(call, arguments, launched):
    """What is launched and what kinds of tensors come of it; of a call without launches the result; or the error."""
    launched.clear()
    inputs = {t.data_ptr(): i for i, t in enumerate(flat(arguments))}
    try:
        result = call(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        return type(error), str(error)
    results = result if isinstance(result, tuple) else (result,)
    launches = [(*named, described(given, inputs)) for *named, given in launched]
    return launches, [(t.dtype, t.shape, t.stride(), None if launches else t.tolist()) for t in results]


def all_calls(first, changes):
    """The first call, and with one or two of its arguments changed."""
    single = [(argument, value) for argument, values in changes.items() for value in values]
    yield first
    yield from (first | dict([one]) for one in single)
    yield from (first | dict(two) for two in itertools.combinations(single, 2) if two[0][0] != two[1][0])
