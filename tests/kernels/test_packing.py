"""Which packing a weight has on which device: by `quantize`, by moving, in modules and their state_dicts.

Where there is no GPU, the CPU or the meta device is taken for one.
"""

import copy
import io
import pickle
from dataclasses import replace

import blockskip as bs
import pytest
import torch
from blockskip.linear import packing
from torch import nn

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


def floats(n=128, k=512, seed=0):
    return torch.randn((n, k), generator=torch.Generator().manual_seed(seed)).bfloat16()


def same(a, b):
    """Whether two weights have the same bits, however they lie."""
    one, other = (w.packed("rows").named_tensors() for w in (a, b))
    return one.keys() == other.keys() and all(torch.equal(t, other[name]) for name, t in one.items())


@pytest.fixture
def pretend(monkeypatch):
    """pretend(cpu=(9, 0)): from here on the CPU counts as a GPU of that capability."""

    def pretend(**capabilities):
        monkeypatch.setattr(packing, "capability_of", lambda device: capabilities.get(device.type))

    return pretend


@pytest.fixture
def on_hopper(pretend):
    pretend(cpu=(9, 0))


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((9, 0), "tiles"), ((8, 0), "rows"), ((10, 0), "rows"), ((12, 0), "rows"), (None, "rows")],
)
def test_quantize_packs_for_its_device(pretend, capability, expected):
    plain = bs.quantize(floats())
    pretend(cpu=capability)
    w = bs.quantize(floats())
    assert w.packing == expected and same(w, plain)
    assert w.packed("rows").packing == "rows" and w.packed("tiles").packing == "tiles"
    qdata, scale = torch.zeros((128, 256), dtype=torch.int8), torch.ones((16, 128), dtype=torch.bfloat16)
    assert bs.from_torchao(qdata, scale).packing == expected
    swapped = bs.quantize_(nn.Sequential(nn.Linear(512, 128, dtype=torch.bfloat16)))
    assert swapped[0].weight.packing == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: bs.quantize(floats(), bits=8),
        lambda: bs.quantize(floats(), metadata="uint8"),
        lambda: bs.quantize(floats(n=100)),
        lambda: bs.quantize(floats(k=384)),
        lambda: bs.from_gguf(bytes(128 * 512 // 32 * 18), "Q4_0", (128, 512)),
        lambda: bs.from_torchao(
            torch.zeros((128, 256), dtype=torch.int8), *torch.ones((2, 16, 128), dtype=torch.bfloat16)
        ),
    ],
)
def test_what_cannot_lie_in_tiles_lies_in_rows(on_hopper, make):
    assert make().packing == "rows"


def test_a_weight_that_moves_takes_the_packing_of_its_new_device(pretend):
    rows = bs.quantize(floats())
    pretend(meta=(9, 0))
    assert rows.to("cpu").packing == "rows" and rows.to("meta").packing == "tiles"
    assert rows.packed("tiles").to("cpu").packing == "tiles"  # asked for, and it does not move
    assert bs.quantize(floats(), bits=8).to("meta").packing == "rows"
    pretend(cpu=(9, 0), meta=(8, 0))
    assert rows.to("cpu").packing == "rows" and rows.packed("tiles").to("meta").packing == "rows"


@pytest.mark.skipif(not HOPPER, reason="needs a GPU of compute capability 9.x")
@pytest.mark.parametrize("symmetric", [False, True])
def test_to_a_hopper_gpu_and_back_every_bit_is_the_same(symmetric):
    rows = bs.quantize(floats(), symmetric=symmetric)
    tiles = rows.to("cuda")
    assert tiles.packing == "tiles" and tiles.packed("rows").to("cuda").packing == "rows"
    assert tiles.to("cpu").packing == "rows" and same(tiles.to("cpu"), rows)
    assert bs.quantize(floats().cuda(), symmetric=symmetric).packing == "tiles"
    layer = nn.Sequential(bs.QuantizedLinear(rows)).cuda()
    assert layer[0].weight.packing == "tiles" and same(layer[0].weight.to("cpu"), rows)
    other = nn.Sequential(bs.QuantizedLinear(bs.quantize(floats(seed=1), symmetric=symmetric))).cuda()
    other.load_state_dict(nn.Sequential(bs.QuantizedLinear(rows)).state_dict())
    assert other[0].weight.packing == "tiles" and same(other[0].weight.to("cpu"), rows)
    layer.cpu().load_state_dict(other.state_dict())
    assert layer[0].weight.packing == "rows" and same(layer[0].weight, rows)


