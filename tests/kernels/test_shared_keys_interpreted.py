"""Hopper's kernel where keys are shared on a CPU: its Python over torch tensors, a thread for each group of warps."""

import dataclasses
import math

import blockskip as bs
import gluon_interpreter
import pytest
import torch
from blockskip.attention.call import DecodeArguments
from blockskip.attention.decode import launch
from blockskip.attention.decode.eager import check_decode
from blockskip.attention.decode.plan import can_specialize, plan_decode_kernel, specialized_config
from blockskip.config import TileConfig

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="there is a GPU: test_shared_keys.py runs the kernel itself"
)
CONFIGS = {
    64: TileConfig(128, 128, 12, 4), 80: TileConfig(128, 128, 12, 2), 128: TileConfig(128, 64, 12, 3),
    256: TileConfig(128, 64, 12, 2), 192: TileConfig(128, 64, 12, 2), 512: TileConfig(64, 32, 12, 2),
}  # fmt: skip


@pytest.fixture(params=["early", "late"])
def copies(request):
    """When the copy engine's copies happen."""
    return request.param


def draw(head_dim, q_len, kv_len, *, batch=1, heads=(6, 2), slots=None):
    """q, k, v of a model, whose heads lie beside each other; what is behind kv_len is NaN."""
    generator = torch.Generator().manual_seed(q_len + kv_len)
    shapes = [(batch, q_len, heads[0], head_dim), *[(batch, slots or kv_len, heads[1], head_dim)] * 2]
    q, k, v = (torch.randn(shape, generator=generator).half().transpose(1, 2) for shape in shapes)
    k[:, :, kv_len:] = v[:, :, kv_len:] = math.nan
    return q, k, v


def call_of(q, k, v, kv_len=None, window=None, splits=3, **options):
    """A call of `attention`, which may have more queries than `decode` is asked for."""
    one = DecodeArguments(q[:, :, :1], k, v, kv_len, window, splits=splits, impl="triton", return_lse=True, **options)
    return dataclasses.replace(check_decode(one), q=q)


def shares_of(call, config, copies):
    """The `Parts` that the kernel leaves, which held NaN before."""
    plan = plan_decode_kernel(call, (9, 0), 132, config=config)
    parts = launch.allocate_parts(call, plan)
    for part in parts[:3]:
        part.fill_(math.nan)
    step = launch.prepare(call, plan, (call.q, call.k, call.v, torch.empty_like(call.q)), None, parts, True)
    gluon_interpreter.interpret(step.kernel, step.launch, copies)
    return parts


def merged(parts):
    """(out, lse) of shares, in float64; a share that saw no key is known by its sum."""
    row_max, row_sum = parts.row_max.double() * math.log(2), parts.row_sum.double()
    acc = torch.where((row_sum == 0)[..., None], 0.0, parts.acc.double())
    top = row_max.amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    weight = torch.exp(row_max - top)
    total = (row_sum * weight).sum(-1)
    out = (acc * weight[..., None]).sum(-2) / torch.where(total == 0, 1.0, total)[..., None]
    return out, top[..., 0] + total.log()


