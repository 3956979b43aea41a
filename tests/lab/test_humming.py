"""Humming needs CUDA. Here: a stand-in for its layer, which reads its parameters as the wheel's sources (0.1.20) do.

It holds our codes, scales and zero points against that layout, and our operands against what Humming rounds.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from skiplab.contenders import contender, humming
from skiplab.measure import Point
from skiplab.measure.checked import measure
from skiplab.measure.rotation import clone, tensors_of
from skiplab.measure.verify import verify
from skiplab.workload import LinearWorkload

ROWS, SIZES = (1, 3, 70), (128, 192)


def unpacked(words, count):
    """As `unpack_weight` in humming/kernel/pack_weight.cuh: code i of a row lies from bit 4 i on, in 32-bit words."""
    places = torch.arange(count, dtype=torch.int64) * 4
    return (words.to(torch.int64)[..., places // 32] >> places % 32) & 15


class Layer(torch.nn.Module):
    """HummingLayer: its arguments, the parameters that it asks for (schema/humming.py), transform and call."""

    def __init__(self, shape_n, shape_k, weight_config, input_config=None, *, torch_dtype):
        super().__init__()
        assert weight_config["dtype"] in ("int4", "uint4") and set(weight_config) <= {
            "dtype",
            "group_size",
            "has_zero_point",
        }
        self.n, self.k, self.size = shape_n, shape_k, weight_config["group_size"]
        self.int8, self.ready = input_config["dtype"] == "int8", False
        groups = shape_k // self.size
        shapes = {"weight": (shape_n, shape_k // 8), "weight_scale": (shape_n, groups)}
        if weight_config["has_zero_point"]:
            shapes["zero_point"] = (shape_n // 8, groups)
        for name, shape in shapes.items():
            dtype = torch_dtype if name == "weight_scale" else torch.int32
            self.register_parameter(name, torch.nn.Parameter(torch.zeros(shape, dtype=dtype), requires_grad=False))
        self.register_buffer("locks", torch.zeros(2048, dtype=torch.int32))

    def load_from_tensors(self, tensors):
        self.load_state_dict(tensors, strict=False)

    def transform(self):
        zero = 8
        if hasattr(self, "zero_point"):
            zero = unpacked(self.zero_point.mT, self.n).mT.unsqueeze(-1)
        values = (unpacked(self.weight, self.k).unflatten(1, (-1, self.size)) - zero).float()
        scale = self.weight_scale.float()
        if self.int8:  # transform.py, process_int_weight_scale
            factor = scale.abs().max() / 1024
            scale = (scale / factor).round() * factor
        values = (values * scale.unsqueeze(-1)).flatten(1)
        self.values = torch.nn.Parameter(
            values if self.int8 else values.to(self.weight_scale.dtype), requires_grad=False
        )
        self.ready = True

    def forward(self, inputs):
        assert self.ready and inputs.ndim == 2 and inputs.is_contiguous()
        x = inputs.float()
        if self.int8:  # kernel/process_input/quantization.cuh: a scale for each token
            step = (x.abs().amax(1, keepdim=True) / 127).clamp_min(1e-30)
            x = (x * (1 / step)).round() * step
        return (x.double() @ self.values.double().mT).to(inputs.dtype)


@pytest.fixture
def install(monkeypatch):
    """Makes `humming.layer` importable, with that layer."""

    def make(layer=Layer):
        for name in ("humming", "humming.layer"):
            module = ModuleType(name)
            module.__spec__ = ModuleSpec(name, None, is_package=True)
            module.__path__ = []
            module.HummingLayer = layer
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(humming, "is_cuda", lambda device: True)

    return make


@pytest.mark.parametrize("name", ["humming", "humming-int8"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [32, 64])
def test_what_is_given_to_the_layer_is_our_weight(install, name, symmetric, group_size):
    install()
    for rows in ROWS:
        workload = LinearWorkload(*SIZES, rows, 4, group_size, symmetric)
        entry = contender(name, "linear")
        assert entry.supports(workload, "cuda") is None
        checked = verify(workload, entry, "cpu", 0, deviation=8.0)
        assert checked.passed, checked.problem
        assert (
            checked.error < checked.tolerance / 4
        )  # the tolerance holds what Humming may round, the stand-in does not


@pytest.mark.parametrize("name", ["humming", "humming-int8"])
def test_a_wrong_layout_is_seen(install, name, monkeypatch):
    install()
    swapped = humming.packed_codes
    monkeypatch.setattr(
        humming, "packed_codes", lambda codes: swapped(codes.unflatten(-1, (-1, 2)).flip(-1).flatten(-2))
    )
    assert not verify(LinearWorkload(*SIZES, 3), contender(name, "linear"), "cpu", 0).passed


def test_a_point_is_measured_and_checked_in_the_memory_timed(install):
    install()
    for name in ("humming", "humming-int8"):
        done = measure(Point(LinearWorkload(*SIZES, 2, symmetric=True), name), budget_s=0.05)
        assert done.status == "ok", done.error_text


def test_a_layer_is_copied_whole(install):
    install()
    workload = LinearWorkload(*SIZES, 2)
    entry = contender("humming", "linear")
    x, layer = entry.prepare(workload, workload.inputs("cpu", 0))
    copy = clone(layer)
    assert torch.equal(copy(x), layer(x))
    assert not {one.data_ptr() for one in tensors_of(copy)} & {one.data_ptr() for one in tensors_of(layer)}


def failing(step, error):
    """A layer whose `step` raises."""

    def raises(*args, **named):
        raise error

    return type("Failing", (Layer,), {step: raises})


@pytest.mark.parametrize(
    ("step", "error", "reason"),
    [
        ("__init__", TypeError("unexpected keyword argument 'shape_n'"),
         "Humming could not prepare the layer: TypeError: unexpected keyword argument 'shape_n'"),
        ("transform", AssertionError(), "Humming could not prepare the layer: AssertionError"),
        ("forward", RuntimeError("No suitable CUDA 13 environment found.\nmore"),
         "Humming could not compile or run its kernel: RuntimeError: No suitable CUDA 13 environment found."),
    ],
)  # fmt: skip
def test_what_fails_while_it_prepares_is_why_it_is_left_out(install, step, error, reason):
    install(failing(step, error))
    done = measure(Point(LinearWorkload(*SIZES), "humming"), budget_s=0.05)
    assert (done.status, done.error_text) == ("unsupported", reason)


def test_memory_that_is_out_is_no_reason_to_leave_it_out(install):
    install(failing("transform", torch.OutOfMemoryError("CUDA out of memory")))
    assert measure(Point(LinearWorkload(*SIZES), "humming"), budget_s=0.05).status == "out-of-memory"


def test_a_layer_that_wants_other_tensors_is_not_filled_by_halves(install):
    class Other(Layer):
        def __init__(self, *args, **named):
            super().__init__(*args, **named)
            self.global_scale = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    install(Other)
    done = measure(Point(LinearWorkload(*SIZES), "humming"), budget_s=0.05)
    assert done.status == "unsupported" and "wants other tensors" in done.error_text


def test_it_says_what_it_takes_and_how_to_install_it(install):
    entry = contender("humming", "linear")
    assert 'pip install "humming-kernels[cu13]"' in entry.supports(LinearWorkload(*SIZES), "cuda")
    install()
    for workload, reason in (
        (LinearWorkload(*SIZES, bits=8), "int4 weights"),
        (LinearWorkload(*SIZES, dtype="float32"), "bfloat16 or float16"),
        (LinearWorkload(96, 192), "64 outputs"),
        (LinearWorkload(128, 160), "64 outputs"),
    ):
        assert reason in entry.supports(workload, "cuda")


@pytest.mark.parametrize(("symmetric", "bits"), [(True, 4.5), (False, 4.625)])
def test_its_rate_is_of_its_own_bytes(symmetric, bits):
    workload = LinearWorkload(4096, 4096, symmetric=symmetric)
    assert contender("humming", "linear").moved(workload) == 4096 * 4096 * bits / 8
