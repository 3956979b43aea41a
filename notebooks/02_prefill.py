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
# # Prefill: how much faster does skipping make a prompt?
#
# *Prefill* is the reading of a prompt: all its tokens pass through the model at once, and attention's work
# grows with the square of their number. With a sliding window it needs to grow with prompt length × window
# only, if the kernel leaves out the tiles that the window drops.
#
# **You learn** how much that brings, for a whole model and for one layer, and what keeps a kernel from its
# floor. **You need** the words of [01_tiles](01_tiles.ipynb) and no GPU; where there is one, it is measured. The
# answers come in four voices, and each figure says which one it is: **published** by others, **predicted** from a
# data sheet, **measured** on this machine, **recorded** on another.

# %% tags=["parameters"]
# "quick": about 20 seconds on two cores; "full": some minutes; "no": nothing is measured here
MEASURE = "quick"

# %%
from datetime import date
from pathlib import Path

import pandas as pd
import skiplab
from skiplab import figures, results
from skiplab.machine import default_device, known_gpus
from skiplab.rated import rated
from skiplab.store import FLAGS, query, read_runs
from skiplab.workload import MODELS

# %% [markdown]
# ## Published: a whole model
#
# ExecuTorch's [pull request 20198](https://github.com/pytorch/executorch/pull/20198) taught its attention
# kernel to skip fully masked blocks. The authors' rates for Gemma 4 31B with int4 weights, the **whole
# model** at work: attention took 58 % of the time before, and 18.5 % after. The request names no GPU.

# %%
published = figures.published_prefill()
table = published.pivot(index="q_len", columns="label", values="tokens_per_s")
table = table[["before: dense + mask", "after: masked blocks skipped", "llama.cpp"]]
table = table.rename_axis("prompt length").rename_axis(None, axis="columns")
results.captioned(table, f"tokens/s: published by {published['device'].iloc[0]}")

# %%
figures.speedup(published)

# %% [markdown]
# ## Predicted: one layer's attention
#
# The same model's sliding layer (32 query heads, 16 key heads of 256, window 1,024) on two GPUs, from their
# data sheets: the larger of FLOPs ÷ peak rate and bytes ÷ bandwidth, for *dense + mask* on all tiles and for
# *blockskip* on the visited ones. It leaves out launches, grid tails and softmax, on both sides: what skipping
# brings if both run at the roofs. Dense kernels with a mask run far from theirs, so that measured ratios can be
# larger still. Attention alone gains more than a whole model, whose matrix products stay as they are.

# %%
layer = MODELS["gemma4-31b sliding"]
workloads = [layer.workload(q_len) for q_len in (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)]
gpus = [known_gpus()[name] for name in ("NVIDIA H200", "NVIDIA A100 80GB SXM")]
predicted = pd.concat([figures.predictions(workloads, gpu) for gpu in gpus], ignore_index=True)
figures.speedup(predicted)

# %% [markdown]
# Where the work goes: *useful* pairs are those that the mask keeps, *executed* ones lie in visited tiles,
# *dense* is all of them.

# %%
figures.flops(predicted[predicted["device"] == "NVIDIA H200"])

# %% [markdown]
# ## Measured: this machine
#
# Every point is checked against a float64 reference before it is timed, and again after; a point that fails
# has no time. Rows go to a run file in `runs/`, beside this notebook, as they come: interrupt the cell and run it
# again, and it goes on where it stopped; run a finished one again, and it is measured anew, into a file of its own.

# %%
on_gpu = default_device() == "cuda"
sweeps = {
    "quick": {
        "q_len": [1024, 4096, 16384] if on_gpu else [512, 2048],
        "window": [256],
        "budget_s": 0.6,
    },
    "full": {"q_len": [1024, 2048, 4096, 8192], "window": [256, 512, 1024, None], "budget_s": 5.0},
}
contenders = (
    ["sdpa", "blockskip"] if MEASURE == "quick" else ["sdpa", "sdpa-causal", "flex", "blockskip"]
)
run = None
if MEASURE in sweeps:
    run = skiplab.sweep(
        contenders, path=Path("runs") / f"{date.today()}-prefill-{MEASURE}.jsonl", **sweeps[MEASURE]
    )
measured = rated([run] if run else [])
figures.speedup(measured)

# %%
results.points(measured, "q_len", "window", "median_ms", "error", "tolerance")

# %% [markdown]
# *Error* is the largest difference from the reference, and beside it stands what is allowed. A flag names what
# makes a number doubtful. The quick sweep is short, so expect some:

# %%
flags = pd.DataFrame(FLAGS.items(), columns=["flag", "what it says"])
results.captioned(flags, "flags, and what each says")

