"""What the explorer of int4 computes, against brute force, the real packed weight and the compiled kernel."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import blockskip as bs
import pytest
import torch
from skiplab import packed_weight
from skiplab.machine import known_gpus
from skiplab.packed_weight import PROGRAMS, Packed, Program, accesses, lane_blocks, step_loads, total

SHAPES = [
    Packed(96, 5376), Packed(96, 5376, symmetric=True), Packed(7, 1056), Packed(64, 2048, bits=8, group_size=128),
    Packed(64, 2048, bits=8, symmetric=True), Packed(40, 1280, group_size=64, metadata="uint8"),
    Packed(40, 1280, bits=8, metadata="uint8", symmetric=True),
]  # fmt: skip


def quantised(packed: Packed) -> bs.QuantizedWeight:
    weight = torch.randn(packed.out_features, packed.in_features)
    return bs.quantize(weight, packed.bits, packed.group_size, packed.symmetric, packed.metadata)


@pytest.mark.parametrize("packed", SHAPES, ids=lambda one: one.description)
def test_sizes_are_those_of_the_real_weight(packed):
    w = quantised(packed)
    assert packed.nbytes == w.nbytes and packed.bits_per_weight == w.bits_per_weight
    assert packed.needs_sums == (w.offset is not None or w.zero is not None or w.centre != 0)


def arrays(w: bs.QuantizedWeight, strided: bool) -> dict[str, torch.Tensor]:
    """The tensors of a weight under the names of its loads, as bytes."""
    encoded = w.encoded
    names = {
        "data": "weights", "scale": "scale codes" if encoded else "scales", "zero": "zero points",
        "minimum": "minimum codes", "scale_step": "scale steps", "minimum_step": "minimum steps",
    }  # fmt: skip
    found = {names[name]: t for name, t in w.named_tensors().items()}
    return {
        name: (t.T.contiguous() if strided and name != "weights" else t).flatten().view(torch.uint8)
        for name, t in found.items()
    }


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("packed", SHAPES, ids=lambda one: one.description)
def test_a_lane_finds_its_block_and_its_group_there(packed, strided):
    """What stands at the addresses, read from the real arrays, is that lane's codes and metadata."""
    w, packed = quantised(packed), replace(packed, strided=strided)
    held = arrays(w, strided)
    for program in PROGRAMS.values():
        row, step = packed.out_features - 1, program.steps(packed.in_features) - 1
        loads = [load for load in step_loads(packed, program, row, step) if load.what in held]
        assert {load.what for load in loads} == set(held)
        for lane, lane_block in enumerate(lane_blocks(packed, program, row, step)):
            if lane_block is None:
                assert all(load.starts[lane] is None for load in loads)
                continue
            n, block = lane_block
            read = [held[load.what][load.starts[lane] : load.starts[lane] + load.width] for load in loads]
            data = torch.cat(read[: packed.bits // 4])
            codes = torch.stack([data & 15, data >> 4], 1).flatten() if packed.bits == 4 else data.view(torch.int8)
            assert torch.equal(codes, w.codes()[n, block * 32 : block * 32 + 32])
            for load, got in zip(loads, read, strict=True):
                if load.what in ("scales", "scale codes"):
                    expected = w.scale[n, block * 32 // packed.group_size].reshape(1).view(torch.uint8)
                    assert torch.equal(got, expected)


def test_every_byte_of_weights_and_metadata_is_loaded_once_by_a_program():
    packed, program = Packed(16, 1056 * 4, group_size=64), PROGRAMS["16 rows"]
    seen: dict[str, list[int]] = {}
    for row in range(0, 16, 4):
        for step in range(program.steps(packed.in_features)):
            for load in step_loads(packed, program, row, step):
                seen.setdefault(load.what, []).extend(load.distinct)
    assert sorted(seen["weights"]) == list(range(0, 16 * packed.in_features // 2, 16))
    assert sorted(set(seen["scales"])) == list(range(0, 16 * packed.in_features // 64 * 2, 2))


def test_sectors_and_lines_are_those_of_every_byte():
    """Counted byte by byte; a row has 336 bytes of scales here, so that the second row begins in mid-sector."""
    for scalar in (False, True):
        for row, step in ((0, 0), (1, 2), (5, 5)):
            for load in step_loads(Packed(), Program(), row, step, scalar):
                every = {start + i for start in load.starts if start is not None for i in range(load.width)}
                assert load.bytes == len(every)
                assert len(load.touched(32)) == len({byte // 32 for byte in every})
                assert len(load.touched(128)) == len({byte // 128 for byte in every})


def test_the_step_that_the_notebook_tells_of():
    """By hand: 32 lanes x 16 bytes; 32 scales of 2 bytes side by side, or one in each of 32 lines."""
    ours = {one.what: one for one in accesses(step_loads(Packed(), Program(), 0, 0))}
    theirs = {one.what: one for one in accesses(step_loads(Packed(strided=True), Program(), 0, 0, True))}
    assert (ours["weights"].bytes, ours["weights"].sectors, ours["weights"].lines) == (512, 16, 4)
    assert (ours["scales"].sectors, ours["scales"].lines) == (2, 1)
    assert (theirs["scales"].sectors, theirs["scales"].lines) == (32, 32)
    plane = "activations, plane 0"
    assert (ours[plane].loads, ours[plane].sectors) == (1, 16)
    assert (theirs[plane].loads, theirs[plane].sectors, theirs[plane].bytes) == (4, 64, 512)
    last = total(accesses(step_loads(Packed(), Program(), 0, 5)))
    assert last.bytes * 4 == total(tuple(ours.values())).bytes  # 5,376 = 5.25 steps


def test_a_whole_row_reads_what_it_stores():
    for program in PROGRAMS.values():
        found = {one.what: one for one in packed_weight.row_accesses(Packed(), program, 0)}
        assert found["weights"].bytes == 5376 // 2 and found["scales"].bytes == 5376 // 32 * 2


def test_floors_are_bytes_over_bandwidth():
    gpu = known_gpus()["NVIDIA H200"]
    packed = Packed(5376, 21504)
    moved = 5376 * 21504 * 0.625 + 2 * (5376 + 21504)
    assert packed_weight.floor(packed, gpu).seconds == pytest.approx(moved / (gpu.bandwidth_gbps * 1e9))
    assert packed_weight.float_floor(packed, gpu).seconds == pytest.approx(
        2 * (5376 * 21504 + 5376 + 21504) / (gpu.bandwidth_gbps * 1e9)
    )


def test_errors_are_those_of_the_package_in_the_order_of_bits():
    weight = packed_weight.random_weight("shifted")
    found = packed_weight.qualities(weight)
    assert [one.packed.bits_per_weight for one in found] == sorted(one.packed.bits_per_weight for one in found)
    named = {one.packed.description: one.snr_db for one in found}
    assert named["int4, groups of 64, symmetric"] == bs.quantize(weight, 4, 64, symmetric=True).error(weight)
    # values that lean to one side: that is what zero points are for
    assert named["int4, groups of 128, asymmetric"] > named["int4, groups of 128, symmetric"] + 2
    # half the step is a quarter of the noise; four bits more are about 24 dB
    assert 20 < named["int8, groups of 32, asymmetric"] - named["int4, groups of 32, asymmetric"] < 28


@pytest.mark.parametrize("kind", packed_weight.WEIGHTS)
def test_random_weights_are_what_they_are_called(kind):
    weight = packed_weight.random_weight(kind, 64, 4096)
    assert torch.equal(weight, packed_weight.random_weight(kind, 64, 4096))
    assert weight.mean().item() == pytest.approx(0.02 if kind == "shifted" else 0, abs=1e-3)
    far = (weight - weight.mean()).abs() > 0.08  # four deviations: 6e-5 of normal values, 0.6 % of Student's t
    assert (far.float().mean() > 1e-3) == (kind == "heavy tails")


@pytest.mark.parametrize("packed", SHAPES, ids=lambda one: one.description)
def test_codes_stand_for_their_values(packed):
    found = packed_weight.codes_of(packed, 3, 11)
    assert (found.first, len(found.codes)) == (352, 32)
    for code, value, weight in zip(found.codes, found.values, found.weights, strict=True):
        assert (code - found.zero) * found.scale + found.minimum == pytest.approx(value, abs=1e-6)
        assert abs(value - weight) <= 0.501 * found.scale
    assert packed_weight.codes_of(packed, 3, 11) == found != packed_weight.codes_of(packed, 4, 11)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bits": 3}, "bits: given 3; allowed are 4, 8"),
        ({"group_size": 48}, "group_size: given 48; allowed are 32, 64, 128"),
        ({"in_features": 100}, "in_features: got 100; must be a multiple of group_size, 32"),
        ({"in_features": 5376 + 32, "metadata": "uint8"}, "must be a multiple of 256"),
        ({"out_features": 0}, "out_features: given 0"),
        ({"metadata": "fp8"}, "metadata: given 'fp8'; allowed are bfloat16, uint8"),
    ],
)
def test_wrong_sizes_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        Packed(**given)


def test_wrong_places_are_named():
    with pytest.raises(ValueError, match="row: given 7; must be from 0 to 6"):
        step_loads(Packed(7, 1056), Program(), 7, 0)
    with pytest.raises(ValueError, match="step: given 2; must be from 0 to 1"):
        step_loads(Packed(7, 1056), Program(), 0, 2)
    with pytest.raises(ValueError, match="weights: got 'odd'"):
        packed_weight.random_weight("odd")


COMPILED = """
import json, re, sys
from blockskip.linear.plan import matvec_config
from skiplab.packed_weight import PROGRAMS, Packed, Program, compiled
found = {}
for name, program in (*PROGRAMS.items(), ("scalar", Program())):
    anatomy = compiled(Packed(64, 8192), program, (8, 0), name == "scalar")
    layouts = re.findall(r"threadsPerWarp = \\[(\\d+), (\\d+)\\], warpsPerCTA = \\[(\\d+), (\\d+)\\]", anatomy.ttgir)
    loads = re.findall(r"LDG[A-Z0-9.]*", anatomy.sass)
    found[name] = [sorted(set(layouts)), anatomy.instructions["IDP"], sum(".128" in one for one in loads), len(loads)]
later = compiled(Packed(64, 8192), Program(), (9, 0))
own = list(vars(matvec_config(1, (9, 0))).values())[:3]
print(json.dumps([later.ptx.count(".target sm_90"), own, found]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux alone")
def test_the_compiled_kernel_loads_as_is_said_here(fresh_process):
    """Threads lie over rows and blocks as in `lane_blocks`, and a step has as many loads as `step_loads` lists."""
    done = fresh_process("-c", COMPILED)
    assert done.returncode == 0, done.stderr[-2000:]
    for_a_later_gpu, own, found = json.loads(done.stdout.splitlines()[-1])
    assert own == list(vars(Program()).values()) == list(vars(PROGRAMS["one warp a row"]).values())
    assert for_a_later_gpu == 1  # in the same process: Triton would go on with the first one's target
    packed = Packed(64, 8192)
    for name, (layouts, products, wide, loads) in found.items():
        program = PROGRAMS.get(name, Program())
        across = min(program.blocks, 32)
        down, warps_across = 32 // across, max(1, program.blocks // 32)
        assert layouts == [[str(n) for n in (down, across, program.num_warps // warps_across, warps_across)]], name
        listed = step_loads(packed, program, 0, 0, name == "scalar")
        steps = products / 8
        assert (wide, loads) == (steps * sum(load.width == 16 for load in listed), steps * len(listed)), name
