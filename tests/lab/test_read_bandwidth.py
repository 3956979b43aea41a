import json

import pytest
import torch

pytest.importorskip("triton", reason="a kernel needs Triton, which is for Linux")

from skiplab.machine.read_bandwidth import READ_PROBES, ReadProbe

INTERPRETED = """
import torch
from skiplab.machine.read_bandwidth import READ_PROBES, ReadProbe
for probe in (*READ_PROBES, ReadProbe(256, 3, 4)):
    share = probe.block * probe.blocks
    data = torch.randint(-1000, 1000, (5 * share,), dtype=torch.int32)  # the interpreter does not wrap
    assert torch.equal(probe(data), data.view(5, share).sum(1, dtype=torch.int32))
"""

COMPILED = """
import json
import triton
from skiplab.machine.read_bandwidth import READ_PROBES, sum_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
types = {"data": "*i32", "out": "*i32", "SHARE": "constexpr", "BLOCK": "constexpr"}
aligned = {(place,): [["tt.divisibility", 16]] for place in (0, 1)}
def ptx(probe):
    sizes = {"SHARE": probe.block * probe.blocks, "BLOCK": probe.block}
    source = ASTSource(sum_kernel, types, sizes, aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": probe.warps}).asm["ptx"]
print(json.dumps([ptx(probe) for probe in READ_PROBES]))
"""


def test_sums_are_right_in_the_interpreter(fresh_process):
    done = fresh_process("-c", INTERPRETED, interpret=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="data: got 5000 numbers"):
        ReadProbe(4096, 1, 4)(torch.zeros(5000, dtype=torch.int32))


@pytest.fixture(scope="module")
def compiled(fresh_process):
    """PTX of each probe, made in a process of its own: Triton's interpreter may leave its language changed here."""
    done = fresh_process("-c", COMPILED)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(READ_PROBES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("probe", READ_PROBES, ids=str)
def test_every_load_is_of_16_bytes(compiled, probe):
    """Compiled for sm_90, which need not be there: what makes it a floor."""
    loads = [line for line in compiled[probe].splitlines() if "ld.global" in line]
    assert loads
    assert all("v4" in line for line in loads)
