# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # int4: the bytes of a weight are the time of a token
#
# To write one token, a language model multiplies a single row of activations with **every weight it has**.
# Each weight is fetched from memory, used for one multiplication, and not needed again until the next token.
# A GPU multiplies far faster than it fetches; so what a token costs is bytes ÷ bandwidth, and a weight of
# half the bytes takes half the time.
#
# **You learn** how few bits a weight can have, how they must lie in memory so that nothing else is fetched, and
# what that costs in accuracy. **You need** no other notebook and no GPU; where there is one, it is measured. Each
# number says where it is from: **computed** or **quantised here**, **predicted** from a data sheet, **published**
# by others, **recorded** on another machine, or **measured** on this one.

# %% tags=["parameters"]
# "quick": about 10 seconds on two cores; "full": some minutes; "no": nothing is measured here
MEASURE = "quick"

# %%
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import blockskip as bs
import pandas as pd
import skiplab
import torch
from skiplab import LINEARS, figures, model_of, packed_weight, results
from skiplab.machine import default_device, known_gpus
from skiplab.packed_weight import Packed, Program
from skiplab.rated import rated
from skiplab.store import published, query, read_runs

# %% [markdown]
# ## The floor of a layer
#
# Gemma 4 31B's largest layers map 5,376 numbers to 21,504. Here is the least time that one of them can take
# for one token, **predicted** from data sheets: all bytes of the weight, of the activations and of the output
# once, at the full bandwidth. A kernel can come near it, and never under it; a *measured* rate is no such limit.

# %%
layer = LINEARS["gate, up"]
formats = [
    Packed(*layer, 8),
    Packed(*layer),
    Packed(*layer, metadata="uint8"),
    Packed(*layer, 4, 128, True),
]
gpus = [
    known_gpus()[name]
    for name in ("NVIDIA H200", "NVIDIA A100 80GB SXM", "NVIDIA GeForce RTX 4090")
]
floors = {
    f"{one.description}, {one.bits_per_weight:g} bits": [
        packed_weight.floor(one, g).seconds * 1e6 for g in gpus
    ]
    for one in formats
}
floors = {
    "bfloat16, 16 bits": [packed_weight.float_floor(formats[0], g).seconds * 1e6 for g in gpus]
} | floors
names = [g.name for g in gpus]
results.captioned(
    pd.DataFrame(floors, index=names).T, f"µs: predicted for {', '.join(names)} (data sheets)"
)

# %% [markdown]
# ## Groups: a scale for a few weights
#
# Four bits name sixteen values. `bs.quantize` gives each **group** of 32 neighbouring weights of a row its own
# scale (how far apart the sixteen lie) and zero point (where they begin), and stores the nearest code:
#
# > value = (code − zero) × scale
#
# Scale and zero are two bfloat16 numbers, one bit a weight at 32 weights a group. That is why int4 has five
# bits here, and not four.

# %%
torch.manual_seed(0)
weight = torch.randn(2048, 2048) * 0.02
w = bs.quantize(weight, bits=4, group_size=32)
print(w)
print(f"{w.nbytes:,} bytes instead of {weight.numel() * 2:,} in bfloat16")
print(f"signal to noise {w.error(weight):.1f} dB")

# %% [markdown]
# ## How they lie in memory
#
# Below is one step of the kernel, as one **warp** sees it: 32 threads (*lanes*) that load at the same time.
# Each takes 16 bytes, 32 weights. The even weights are the low nibbles (half bytes) of those bytes, the odd
# ones the high nibbles, so that one mask and one shift unpack four at a time.
#
# A GPU does not fetch bytes. It looks up **lines** of 128 bytes and moves **sectors** of 32. Try:
#
# - *Metadata lies*: **strided**. The scales of a row now lie N numbers apart. Each lane finds its scale in a
#   line of its own, and 2 bytes are used of each 32 that are moved.
# - *Activations*: **4 bytes a load**. Four loads instead of one, and each of the four touches every sector.
# - *Group size*, *Codes*, *Metadata*: where the bits go, what they buy in decibels, and what they cost in time.
# - The arrow keys in the picture, or *Lane*, follow one thread through all that it loads.

# %%
from skiplab import Int4Explorer

