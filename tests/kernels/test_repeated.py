"""Calls that are repeated: what was made ready for one kind of call never serves another."""

import gc
import inspect
import itertools
import json
import os
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blockskip as bs
import pytest
import torch
from blockskip.attention import eager
from blockskip.attention.call import AttentionArguments
from blockskip.attention.decode import eager as decode_eager
from blockskip.attention.decode import launch as decode_launch
from blockskip.attention.decode import plan as decode_plan
from blockskip.attention.prefill import launch, schedule
from blockskip.launching import repeated
from blockskip.launching.dispatch import CompiledKernel, Dispatcher, traits
from blockskip.launching.guards import GuardedInt
from blockskip.launching.ready import Ready
from blockskip.launching.repeated import REPEATED, RepeatedCalls, kind_of
from blockskip.linear import eager as linear_eager

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_is_ready():
    REPEATED.clear()


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


def transposed(tensor):
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


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
        "x": [x + 1, shifted(x), negated(x), x[:1], x[0], x[None], x.half(), x.T.contiguous().T, many, some, some + 1],
        "w": [*weights, minimum, middle, off, w.rows(0, 32), in_float32(bs.quantize(weight + 1)), weight],
        "bias": [None, bias + 1, shifted(bias), negated(bias), bias[:32], bias.half(), bias.clone().requires_grad_()],
        "impl": ["tiled", "reference", "cuda"],
        "route": ["matvec", "fused", "dequantize", "fast"],
    }


OPERATIONS = {
    "attention": (bs.attention, attention_changes, eager, "check"),
    "decode": (bs.decode, decode_changes, decode_eager, "check_decode"),
    "linear": (bs.linear, linear_changes, linear_eager, "check"),
}


def flat(arguments):
    """The tensors that a call is given, those of a weight too."""
    for value in arguments.values():
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, bs.QuantizedWeight):
            yield from value.tensors


def described(argument, inputs):
    """An argument of a kernel: of an input which one, of other tensors their kind, of a mask's tables all they hold."""
    if type(argument).__name__ in ("TileRuns", "MaskBits"):
        return str(argument)
    if isinstance(argument, tuple):
        return tuple(described(item, inputs) for item in argument)
    if isinstance(argument, torch.Tensor):
        kind = argument.dtype, argument.shape, argument.stride()
        return inputs.get(argument.data_ptr(), kind)
    return type(argument), argument


@pytest.fixture
def launched(monkeypatch):
    """Launches as they would be, each with what its kernel was compiled for; none of them is done."""
    done = []

    def find(self, kernel, launch, **options):
        named = kernel.fn.__name__, launch.grid, launch.constants, options, [*map(traits, launch.arguments)]
        return CompiledKernel(lambda *arguments, stream=None: done.append((*named, arguments)), ())

    monkeypatch.setattr(Dispatcher, "find", find)
    return done


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


@pytest.mark.parametrize("name", OPERATIONS)
def test_calls_that_differ_in_an_argument_never_share_what_is_ready(device, name, launched, monkeypatch):
    """Each as if it were alone, and then beside all others: the same launches of the same numbers, the same errors."""
    call, make, _, _ = OPERATIONS[name]
    first, changes = make(device)
    assert set(inspect.signature(call).parameters) == set(changes) | set(first)  # a new argument needs its changes
    monkeypatch.setattr(REPEATED, "_most_kinds", 1 << 20)
    calls, alone = list(all_calls(first, changes)), []
    for arguments in calls:
        REPEATED.clear()
        alone.append(outcome(call, arguments, launched))
    REPEATED.clear()
    ready = 0
    for arguments, wanted in zip(calls, alone, strict=True):
        assert outcome(call, arguments, launched) == wanted, {n: v for n, v in arguments.items() if v is not first[n]}
        ready += wanted[0] == outcome(call, arguments, launched)[0] and isinstance(wanted[0], list) and bool(wanted[0])
    assert ready > len(calls) / 4


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_repeated_call_is_neither_checked_nor_planned_and_takes_new_data(device, name, monkeypatch):
    call, make, module, check = OPERATIONS[name]
    first, _ = make(device)
    other = first | {n: t.flip(0).clone() for n, t in first.items() if isinstance(t, torch.Tensor)}
    wanted = call(**other)
    REPEATED.clear()
    call(**first)
    monkeypatch.setattr(module, check, None)
    assert torch.equal(call(**other), wanted)


