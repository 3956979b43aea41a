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
# # Decode: one query, a long cache, and a GPU that must not idle
#
# After the prompt is read, a model writes one token at a time. Each new token is **one query** that looks at
# every key in the cache. There is next to nothing to compute, and a lot to read.
#
# **You learn** how fast it can be, why a good prefill kernel does it badly, how the keys are best divided, and
# what may not be left out of the softmax while doing so. **You need** the tiles of [01_tiles](01_tiles.ipynb)
# and no GPU; where there is one, it is measured. Each figure says whether it was **published**, **predicted**,
# **recorded** or **measured** here.

# %% tags=["parameters"]
# "quick": about 10 seconds on two cores; "full": some minutes; "no": nothing is measured here
MEASURE = "quick"

# %%
from datetime import date
from pathlib import Path

import blockskip as bs
import pandas as pd
import skiplab
import torch
from skiplab import figures, results
from skiplab.machine import known_gpus
from skiplab.machine.roofline import bound
from skiplab.occupancy import comparison, schedules
from skiplab.rated import rated
from skiplab.store import published, query, read_runs
from skiplab.text import digits
from skiplab.workload import MODELS, DecodeWorkload

# %% [markdown]
# ## The floor: bytes ÷ bandwidth
#
# A key and a value are read, multiplied with the few query heads that share them, and not used again: 2 or 8
# FLOPs a byte below, where this GPU could do 200 in the time. So the least time is simply the bytes divided
# by the memory's bandwidth. One layer of Gemma 4 31B, one query:

# %%
gpu = known_gpus()["NVIDIA H200"]
sliding, full = MODELS["gemma4-31b sliding"], MODELS["gemma4-31b full"]
steps = [layer.decode(kv_len) for layer in (sliding, full) for kv_len in (2048, 16384, 131072)]
floors = pd.DataFrame(
    {
        "keys in the cache": step.kv_len,
        "window": step.window or "none",
        "keys read": step.live_keys,
        "MB": step.work().bytes / 1e6,
        "FLOPs a byte": step.work().intensity,
        "floor (µs)": bound(step.work(), gpu).seconds * 1e6,
    }
    for step in steps
)
results.captioned(floors, f"predicted for {gpu.name} (data sheet)")

# %% [markdown]
# A sliding layer's window makes it cost the same at any length, *if* the kernel starts at the window. A full
# layer grows with the cache.
#
# ## One program a head: most of the GPU idles
#
# A prefill kernel gives each program a block of queries. Here there is one query, so there is one program
# for each KV head: 16 programs on 132 multiprocessors (SMs). One SM can draw only little more than its even
# share of the bandwidth (the published times below fit that), so while 116 of them idle, most of it does too.
#
# **Split-K** cuts the keys of each head into shares, a program each. Every share yields a partial output, its
# maximum and its sum; a merge of these few numbers gives exactly the result of one softmax. The question
# left is *how many* shares, and *of what*. Four rules: one share a head; ExecuTorch's, one for every 256 slots of
# the cache; FlashAttention-3's, the fewest whose programs fill their rounds of the SMs to 85 % of the best; and ours,
# as many as fill the SMs once.

# %%
table = comparison(schedules(sliding.decode(2048, window=None), gpu))
results.captioned(table, f"2,048 keys, no window: predicted for {gpu.name} (data sheet)")

# %% [markdown]
# ## Play with it
#
# Which program reads which keys, and what every SM does meanwhile. The prediction is arithmetic (one program
# an SM at a time, at its even share of the bandwidth), not a measurement. Try:
#
# - **a large buffer with few keys**, as it opens: choose *ExecuTorch* and look at the SMs;
# - **a window**: untick *no window* and take 1,000. ExecuTorch's rule cuts the buffer, not the window, into shares, so
#   that some keys before the window are read and then masked: they are orange; ours starts at the window's first tile;
# - **4 KV heads** (*gemma4-31b full*), where 33 shares are needed and the last tiles divide unevenly;
# - **batch 8**: enough programs without any split.
#
# Click a program, or follow it with the arrow keys.