explorer = Int4Explorer(out_features=layer[0], in_features=layer[1])
explorer

# %% [markdown]
# ## Error against bits
#
# Every format on random weights, **quantised here** with three kinds of weights: normal ones; ones with heavy
# tails, where single large weights stretch the scale of their whole group; and ones that lean to one side,
# which zero points are for. In decibels: 20 dB mean that the error is a tenth of the weights, 40 dB a
# hundredth. One bit more halves the step, and so the error: 6 dB.

# %%
figures.bits_error(packed_weight.random_qualities("normal"), "normal random weights")

# %%
snr = {
    kind: {q.packed.description: q.snr_db for q in packed_weight.random_qualities(kind)}
    for kind in packed_weight.WEIGHTS
}
bits = {
    q.packed.description: f"{q.packed.bits_per_weight:g}"
    for q in packed_weight.random_qualities("normal")
}
snr = {f"{kind}, dB": found for kind, found in snr.items()}
results.captioned(pd.DataFrame({"bits a weight": bits} | snr), "signal to noise: quantised here")

# %% [markdown]
# Three things to read from it. Smaller groups help most where tails are heavy. Zero points pay where weights
# lean to one side. And **uint8 metadata** (scale and minimum as codes, with a step for 256 weights, as GGUF's
# K-quants have them) has 4.625 bits at groups of 32, and no more error than 5 bits with bfloat16.
#
# A GGUF file's weights come without another rounding: `bs.open_gguf("model.gguf")` lists its tensors, and `.load(name)`
# gives each as a float tensor or packed. What they take here is what the kernels read: Q4_K has 4.625 bits a weight
# (4.5 in the file); Q5_K and Q6_K become int8, with 8.625 and 8.5625 (5.5 and 6.5625 in the file).
#
# ## Activations in eight bits
#
# A product of int4 codes with bfloat16 activations needs a conversion for each weight. With activations in
# int8 it does not: `dp4a` multiplies four pairs of bytes and adds them up in one instruction, so 32 weights
# take eight. The sum of a block is an exact integer; scale, zero point and the activations' own scale come
# once a block, after it. So up to 8 rows of activations are rounded to int8, with a scale for each 32 of them, where
# the weight lies in rows; more rows, and for a weight in tiles any number of them, are taken as they are: they have
# tensor cores. Tiles are what `bs.quantize` gives on a Hopper GPU; `bs.linear(..., activations="int8")` rounds any
# number of rows for either.
#
# What does that rounding cost? **Calculated here**, in float32 on the weight from above, against the product
# with the float weight. The second row has one activation of 60 among ordinary ones, as language models do:

# %%
from blockskip.linear.activations import rounded

ordinary = torch.randn(1, 2048)
outlier = torch.where(torch.arange(2048) == 7, torch.tensor(60.0), ordinary)
rows = {}
for name, x in {"ordinary": ordinary, "one outlier": outlier}.items():
    truth, one_scale = x @ weight.T, x.abs().max() / 127
    found = {
        "weights in int4 alone": x @ w.dequantize().T,
        "activations in int8 alone": rounded(x, torch.float32) @ weight.T,
        "both: bs.linear": bs.linear(x, w),
        "int8 with one scale a row": (x / one_scale).round() * one_scale @ weight.T,
    }
    rows[name] = {
        k: 10 * (truth.square().sum() / (truth - y).square().sum()).log10().item()
        for k, y in found.items()
    }
results.captioned(pd.DataFrame(rows).T, "signal to noise of the product, dB: calculated here")

# %% [markdown]
# The weights' four bits make nearly all of the error: beside them, eight bits for activations add next to nothing,
# and the scale for each 32 keeps an outlier's damage to its own block.
#
# ## What the layout buys
#
# ExecuTorch's [pull request 20198](https://github.com/pytorch/executorch/pull/20198) made these two changes
# to its own kernel, and split-K decode between them.
# **Published** by its authors, for Gemma 4 31B in int4, whole model, one token at a time; the GPU is not named.

# %%
told = published("generate")
told = told[~told["label"].str.contains("split-K")]
shown = told[["label", "tokens_per_s"]].set_axis(["change", "tokens/s"], axis="columns")
results.captioned(shown.set_index("change"), f"published by {told['device'].iloc[0]}")

