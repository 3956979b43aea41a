import blockskip as bs
import pytest
import torch
from skiplab.contenders import Contender, Registry, base, contender, kernel
from skiplab.measure.attention import AWKWARD, FLOAT8_OR_SINKS
from skiplab.measure.decode import AWKWARD as DECODE_AWKWARD
from skiplab.measure.decode import FLOAT8_OR_RAGGED
from skiplab.measure.truth import sampled_rows, truth
from skiplab.measure.verify import check, compare, verify
from skiplab.workload import DecodeWorkload, Workload

SMALL = Workload(150, mask=bs.sliding_window(40), q_heads=4, kv_heads=2, head_dim=16)


def entry(change):
    """SDPA, its result or inputs changed afterwards."""

    def build(workload, inputs):
        sdpa = contender("sdpa").build(workload, inputs)
        return lambda q, k, v: change(q, k, v, sdpa(q, k, v))

    return Contender("mine", "mine", "", build)


def test_torch_is_right_by_its_own_tolerance():
    assert verify(SMALL, contender("sdpa"), "cpu", 0).passed
    assert verify(SMALL, contender("sdpa"), "cpu", 1, deviation=8.0, sampled=True).passed


def test_truth_agrees_with_attention_written_out():
    workload = Workload(70, 100, bs.sliding_window(30), q_heads=4, kv_heads=2, head_dim=16, dtype="float32")
    q, k, v = (x.double() for x in workload.inputs("cpu", 0))
    scores = q @ k.repeat_interleave(2, 1).mT / 4
    expected = scores.masked_fill(~workload.mask.dense(70, 100), -torch.inf).softmax(-1) @ v.repeat_interleave(2, 1)
    found = truth(workload, "cpu", 0, 1.0, False)
    assert torch.allclose(found.out, expected, atol=1e-12)
    assert 0 < found.tolerance < 1e-5


def test_rows_that_see_nothing_are_zero():
    workload = Workload(8, mask=bs.band(None, -4), q_heads=1, kv_heads=1, head_dim=8)  # keys 4 or more back
    assert (truth(workload, "cpu", 0, 1.0, False).out[:, :, :4] == 0).all()


def test_masks_that_differ_between_heads_are_compared_by_head():
    keep = torch.rand(1, 2, 40, 40, generator=torch.Generator().manual_seed(0)) < 0.5
    keep[..., 0] = True
    workload = Workload(40, mask=bs.dense(keep), q_heads=2, kv_heads=2, head_dim=16)
    assert verify(workload, contender("sdpa"), "cpu", 0).passed


def _nan(q, k, v, out):
    out = out.clone()
    out[0, 0, -1, 0] = float("nan")
    return out


def _overwrite(q, k, v, out):
    k.zero_()
    return out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_nan, "NaN"), (_overwrite, "changed its input k"), (lambda q, k, v, out: out * 1.05, "above the tolerance"),
        (lambda q, k, v, out: out[:, :, :-1], "expected is"), (lambda q, k, v, out: out.float(), "expected is"),
        (lambda q, k, v, out: "out", "the result is str"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(change, words):
    result = verify(SMALL, entry(change), "cpu", 0)
    assert not result.passed
    assert words in result.problem


def test_a_mask_off_by_one_is_found():
    off = Workload(SMALL.q_len, mask=bs.sliding_window(41), q_heads=4, kv_heads=2, head_dim=16)
    out = contender("sdpa").build(off, off.inputs("cpu", 0))(*off.inputs("cpu", 0))
    assert not compare(SMALL, out, truth(SMALL, "cpu", 0, 1.0, False)).passed


@pytest.mark.parametrize("q_len", [1, 2, 200, 257, 5000, 131072])
def test_sampled_rows_hold_the_borders(q_len):
    rows = sampled_rows(q_len).tolist()
    assert rows == sorted(set(rows))
    assert rows[0] == 0
    assert rows[-1] == q_len - 1
    assert len(rows) <= min(q_len, 300)
    if q_len > 300:
        assert {63, 64, 127, 128} <= set(rows)
        assert len(rows) >= 128


def test_check_covers_the_awkward_shapes():
    report = check("blockskip", "cpu", dtypes=["bfloat16"])
    assert report.passed, str(report)
    assert len(report.rows) == 2 * (len(AWKWARD) + len(FLOAT8_OR_SINKS))
    assert len(check("sdpa", "cpu", dtypes=["bfloat16"]).rows) == 2 * len(AWKWARD)
    assert "blockskip on cpu" in str(report)
    with pytest.raises(ValueError, match="no 'nobody'"):
        check("nobody")


@pytest.mark.parametrize("name", ["blockskip", "sdpa", "sdpa-math"])
def test_decode_contenders_are_right_where_others_were_not(name):
    report = check(name, "cpu", ("bfloat16",), operation="decode")
    shapes = len(DECODE_AWKWARD) + (len(FLOAT8_OR_RAGGED) if name == "blockskip" else 0)
    assert report.passed and report.counts() == {"ok": 2 * shapes}, str(report)


@pytest.mark.parametrize("name", ["blockskip", "dequantize", "bf16", "tinygemm"])
def test_linear_contenders_are_right_where_others_were_not(name):
    report = check(name, "cpu", ("bfloat16",), operation="linear")
    assert report.passed, str(report)


@pytest.mark.parametrize(
    ("operation", "spoil"),
    [
        ("decode", lambda q, k, v: torch.nan_to_num(k).sum() * 0 + q * 1.1),
        ("linear", lambda x, weight: (x @ weight.mT) * 1.02),
    ],
)
def test_a_wrong_decode_and_a_wrong_linear_are_found(monkeypatch, operation, spoil):
    copy = Registry()
    monkeypatch.setattr(base, "REGISTRY", copy)
    kernel(operation, name="spoilt")(lambda workload, inputs: spoil)
    report = check("spoilt", "cpu", ("float32",), operation=operation)
    assert not report.passed and "wrong" in report.counts()


def test_a_cache_whose_dead_slots_matter_is_found(monkeypatch):
    copy = Registry()
    monkeypatch.setattr(base, "REGISTRY", copy)

    @kernel("decode", name="reads all")
    def build(workload, inputs):
        return lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    workload = DecodeWorkload(70, q_heads=4, kv_heads=2, head_dim=16, dtype="float32", buffer=80)
    assert "NaN" in verify(workload, contender("reads all", "decode"), "cpu", 0).problem


def test_the_truth_follows_a_mask_whose_data_changes():
    kept = torch.ones(12, 12, dtype=torch.bool)
    workload = Workload(12, mask=bs.mask_mod(lambda b, h, q, k: kept[q, k]), q_heads=1, kv_heads=1, head_dim=8)
    whole = truth(workload, "cpu", 0, 1.0, False).out
    kept[5] = False
    workload.mask.refresh()
    now = truth(workload, "cpu", 0, 1.0, False).out
    assert not now[:, :, 5].any() and torch.equal(now[:, :, 6:], whole[:, :, 6:])
