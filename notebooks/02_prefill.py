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
# This notebook answers in four voices, and each figure says which one it is: **published** by others,
# **predicted** from a data sheet, **measured** on this machine, **recorded** on another.

# %% tags=["parameters"]
MEASURE = "quick"  # "quick": about 20 seconds on two cores; "full": some minutes; "no": show recorded runs alone

# %%
from datetime import date
from pathlib import Path

import pandas as pd
import skiplab
from IPython.display import display
from skiplab import figures
from skiplab.machine import default_device, known_gpus
from skiplab.store import frame, read_runs
from skiplab.workload import MODELS

# %% [markdown]
# ## Published: a whole model
#
# ExecuTorch's pull request 20198 taught its attention kernel to skip fully masked blocks. The authors' rates
# for Gemma 4 31B with int4 weights, the **whole model** at work: attention took 58 % of the time before, and
# 18.5 % after. The request names no GPU.

# %%
published = figures.published_prefill()
published.pivot(index="q_len", columns="label", values="tokens_per_s")

# %%
figures.speedup(published)

# %% [markdown]
# ## Predicted: one layer's attention
#
# The same model's sliding layer (32 query heads, 16 key heads of 256, window 1,024) on two GPUs, from their
# data sheets: the larger of FLOPs ÷ peak rate and bytes ÷ bandwidth, for *dense + mask* on all tiles and for
# *block-skip* on the visited ones. It leaves out launches, grid tails and softmax, so read it as the most
# that skipping can bring. Attention alone gains more than a whole model, whose matrix products stay as they
# are.

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
# has no time. Rows go to a run file under `runs/` as they come: interrupt the cell and run it again, and it
# goes on where it stopped.

# %%
on_gpu = default_device() == "cuda"
sweeps = {
    "quick": {"q_len": [1024, 4096, 16384] if on_gpu else [512, 2048], "window": [256], "budget_s": 0.6},
    "full": {"q_len": [1024, 2048, 4096, 8192], "window": [256, 512, 1024, None], "budget_s": 5.0},
}
contenders = ["sdpa", "blockskip"] if MEASURE == "quick" else ["sdpa", "sdpa-causal", "flex", "blockskip"]
run = None
if MEASURE in sweeps:
    run = skiplab.sweep(contenders, path=Path("runs") / f"{date.today()}-prefill-{MEASURE}.jsonl", **sweeps[MEASURE])
recorded = [run for run in read_runs() if run.operation == "attention"]
shown = recorded if run is None else [run]
for one in shown:
    display(figures.speedup(one.frame()))

# %%
columns = ["label", "q_len", "window", "status", "median_ms", "error", "tolerance", "flags", "source", "device"]
frame(shown)[columns].round({"median_ms": 3})

# %% [markdown]
# `error` is the largest difference from the reference and `tolerance` what is allowed. A flag names what
# makes a number doubtful: `unconverged` (the median had not settled in the time given), `busy` (other
# programs ran). The quick sweep is short, so expect some.
#
# ## Recorded: full sweeps
#
# The runs kept in `data/runs`, over more lengths and windows than a quick look measures, each on the device
# that its foot names (where none is kept yet: what was measured above).

# %%
kept = recorded or shown
for one in kept:
    display(figures.heatmap(one.frame()))

# %% [markdown]
# ## How near to the roofs?
#
# A device has two roofs: how fast it multiplies, and how fast it moves memory. Both are measured before a run
# starts. On the dashed line a kernel would take the least time that they allow for the useful work; above it,
# it takes longer.

# %%
for one in kept:
    display(figures.measured_vs_predicted(one.frame()))

# %% [markdown]
# ## Your own question
#
# Tick contenders, type prompt lengths and windows, press *Run*. Stored runs and the published table can be
# laid over it.

# %%
from skiplab import SweepPanel

panel = SweepPanel(["sdpa", "blockskip"], q_len=[512, 1024, 2048], window=[256, 1024], directory="runs")
panel