# %% [markdown]
# With the wide activation loads their matvec went from 38.4 to 34.75 µs, as published there. What changed is
# counting.
# **Computed** from the access pattern of the kernel here, for the same layer: what one warp's step asks for.

# %%
ways = {
    "as it is": (Packed(*layer), False),
    "metadata strided": (Packed(*layer, strided=True), False),
    "4-byte activation loads": (Packed(*layer), True),
}
steps = {
    name: packed_weight.total(
        packed_weight.accesses(packed_weight.step_loads(p, Program(), 0, 0, s))
    )
    for name, (p, s) in ways.items()
}
counted = pd.DataFrame({name: vars(step) for name, step in steps.items()}).T
results.captioned(
    counted.drop(columns="what").astype(int), "what one step of a warp asks for: computed"
)

# %% [markdown]
# The bytes needed are the same; sectors and lines are not. Two honest remarks. The neighbouring rows' scales
# share the strided sectors, so a cache that holds them saves the memory from most of it: what grows is the
# work of the caches. And activations are the same for all rows: they come from the nearest cache, and each
# load of them costs an instruction and its sectors there, not memory.
#
# The compiled kernel can be looked at without a GPU: Triton **compiles here** for any. For one weight row a
# warp and K = 5,376, the loop unrolled; `LDG` loads from memory, `IDP` is dp4a. Nothing is spilled, and no
# shared memory is needed.

# %%
compiled = {}
for capability in [(8, 0), (9, 0)] if find_spec("triton") else []:
    for name, (packed, scalar) in ways.items():
        one = packed_weight.compiled(packed, Program(), capability, scalar)
        compiled[f"sm_{capability[0]}{capability[1]}, {name}"] = {
            "registers": one.registers,
            "bytes spilled": one.spill_bytes,
            "shared memory": one.shared_bytes,
            "loads": one.instructions["LDG"],
            "of 16 bytes": one.sass.count(".128 "),
            "dp4a": one.instructions["IDP"],
        }
results.captioned(pd.DataFrame(compiled).T, "compiled here, for two kinds of GPU")

# %% [markdown]
# ## Measured: this machine
#
# A model has four products a layer: query, key and value as one (`qkv`), `o` after attention, `gate+up` and `down` of
# the MLP. And it calls them with as many rows as tokens come together: one for a single user who waits for the next
# token, 64 for a batch of users, 2,048 for a prompt. So the question is not how fast a product is, but how its time
# grows with the rows:
#
# - **flat** as long as the bytes of the weight decide: further rows are free then;
# - **proportional** once the multiplications decide: then it no longer matters how few bytes a weight has.
#
# Gemma 4 31B's layers on a GPU, on a CPU those of a small model of the same kind, against the float weight in
# bfloat16, torch's own int4 product, on a GPU Humming where it is installed, and in full on a CPU the weight
# turned back to floats in each call. Every point is checked against the reference before it is timed. Each time
# is drawn as a multiple of the least, the dashed line: the packed weight, activations and output once at this
# machine's own measured bandwidth, or the multiplications at its rate. That least is flat first and proportional
# later; a line that stays level goes with it, one that climbs pays for rows that should be free. On a CPU
# `bs.linear` compiles its product of up to 8 rows, which rounds activations to int8 and reads the packed bytes
# once: there it beats the float weight. More rows are unpacked to floats first, and unpacking then costs more
# than the bytes that it saves.

# %%
on_gpu = default_device() == "cuda"
fused = model_of("gemma4-31b" if on_gpu else "laptop").linears(fused=True)
layers = {name: fused[name] for name in ("qkv", "o", "gate+up", "down")}
every = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048]
sweeps = {
    "quick": {"rows": every if on_gpu else [1, 8, 64], "budget_s": 0.1 if on_gpu else 0.05},
    "full": {"rows": every if on_gpu else every[:9], "budget_s": 1.0},
}
peers = ["blockskip", "dequantize", "bf16", "tinygemm"]
compared = ["blockskip", "blockskip-tiles", "humming", "humming-int8", "tinygemm", "bf16"]
if not on_gpu:
    compared = peers if MEASURE == "full" else ["blockskip", "bf16", "tinygemm"]