# %% [markdown]
# ## Recorded: an H100 and an H200 beside this machine
#
# Choose heads, mask and device in the menu: first what Skiplab brings with it, each as **recorded** on its
# device, then what was **measured** above. Each time is drawn as a multiple of the least that the device's
# roofs allow for the useful work, the dashed line: lower is better. Point at a mark to read the time itself.

# %%
# GPUs first; and of a point that several runs hold, the run in which the peers were timed beside it
together = ("*-nvidia-*-causal-d*", "*-nvidia-*-windows-d128", "*-nvidia-*", "*")
recorded = rated(read_runs(), together)
device = "NVIDIA H100 80GB HBM3"
sliding = f"32/16 heads of 256, bfloat16, window 1k (recorded: {device})"  # a layer of Gemma 4 31B
figures.attention_times(rated([*read_runs(), *([run] if run else [])], together), first=sliding)

# %% [markdown]
# The sliding layer in numbers. What the project asks of the kernel, and whether it is met, is in `data/TARGETS.md`:

# %%
results.show("sliding-d256")

# %% [markdown]
# At head size 128, over windows: times as fast as compiled FlexAttention, the best that PyTorch has for this.

# %%
figures.heatmap(query(recorded, heads="32/8 of 128", buffer=None, device=device), base="flex")

# %% [markdown]
# The top row has no window. A causal mask leaves half of the tiles, so that there is less to skip and more to
# multiply, and a kernel lives by how well it does that. Ours copies tiles by one warp while two groups of 64 queries
# compute, so that one group's products run under the other's exponentials, and goes on to further rows while the
# last ones are stored. That brings it to cuDNN's speed and beyond; but FlashAttention-3 or 4 is ahead at nearly every
# length, by a sixth at most.

# %%
results.show("causal-d128")

# %% [markdown]
# And **recorded** on an H200, beside FlashAttention alone. Causal prompts are its field: FlashAttention-3 is ahead at
# both head sizes. With a window ours is ahead at head size 128, by more the narrower it is; at 256 FlashAttention-4 is.
# Why, as far as it is known, is in `data/TARGETS.md`.

# %%
results.show("flash")

# %% [markdown]
# Larger heads share one read among more products. What was tried, and why it did or did not help, is in
# `data/TUNING.md`. Causal prompts beside FlexAttention, by head size, on the H100:

# %%
pair = query(recorded, contender=["blockskip", "flex"], mask="causal()", buffer=None, device=device)
figures.speedup(pair, base="flex")

# %% [markdown]
# ## Four ways to skip
#
# All four compute the same bits. `none` visits every tile and applies the mask. `mask` reads each tile of the
# mask first, and leaves if it is empty: the products are saved, the reading is not, and a mask has as many
# elements as the prompt has pairs. `bounds` computes from the window where a row of tiles begins and ends, and
# reads nothing. `map` reads that from the tile map, for masks that are no band.

# %%
results.show("modes-sliding")

# %% [markdown]
# ## Why not at the floor?
#
# Between the useful work at the roofs and the time itself lie four things. The first two can be counted:
#
# - **Partial tiles.** A window's edges cut through tiles, and a tile is computed whole. Tiles of 128 × 64 add an
#   eighth to a window of 1,024, and half to one of 256. Small tiles waste less, and multiply slower.
# - **Rows do not divide evenly.** Each row of tiles of each head is done by one multiprocessor (SM). A short prompt
#   has fewer of them than the GPU has SMs, so some idle; a long one ends when the busiest SM does.
# - **The kernel itself.** Between its two products lies a softmax: exponentials, maxima, sums, which the matrix
#   units wait for. Loads must arrive, and at full speed a GPU lowers its clocks to stay within its power.
# - **The start.** Some microseconds pass before the first program runs and after the last one ends.
#
# Here are the floors that can be counted, each upon the one before, and the recorded time above them, all as
# multiples of the least for the useful work:

# %%
figures.floors(recorded, first=sliding)

# %% [markdown]
# At short prompts the last two weigh most. The host, which checks, plans and launches, is not in these times:
# they are of a **CUDA graph**, which replays launches without it. Called one by one, a short kernel hides behind
# its own call:

# %%
results.show("launch")

# %% [markdown]
# All prompts that were timed on the H100 against its two roofs, how fast it multiplies and how fast it moves memory,
# both measured before a run starts. On the dashed line a kernel would take the least time that they allow; above it, it
# takes longer.

# %%
figures.measured_vs_predicted(query(recorded, operation="attention", device=device))

# %% [markdown]
# ## Your own question
#
# Tick contenders, type prompt lengths and windows, press *Run*. Stored runs and the published table can be
# laid over it.

# %%
from skiplab import SweepPanel

panel = SweepPanel(
    ["sdpa", "blockskip"], q_len=[512, 1024, 2048], window=[256, 1024], directory="runs"
)
panel

# %% [markdown]
# Next: [03_decode](03_decode.ipynb), where one query reads all the keys and memory is what counts.
