"""Packed sequences by Hopper's prefill kernel on a CPU: its Python over torch tensors, a thread for each warp group."""

import itertools
import math
from types import SimpleNamespace

import blockskip as bs
import gluon_interpreter
import pytest
import torch
from blockskip.attention.prefill import plan
from blockskip.attention.prefill.hopper import attend as kernel
from blockskip.attention.prefill.hopper.items import item_of
from blockskip.attention.varlen import launch
from blockskip.attention.varlen.call import VarlenArguments, VarlenCall, check
from blockskip.attention.varlen.plan import VarlenPlan, plan_with
from blockskip.attention.varlen.schedule import most_items
from blockskip.config import TileConfig
from blockskip.launching.dispatch import DISPATCHER

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="there is a GPU: test_varlen.py runs the kernel itself"
)
HEAD_DIMS = (80, 256, 512)
MASKS = {"all": None, "causal": bs.causal(), "window": bs.sliding_window(77), "both": bs.band(30, 9)}
LENGTHS = [0, 150, 1, 300, 64], [5, 203, 130, 0, 64]
BEHIND = 9
"""Rows behind the last sequence."""


@pytest.fixture(params=["early", "late"])
def copies(request):
    """When the copy engine's copies happen."""
    return request.param


def draw(head_dim, *, heads=(4, 2)):
    generator = torch.Generator().manual_seed(head_dim)
    rows = [sum(lengths) + BEHIND for lengths in LENGTHS]
    q, kv = (torch.randn((*size, head_dim), generator=generator).half() for size in zip(rows, heads, strict=True))
    return q, kv, torch.randn(kv.shape, generator=generator).half()


def cu_seqlens():
    return [torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32) for lengths in LENGTHS]


def checked(q, k, v, mask, cu=None, **options) -> VarlenCall:
    cu_q, cu_k = cu or cu_seqlens()
    return check(VarlenArguments(q, k, v, cu_q, cu_k, 300, 203, mask, impl="triton", **options))


def listed(call: VarlenCall, made: VarlenPlan) -> torch.Tensor:
    """The list of items, by the kernel that writes it."""
    most = most_items(len(call.q), call.sequences, made.prefill.queries_per_tile)
    items = torch.full(((most + 1) * 8,), -7, dtype=torch.int32)
    first, _ = launch._steps(call, made, call.tensors, (call.attention.q, None, items))
    DISPATCHER.launch(first.kernel, first.launch, **first.options)
    return items


def attend(q, k, v, mask, *, copies, programs, interleave, **options):
    """(out, lse), which held NaN before, of programs that go from item to item."""
    head_dim = q.shape[2]
    config = TileConfig(64, 32, 12, 2) if head_dim == 512 else TileConfig(128, 64 if head_dim > 128 else 128, 12, 2)
    call = checked(q, k, v, mask, return_lse=True, **options)
    prefill = plan.plan_kernel(call.attention, config, capability=(9, 0))
    assert prefill.config is not None and prefill.config.warp_specialized
    made = VarlenPlan(**{**vars(plan_with(call, "triton", "", prefill)), "interleave": interleave})
    items, out = listed(call, made), torch.full(q.shape, math.nan).half()
    lse = torch.full((1, q.shape[1], len(q)), math.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "multiprocessors", lambda device: programs)
        of_out = out.transpose(0, 1).unsqueeze(0)
        step = launch.attend_step(call, made, of_out, lse, items, most_items(len(q), call.sequences, config.block_m))
    gluon_interpreter.interpret(step.kernel, step.launch, copies)
    return out, lse[0]