run = None
if MEASURE in sweeps:
    path = Path("runs") / f"{date.today()}-linear-{MEASURE}.jsonl"
    run = skiplab.sweep_linear(compared, shape=layers.values(), path=path, **sweeps[MEASURE])
measured = rated([run] if run else [])
figures.linear_layers(measured, layers)

# %%
one = query(measured, out_features=layers["gate+up"][0])
results.points(one, "rows", "median_ms", "gbps", "error", "tolerance")

# %% [markdown]
# ## Recorded: an H100
#
# One token, Gemma 4 31B's layers. The rate is of the bytes that must be moved, over the time; the mark on each bar is
# the rate of a plain sum over memory on the same device. Choose device and form of weight in the menu.

# %%
recorded = rated(read_runs(), ("*-nvidia-*", "*"))  # the GPUs' runs first
form = "int4, groups of 32, bfloat16 (recorded: NVIDIA H100"
figures.linear_bandwidths(recorded, first=form)

# %% [markdown]
# The times; what is asked of them, and whether it is met, is in `data/TARGETS.md`:

# %%
results.show("linear")

# %% [markdown]
# This H100 answers the two questions above for itself: strided metadata cost it much at groups of 32, and the 4-byte
# activation loads little. Their sectors come from the nearest cache, and mostly the kernel waited for memory:

# %%
results.show("linear-layout")

# %% [markdown]
# ## Recorded: an H200, from one row to 2,048
#
# The same question on a large GPU, with [Humming](https://github.com/vllm-project/humming) beside ours: int4 products
# that shuffle the weight offline into the order in which tensor cores take it, unpack it in registers, and copy far
# ahead (*W4A16*: weights in 4 bits, activations in 16; *W4A8*: activations rounded to 8). Ours lies in tiles; an
# upright line stands where `bs.linear` goes over to another kernel, and here one kernel takes all rows. Read the panels
# from left to right:
#
# 1. **Up to 8 rows** the bytes of the weight decide, and all lines are level: further rows are free. So they are for
#    the float weight, at three times the bytes and more. (With weights in rows they are not: a warp that holds one row
#    of weights fetches the activations of each. [05_model](05_model.ipynb) sets the two side by side.)
# 2. **From 16 to 64 rows** lines of int4 climb, though the least does not yet: activations, and unpacking for more
#    products, take time that no longer hides behind the loads.
# 3. **Many rows**: the least is of multiplications now, and all lines fall towards it. Unpacking is pure cost: who
#    hides it behind the products comes level with the float weight, who does not is slower.

# %%
figures.linear_layers(query(rated(read_runs(), results.H200), operation="linear", symmetric=0))

# %% [markdown]
# And single layers, on every device that a run is of; choose one in the menu:

# %%
figures.linear_row_times(recorded)

# %% [markdown]
# ## A model
#
# `bs.quantize_` puts a `QuantizedLinear` in the place of each `nn.Linear`; `select` leaves out what should
# stay. The state dict holds codes and metadata, so it is saved and loaded like any other.

# %%
model = torch.nn.Sequential(
    torch.nn.Linear(1024, 4096), torch.nn.GELU(), torch.nn.Linear(4096, 1024)
)
x = torch.randn(1, 1024)
with torch.no_grad():
    before, size = model(x), sum(t.nbytes for t in model.state_dict().values())
    bs.quantize_(model, bits=4, group_size=32, metadata="uint8")
    noise = (model(x) - before).square().sum()
print(model)
print(f"{size:,} bytes in float32, {sum(t.nbytes for t in model.state_dict().values()):,} now")
print(
    f"signal to noise of the output: {10 * (before.square().sum() / noise).log10().item():.1f} dB"
)

# %% [markdown]
# ## Your own question
#
# Tick contenders, type layers, rows and group sizes, press *Run*. Stored runs and the published table can be
# laid over it.

# %%
from skiplab import SweepPanel

panel = SweepPanel(
    peers, operation="linear", shape=[LINEARS["laptop"]], rows=[1, 8], directory="runs"
)
panel

# %% [markdown]
# Next: [05_model](05_model.ipynb), which adds the parts up to tokens a second.
