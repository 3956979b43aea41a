"""kv_start: each row's keys begin at a slot of its own, as behind padding on the left."""

import blockskip as bs
import pytest
import torch

SLOTS = 40
STARTS, LENGTHS = (0, 7, 33, 40), (30, 33, 5, 3)  # of the last row no key is left
ON_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="tiled reads no lengths back from a GPU")
IMPLS = ("reference", pytest.param("tiled", marks=ON_CPU), "triton")
MASKS = {
    "all": None,
    "causal": bs.causal(),
    "window": bs.sliding_window(6),
    "sinks": bs.sliding_window(4) | (bs.sink(2) & bs.causal()),
    "chunks": bs.chunked(8) & bs.causal(),
}


def draw(device, q_len, heads=(4, 2), dtype=torch.float32):
    """q, and k and v that hold NaN where no key is."""
    generator = torch.Generator().manual_seed(q_len)
    shapes = [(4, heads[0], q_len, 16), *[(4, heads[1], SLOTS, 16)] * 2]
    q, k, v = (torch.randn(shape, generator=generator) for shape in shapes)
    slots = torch.arange(SLOTS)
    for t in (k, v):
        for row, (start, count) in enumerate(zip(STARTS, LENGTHS, strict=True)):
            t[row, :, (slots < start) | (slots >= start + count)] = torch.nan
    return [t.to(device, dtype) for t in (q, k, v)]


def counts(device, numbers):
    return torch.tensor(numbers, dtype=torch.int32, device=device)


