import time

import pytest
import torch
from skiplab.measure import rotation, samples, timing
from skiplab.measure.rotation import rotate, stir
from skiplab.measure.samples import Cancelled, is_bimodal, median_error
from skiplab.measure.timing import time_callable

SETS = [(torch.zeros(8),)]


def test_samples_are_whole_nanoseconds_of_single_calls():
    taken = time_callable(lambda x: time.sleep(0.004), SETS, "cpu", budget_s=5)
    assert taken.method == "cpu"
    assert all(isinstance(sample, int) for sample in taken.samples_ns)
    assert min(taken.samples_ns) >= 4_000_000
    assert len(taken.samples_ns) >= samples.MIN_SAMPLES
    assert sum(taken.samples_ns) >= samples.MIN_SECONDS * 1e9


def test_the_budget_ends_a_slow_callable_with_a_flag():
    start = time.perf_counter()
    taken = time_callable(lambda x: time.sleep(0.1), SETS, "cpu", budget_s=0.25)
    assert time.perf_counter() - start < 2
    assert "unconverged" in taken.flags


def test_cancel_is_asked_between_samples():
    asked = []

    def cancelled():
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(Cancelled):
        time_callable(lambda x: None, SETS, "cpu", cancelled=cancelled)
    assert len(asked) == 4


def test_argument_sets_take_turns():
    sets = [(torch.zeros(1),), (torch.ones(1),)]
    seen = []
    time_callable(lambda x: seen.append(x) or time.sleep(0.001), sets, "cpu", budget_s=0.1)
    assert all(x is sets[i % 2][0] for i, x in enumerate(seen[1:7]))


def test_rotation_exceeds_the_cache(monkeypatch):
    for module in (rotation, timing):
        monkeypatch.setattr(module, "last_cache_bytes", lambda device: 1000)
    sets = rotate([torch.arange(50, dtype=torch.float32)], "cpu")
    assert len(sets) == 25  # 5 x 1000 bytes, 200 a set
    assert all(torch.equal(sets[0][0], copy[0]) and copy[0] is not sets[0][0] for copy in sets[1:])
    monkeypatch.setitem(rotation.ROTATION_LIMIT, "cpu", 400)
    short = rotate([torch.zeros(50)], "cpu")
    assert len(short) == 2
    assert "l2-resident" in time_callable(lambda x: None, short, "cpu", budget_s=0.1).flags


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_copies_are_laid_out_alike_and_each_has_memory_of_its_own(monkeypatch, dtype):
    """Small plain tensors', which adjoin, and others': large, of an odd size, strided, in a named tuple; a number."""
    monkeypatch.setattr(rotation, "last_cache_bytes", lambda device: 1 << 18)
    monkeypatch.setitem(rotation.ROTATION_LIMIT, "cpu", 1 << 22)
    small = torch.randn(2, 4, 16).to(dtype)
    others = torch.randn(3, 7).to(dtype), torch.randn(2, 1 << 15).to(dtype), torch.randn(16, 8).to(dtype).mT
    sets = rotate([small, *others, torch.return_types.max((small, small)), 3], "cpu")
    assert len(sets) > 3
    for copies in list(zip(*sets, strict=True))[:4]:
        assert len({one.data_ptr() for one in copies}) == len(sets)
        assert {(one.stride(), one.dtype, one.data_ptr() % 64 == 0) for one in copies[1:]} == {
            (copies[0].stride(), dtype, True)
        }
        copies[1].zero_()
        assert all(torch.equal(one.float(), copies[0].float()) for one in copies[2:]) and copies[0].float().any()
    assert {one[5] for one in sets} == {3}


def test_rotation_counts_what_a_call_reads(monkeypatch):
    """Of a cache of 40 keys with a window of 10, a quarter."""
    for module in (rotation, timing):
        monkeypatch.setattr(module, "last_cache_bytes", lambda device: 1000)
    sets = rotate([torch.zeros(50)], "cpu", read=50)
    assert len(sets) == 100 and len(rotate([torch.zeros(50)], "cpu", read=900)) == 25
    assert "l2-resident" not in time_callable(lambda x: None, sets, "cpu", read=50, budget_s=0.05).flags
    assert "l2-resident" in time_callable(lambda x: None, sets[:25], "cpu", read=50, budget_s=0.05).flags


def test_arguments_of_all_share_half_of_the_memory_that_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 << 20)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1 << 20)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (58 << 20, 99 << 20))
    assert rotation._room("cuda", 1) == 30 << 20 and rotation._room("cuda", 3) == 10 << 20
    monkeypatch.setitem(rotation.ROTATION_LIMIT, "cuda", 5 << 20)
    assert rotation._room("cuda", 3) == 5 << 20


def test_contenders_share_the_memory_of_a_cpu_too():
    assert rotation._room("cpu", 4) == rotation._room("cpu", 1) // 4 > 0


def test_between_calls_one_element_of_each_float_tensor_changes():
    args = (torch.zeros(3, 5), torch.zeros(7, 2, dtype=torch.bfloat16).mT, torch.zeros(4, dtype=torch.int8), 1)
    stir(args)
    assert [int((one != 0).sum()) for one in args[:3]] == [1, 1, 0]
    changed = set()
    for _ in range(200):
        before = args[0].clone()
        stir(args)
        changed |= set((args[0] != before).flatten().nonzero().flatten().tolist())
    assert len(changed) == 15  # each is missed with a chance of (14 / 15) ** 200, 1e-6
    one = torch.zeros(1).to(torch.float8_e4m3fn)
    for _ in range(100):  # of few values, so that the same one is drawn again
        before = one.float()
        stir((one,))
        assert one.float() != before and one.float().isfinite()


def test_median_error_falls_with_more_samples():
    assert median_error([100, 101, 102, 103] * 5) > median_error([100, 101, 102, 103] * 50)
    assert median_error([100] * 10) == 0


def test_two_groups_are_seen():
    low, high = [100, 101, 99, 100, 102] * 4, [130, 131, 129, 130, 132] * 4
    assert is_bimodal(low + high)
    assert not is_bimodal(low * 2)
    assert not is_bimodal([*low, 130])  # one late sample is no group
    assert not is_bimodal([100, 200])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_is_timed_three_ways():
    x = torch.randn(2048, 2048, device="cuda")
    taken = time_callable(lambda x: x @ x, rotate((x,), "cuda"), "cuda", budget_s=3)
    assert taken.method == "graph"
    assert set(taken.others) == {"eager", "warm"}
    assert "l2-resident" not in taken.flags


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_all_arguments_that_a_graph_reads_live_as_long_as_it():
    sets = [(torch.full((1 << 20,), float(i), device="cuda"),) for i in range(20)]
    sums = torch.zeros(20, device="cuda")
    address = {one.data_ptr(): i for i, (one,) in enumerate(sets)}

    def add(x):
        sums[address[x.data_ptr()]] += x.mean()
        return x.sum()

    taken = time_callable(add, sets, "cuda", budget_s=0.1)
    repeat = next(one for one in taken.repeats if one.way == "graph")
    sets.clear()
    others = [torch.full((1 << 20,), torch.nan, device="cuda") for _ in range(40)]  # where freed arguments were
    sums.zero_()
    repeat.run()
    # a timed call changes one element of a million
    torch.testing.assert_close(sums.cpu(), torch.arange(20.0), rtol=0, atol=1e-3)
    assert len(others) == 40