GROWING = {
    "decode": ("decode", 1, {}),
    "decode, window": ("decode", 2, {"window": 70}),
    "decode, splits": ("decode", 8, {"splits": 3}),
    "decode, ring": ("decode", 2, {"window": 63, "ring": True}),
    "decode, a ring that is written over": ("decode", 2, {"window": 200, "ring": True}),
    "attention, one query": ("attention", 1, {"mask": bs.causal()}),
    "attention, one query without a mask": ("attention", 1, {}),
    "attention, few queries, ExecuTorch's rule": ("attention", 1, {"mask": bs.causal(), "route": "executorch"}),
    "attention, prefill's kernel": ("attention", 1, {"mask": bs.sliding_window(40), "route": "prefill"}),
    "attention, decode's kernel": ("attention", 2, {"mask": bs.sliding_window(40), "route": "decode"}),
    "attention, many queries": ("attention", 33, {"mask": bs.sliding_window(30)}),
    "attention, many queries, a ring": ("attention", 16, {"mask": bs.sliding_window(40), "ring": True}),
    "attention, a ring that is written over": ("attention", 16, {"mask": bs.causal(), "ring": True}),
    "attention, bounds": ("attention", 16, {"skip": "bounds"}),
}


@pytest.mark.parametrize("name", GROWING)
def test_calls_with_a_growing_int_kv_len_launch_what_new_ones_would(device, name, launched, monkeypatch):
    """All launches, their grids, constants, traits and arguments; and the errors, too."""
    operation, q_len, options = GROWING[name]
    call, slots = getattr(bs, operation), 300
    q, k = draw(device, 1, 4, q_len, 16), draw(device, 1, 2, slots, 16)
    alone, made = [], []
    numbers = [n for n in range(-1, slots + 70) if n <= slots + 3 or options.get("ring")] + [1 << 29, (1 << 29) + 1]
    for n in numbers:
        REPEATED.clear()
        alone.append(outcome(call, {"q": q, "k": k, "v": k, "kv_len": n, "impl": "triton", **options}, launched))
    REPEATED.clear()
    for module in (decode_launch, launch):
        monkeypatch.setattr(module, "Ready", lambda *given, **named: made.append(1) or Ready(*given, **named))
    for n, wanted in zip(numbers, alone, strict=True):
        assert outcome(call, {"q": q, "k": k, "v": k, "kv_len": n, "impl": "triton", **options}, launched) == wanted, n
    # splits 1 and 4 to 10, each for numbers that 16 divides and for others; and a ring before and after it is full
    assert len(made) <= 18 and sum(isinstance(wanted[0], list) for wanted in alone) >= 250


def test_a_loop_over_growing_lengths_gives_what_the_reference_gives(device):
    q, k, v = draw(device, 1, 2, 2, 16), draw(device, 1, 1, 300, 16, seed=1), draw(device, 1, 1, 300, 16, seed=2)
    for n in range(1, 301, 3):
        got, want = (bs.decode(q, k, v, kv_len=n, window=250, impl=impl) for impl in ("triton", "reference"))
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_one_tensor_given_twice_is_not_taken_for_one_given_once(device):
    x, y = draw(device, 1, 2, 9, 16), draw(device, 1, 2, 9, 16, seed=1)
    wanted = bs.attention(x, y, x, impl="triton")
    REPEATED.clear()
    bs.attention(x, x, x, impl="triton")
    assert torch.equal(bs.attention(x, y, x, impl="triton"), wanted)


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_ready_keeps_no_tensor_of_the_call_alive(device, name):
    call, make, _, _ = OPERATIONS[name]
    first, changes = make(device)
    changes.clear()
    result = call(**first)
    left = [weakref.ref(t) for t in (result, *first.values()) if isinstance(t, torch.Tensor | bs.QuantizedWeight)]
    assert len(left) >= 3
    del result, first
    gc.collect()
    assert not any(ref() is not None for ref in left)


