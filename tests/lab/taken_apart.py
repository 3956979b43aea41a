"""Kernels of all kinds, compiled for GPUs that are not there: prints what was found as JSON, for test_taken_apart.py.

A process of its own: kernels that were imported to be interpreted cannot be compiled.
"""

import json

import skiplab
import torch
import triton
import triton.language as tl
from skiplab.anatomy import anatomy_table, contender_anatomies, disassemble, kernel_anatomies, kernel_anatomy, tools
from skiplab.anatomy.sass import instructions_of
from skiplab.workload import DecodeWorkload, LinearWorkload, Workload
from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@triton.jit
def total(x, y, n, BLOCK: tl.constexpr):
    acc = tl.zeros((BLOCK,), tl.float32)
    for i in tl.range(0, n, BLOCK):
        acc += tl.load(x + i + tl.arange(0, BLOCK))  # THE LOAD
    tl.store(y + tl.arange(0, BLOCK), acc)


@triton.jit
def product(x, y, out, n, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    acc = tl.zeros((SIZE, SIZE), tl.float32)
    for i in tl.range(0, n):
        acc = tl.dot(tl.load(x + i * SIZE * SIZE + at), tl.load(y + i * SIZE * SIZE + at), acc)  # THE PRODUCT
    tl.store(out + at, acc)


@gluon.jit
def copy(x, y, n, BLOCK: gl.constexpr):
    layout: gl.constexpr = gl.BlockedLayout([4], [32], [4], [0])
    at = gl.program_id(0) * BLOCK + gl.arange(0, BLOCK, layout)
    gl.store(y + at, gl.load(x + at))


CONFIGS = [triton.Config({"BLOCK": size}, num_warps=4) for size in (128, 256)]
tuned = triton.autotune(CONFIGS, key=["n"])(total)


@skiplab.kernel("attention", name="mine", configs={"BLOCK": (128, 256)})
def build(workload, inputs, config):
    def call(q, k, v):
        out = torch.empty_like(q)
        total[(1,)](q.float(), out.float(), q.numel(), BLOCK=config["BLOCK"])
        copy[(1,)](q.float(), out.float(), q.numel(), BLOCK=512)
        tuned[(1,)](q.float(), out.float(), q.numel())
        return out

    return call


@skiplab.kernel("attention", name="asks for a GPU", configs={"FAILS": (0, 1)})
def build_on_gpu(workload, inputs, config):
    table = torch.arange(16, device="cuda")

    def call(q, k, v):
        assert (
            q.is_cuda
            and q.device == torch.device("cuda", 0)
            and table.device.type == "cuda"
            and torch.cuda.is_available()
        )
        out = torch.empty(q.shape, dtype=torch.float32, device=q.device).to("cuda:0").cuda()
        properties = torch.cuda.get_device_properties(q.device)
        assert (properties.major, properties.minor) == torch.cuda.get_device_capability() == (8, 6)
        assert torch.zeros(3, device=0).numpy().shape == (3,)  # in the memory of the CPU
        with torch.cuda.device(q.device):
            total[(properties.multi_processor_count,)](out, out, q.numel(), BLOCK=128)
        if config["FAILS"]:
            raise KeyError("what only it knows")
        return out

    return call


def refused(config):
    """What is said of a user's call that fails on the way."""
    try:
        contender_anatomies("asks for a GPU", Workload(32), "sm_86", [config])
    except ValueError as error:
        return str(error)
    return "nothing"


def instructions(text):
    return [(one.address, one.text) for one in instructions_of(text)]


def cuobjdumps(one):
    """The instructions of a kernel, as cuobjdump tells them."""
    return instructions(tools.run_tool("cuobjdump", "-sass", one.cubin))


def facts(one):
    loop = one.inner_loop
    lines = {} if loop is None else {line.source: [i.opcode for i in line.instructions] for line in loop.lines}
    limits, share = one.occupancy.limits, one.occupancy.share
    return {**one.row(), "mix": one.mix, "lines": lines, "limits": limits, "share": share, "sass": one.sass}


SIZES = [(16, 64, 4, 2), (16, 64, 4, 3)]
spelled = [kernel_anatomy(total, "*fp32", "*fp32", "i32:16", arch=a, BLOCK=512) for a in ("sm_90", "9.0", (9, 0))]
together = {
    "total": spelled[0],
    "dtype": kernel_anatomy(total, torch.float32, torch.float32, 1 << 20, arch="sm_90", BLOCK=512),
    "narrow": kernel_anatomy(total, "*fp32", "*fp32", "i32", arch="8.0", BLOCK=128),
    "spilling": kernel_anatomy(product, "*fp32", "*fp32", "*fp32", "i32", arch="sm_80", SIZE=64, maxnreg=32),
    "mma": kernel_anatomy(product, "*fp16", "*fp16", "*fp32", "i32", arch="sm_80", SIZE=64),
    "wgmma": kernel_anatomy(product, "*fp16", "*fp16", "*fp32", "i32", arch="sm_90", SIZE=64),
    "gluon": kernel_anatomy(copy, "*fp32", "*fp32", "i32:16", arch="sm_120", BLOCK=512),
}
disassemble(together.values())
found = {
    "together": [instructions(one.sass) == cuobjdumps(one) != [] for one in together.values()],
    **{name: facts(one) for name, one in together.items()},
    "spelled": [one.cubin == spelled[0].cubin for one in spelled],
    "tuned": sorted(kernel_anatomies(tuned, "*fp32", "*fp32", "i32:16", arch="sm_90")),
    "mine": {
        name: facts(one)
        for name, one in contender_anatomies("mine", Workload(32), "sm_86", [None, (256,)]).items()
    },
    "asking": sorted(contender_anatomies("asks for a GPU", Workload(32), "sm_86", [(0,)])),
    "failing": refused((1,)),
    "afterwards": [torch.cuda.is_available(), torch.empty(1).is_cuda],
    "ours": {
        name: facts(next(iter(contender_anatomies(name, workload, arch).values())))
        for name, workload, arch in (
            ("blockskip", Workload(1024), "sm_90"),
            ("blockskip-map", Workload(1024), "sm_80"),
            ("blockskip-matvec", LinearWorkload(256, 1024), "sm_89"),
            ("blockskip-tiles", LinearWorkload(256, 1024, 16), "sm_90"),
        )
    },
    "sized": {
        name: one.shared_bytes
        for name, one in contender_anatomies("blockskip", DecodeWorkload(512), "sm_90", SIZES).items()
    },
    "table": anatomy_table(kernel_anatomies(tuned, "*fp32", "*fp32", "i32:16", arch="sm_90")).to_dict("index"),
    "told": spelled[0].told(),
}  # fmt: skip
print(json.dumps(found))