def by_rows(call, q, k, v, lengths=LENGTHS):
    """What `call` gives for each row alone, of its own keys; a row without keys gives 0 and -inf."""
    found = []
    for row, (start, count) in enumerate(zip(STARTS, lengths, strict=True)):
        count = min(count, SLOTS - start)
        one = q[row : row + 1]
        if count:
            keys = (t[row : row + 1, :, start : start + count] for t in (k, v))
            found.append(call(one, *keys, impl="reference", return_lse=True))
        else:
            found.append((torch.zeros_like(one), torch.full(one.shape[:3], -torch.inf, device=one.device)))
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def close(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("q_len", [1, 3, 20])
def test_attention_of_each_row_is_that_of_its_own_keys(device, impl, mask, q_len):
    q, k, v = draw(device, q_len)
    wanted = by_rows(lambda *given, **options: bs.attention(*given, MASKS[mask], **options), q, k, v)
    given = {"kv_len": counts(device, LENGTHS), "kv_start": counts(device, STARTS), "impl": impl, "return_lse": True}
    for _ in range(2):  # the second by what the first prepared
        close(bs.attention(q, k, v, MASKS[mask], **given), wanted)


@pytest.mark.parametrize("skip", ["none", "mask", "bounds", "map"])
def test_every_skip_mode(device, skip):
    q, k, v = draw(device, 20)
    mask = MASKS["window"]
    wanted = by_rows(lambda *given, **options: bs.attention(*given, mask, q_start=3, **options), q, k, v)
    given = {"kv_len": counts(device, LENGTHS), "kv_start": counts(device, STARTS), "q_start": 3}
    close(bs.attention(q, k, v, mask, **given, skip=skip, impl="triton", return_lse=True), wanted)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("splits", [1, 3])
def test_decode_of_each_row_is_that_of_its_own_keys(device, impl, window, splits):
    q, k, v = draw(device, 2)
    wanted = by_rows(lambda *given, **options: bs.decode(*given, window=window, **options), q, k, v)
    given = {"kv_len": counts(device, LENGTHS), "kv_start": counts(device, STARTS), "splits": splits}
    for _ in range(2):
        close(bs.decode(q, k, v, **given, window=window, impl=impl, return_lse=True), wanted)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kv_len", [None, 6])
def test_kv_len_is_all_from_there_on_and_an_int_the_most(device, impl, kv_len):
    q, k, v = (t.nan_to_num() for t in draw(device, 2))
    lengths = [min(SLOTS - start, kv_len or SLOTS) for start in STARTS]
    for call, options in ((bs.decode, {"window": 9}), (bs.attention, {"mask": bs.sliding_window(9)})):
        wanted = by_rows(lambda *given, call=call, options=options, **rest: call(*given, **options, **rest), q, k, v,
                         lengths)  # fmt: skip
        given = {"kv_len": kv_len, "kv_start": counts(device, STARTS), "impl": impl, "return_lse": True}
        close(call(q, k, v, **options, **given), wanted)


@pytest.mark.parametrize("impl", IMPLS)
def test_one_start_for_all_rows_and_starts_outside_of_the_buffer(device, impl):
    """The kernel reads no memory that is not k's or v's, whatever the device's numbers are."""
    q, k, v = (t.nan_to_num() for t in draw(device, 2))
    given = {"impl": impl, "kv_len": counts(device, [9] * 4)}
    wanted = bs.attention(q, k[:, :, 5:], v[:, :, 5:], bs.causal(), **given)
    close([bs.attention(q, k, v, bs.causal(), kv_start=counts(device, 5), **given)], [wanted])
    found = bs.attention(q, k, v, bs.causal(), kv_start=counts(device, [-3, 0, 38, 1 << 30]), **given)
    first = bs.attention(q[:2], k[:2], v[:2], bs.causal(), kv_len=9, impl=impl)
    last = bs.attention(q[2:3], k[2:3, :, 38:], v[2:3, :, 38:], bs.causal(), impl=impl)
    close([found], [torch.cat([first, last, torch.zeros_like(last)])])


@pytest.mark.parametrize("name", ["attention", "decode"])
def test_in_a_compiled_graph(name):
    q, k, v = draw("cpu", 2)
    call = {"attention": lambda *given, **starts: bs.attention(*given, bs.causal(), **starts), "decode": bs.decode}[
        name
    ]
    given = {"kv_start": counts("cpu", STARTS), "kv_len": counts("cpu", LENGTHS)}
    for kwargs in (given, {"kv_start": given["kv_start"]}):
        k, v = (k, v) if "kv_len" in kwargs else (k.nan_to_num(), v.nan_to_num())
        compiled = torch.compile(call, backend="eager", fullgraph=True)
        assert torch.equal(compiled(q, k, v, **kwargs), call(q, k, v, **kwargs))


def test_errors():
    q, k, v = (t.nan_to_num() for t in draw("cpu", 2))
    starts = counts("cpu", STARTS)
    for call in (bs.attention, bs.decode):
        with pytest.raises(TypeError, match="kv_start: given int; a tensor is needed"):
            call(q, k, v, kv_start=3)
        with pytest.raises(TypeError, match=r"kv_start: given a tensor of torch.int64; int32 is needed"):
            call(q, k, v, kv_start=starts.long())
        with pytest.raises(ValueError, match=r"kv_start: given shape \(3,\); \[\] or \[4\] is needed"):
            call(q, k, v, kv_start=starts[:3])
        with pytest.raises(ValueError, match="kv_start: is on meta; must be on q's cpu"):
            call(q, k, v, kv_start=starts.to("meta"))
        with pytest.raises(ValueError, match="kv_start: given with ring=True"):
            call(q, k, v, kv_start=starts, ring=True)
        with pytest.raises(ValueError, match="kv_len: given 41; must be from 1 to k's length 40"):
            call(q, k, v, kv_start=starts, kv_len=41)


def test_what_explain_says_of_it_is_what_a_kv_len_tensor_has():
    q, k, v = draw("cpu", 2)
    given = {"kv_start": counts("cpu", STARTS), "kv_len": counts("cpu", LENGTHS)}
    without = {"kv_len": given["kv_len"]}
    assert str(bs.explain(q, k, v, bs.causal(), **given)) == str(bs.explain(q, k, v, bs.causal(), **without))
    assert str(bs.explain_decode(q, k, v, **given)) == str(bs.explain_decode(q, k, v, **without))
