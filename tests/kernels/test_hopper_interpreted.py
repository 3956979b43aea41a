"""Hopper's prefill kernel on a CPU: its Python over torch tensors, a thread for each group of warps."""

import hashlib
import math
from typing import ClassVar

import blockskip as bs
import gluon_groups
import gluon_interpreter
import pytest
import torch
from blockskip.attention.call import AttentionArguments
from blockskip.attention.eager import check
from blockskip.attention.prefill import launch, plan
from blockskip.config import TileConfig

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="there is a GPU: test_hopper.py runs the kernel itself"
)
HEAD_DIMS = (80, 256, 512)
COLUMNS = TileConfig(64, 32, 12, 2)  # both groups have the same rows
MASKS = {
    "causal": bs.causal(),
    "window": bs.sliding_window(77),
    "sinks": bs.sliding_window(150) | (bs.sink(4) & bs.causal()),
    "chunks": bs.chunked(256),
    "documents": bs.document([100, 157, 43]) & bs.causal(),
}


@pytest.fixture(params=["early", "late"])
def copies(request):
    """When the copy engine's copies happen."""
    return request.param


def draw(head_dim, q_len, kv_len=None, *, batch=1, heads=(4, 2)):
    generator = torch.Generator().manual_seed(q_len)
    shapes = [(batch, heads[0], q_len, head_dim), *[(batch, heads[1], kv_len or q_len, head_dim)] * 2]
    return [torch.randn(shape, generator=generator).half() for shape in shapes]


