"""`skiplab.anatomy` of any kernel: what the compiler made of it, where that comes from, and how it is asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from skiplab.anatomy.launches import kernel_anatomy
from skiplab.anatomy.occupancy import occupancy_of
from skiplab.anatomy.sass import SourceLine, inner_loop, instructions_of, loops_of
from skiplab.anatomy.target import compiling_for
from skiplab.machine.capability import capability_of
from skiplab.workload import DecodeWorkload

linux = pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux alone")


@pytest.fixture(scope="module")
def found(fresh_process):
    done = fresh_process(str(Path(__file__).with_name("taken_apart.py")))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@linux
def test_every_spelling_is_the_same_compute_capability(found):
    assert found["spelled"] == [True, True, True]
    assert found["total"]["arch"] == "sm_90"


@pytest.mark.parametrize("arch", ["sm_90", "sm_90a", "9.0", "90", 90, 9.0, (9, 0), [9, 0], "compute_90", "SM90"])
def test_capabilities_are_read(arch):
    assert capability_of(arch) == (9, 0)


@pytest.mark.parametrize(("arch", "capability"), [("sm_100", (10, 0)), ("12.1", (12, 1)), ("sm_86", (8, 6))])
def test_two_digits_of_a_capability(arch, capability):
    assert capability_of(arch) == capability


@pytest.mark.parametrize("arch", ["hopper", "sm_", "", None, (9,), True, "9.0.1", ("a", "b")])
def test_what_is_no_capability(arch):
    with pytest.raises(ValueError, match=r'arch: got .*allowed are names as "sm_90"'):
        capability_of(arch)


def test_a_capability_that_no_gpu_has():
    with pytest.raises(ValueError, match="arch: got 'sm_42'; allowed are sm_75, sm_80"), compiling_for("sm_42"):
        pass


@linux
def test_kernels_that_are_disassembled_together_are_as_cuobjdump_tells_them(found):
    """Each instruction, with its address and where it branches to."""
    assert found["together"] == [True] * 7


@linux
def test_the_mix_counts_what_stands_in_the_machine_code(found):
    for name, opcode, kind in (
        ("wgmma", "HGMMA", "wgmma"),
        ("mma", "HMMA", "mma"),
        ("spilling", "LDL", "local memory"),
    ):
        lines = [line for line in found[name]["sass"].splitlines() if f" {opcode}." in line or f" {opcode} " in line]
        assert 0 < len(lines) <= found[name]["mix"][kind], name
    assert found["wgmma"]["mix"]["wgmma"] == found["wgmma"]["sass"].count("HGMMA")
    assert found["spilling"]["spill_bytes"] > 0 and found["wgmma"]["spill_bytes"] == 0
    assert found["ours"]["blockskip-matvec"]["dp4a"] == found["ours"]["blockskip-matvec"]["sass"].count("IDP.4A") > 0
    assert found["ours"]["blockskip-tiles"]["TMA"] > 0
    assert found["ours"]["blockskip"]["wgmma"] > 0 == found["ours"]["blockskip-map"]["wgmma"]
    assert found["ours"]["blockskip-map"]["mma"] > 0
    assert sum(found["total"]["mix"].values()) == found["total"]["instructions"]


@linux
def test_a_pointer_of_floats_is_read_16_bytes_at_a_time_where_the_length_allows_it(found):
    assert found["total"]["128-bit loads"] > 0 and found["total"]["narrower loads"] == 0
    assert found["narrow"]["128-bit loads"] == 0 < found["narrow"]["narrower loads"]
    assert found["dtype"]["sass"] == found["total"]["sass"]


@linux
def test_the_inner_loop_stands_beside_its_lines(found):
    lines = found["total"]["lines"]
    (load,) = [opcodes for source, opcodes in lines.items() if source.endswith("# THE LOAD")]
    assert "LDG.E.128" in load
    assert any(source.startswith("for i in tl.range") for source in lines)
    assert not any("tl.store" in source for source in lines)
    assert found["total"]["loop_instructions"] == sum(map(len, lines.values()))
    (product,) = [opcodes for source, opcodes in found["wgmma"]["lines"].items() if source.endswith("# THE PRODUCT")]
    assert sum(opcode.startswith("HGMMA") for opcode in product) == found["wgmma"]["mix"]["wgmma"]
    assert "acc += tl.load(x + i" in found["told"] and "limited by" in found["told"]
    assert max(map(len, found["told"].splitlines())) <= 100  # as many letters as a notebook shows


@linux
def test_gluon_functions_autotuned_ones_and_your_own_contenders(found):
    assert found["gluon"]["kernel"] == "copy" and found["gluon"]["arch"] == "sm_120"
    assert [name.split(",")[0] for name in found["tuned"]] == ["BLOCK: 128", "BLOCK: 256"]
    kernels = ["total", "copy", "total 2", "total 3"]  # the last two are the autotuned one's
    assert list(found["mine"]) == [*kernels, *(f"256 {name}" for name in kernels)]
    assert found["mine"]["256 total"]["instructions"] != found["mine"]["total"]["instructions"]


@linux
def test_a_table_over_many_configs(found):
    assert sorted(found["table"]) == found["tuned"]
    assert {"registers", "spill_bytes", "shared_bytes", "limited_by", "wgmma"} <= found["table"][
        found["tuned"][0]
    ].keys()
    stage = 64 * DecodeWorkload(512).head_dim * 2 * 2  # keys and values of a stage, bfloat16
    assert list(found["sized"]) == ["16x64x4x2", "16x64x4x3"]
    assert found["sized"]["16x64x4x3"] - found["sized"]["16x64x4x2"] == stage


@pytest.mark.parametrize(
    ("capability", "threads", "registers", "shared", "blocks", "limits"),
    [
        # by hand, of the programming guide's table
        ((9, 0), 128, 32, 0, 16, ("warps", "registers")),  # 64 warps / 4; 65536 / (32 * 32 * 4)
        ((9, 0), 128, 213, 114688, 2, ("registers", "shared memory")),  # 216 * 32 = 6912: 9 warps; 228 K / 113 K
        ((9, 0), 384, 168, 98616, 1, ("registers",)),  # 12 warps a block, 65536 / 5376 = 12
        ((8, 6), 32, 16, 0, 16, ("blocks",)),
        ((8, 9), 256, 24, 60 << 10, 1, ("shared memory",)),
        ((8, 0), 1024, 128, 0, 0, ("registers",)),  # 32 warps of 4096 registers are 131,072
        ((7, 5), 128, 24, 0, 8, ("warps",)),
    ],
)
def test_occupancy(capability, threads, registers, shared, blocks, limits):
    found = occupancy_of(capability, threads, registers, shared)
    assert (found.blocks, found.limits) == (blocks, limits)


LOOPS = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.128 R4, [R2] ;
        /*0020*/                   IADD3 R1, R1, 0x1, RZ ;
        /*0030*/              @!P0 BRA P1, 0x20 ;
        /*0040*/                   HMMA.16816.F32 R4, R4, R8, R4 ;
        /*0050*/               @P2 BRA 0x40 ;
        /*0060*/               @P3 BRA 0x10 ;
        /*0070*/                   BRA 0x70;
"""


