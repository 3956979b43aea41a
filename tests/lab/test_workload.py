import json

import blockskip as bs
import pytest
import torch
from skiplab.operations import workload_of
from skiplab.workload import LINEARS, MODELS, DecodeWorkload, HeadShape, LinearWorkload, Workload


def test_axes_are_flat_and_come_back():
    workload = Workload(300, 512, bs.sliding_window(64) | (bs.sink(4) & bs.causal()), 2, 6, 2, 80, "float32", q_start=7)
    axes = workload.axes()
    assert all(value is None or isinstance(value, str | int) for value in axes.values())
    assert Workload.from_axes(axes) == workload
    assert Workload.from_axes(axes).key() == workload.key()


def test_window_is_one_sided_bands_alone():
    assert Workload(64, mask=bs.sliding_window(16)).window == 16
    assert Workload(64, mask=bs.sliding_window(1)).window == 1
    assert Workload(64).window is None
    assert Workload(64, mask=bs.band(15, 3)).window is None
    assert Workload(64, mask=bs.document((32, 32))).window is None


def test_is_causal_means_what_torch_means():
    assert Workload(64).is_causal
    assert not Workload(64, 128).is_causal  # the queries are the last ones
    assert Workload(64, 128, q_start=0).is_causal
    assert not Workload(64, mask=bs.sliding_window(8)).is_causal


@pytest.mark.parametrize("mask", [bs.causal(), bs.sliding_window(16)])
def test_a_prompt_in_a_buffer_sees_no_key_behind_it(mask):
    workload = Workload(64, 96, mask, q_heads=2, kv_heads=1, head_dim=16, dtype="float32", q_start=0)
    assert workload.buffer == 96
    assert (workload.axes()["buffer"], workload.axes()["kv_len"]) == (96, 96)
    assert Workload.from_axes(workload.axes()) == workload
    q, k, v = workload.inputs("cpu", 0)
    out = bs.attention(q, k, v, mask, q_start=0, impl="reference")
    assert torch.equal(out, bs.attention(q, k[:, :, :64], v[:, :, :64], mask, impl="reference"))
    assert torch.isfinite(k).all()  # masked off, not missing: a kernel may read them
    alone = Workload(64, mask=mask, q_heads=2, kv_heads=1, head_dim=16, dtype="float32")
    assert workload.work("bounds").useful_flops == alone.work("bounds").useful_flops
    assert workload.work("none").executed_flops == alone.work("none").executed_flops * 96 // 64
    assert alone.buffer is None
    assert "buffer" not in alone.axes()  # the axes of runs made before are the same


@pytest.mark.parametrize(
    "workload",
    [Workload(64, 96), Workload(64, 96, bs.band(8, 8), q_start=0), Workload(64, 32, q_start=0)],
    ids=["at the end", "sees later keys", "fewer keys than tokens"],
)
def test_what_is_no_prompt_in_a_buffer(workload):
    assert workload.buffer is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"q_len": 0}, "q_len"), ({"q_len": 8, "head_dim": 4}, "head_dim"), ({"q_len": 8, "dtype": "int8"}, "dtype"),
        ({"q_len": 8, "q_heads": 6, "kv_heads": 4}, "kv_heads"),
        ({"q_len": 8, "mask": "causal"}, "mask"), ({"q_len": 8, "batch": 0}, "batch"),
    ],
)  # fmt: skip
def test_errors_name_the_field(fields, named):
    with pytest.raises(ValueError, match=rf"^{named}: "):
        Workload(**fields)


def test_a_mask_with_tensors_has_no_axes():
    with pytest.raises(ValueError, match="mask"):
        Workload(4, mask=bs.dense(torch.ones(4, 4, dtype=torch.bool))).axes()


@pytest.mark.parametrize("deviation", [1.0, 8.0])
def test_inputs_give_logits_of_that_deviation(deviation):
    q, k, v = Workload(256, 300, q_heads=4, kv_heads=2, head_dim=64, dtype="float32").inputs("cpu", 0, deviation)
    assert (q.shape, k.shape, v.shape) == ((1, 4, 256, 64), (1, 2, 300, 64), (1, 2, 300, 64))
    logits = q @ k.repeat_interleave(2, 1).mT * 64**-0.5
    assert logits.std().item() == pytest.approx(deviation, rel=0.1)


def test_inputs_depend_on_the_seed_alone():
    workload = Workload(8, head_dim=8)
    assert torch.equal(workload.inputs("cpu", 3)[0], workload.inputs("cpu", 3)[0])
    assert not torch.equal(workload.inputs("cpu", 3)[0], workload.inputs("cpu", 4)[0])


