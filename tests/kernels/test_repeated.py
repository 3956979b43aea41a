"""Calls that are repeated: what was made ready for one kind of call never serves another."""

import gc
import inspect
import json
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blockskip as bs
import pytest
import torch
from blockskip.attention.call import AttentionArguments
from blockskip.launching.repeated import REPEATED, RepeatedCalls, kind_of
from changed_calls import OPERATIONS, all_calls, draw, outcome

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_is_ready():
    REPEATED.clear()


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


def test_a_kind_in_use_outlives_any_number_of_others():
    """As a model's decode steps do beside packed prompts of ever new sizes."""
    calls = RepeatedCalls(4)
    calls.put((("step",), None), print)
    for n in range(20):
        calls.put(((n,), None), print)
        assert calls.get((("step",), None)) is print and len(calls) <= 4
    for n in range(100, 108):  # nobody asks for it any more
        calls.put(((n,), None), print)
    assert calls.get((("step",), None)) is None and len(calls) == 4


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
def test_a_repeated_call_enters_few_python_functions(fresh_process):
    """Counted, not timed: the launches themselves do nothing there."""
    made = fresh_process("-m", "skiplab.cli", "bench", "host", "--calls", "50", "--json")
    assert made.returncode == 0, made.stderr[-2000:]
    rows = [json.loads(line) for line in made.stdout.splitlines()]
    ours = {row["call"]: row["python_calls"] for row in rows if "new_kind_us" in row}
    assert len(ours) >= 8 and all(0 < count <= 31 for count in ours.values()), ours
    linear = {name: count for name, count in ours.items() if name.startswith("linear")}
    assert len(linear) == 6 and all(count <= 23 for count in linear.values()), linear
    assert all(count <= 17 for name, count in linear.items() if "tiles" in name), linear
    assert ours["decode"] <= 17, ours


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