def test_what_is_ready_for_a_mask_goes_with_it_and_with_its_contents(device):
    q, k = draw(device, 1, 2, 8, 16), draw(device, 1, 2, 24, 16)

    def prepared(mask):
        return REPEATED.get(*AttentionArguments(q, k, k, mask, impl="triton").kind())

    documents, dense = bs.document([10, 14]), bs.dense(torch.ones(8, 24, dtype=torch.bool)) & bs.sink(9)
    for mask in (documents, dense):
        bs.attention(q, k, k, mask, impl="triton")
        assert prepared(mask) is not None
    assert prepared(bs.document([10, 14])) is None
    dense.masks[0].tensor[0, 0, 3] = False
    assert prepared(dense) is None
    left = weakref.ref(prepared(documents))
    gc.disable()  # device memory must not wait for the collector: no cycles
    try:
        del documents, mask
        assert left() is None
    finally:
        gc.enable()


def test_a_map_of_a_band_lies_with_the_band(device):
    q, band = draw(device, 1, 2, 40, 16), bs.sliding_window(7)
    wanted = bs.attention(q, q, q, band, impl="triton")
    for _ in range(2):
        assert torch.equal(bs.attention(q, q, q, band, impl="triton", skip="map"), wanted)
    assert len(REPEATED) == 1 and len(band.owned) >= 1


def test_kinds_are_few_and_unknown_ones_are_not_kept():
    q, calls = torch.zeros(2), RepeatedCalls()
    for number in range(1000):
        calls.put(kind_of((q,), ("decode", number), "triton"), print)
    assert len(calls) == 256
    assert calls.get(kind_of((q,), ("decode", 999), "triton")) is print
    assert calls.get(kind_of((q,), ("decode", 0), "triton")) is None

    class Number(int):
        pass

    class Own(torch.Tensor):
        pass

    for tensors, options, impl, mask in (
        ((q,), ("decode", Number(1)), "triton", None),
        ((q,), ("decode", [1]), "triton", None),
        ((q, 3), ("decode",), "triton", None),
        ((q.as_subclass(Own),), ("decode",), "triton", None),
        ((None,), ("decode",), "triton", None),
        ((q,), ("decode",), "tiled", None),
        ((q,), ("decode",), "triton", "causal"),
    ):
        assert kind_of(tensors, options, impl, mask) is None
    calls.put(None, print)
    assert len(calls) == 256 and calls.get(None) is None


def test_the_cache_honours_a_predicate_that_is_added_to_a_plan(device, launched, monkeypatch):
    """Whatever a plan asks of kv_len tells calls apart, though nothing but the plan knows of it."""
    q, k = draw(device, 1, 4, 40, 16), draw(device, 1, 2, 300, 16)
    arguments = {"q": q, "k": k, "v": k, "mask": bs.sliding_window(30), "impl": "triton"}
    interleaved = schedule.interleaved_heads

    def made_up(call, plan, heads):
        return 4 if plan.kv_len % 7 == 3 or 120 <= plan.kv_len < 130 else interleaved(call, plan, heads)

    monkeypatch.setattr(schedule, "interleaved_heads", made_up)
    check_growing(bs.attention, arguments, range(40, 301), launched)
    grids = {made[0][0][1] for made in growing_outcomes(bs.attention, arguments, range(40, 301), launched)}
    assert len(grids) == 2


def test_the_cache_honours_a_predicate_that_is_added_to_the_splits(device, launched, monkeypatch):
    q, k = draw(device, 1, 4, 1, 16), draw(device, 1, 2, 300, 16)
    chosen = decode_plan.choose_splits
    monkeypatch.setattr(
        decode_plan, "choose_splits", lambda programs, tiles, sms: 2 if tiles % 3 == 1 else chosen(programs, tiles, sms)
    )
    check_growing(bs.decode, {"q": q, "k": k, "v": k, "impl": "triton"}, range(1, 301), launched)