def test_work_counts_kept_pairs():
    workload = Workload(1000, mask=bs.sliding_window(100))
    pairs = 100 * 1000 - 100 * 99 // 2
    work = workload.work("map", 64, 64)
    assert work.useful_flops == 4 * 8 * 128 * pairs
    assert work.useful_flops <= work.executed_flops < work.dense_flops


def test_models_hold_published_shapes():
    assert MODELS["gemma4-31b sliding"] == HeadShape(32, 16, 256, 1024)
    assert MODELS["gemma4-31b full"] == HeadShape(32, 4, 512, None)
    assert MODELS["llama3-8b"].workload(64).mask == bs.causal()
    assert MODELS["laptop"].workload(64, batch=2).window == 512


def test_a_decode_step_counts_what_its_queries_see():
    step = DecodeWorkload(100, window=30, q_len=3, q_heads=4, kv_heads=2, head_dim=16, buffer=160)
    assert (step.live_keys, step.slots, step.first_position, step.group) == (32, 160, 97, 2)
    work = step.work()
    assert work.useful_flops == 4 * 4 * 16 * (30 + 30 + 30)
    assert work.bytes == 2 * 2 * 16 * (2 * 32 + 4 * 3)
    assert step.work(splits=5).bytes == work.bytes + 8 * 5 * 4 * 3 * (16 + 2)
    assert DecodeWorkload(2, q_len=2, q_heads=1, kv_heads=1, head_dim=8).work().useful_flops == 4 * 8 * (1 + 2)


def test_a_cache_holds_nan_beyond_its_keys():
    _, k, v = DecodeWorkload(5, q_heads=2, kv_heads=1, head_dim=8, buffer=9).inputs("cpu", 0)
    assert k.shape == (1, 1, 9, 8)
    for cache in (k, v):
        assert cache[:, :, 5:].isnan().all() and cache[:, :, :5].isfinite().all()


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"kv_len": 0}, "kv_len"), ({"kv_len": 129, "q_len": 129}, "q_len"), ({"kv_len": 4, "q_len": 5}, "kv_len"),
     ({"kv_len": 8, "window": 0}, "window"), ({"kv_len": 8, "buffer": 7}, "buffer"),
     ({"kv_len": 8, "kv_heads": 3}, "kv_heads")],
)  # fmt: skip
def test_errors_of_a_decode_step_name_the_field(fields, named):
    with pytest.raises(ValueError, match=rf"^{named}: "):
        DecodeWorkload(**fields)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [32, 128])
def test_a_linear_layer_counts_the_bytes_that_quantize_makes(bits, symmetric, group_size):
    layer = LinearWorkload(48, 256, 3, bits, group_size, symmetric)
    x, weight = layer.inputs("cpu", 0)
    packed = bs.quantize(weight, bits, group_size, symmetric)
    assert (layer.weight_bytes, layer.bits_per_weight) == (packed.nbytes, packed.bits_per_weight)
    assert layer.work().bytes == packed.nbytes + x.nbytes + 2 * 3 * 48
    assert layer.work().useful_flops == 2 * 3 * 48 * 256


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"rows": 0}, "rows"), ({"bits": 5}, "bits"), ({"group_size": 16}, "group_size"),
     ({"in_features": 96, "group_size": 64}, "in_features"), ({"dtype": "int4"}, "dtype")],
)  # fmt: skip
def test_errors_of_a_linear_layer_name_the_field(fields, named):
    with pytest.raises(ValueError, match=rf"^{named}: "):
        LinearWorkload(**{"out_features": 64, "in_features": 64, **fields})


@pytest.mark.parametrize(
    "workload",
    [Workload(33, 70, bs.sliding_window(8)), DecodeWorkload(33, 8, buffer=64), LinearWorkload(64, 32, symmetric=True)],
)
def test_every_workload_comes_back_from_its_axes(workload):
    assert workload_of(json.loads(json.dumps(workload.axes()))) == workload
    assert workload.axes()["operation"] == workload.operation == workload.key().split()[0]


def test_an_unknown_operation_is_refused():
    with pytest.raises(ValueError, match="operation: got 'sort'; allowed are attention, decode, linear"):
        workload_of({"operation": "sort"})


def test_gemmas_layers_have_the_published_shapes():
    assert LINEARS["gate, up"] == (21504, 5376) and LINEARS["head"] == (262144, 5376)
    assert MODELS["gemma4-31b sliding"].decode(4096).window == 1024