# %%
from skiplab import SplitExplorer

explorer = SplitExplorer(kv_len=2048, buffer=131072)
explorer

# %% [markdown]
# ## A big buffer with few keys
#
# A cache is allocated for the longest text, and a CUDA graph fixes the number of programs before the true
# length is known. A rule that cuts the **buffer** into shares then leaves nearly all of them without keys.
# Ours fixes the *count* alone, from the number of SMs and heads, and divides the **live** tiles on the device.
# 2,048 keys, in ever larger buffers:

# %%
buffers = [2048 << n for n in range(7)]
steps = {slots: sliding.decode(2048, window=None, buffer=slots) for slots in buffers}
times = {
    f"{slots:,} slots": comparison(schedules(step, gpu))["time (µs)"]
    for slots, step in steps.items()
}
results.captioned(
    pd.DataFrame(times).T, f"µs for 2,048 keys: predicted for {gpu.name} (data sheet)"
)

# %% [markdown]
# ## Published: what splitting brought
#
# ExecuTorch's [pull request 20198](https://github.com/pytorch/executorch/pull/20198) measured its standard
# kernel (no splits), its split-K and torch's own, inside a CUDA graph: Gemma's 32/16 heads of 256, one query,
# no window. It names no GPU; its rates suggest an A100, so that one's floor is drawn beside them.

# %%
a100 = known_gpus()["NVIDIA A100 80GB SXM"]
lengths = (1024, 2048, 4096, 8192, 16384, 32768)
floor = figures.predictions([DecodeWorkload(length) for length in lengths], a100)
figures.decode_time(pd.concat([published("decode"), floor], ignore_index=True))

# %% [markdown]
# The explorer's arithmetic for the same calls, beside what was published. It knows no kernel, only who reads
# what:

# %%
table = published("decode").pivot(index="kv_len", columns="contender", values="median_ms") * 1e3
names = {"executorch standard": "published: no splits", "executorch split-K": "published: split-K"}
table = table[list(names)].rename(columns=names)
for kv_len in table.index:
    guess = schedules(sliding.decode(int(kv_len), window=None), a100)
    table.loc[kv_len, "predicted: one share"] = guess["one"].seconds * 1e6
    table.loc[kv_len, "predicted: ExecuTorch's shares"] = guess["executorch"].seconds * 1e6
table = table.rename_axis("keys in the cache").rename_axis(None, axis="columns")
results.captioned(
    table.iloc[:, [0, 2, 1, 3]], f"µs: published (GPU not named), and predicted for {a100.name}"
)

# %% [markdown]
# ## From how many keys on does splitting pay?
#
# It depends on how one asks. Launched call by call, a second kernel and its buffers cost the *host* tens of
# microseconds, which hides what the GPU does: the pull request's first answer was "from 2,048 keys". Replayed
# from a CUDA graph, as a decoder really runs, the launch is gone: "from 256". Published, and recorded where
# `data/runs` holds a run of the same heads, each split-K against the kernel without splits that was timed beside it:

# %%
runs = [run for run in read_runs() if run.operation == "decode"]
with_both = [run for run in runs if "blockskip-prefill" in {row["contender"] for row in run.rows}]
both = pd.concat([published("decode"), *map(figures.by_method, with_both)], ignore_index=True)
both = query(both, q_heads=32, kv_heads=16, window=None, q_len=1, method=["graph", "eager"])
figures.crossover(both[both["contender"] != "blockskip-one"])

# %% [markdown]
# ## Recorded on GPUs
#
# How much of the memory's rate a step reaches. Choose device, heads and window in the menu. The dotted line is the
# rate of a plain sum over memory on the same device, as its run measured it.

# %%
recorded = rated(runs, ("*-nvidia-*", "*"))  # the GPUs' runs first
figures.decode_bandwidths(recorded, first="32/16 heads of 256")

# %% [markdown]
# The times; what is asked of them, and whether it is met, is in `data/TARGETS.md`. Where few keys are read, memory does
# not come to its full rate: *of a plain read of as much* compares with a kernel that only reads as many bytes.