def growing_outcomes(call, arguments, numbers, launched):
    return [outcome(call, {**arguments, "kv_len": n}, launched) for n in numbers]


def check_growing(call, arguments, numbers, launched):
    """Each number alone, and then one after the other, there and back: the same launches."""
    alone = []
    for n in numbers:
        REPEATED.clear()
        alone += growing_outcomes(call, arguments, [n], launched)
    REPEATED.clear()
    for _ in range(2):
        assert growing_outcomes(call, arguments, numbers, launched) == alone


def test_what_a_plan_takes_the_value_of_serves_that_value_alone():
    kept, kind = RepeatedCalls(), kind_of((torch.zeros(2),), ("decode",), "triton")

    def plan(number):
        """A limit, tiles by value in the middle, nothing else."""
        guarded = GuardedInt(number)
        tiles = -(-guarded // 16)
        return (int(tiles) if 100 < guarded <= 200 else 0), guarded.guards

    for number in [*range(1, 400), *range(399, 0, -1)]:
        wanted, guards = plan(number)
        found = kept.get(kind, number)
        if found is None:
            kept.put(kind, lambda wanted=wanted: wanted, guards)
        else:
            assert found() == wanted
    assert kept._by_kind[kind[0]].count == 2 + len({-(-n // 16) for n in range(101, 201)})


def test_a_kind_with_a_plan_for_each_number_stays_bounded():
    kept, kind = RepeatedCalls(), kind_of((torch.zeros(2),), ("decode",), "triton")
    for number in range(3 * repeated.MOST_PREPARED):
        guarded = GuardedInt(number)
        int(guarded)
        kept.put(kind, print, guarded.guards)
        assert kept.get(kind, number) is print and kept._by_kind[kind[0]].count <= repeated.MOST_PREPARED


def test_threads_may_call_at_once(device, launched):
    q, k = draw(device, 1, 2, 1, 16), draw(device, 1, 2, 20, 16)
    lengths, interval = [1 + n % 20 for n in range(400)], sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            outs = list(pool.map(lambda n: bs.decode(q, k, k, kv_len=n, splits=1, impl="triton"), lengths))
    finally:
        sys.setswitchinterval(interval)
    assert {out.shape for out in outs} == {q.shape} and len({id(out) for out in outs}) == 400
    assert sorted(arguments[6][0] for *_, arguments in launched) == sorted(lengths)


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton's and the driver's own calls are counted there too")
def test_a_repeated_call_enters_few_python_functions():
    """Counted, not timed: the launches themselves do nothing there."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "kernels"), str(ROOT / "lab")])
    command = [sys.executable, "-m", "skiplab.cli", "bench", "host", "--calls", "50", "--json"]
    made = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert made.returncode == 0, made.stderr[-2000:]
    rows = [json.loads(line) for line in made.stdout.splitlines()]
    ours = {row["call"]: row["python_calls"] for row in rows if "new_kind_us" in row}
    assert len(ours) >= 8 and all(0 < count <= 32 for count in ours.values()), ours


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need CUDA")
def test_a_graph_and_other_streams_get_their_own(device):
    """Split-K's counters and second kernel: in a graph, beside eager calls on two streams."""
    q, k, v = (draw(device, 1, heads, n, 128, dtype=torch.bfloat16) for heads, n in ((32, 1), (8, 8192), (8, 8192)))
    wanted = bs.decode(q, k, v)
    graph, other = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph):
        captured = bs.decode(q, k, v)
    other.wait_stream(torch.cuda.current_stream())
    for _ in range(50):
        with torch.cuda.stream(other):
            beside = bs.decode(q, k, v)
        eager = bs.decode(q, k, v)
        graph.replay()
    torch.cuda.synchronize()
    for got in (captured, beside, eager):
        torch.testing.assert_close(got, wanted, atol=1e-2, rtol=1e-2)
