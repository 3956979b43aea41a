"""What was tuned for linear layers: how a call finds its entry, and what the plan makes of it. No GPU is needed."""

import json
from dataclasses import replace

import blockskip as bs
import pytest
import torch
from blockskip.gpu import Gpu
from blockskip.linear import measured as module
from blockskip.linear import plan as plans
from blockskip.linear import route
from blockskip.linear.configs import FusedConfig, MatvecConfig, fused_splits
from blockskip.linear.hopper.plan import HopperConfig
from blockskip.linear.measured import config_of, form_of, measured, values_of
from blockskip.tuned import choose
from blockskip.tuned.choose import Origin
from blockskip.tuned.files import Section, Tuned, read_tuned
from blockskip.tuned.linear import Form, LinearEntry, find

H200 = Gpu("NVIDIA H200", (9, 0), 132)
FORM = Form(4, "rows", 32, False, False, "float")
SIZES = {"block_m": 64, "block_n": 64, "blocks": 2, "num_warps": 8, "num_stages": 4, "splits": 3}
FUSED = FusedConfig(64, 64, 2, 8, 4)


def entry(n=512, k=8192, rows=64, kernel="fused", config=SIZES, form=FORM):
    return LinearEntry(form, n, k, rows, kernel, config, 10.0, 12.0)


@pytest.fixture
def tuned(monkeypatch):
    """Puts these in place of `configs/`, as a file of that device."""

    def put(*entries, device=H200.name, capability=(9, 0)):
        files = (Tuned(device, capability, {"linear": Section("2.11.0", "3.6.0", "a.jsonl", entries)}),)
        monkeypatch.setattr(choose, "tuned_devices", lambda: files)
        choose.find_linear.cache_clear()

    yield put
    choose.find_linear.cache_clear()


def weight(n=512, k=8192, packing="rows", **quantizing):
    w = bs.quantize(torch.zeros(n, k, device="meta"), **quantizing)
    return w.packed(packing) if packing == "tiles" else w


class OnGpu:
    """As much of activations on a GPU as a plan asks for."""

    is_cuda, device = True, torch.device("cuda")

    def __init__(self, rows, dtype=torch.bfloat16):
        self.shape, self.dtype = (rows, 0), dtype


@pytest.fixture
def planned(monkeypatch):
    """The plan of a product on an H200 that is not here."""
    monkeypatch.setattr(plans.Gpu, "of", classmethod(lambda cls, device: H200))
    monkeypatch.setattr(plans, "capability_of", lambda device: H200.capability)

    def plan(w, rows, way="measured", dtype=torch.bfloat16, activations="auto"):
        return plans.make_plan(OnGpu(rows, dtype), w, "triton", way, activations)

    return plan


def test_a_file_with_linear_entries_is_read_as_it_was_written(tmp_path):
    section = {"torch": "2.11.0", "triton": "3.6.0", "runs": "a.jsonl", "entries": [entry().fields()]}
    content = {"schema": 3, "device": H200.name, "capability": "9.0", "operations": {"linear": section}}
    path = tmp_path / "h200.json"
    path.write_text(json.dumps(content))
    assert read_tuned(path).entries("linear") == (entry(),)
    section["entries"][0]["activations"] = "int3"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"h200\.json: activations: given 'int3'; allowed are int8, float"):
        read_tuned(path)


def test_rows_take_the_least_that_were_measured_and_are_not_below():
    entries = [entry(rows=rows) for rows in (64, 16, 512)]
    found = {rows: find(entries, FORM, 512, 8192, rows) for rows in (1, 16, 17, 64, 65, 512, 513)}
    assert {rows: one and one.rows for rows, one in found.items()} == {
        1: 16, 16: 16, 17: 64, 64: 64, 65: 512, 512: 512, 513: None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "nearest"),
    [
        ((4096, 4096), (4096, 4096)),
        ((4000, 4096), (4096, 4096)),
        ((2796, 6000), (4096, 4096)),  # as many weights as either of two: K decides
        ((1024, 16384), (1024, 16384)),
        ((28672, 8192), (16384, 8192)),
        ((64, 64), (4096, 4096)),
    ],
)
def test_a_shape_takes_the_nearest_by_weights_and_inputs(shape, nearest):
    entries = [entry(n, k) for n, k in ((16384, 8192), (1024, 16384), (4096, 4096))]
    found = find(entries, FORM, *shape, 64)
    assert (found.out_features, found.in_features) == nearest