# %%
results.show("decode")

# %% [markdown]
# ## Measured: this machine, a window of 512
#
# `bs.decode` starts at the first tile that the window touches, on a CPU too: its time follows the *window*,
# however long the cache has become. Torch's SDPA is handed a slice with the live keys alone, so that it is not
# charged for the others. The dense reference reads the whole cache and masks nearly all of it: its time
# follows the *cache*. Every point is checked against float64 before it is timed.

# %%
shape = {"q_heads": 8, "kv_heads": 8, "head_dim": 128}
sweeps = {
    "quick": {"kv_len": [1024, 4096, 16384], "window": [512], "budget_s": 0.3},
    "full": {"kv_len": [1024, 4096, 16384, 65536], "window": [512, 2048, None], "budget_s": 3.0},
}
run = None
if MEASURE in sweeps:
    path = Path("runs") / f"{date.today()}-decode-{MEASURE}.jsonl"
    run = skiplab.sweep_decode(
        ["reference", "sdpa", "blockskip"], path=path, **shape, **sweeps[MEASURE]
    )
measured = rated([run] if run else [])
figures.decode_time(measured)

# %%
results.points(measured, "kv_len", "window", "median_ms", "gbps", "error", "tolerance")

# %% [markdown]
# *GB/s* counts the bytes that must move, so a reader of dead keys scores low. The quick sweep is short, and a
# flag names what makes a number doubtful: `busy` (other programs ran), `unconverged` (the median had not
# settled in the time given), `l2-resident` (what a call reads may have stayed in the last cache).
#
# ## Why the maximum has to be a true one
#
# Softmax is `exp(s - m) / sum(exp(s - m))`, and any `m` gives the same value *on paper*. Shares would merge
# without a rescale if all subtracted the same constant, and the split-K of pull request 20198 did so, with 5.0
# (a later version keeps a running maximum). But float32 ends at e^88.7 and begins at e^-103, and models with
# QK-norm and scale 1.0 reach such scores. The same sum, live, with the constant and with `bs.decode`:

# %%
torch.manual_seed(0)
scores = {
    "ordinary: normal scores": torch.randn(2048),
    "one key at 93.75": torch.zeros(2048).index_fill(0, torch.tensor([7]), 93.75),
    "all keys at 88": torch.full((2048,), 88.0),
    "all keys at -110": torch.full((2048,), -110.0),
}
q, v, rows = torch.zeros(1, 1, 1, 64), torch.randn(1, 1, 2048, 64), []
q[..., 0] = 1.0  # the query picks this dimension of the keys: its scores are what stands there
for name, score in scores.items():
    k = torch.zeros(1, 1, 2048, 64)
    k[..., 0] = score
    right = torch.softmax(score.double(), 0) @ v[0, 0].double()
    weight = torch.exp(score - 5.0)
    constant = (weight @ v[0, 0]) * torch.where(weight.sum() > 0, 1 / weight.sum(), 0.0)
    ours = bs.decode(q, k, v, scale=1.0)[0, 0, 0]
    first = {"right": right[0], "5.0 subtracted": constant[0], "bs.decode": ours[0]}
    first = {way: digits(value.item()) or "nan" for way, value in first.items()}
    rows.append({"scores": name, **first, "error of bs.decode": (ours - right).abs().max().item()})
results.captioned(pd.DataFrame(rows), "the first of 64 outputs, float32: computed here")

# %% [markdown]
# NaN at least is loud. The zeros are not: the output looks like an output.
#
# ## Your own question
#
# Tick contenders, type numbers of keys and windows, press *Run*. Stored runs and the published table can be
# laid over it.

# %%
from skiplab import SweepPanel

panel = SweepPanel(
    ["sdpa", "blockskip"], operation="decode", kv_len=[1024, 4096], window=[512], directory="runs"
)
panel

# %% [markdown]
# Next: [04_int4](04_int4.ipynb), the other half of a decode step: reading the weights.