def test_a_module_moves_as_its_weight_does(pretend):
    layer = bs.QuantizedLinear(bs.quantize(floats()), torch.zeros(128, dtype=torch.bfloat16))
    pretend(meta=(9, 0))
    assert layer.half().weight.packing == "rows" and layer.to("cpu").weight.packing == "rows"
    assert layer.to("meta").weight.packing == "tiles" and layer.data.shape == (2, 2, 64, 128)
    pretend(cpu=(9, 0))
    layer = bs.QuantizedLinear(bs.quantize(floats()).packed("rows"))
    assert layer.bfloat16().weight.packing == "rows"  # asked for, and it does not move
    assert layer.to("meta").weight.packing == "rows"
    layer.to_empty(device="cpu")
    assert layer.weight.packing == "tiles" and layer.scale.dtype == torch.bfloat16
    w = bs.quantize(floats())
    layer.load_state_dict(bs.QuantizedLinear(w.packed("rows")).state_dict())
    assert layer.weight.packing == "tiles" and same(layer.weight, w)


def test_files_of_either_packing_load_into_either(pretend, tmp_path):
    from safetensors.torch import load_file, save_file

    w, other, x = bs.quantize(floats()), bs.quantize(floats(seed=1)), torch.randn(9, 512)
    for saved in ("rows", "tiles"):
        save_file(bs.QuantizedLinear(w.packed(saved)).state_dict(), tmp_path / "w.safetensors")
        state = load_file(tmp_path / "w.safetensors")
        assert state["data"].ndim == (4 if saved == "tiles" else 2)
        for held in ("rows", "tiles"):
            layer = bs.QuantizedLinear(other.packed(held))
            where = layer.data.data_ptr()
            layer.load_state_dict(state)
            assert layer.weight.packing == held and same(layer.weight, w) and layer.data.data_ptr() == where
            layer.load_state_dict(bs.QuantizedLinear(other).state_dict(), assign=True)
            assert layer.weight.packing == held and same(layer.weight, other)
        for capability, expected in (((9, 0), "tiles"), (None, "rows")):
            layer = bs.QuantizedLinear(bs.quantize(torch.empty((128, 512), dtype=torch.bfloat16, device="meta")))
            pretend(cpu=capability)
            layer.load_state_dict(state, assign=True)
            pretend()
            assert layer.weight.packing == expected and torch.equal(layer(x), bs.linear(x, w))


def test_a_module_in_tiles_turns_to_rows_for_what_cannot_lie_in_tiles():
    w = bs.quantize(floats())
    half = replace(w, zero=w.zero + 0.5)
    layer = bs.QuantizedLinear(bs.quantize(floats(seed=1)).packed("tiles"))
    layer.load_state_dict(bs.QuantizedLinear(half).state_dict())
    assert layer.weight.packing == "rows" and same(layer.weight, half)
    layer = bs.QuantizedLinear(bs.quantize(floats(n=192)).packed("tiles"))
    with pytest.raises(RuntimeError, match="build it from a weight of the same layout"):
        layer.load_state_dict(bs.QuantizedLinear(half).state_dict())
    assert same(layer.weight, bs.quantize(floats(n=192))) and layer.weight.packing == "tiles"


def test_what_else_a_weight_in_tiles_does(on_hopper):
    w = bs.quantize(floats())
    rows, x = w.packed("rows"), torch.randn(3, 512)
    assert w.packing == "tiles"
    for made in (pickle.loads(pickle.dumps(w)), copy.deepcopy(w), copy.copy(w), w.clone()):
        assert made.packing == "tiles" and same(made, w)
    buffer = io.BytesIO()
    torch.save(bs.QuantizedLinear(w), buffer)
    assert same(torch.load(io.BytesIO(buffer.getvalue()), weights_only=False).weight, w)
    assert torch.equal(w.codes(), rows.codes()) and w.error(floats()) == rows.error(floats())
    layer = nn.Sequential(bs.QuantizedLinear(w))
    layer.to(memory_format=torch.channels_last)  # of tensors of four dimensions
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert layer[0].weight.data.is_contiguous() and torch.equal(compiled(x), bs.linear(x, w))