def close(call, config, copies, **named):
    """Against float64: a rounding of the weights to 11 bits, and float32 sums of exponents."""
    out, lse = merged(shares_of(call, config, copies))
    doubles = (t.double() for t in (call.q, call.k, call.v))
    mask = bs.causal() if call.window is None else bs.sliding_window(call.window)
    expected, expected_lse = bs.attention(*doubles, mask, impl="reference", return_lse=True, **named)
    assert (out - expected).abs().max() <= 2**-11 * (expected.abs().max() + 1)
    torch.testing.assert_close(lse, expected_lse.double(), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("window", [None, 77, 1])
@pytest.mark.parametrize("head_dim", CONFIGS)
def test_it_is_right(copies, head_dim, window):
    """Queries whose rows fill no block, a share that begins inside a window's tiles, keys that fill no tile."""
    q, k, v = draw(head_dim, 45, 333)
    close(call_of(q, k, v, window=window), CONFIGS[head_dim], copies)


@pytest.mark.parametrize("splits", [2, 5, 40])
def test_any_number_of_shares(copies, splits):
    """Also of more than there are tiles: some see nothing."""
    for head_dim in (128, 512):
        q, k, v = draw(head_dim, 23, 300, heads=(4, 1))
        close(call_of(q, k, v, splits=splits), CONFIGS[head_dim], copies)


@pytest.mark.parametrize("head_dim", [80, 256])
@pytest.mark.parametrize("began", [False, True])
def test_lengths_on_the_device(copies, head_dim, began):
    """Each batch has keys of its own number, from a slot of its own; beyond them lies NaN."""
    q, k, v = draw(head_dim, 30, 400, batch=3)
    lengths, starts = torch.tensor([400, 29, 0], dtype=torch.int32), torch.tensor([0, 170, 3], dtype=torch.int32)
    if not began:
        starts.zero_()
    for batch, (first, count) in enumerate(zip(starts, lengths, strict=True)):
        for t in (k, v):
            t[batch, :, :first] = t[batch, :, first + count :] = math.nan
    named = {"kv_len": lengths, **({"kv_start": starts} if began else {})}
    close(call_of(q, k, v, lengths, kv_start=starts if began else None), CONFIGS[head_dim], copies, **named)


def test_known_keys_of_a_longer_buffer(copies):
    q, k, v = draw(128, 40, 200, slots=512)
    close(call_of(q, k, v, 200), CONFIGS[128], copies, kv_len=200)


@pytest.mark.parametrize("head_dim", [64, 512])
def test_sinks_and_a_soft_cap(copies, head_dim):
    q, k, v = draw(head_dim, 25, 260)
    sinks = torch.randn(6, generator=torch.Generator().manual_seed(1))
    sinks[2] = -math.inf
    close(call_of(q, k, v, sinks=sinks, softcap=2.0), CONFIGS[head_dim], copies, sinks=sinks, softcap=2.0)


def chosen(
    head_dim,
    q_len,
    kv_len=8192,
    heads=(32, 8),
    dtype=torch.bfloat16,
    cache_dtype=None,
    batch=1,
    lengths=None,
    **options,
):
    q = torch.empty((batch, heads[0], q_len, head_dim), dtype=dtype, device="meta")
    cache = torch.empty((batch, heads[1], kv_len, head_dim), dtype=cache_dtype or dtype, device="meta")
    call = dataclasses.replace(call_of(q, cache, cache, splits="auto", **options), lengths=lengths)
    return specialized_config(call, (9, 0), 132)


def test_who_does_a_call():
    """Many rows of several shares do; few rows, for which memory decides, do not, nor one share or an old device."""
    assert chosen(128, 32).block_m == 128
    assert chosen(128, 16) is None
    assert chosen(512, 8, heads=(32, 4)).block_m == 64
    assert chosen(512, 4, heads=(32, 4)) is None
    assert chosen(128, 64, kv_len=256) is None  # a single share
    assert chosen(128, 64, batch=16) is None  # as many programs as multiprocessors
    assert chosen(128, 64, dtype=torch.float32) is None
    assert chosen(128, 64, window=100) is None  # a single share, too
    assert chosen(128, 64, batch=4, kv_len=2048).block_m == 128
    assert chosen(128, 64, window=1024, ring=True) is None
    assert chosen(128, 64, cache_dtype=torch.float8_e4m3fn) is None
    lengths = torch.empty(4, dtype=torch.int32, device="meta")
    assert chosen(128, 32, batch=4, lengths=lengths) is None  # programs share the work of all batches
    assert chosen(128, 64, batch=4, lengths=lengths).block_m == 128  # more rows than those hold
    assert chosen(320, 64) is None
    assert chosen(128, 64, scale=-1.0) is None
    q, k, v = draw(128, 45, 333)
    assert can_specialize(call_of(q, k, v), (9, 0))
    assert not can_specialize(call_of(q, k, v), (10, 0))
    assert not can_specialize(call_of(q, torch.empty(1, 2, 333, 129).half()[..., 1:], v), (9, 0))  # no rows of 16 bytes


def refused(call, config, capability=(9, 0)):
    with pytest.raises(ValueError, match="the warp-specialized kernel is Hopper's and takes 12 warps"):
        plan_decode_kernel(call, capability, 132, config=TileConfig(*config))


def test_what_it_cannot_do_is_an_error():
    q, k, v = draw(128, 45, 333)
    refused(call_of(q, k, v, splits=1), CONFIGS[128])
    refused(call_of(q.float(), k.float(), v.float()), CONFIGS[128])
    refused(call_of(q, k, v), CONFIGS[128], (10, 0))
    refused(call_of(q, k, v, scale=0.0), CONFIGS[128])


@pytest.mark.parametrize("config", [(192, 64, 16, 2), (128, 128, 12, 1), (64, 32, 12, 2)])
def test_tiles_that_would_leave_rows_undone_are_an_error(config):
    """Three groups, of which the kernel has two; groups that share rows where each has room for its own."""
    for head_dim in (80, 128, 256):
        refused(call_of(*draw(head_dim, 45, 333)), config)


def test_head_size_512_takes_rows_that_two_groups_share():
    call = call_of(*draw(512, 45, 333))
    refused(call, (128, 32, 12, 2))
    assert plan_decode_kernel(call, (9, 0), 132, config=CONFIGS[512]).config == CONFIGS[512]