def attend(q, k, v, mask, *, copies, programs, kv_len=None, q_start=None, skip="auto", config=None, **options):
    """(out, lse), which held NaN before, by so many programs that go from rows to rows, in turn over all heads."""
    batch, heads, q_len, head_dim = q.shape
    config = config or (COLUMNS if head_dim > 256 else TileConfig(128, 64 if head_dim > 128 else 128, 12, 2))
    options["route"] = "prefill"
    call = check(AttentionArguments(q, k, v, mask, None, q_start, kv_len, skip, "triton", config, True, **options))
    made = plan.plan_kernel(call, config, capability=(9, 0))
    assert made.config.warp_specialized
    grid = -(-q_len // config.block_m), heads, batch
    out, lse = torch.full_like(q, math.nan), torch.full((batch, heads, q_len), math.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "programs_of", lambda *of: ((min(math.prod(grid), programs),), heads * batch))
        kernel, launched, _ = launch.prepare(call, made, (q, k, v, out), lse, None, grid)
    gluon_interpreter.interpret(kernel, launched, copies)
    return out, lse


class Reference:
    """What the reference gives in float64, kept for tests with the same tensors, mask and options."""

    kept: ClassVar[dict] = {}

    @classmethod
    def of(cls, q, k, v, mask, **named):
        tensors = [one for one in (q, k, v, *named.values()) if isinstance(one, torch.Tensor)]
        bits = b"".join(one.contiguous().view(torch.uint8).numpy().tobytes() for one in tensors)
        shapes = [(one.dtype, one.shape) for one in tensors]
        options = {name: None if isinstance(one, torch.Tensor) else one for name, one in named.items()}
        key = hashlib.sha256(repr((shapes, options, mask)).encode() + bits).digest()
        if key not in cls.kept:
            doubles = (t.double() for t in (q, k, v))
            cls.kept[key] = bs.attention(*doubles, mask, impl="reference", return_lse=True, **named)
        return cls.kept[key]


def close(found, q, k, v, mask, **named):
    """Against float64: a rounding of the weights to 11 bits, one of the result, and float32 sums of exponents."""
    out, lse = found
    expected, expected_lse = Reference.of(q, k, v, mask, **named)
    assert (out.double() - expected).abs().max() <= 2**-11 * (expected.abs().max() + 2)
    torch.testing.assert_close(lse.double(), expected_lse.double(), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("programs", [1, 3, 999])
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_it_is_right(copies, mask, head_dim, programs):
    q, k, v = draw(head_dim, 300)
    close(attend(q, k, v, mask, copies=copies, programs=programs), q, k, v, mask)


@pytest.mark.parametrize("skip", ["none", "mask"])
def test_all_tiles_where_the_plain_kernel_has_other_bits(copies, skip):
    """A configuration that was asked for is the same kernel's in all modes: these visit every tile."""
    q, k, v = draw(512, 203, 300, batch=2)
    options = {"copies": copies, "programs": 3, "config": COLUMNS}
    for mask in (MASKS["window"], MASKS["sinks"]):
        for named in ({"kv_len": 211}, {"kv_len": 211, "q_start": -5}):
            found = attend(q, k, v, mask, skip=skip, **named, **options)
            close(found, q, k, v, mask, **named)
            assert all(map(torch.equal, found, attend(q, k, v, mask, skip="map", **named, **options)))
    lengths = torch.tensor([300, 150], dtype=torch.int32)
    k[1, :, 150:] = v[1, :, 150:] = math.nan
    for mask in (MASKS["window"], MASKS["sinks"]):
        found = attend(q, k, v, mask, skip=skip, kv_len=lengths, **options)
        close(found, q, k, v, mask, kv_len=lengths)


@pytest.mark.parametrize("head_dim", [64, 72, 96, 112, 160, 192])
def test_heads_of_other_sizes(copies, head_dim):
    """In one piece, in two, and in pieces whose last elements are none."""
    q, k, v = draw(head_dim, 203, 300, batch=2)
    lengths = torch.tensor([300, 150], dtype=torch.int32)
    for mask in (MASKS["causal"], MASKS["window"]):
        found = attend(q, k, v, mask, copies=copies, programs=3, kv_len=lengths)
        close(found, q, k, v, mask, kv_len=lengths)
    close(attend(q, k, v, MASKS["sinks"], copies=copies, programs=3), q, k, v, MASKS["sinks"])


@pytest.mark.parametrize("config", [(128, 64, 12, 2), (192, 64, 16, 3), (192, 128, 16, 3)])
@pytest.mark.parametrize("q_start", [None, 0, -70, 333])
def test_tiles_that_some_groups_alone_need(copies, config, q_start):
    q, k, v = draw(64, 400, 460, batch=2, heads=(2, 1))
    lengths = torch.tensor([460, 333], dtype=torch.int32)
    for mask in (bs.causal(), bs.sliding_window(1), bs.sliding_window(150), bs.band(-3, 90)):
        options = {"q_start": q_start, "kv_len": lengths}
        found = attend(q, k, v, mask, copies=copies, programs=2, config=TileConfig(*config), **options)
        close(found, q, k, v, mask, **options)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_three_groups_and_narrow_tiles(copies, mask):
    q, k, v = draw(64, 403)
    for config in (TileConfig(192, 128, 16, 3), TileConfig(192, 64, 16, 3), TileConfig(128, 64, 12, 3)):
        close(attend(q, k, v, mask, copies=copies, programs=3, config=config), q, k, v, mask)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("mask", [MASKS["causal"], MASKS["window"]], ids=["causal", "window"])
def test_limits_and_maps_give_the_same_bits(copies, mask, head_dim):
    q, k, v = draw(head_dim, 203, 411)
    by = {skip: attend(q, k, v, mask, copies=copies, programs=3, skip=skip) for skip in ("bounds", "map")}
    assert all(torch.equal(a, b) for a, b in zip(by["bounds"], by["map"], strict=True))
    close(by["map"], q, k, v, mask)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("programs", [1, 2, 5])
def test_batches_of_different_lengths_beside_keys_that_are_none(copies, head_dim, programs):
    q, k, v = draw(head_dim, 200, 400, batch=3)
    lengths = torch.tensor([311, 0, 64], dtype=torch.int32)
    clean = k.clone(), v.clone()
    for batch, length in enumerate(lengths.tolist()):
        k[batch, :, length:] = v[batch, :, length:] = math.nan
    for mask in (MASKS["causal"], MASKS["window"]):
        found = attend(q, k, v, mask, copies=copies, programs=programs, kv_len=lengths)
        assert (found[0][1] == 0).all() and (found[1][1] == -math.inf).all()
        close(found, q, *clean, mask, kv_len=lengths)


@pytest.mark.parametrize("q_start", [0, 5, -7, 2000])
def test_queries_that_start_anywhere(copies, q_start):
    q, k, v = draw(128, 200, 300)
    for mask in (MASKS["causal"], MASKS["window"], MASKS["sinks"]):
        found = attend(q, k, v, mask, copies=copies, programs=2, q_start=q_start)
        close(found, q, k, v, mask, q_start=q_start)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_sinks_and_soft_caps(copies, head_dim, softcap):
    """Programs go from head to head, so each item begins with its own head's sink; some rows see it alone."""
    q, k, v = draw(head_dim, 203, 270)
    sinks = torch.tensor([[1.0, 0.0], [-math.inf, 0.0], [3.0, 0.0], [-2.0, 0.0]])[:, 0]
    options = {"sinks": sinks, "softcap": softcap, "q_start": -5}
    for mask in (MASKS["causal"], MASKS["window"], MASKS["sinks"]):
        out, lse = attend(q, k, v, mask, copies=copies, programs=2, **options)
        close((out, lse), q, k, v, mask, **options)
        assert (out[:, :, :5] == 0).all()
        torch.testing.assert_close(lse[:, :, :5], sinks[:, None].expand(1, 4, 5), rtol=1e-6, atol=0)


def test_tensors_as_views(copies):
    """[B, L, H, D] seen as [B, H, L, D], and a part of larger heads."""
    q, k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in draw(128, 150, batch=2))
    both = torch.cat([k, v], 3)
    found = attend(q, both[..., :128], both[..., 128:], MASKS["window"], copies=copies, programs=3)
    close(found, q, k, v, MASKS["window"])
    wide, shared = torch.cat([q, q], 3)[..., 128:], k[:1, :1].expand_as(k)
    found = attend(wide, shared, shared, MASKS["window"], copies=copies, programs=2)
    close(found, q, shared, shared, MASKS["window"])


@pytest.mark.parametrize("head_dim", [80, 128, 256, 512])
def test_queries_that_are_not_copied_in_pieces_of_16_bytes(copies, head_dim):
    q, k, v = draw(head_dim, 300)
    apart = torch.cat([q, q], 3)[..., 1 : head_dim + 1]
    for mask in (MASKS["window"], MASKS["chunks"]):
        close(attend(apart, k, v, mask, copies=copies, programs=3), apart, k, v, mask)


def test_a_copy_that_is_never_waited_for_is_told(copies):
    """Of those to shared memory, which are read only once they were waited for."""
    machine, tile = gluon_interpreter.Machine((1,), copies), gluon_interpreter.Shared(torch.zeros(2, 2))
    copy = machine.names()["async_copy"]
    source = gluon_interpreter.Pointer(torch.arange(8.0), torch.arange(4).view(2, 2))

    def group(waits):
        copy.async_copy_global_to_shared(tile, source, mask=torch.tensor([[True, True], [True, False]]))
        copy.commit_group()
        assert tile.load().isnan().all()
        if waits:
            copy.wait_group(0)
            assert tile.load().tolist() == [[0, 1], [2, 0]]

    gluon_groups.Groups([(group, (True,))]).run()
    with pytest.raises(AssertionError, match="to shared memory was never waited for"):
        gluon_groups.Groups([(group, (False,))]).run()


def test_who_waits_for_what_never_comes_is_told():
    barrier = gluon_interpreter.Barrier()
    barrier.init(2)
    barrier.arrive()
    with pytest.raises(AssertionError, match="nobody completes"):
        barrier.wait(0)
    barrier.arrive()
    barrier.wait(0)


def test_groups_that_wait_for_each_other_are_told():
    ends, barriers = [], [gluon_interpreter.Barrier() for _ in range(2)]
    for barrier in barriers:
        barrier.init(1)

    def group(own, other):
        try:
            own.wait(0)
            other.arrive()
        finally:
            ends.append(own)

    with pytest.raises(AssertionError, match="nobody completes"):
        gluon_groups.Groups([(group, barriers), (group, barriers[::-1])]).run()
    assert len(ends) == 2


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_keys_that_begin_behind_padding(copies, head_dim):
    q, k, v = draw(head_dim, 130, 311, batch=3)
    starts, lengths = (torch.tensor(numbers, dtype=torch.int32) for numbers in ([0, 101, 300], [311, 210, 9]))
    for t in (k, v):
        for row, start in enumerate(starts.tolist()):
            t[row, :, :start] = math.nan
    for mask in (bs.causal(), bs.sliding_window(77)):
        out, lse = attend(q, k, v, mask, copies=copies, programs=2, kv_len=lengths, kv_start=starts)
        for row, start in enumerate(starts.tolist()):
            one = slice(row, row + 1)
            keys = (t[one, :, start : start + lengths[row]] for t in (k, v))
            close((out[one], lse[one]), q[one], *keys, mask)