def test_the_loop_with_the_products_is_the_inner_one():
    """Of two that hold no other: not the one round them, nor the branch to itself behind the end."""
    loops = loops_of(instructions_of(LOOPS))
    assert [[one.address for one in loop.instructions] for loop in loops] == [[0x20, 0x30], [0x40, 0x50]]
    assert inner_loop(loops) == loops[1]
    assert inner_loop(()) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("*bf17",), r"got '\*bf17'; allowed are i32"), (("i32:8",), "behind the colon is 16"), (("n",), "got 'n'")],
)
def test_wrong_arguments_are_named(arguments, message):
    class Kernel:
        def warmup(self):
            """Never called."""

    with pytest.raises(ValueError, match=message):
        kernel_anatomy(Kernel(), *arguments, arch="sm_90")
    with pytest.raises(TypeError, match=r"kernel: got .*allowed are functions under @triton.jit"):
        kernel_anatomy(print, arch="sm_90")


def test_a_line_is_found_where_its_file_has_moved():
    """A kernel from Triton's cache names the file that it was compiled from, perhaps in another checkout."""
    number = test_a_line_is_found_where_its_file_has_moved.__code__.co_firstlineno
    moved = SourceLine("/nowhere/tests/lab/test_taken_apart.py", number, ())
    assert moved.source == "def test_a_line_is_found_where_its_file_has_moved():"
    assert SourceLine("/nowhere/of/this/name.py", 1, ()).source == ""


@linux
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_call_that_asks_torch_for_a_gpu_is_compiled_without_one(found):
    assert found["asking"] == ["0 total"]
    assert found["afterwards"] == [False, False]


@linux
def test_a_call_that_fails_says_what_was_compiled_and_what_is_left_to_do(found):
    assert found["failing"].startswith(
        "contender: asks for a GPU raised KeyError: 'what only it knows'. It was called "
    )
    assert "compiled before that: total" in found["failing"] and "skiplab anatomy FUNCTION --from" in found["failing"]


def test_a_line_of_a_cell_is_named_as_one():
    assert SourceLine("/tmp/ipykernel_77/913286168.py", 3, ()).where == "cell:3"
    assert SourceLine("/home/of/mine.py", 3, ()).where == "mine.py:3"