@pytest.mark.parametrize(
    "other", [{"bits": 8}, {"packing": "tiles"}, {"group_size": 64}, {"symmetric": True}, {"encoded": True},
              {"activations": "int8"}],
)  # fmt: skip
def test_only_the_same_form_counts(other):
    assert find([entry()], replace(FORM, **other), 512, 8192, 64) is None


def test_the_form_of_a_weight():
    assert form_of(weight(), "float") == FORM
    assert form_of(weight(bits=8, group_size=64, symmetric=True), "int8") == Form(8, "rows", 64, True, False, "int8")
    assert form_of(weight(metadata="uint8"), "float") == replace(FORM, encoded=True)
    assert form_of(weight(packing="tiles"), "float") == replace(FORM, packing="tiles")


@pytest.mark.parametrize(
    ("kernel", "packing", "config", "splits"),
    [
        ("matvec", "rows", MatvecConfig(2, 16, 2, 96), 1),
        ("fused", "rows", FUSED, 3),
        ("fused", "tiles", HopperConfig(16, 256, 5, 3, 132), 1),
        ("dequantize", "rows", None, 1),
        ("dequantize", "tiles", None, 1),
    ],
)
def test_sizes_go_into_a_file_and_back(kernel, packing, config, splits):
    assert config_of(kernel, packing, json.loads(json.dumps(values_of(config, splits)))) == (config, splits)


@pytest.mark.parametrize(
    ("kernel", "packing", "values"),
    [
        ("fused", "rows", {"block_q": 64}),
        ("fused", "tiles", {"block_m": 128, "block_k": 128, "stages": 2, "row_groups": 2, "programs": 132}),
        ("matvec", "tiles", {}),
        ("dequantize", "rows", {"block_m": 1}),
    ],
)
def test_sizes_of_another_version_are_an_error_that_says_what_to_do(kernel, packing, values):
    with pytest.raises(ValueError, match="tune anew"):
        config_of(kernel, packing, values)


def test_the_plan_takes_what_was_tuned_and_says_so(tuned, planned):
    w = weight()
    before = planned(w, 64)
    assert before.origin == Origin("table", "sm_90") and before.config != FUSED
    assert str(before).splitlines()[-1] == "source  defaults for sm_90"
    tuned(entry())
    plan = planned(w, 64)
    assert (plan.kernel, plan.config, plan.splits, plan.origin) == ("fused", FUSED, 3, Origin("tuned", "NVIDIA H200"))
    assert str(plan).splitlines()[2:] == [
        "weight  in rows", "kernel  fused: the fastest at 512 x 8192 with 64 rows",
        f"config  {FUSED}, 3 splits along K", "source  tuned on NVIDIA H200",
    ]  # fmt: skip
    tuned(entry(), device="NVIDIA H100 80GB HBM3")
    assert str(planned(w, 64)).endswith("source  tuned on NVIDIA H100 80GB HBM3, not on this GPU")
    tuned(entry(), capability=(10, 0))
    assert planned(w, 64) == before


def test_the_crossover_is_what_was_measured(tuned, planned):
    w = weight()
    assert (planned(w, 128).kernel, planned(w, 512).kernel) == ("fused", "dequantize")
    tuned(entry(rows=128, kernel="dequantize", config={}), entry(rows=512))
    assert [planned(w, rows).kernel for rows in (9, 128, 129, 512)] == ["dequantize"] * 2 + ["fused"] * 2
    assert planned(w, 513).origin == Origin("table", "sm_90")