def close(found, q, k, v, mask, **options):
    """Against float64: a rounding of the weights to 11 bits, one of the result, and float32 sums of exponents."""
    out, lse = found
    tensors = (t.double() for t in (q, k, v))
    named = {"mask": mask, "impl": "reference", "return_lse": True, **options}
    expected, expected_lse = bs.attention_varlen(*tensors, *cu_seqlens(), **named)
    assert (out.double() - expected).abs().max() <= 2**-11 * (expected.abs().max() + 2)
    torch.testing.assert_close(lse.double(), expected_lse.double(), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(("programs", "interleave"), [(1, 4), (3, 2), (999, 4)])
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_it_is_right(copies, mask, head_dim, programs, interleave):
    q, k, v = draw(head_dim)
    for t, lengths in zip((q, k, v), (LENGTHS[0], LENGTHS[1], LENGTHS[1]), strict=True):
        t[sum(lengths) :] = math.nan
    found = attend(q, k, v, mask, copies=copies, programs=programs, interleave=interleave)
    close(found, q, k, v, mask)


def test_sinks_and_soft_caps(copies):
    q, k, v = draw(128)
    options = {"sinks": torch.tensor([1.0, -math.inf, 3.0, -2.0]), "softcap": 2.0}
    for mask in (MASKS["causal"], MASKS["window"]):
        close(attend(q, k, v, mask, copies=copies, programs=2, interleave=2, **options), q, k, v, mask, **options)


def test_a_sequence_of_nan_leaves_the_others_alone(copies):
    q, k, v = draw(128)
    clean = attend(q, k, v, MASKS["causal"], copies=copies, programs=3, interleave=4)
    k[208:338] = v[208:338] = math.nan  # the third one's
    found = attend(q, k, v, MASKS["causal"], copies=copies, programs=3, interleave=4)
    others = [i for i in range(len(q)) if i != 150]
    assert found[0][150].isnan().all() and torch.equal(found[0][others], clean[0][others])


def item_of_the_list(round_, q, lengths, interleave, constants):
    """`item_of`, of entries that the list has alone: a division of integers rounds otherwise here than on a GPU."""
    item = item_of(round_, q, lengths, interleave, constants)  # pyright: ignore
    assert 0 <= item[1] < q.shape[1]
    return item


@pytest.mark.parametrize("numbers", [[0, 200, 10, 300], [300, 300, 300, 0], [-9, -1, 999, 2**31 - 1], [9, 9, 9, 9]])
@pytest.mark.parametrize("programs", [2, 999])
def test_lengths_that_fall_or_lie_outside_read_and_write_nothing_there(copies, numbers, programs, monkeypatch):
    """There may be programs without an item; see also test_varlen.py."""
    monkeypatch.setattr(kernel, "item_of", SimpleNamespace(fn=item_of_the_list))
    memory = torch.full((500, 3, 2, 128), math.nan).half()
    memory[100:400] = torch.randn((300, 3, 2, 128), generator=torch.Generator().manual_seed(1)).half()
    q, k, v = memory[100:400].unbind(1)
    cu = torch.tensor(numbers, dtype=torch.int32)
    options = {"mask": MASKS["window"], "copies": copies, "programs": programs, "interleave": 2, "cu": (cu, cu)}
    out, lse = attend(q, k, v, **options)
    written = ~out.isnan().any(-1).any(-1)
    covered = torch.zeros(300, dtype=torch.bool)
    for start, stop in zip(numbers, [*numbers[1:], 300], strict=True):
        first = max(0, min(start, 300))
        covered[first : max(first, min(stop, 300))] = True
    assert torch.equal(written, covered) and torch.equal(~lse.isnan().any(0), covered)


def test_slices_of_one_tensor(copies):
    q, k, v = draw(128, heads=(2, 2))
    fused = torch.randn((len(q), 3, 2, 128), generator=torch.Generator().manual_seed(1)).half()
    q, (k, v) = fused[:, 0], (fused[: len(k), i] for i in (1, 2))
    for mask in (MASKS["causal"], MASKS["window"]):
        close(attend(q, k, v, mask, copies=copies, programs=3, interleave=2), q, k, v, mask)


def test_the_list_has_each_item_once_and_the_longest_first():
    q, k, v = draw(128)
    for mask in MASKS.values():
        call = checked(q, k, v, mask)
        prefill = plan.plan_kernel(call.attention, TileConfig(128, 128, 12, 2), capability=(9, 0))
        made = plan_with(call, "triton", "", prefill)
        items = listed(call, made).view(-1, 8)
        count = int(items[0, 0])
        found = [tuple(row[:5].tolist()) for row in items[1 : count + 1]]
        expected = []
        extents = [*call.extents(), (sum(LENGTHS[0]), len(q), sum(LENGTHS[1]), sum(LENGTHS[1]))]
        for q_first, q_end, k_first, k_end in extents:
            n = q_end - q_first
            expected += [(row, q_first, n, k_first, k_end - k_first) for row in range(-(-n // 128))]
        assert sorted(found) == sorted(expected)
        assert (items[count + 1 :, :5] == 0).all()
        tiles = [seen(made.prefill.mask, *item) for item in found]
        assert all(a >= b - 1 for a, b in itertools.pairwise(tiles)), tiles


def seen(mask, row, _, q_len, __, kv_len) -> float:
    """How many tiles of 128 keys an item's last query may see, from the first on."""
    last = kv_len - q_len + min(128 * (row + 1), q_len) - 1
    end = kv_len if mask.right is None else min(max(last + mask.right + 1, 0), kv_len)
    limit = math.inf if mask.left is None or mask.right is None else (mask.left + mask.right) // 128 + 2
    return min(-(-end // 128), limit)
