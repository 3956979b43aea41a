"""Compiles the matvec for GPUs that are not there and prints what came out as JSON.

Usage: compile_linear.py CAPABILITY..., such as 9.0
"""

import itertools
import re

import torch
from anatomies import print_rows
from blockskip.linear import launch, prepared
from blockskip.linear.plan import matvec_config
from blockskip.linear.rounding import Blocks
from blockskip.linear.weight import QuantizedWeight
from skiplab.anatomy import compiling_for, read
from skiplab.contenders.ablations import FORMS, metadata_as_read

INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.a-z]*)([^;]*);")
MEMORY_OF_THE_BLOCK = re.compile(r"LDS|STS|LDGSTS|BAR|LDL|STL")
N = 64  # not a constant of the kernel

# (K, group_size, bits, rows, metadata)
CASES = [(k, group, 4, 1, "zero") for k, group in itertools.product((5376, 8192, 21504), (32, 64, 128))]
CASES += [(5376, 32, 4, 8, "zero"), (8192, 128, 8, 1, "symmetric")]
CASES += [(5376, 32, 4, rows, "encoded") for rows in (1, 8)]
CASES += [(8192, 32, 4, 1, "minimum"), (8192, 128, 4, 8, "middle")]
CASES += [(5376, 16, 8, rows, "symmetric of 16") for rows in (1, 8)]
CASES += [(k, group, 4, rows, "tiles") for k, group, rows in ((5376, 32, 1), (5376, 32, 8), (8192, 128, 1))]
MORE = [(5376, 32, 8, 1, "zero"), (5376, 32, 4, 1, "symmetric"), (5376 + 32, 32, 4, 1, "zero")]
MORE += [(5376, 32, 4, rows, "zero") for rows in (2, 5)] + [(8192, 128, 8, 8, "zero"), (21504, 64, 4, 8, "zero")]
MORE += [(k, group, 4, 1, "encoded") for k, group in ((8192, 128), (21504, 32), (21504, 64))]
MORE += [(5376, 64, 8, 8, "encoded"), (5376, 32, 4, 1, "encoded symmetric"), (5376, 32, 4, 5, "minimum")]
MORE_ON = (9, 0)


def weight(k, group_size, bits, metadata):
    shape, dtype = ((N, k // 2), torch.uint8) if bits == 4 else ((N, 2, k // 32, 16), torch.int8)
    dtypes = torch.bfloat16, torch.uint8, torch.int8
    number, code, signed = (torch.zeros((N, k // group_size), dtype=t) for t in dtypes)
    step = torch.zeros((N, k // 256), dtype=torch.float16)
    tensors = {
        "zero": {"scale": number, "zero": number},
        "tiles": {"scale": number, "zero": number},
        "symmetric": {"scale": number},
        "minimum": {"scale": number, "minimum": number},
        "middle": {"scale": number, "middle": number},
        "encoded": {"scale": code, "scale_step": step, "minimum": code, "minimum_step": step},
        "encoded symmetric": {"scale": code, "scale_step": step},
        "symmetric of 16": {"scale": signed, "scale_step": step},
    }[metadata]
    w = QuantizedWeight(**{"data": torch.zeros(shape, dtype=dtype), "zero": None, "dtype": torch.bfloat16, **tensors})
    return w.packed("tiles" if metadata == "tiles" else "rows")


def compiled(capability, k, group_size, bits, rows, metadata, ablation="none"):
    w = weight(k, group_size, bits, metadata)
    codes = torch.zeros((rows, 2, k // 8), dtype=torch.int32)
    blocks = Blocks(torch.zeros((rows, k // 32)), torch.zeros((rows, k // 32)))
    form, config = FORMS[ablation], matvec_config(rows, capability)
    overlap = capability >= (9, 0)
    out = torch.zeros((rows, N), dtype=torch.bfloat16)
    operands = launch.packed_codes(w), metadata_as_read(w, form), codes, blocks, None, out
    one = launch.prepare_matvec(w, operands, config, overlap, form)
    with compiling_for(capability):
        kernel = form.kernel.warmup(*one.arguments, **one.constants, **config.options(overlap), grid=one.grid)
    return read(kernel, capability)


def compiled_dequantize(capability, bits, metadata):
    w = weight(5376, 16 if "16" in metadata else 64, bits, metadata)
    one = prepared.prepare_dequantize(w, torch.zeros(tuple(w.shape), dtype=torch.bfloat16))
    with compiling_for(capability):
        kernel = prepared.dequantize.warmup(*one.arguments, **one.constants, grid=one.grid)
    return read(kernel, capability)


def before_the_end(sass):
    """Opcodes of the loop over K; where it was unrolled whole, of everything up to the last product.

    What follows is the sum over a row's threads and the store, once a program.
    """
    lines = [(int(at, 16), name, operands) for at, name, operands in INSTRUCTION.findall(sass)]
    targets = [
        (int(found[1], 16), at)
        for at, name, operands in lines
        if name.startswith("BRA") and (found := re.search(r"0x([0-9a-f]+)", operands))
    ]
    loops = [(start, end) for start, end in targets if start < end]
    products = [at for at, name, _ in lines if name.startswith("IDP")]
    start, end = max(loops, key=lambda loop: loop[1] - loop[0]) if loops else (0, products[-1])
    return [name for at, name, _ in lines if start <= at <= end]


def rows_of(capability):
    for case in CASES + MORE * (capability == MORE_ON):
        anatomy = compiled(capability, *case)
        names = [name for _, name, _ in INSTRUCTION.findall(anatomy.sass)]
        loads = [name for name in names if name.startswith("LDG")]
        body = before_the_end(anatomy.sass)
        row = {
            "case": case,
            "registers": anatomy.registers,
            "spill_bytes": anatomy.spill_bytes,
            "products": sum(name.startswith("IDP.4A") for name in names),
            "wide_loads": sum(".128" in name for name in loads),
            "narrow_loads": sum(".128" not in name for name in loads),
            "products_in_loop": sum(name.startswith("IDP.4A") for name in body),
            "shared_in_loop": [name for name in body if MEMORY_OF_THE_BLOCK.match(name)],
        }
        yield row
    for name in ("strided", "scalar"):
        anatomy = compiled(capability, 8192, 32, 4, 1, "zero", name)
        loads = re.findall(r"LDG[A-Z0-9.]*", anatomy.sass)
        products = anatomy.instructions["IDP"]
        row = {"ablation": name, "products": products, "wide_loads": sum(".128" in load for load in loads)}
        yield row
    for bits, metadata in (*itertools.product((4, 8), ("zero", "encoded")), (8, "symmetric of 16")):
        anatomy = compiled_dequantize(capability, bits, metadata)
        names = [name for _, name, _ in INSTRUCTION.findall(anatomy.sass)]
        row = {
            "dequantize": bits,
            "metadata": metadata,
            "spill_bytes": anatomy.spill_bytes,
            "loads": sorted(name for name in names if name.startswith("LDG")),
            "stores": sorted({name for name in names if name.startswith("STG")}),
        }
        yield row


if __name__ == "__main__":
    print_rows(rows_of)
