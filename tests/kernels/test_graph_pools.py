"""What is kept from call to call lies outside the memory pools of CUDA graphs."""

import threading

import blockskip as bs
import pytest
import torch
from blockskip.attention.decode.launch import _stream_counters
from blockskip.graph_pools import outside_graph_pools
from blockskip.launching.repeated import REPEATED

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_a_cpu_has_no_pools():
    assert outside_graph_pools(threading.get_ident, torch.device("cpu")) == threading.get_ident()


@needs_cuda
def test_another_thread_allocates_and_its_errors_come_back():
    device = torch.device("cuda", 0)
    assert outside_graph_pools(threading.get_ident, device) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        outside_graph_pools(lambda: 1 // 0, device)


@needs_cuda
def test_the_thread_is_where_its_caller_is():
    """The current device, no gradients, and where tensors go that name no device."""
    weight = torch.ones(3, device="cuda", requires_grad=True)
    with torch.device("cuda"):
        made = outside_graph_pools(lambda: weight * torch.ones(3), torch.device("cuda"))
    assert made.is_cuda and not made.requires_grad


@needs_cuda
@pytest.mark.parametrize("kv_len", [300, 4000])  # one split, and several that the last one to arrive merges
@pytest.mark.parametrize("name", ["decode", "window", "map"])
def test_torch_compile_captures_calls_of_a_new_kind(name, kv_len):
    """Its first run allocates from the graph's pool, and it raises an error for what is left there."""
    torch._dynamo.reset()
    REPEATED.clear()
    _stream_counters.cache_clear()
    mask = {"decode": None, "window": bs.sliding_window(200), "map": bs.sliding_window(64) | (bs.sink(4) & bs.causal())}
    q_len = 40 if name == "map" else 1
    q = torch.randn(1, 4, q_len, 64, device="cuda", dtype=torch.bfloat16)
    k, v = torch.randn(2, 1, 2, kv_len, 64, device="cuda", dtype=torch.bfloat16)

    def call(q, k, v):
        return bs.attention(q + 1, k, v, mask[name]) * 2

    compiled = torch.compile(call, mode="reduce-overhead", fullgraph=True)
    with torch.no_grad():
        for _ in range(3):
            found = compiled(q, k, v).clone()
        assert torch.equal(found, call(q, k, v))