def test_a_matvec_takes_its_sizes(tuned, planned):
    w, sizes = weight(), {"block_n": 4, "blocks": 8, "num_warps": 1, "registers": None}
    before = planned(w, 1)
    assert before.config == MatvecConfig(1, 32, 1) and before.batch_invariant
    tuned(entry(rows=1, kernel="matvec", config=sizes, form=replace(FORM, activations="int8")))
    plan = planned(w, 1)
    assert (plan.kernel, plan.config, plan.batch_invariant) == ("matvec", MatvecConfig(4, 8, 1), False)
    assert planned(w, 2).config == before.config


def test_with_named_activations_sizes_are_the_same_for_any_number_of_rows(tuned, planned):
    """So that a row's bits do not depend on the other rows: products are summed in an order that the sizes fix."""
    w, int8 = weight(), replace(FORM, activations="int8")
    few = {"block_n": 4, "blocks": 8, "num_warps": 1, "registers": None}
    other = entry(rows=16, config={**SIZES, "block_m": 16, "splits": 8})
    tuned(other, entry(rows=64), entry(rows=512, kernel="dequantize", config={}),
          entry(rows=1, kernel="matvec", config=few, form=int8))  # fmt: skip
    plans = [planned(w, rows, activations="float") for rows in (1, 16, 17, 64, 300, 5000)]
    assert {(plan.kernel, plan.config, plan.splits) for plan in plans} == {("fused", FUSED, 3)}
    assert all(plan.batch_invariant and plan.origin.how == "tuned" for plan in plans)
    plans = [planned(w, rows, activations="int8") for rows in (1, 2, 64)]
    assert {(plan.config.block_n, plan.config.blocks, plan.config.num_warps) for plan in plans} == {(1, 32, 1)}
    assert all(plan.batch_invariant for plan in plans)
    tuned(entry(rows=64, kernel="dequantize", config={}))
    assert planned(w, 64, activations="float").kernel == "fused"


def test_what_a_call_means_and_what_was_asked_for_stand_above_what_was_measured(tuned, planned):
    w = weight()
    tuned(entry(), entry(rows=8, form=replace(FORM, activations="int8")))
    assert planned(w, 8).kernel == "matvec"  # up to 8 rows activations are rounded, whatever a file says
    assert planned(w, 64, "dequantize").kernel == "dequantize"
    assert planned(w, 64, "fused").origin == Origin("table", "sm_90")
    assert planned(w, 64, dtype=torch.float32).kernel == "dequantize"


def test_another_shape_takes_the_sizes_and_divides_k_anew(tuned, planned):
    tuned(entry())
    plan = planned(weight(4096, 4096), 60)
    assert (plan.config, plan.splits) == (FUSED, fused_splits(60, weight(4096, 4096), FUSED, 132))
    assert plan.splits != 3


def test_tiles_of_another_shape_are_divided_anew(tuned):
    form = replace(FORM, packing="tiles")
    tuned(entry(16384, 4096, 128, config=values_of(HopperConfig(64, 256, 4, 2, 63)), form=form))
    assert measured(H200, weight(16384, 4096, "tiles"), 128, "float").config.programs == 63  # as it was tuned
    assert (
        measured(H200, weight(8192, 4096, "tiles"), 128, "float").config.programs == 128
    )  # a tile of one of two blocks
    assert measured(H200, weight(8192, 4096, "tiles"), 64, "float").config.programs == 128  # half a tile, of one block
    assert (
        measured(H200, weight(64, 512, "tiles"), 128, "float").config.programs == 4
    )  # a tile of two steps, two blocks


def test_without_a_gpu_nothing_tuned_is_taken(tuned, device):
    if device != "cpu":
        pytest.skip("a GPU is here")
    tuned(entry(rows=2048, kernel="dequantize", config={}))
    x, w = torch.zeros(64, 8192), bs.quantize(torch.zeros(4, 8192))
    assert bs.explain_linear(x, w, impl="triton").origin == Origin("table", "sm_90")
    assert bs.explain_linear(x, w, impl="tiled").origin is None


def test_the_seam_has_sizes_for_every_kernel_of_a_route():
    kernels = {kernel for kernel, _ in module.CONFIGS} | {"dequantize"}
    assert kernels == set(route.ROUTES) - {"measured"}
