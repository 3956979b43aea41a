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
# # The reference on trial: every claim, its number, and ours
#
# This lab grew out of one pull request and what followed it: ExecuTorch taught its CUDA backend to run Gemma 4
# 31B in int4, step by step, each step with a number. Here the steps are a **ladder**, each rung a switch of the
# whole model; and each number is a **claim**, beside ours, with a verdict.
#
# **You learn** which of these steps carries how much of a model's speed, where that depends on the GPU, and how
# to read a speed-up that somebody else measured. **You need** no GPU: what cannot be measured here says so. Each
# number says whether it was **published** by others, **predicted** from roofs, **recorded** on another machine,
# or **measured** on this one. No verdict is typed: all follow from the figures beside them.

# %% tags=["parameters"]
# "quick": about half a minute on two cores; "full": some minutes; "no": nothing is measured here
MEASURE = "quick"
# The model that is measured where there is no GPU: a name, or a config.json
MEASURED = "laptop"

# %%
from datetime import date
from pathlib import Path

import pandas as pd
import skiplab
from skiplab import claims, figures, ladder, results
from skiplab.contenders.ladder import LADDER, RUNGS
from skiplab.machine import Machine, default_device
from skiplab.rated import rated
from skiplab.store import read_runs

# %% [markdown]
# ## The ladder
#
# The lowest rung is our decoder with the choices that the reference began with: attention visits every tile and
# applies the mask; a step has one program for each head; the int4 product reads its metadata across rows and its
# activations 4 bytes at a time; q, k, v, gate and up are products of their own; and what stands between products
# is many small kernels. Each rung switches one choice on and keeps all before it; the last is the decoder as it
# ships.

# %%
rungs = pd.DataFrame(
    {"rung": rung.added, "contender": rung.name, "changes": " and ".join(phases)}
    for rung in RUNGS
    if (phases := [phase for phase in ("prefill", "decode") if rung.name in ladder.adds(phase)])
)
results.captioned(rungs, "the rungs, from the lowest up")

# %% [markdown]
# Prefill and decode climb different rungs: skipping tiles is of prompts, where attention has many queries;
# splitting keys and how a matrix-vector product loads are of steps. Choose the call in the menu.

# %%
recorded = rated(read_runs(), results.LADDER_RUNS)
figures.model_ladder(ladder.ladder(recorded), first="a prompt of 2k")

# %% [markdown]
# The same in numbers. **Predicted** is every operation at the roofs: what a rung would gain if both sides of it
# ran as fast as the hardware allows. Skipping is predicted to gain little, for at the roofs a short prompt's
# attention is small beside the products; that the reference gained so much says how far its dense kernel was from
# them. Nor do the roofs know how loads are grouped: such rungs are about reaching them.

# %%
results.show("ladder-prefill")

# %%
results.show("ladder-decode")

# %% [markdown]
# ## Measured: this machine
#
# With a GPU, all rungs of Gemma 4 31B's shape, one layer of each kind. Without one, the `laptop` model: PyTorch
# can visit all pairs or only those in the window, and multiply joined or apart; the other rungs are choices of
# Triton kernels, and the table says so. Every point's logits are checked before it is timed.

# %%
on_gpu = default_device() == "cuda"
model = {"model": "gemma4-31b", "by_kind": MEASURE == "quick"} if on_gpu else {"model": MEASURED}
sweeps = {
    "quick": {
        "prompt": [2048 if on_gpu else 1024],
        "depth": [2048 if on_gpu else 512],
        "new": 4,
        "budget_s": 0.3,
    },
    "full": {"prompt": [256, 512, 1024, 2048], "depth": [2048], "new": 16, "budget_s": 3.0},
}
run = None
if MEASURE in sweeps:
    path = Path("runs") / f"{date.today()}-ladder-{MEASURE}.jsonl"
    run = skiplab.sweep_model(LADDER, path=path, **model, **sweeps[MEASURE])
measured = rated([run] if run else [])
results.points(measured, "problem", "tokens_per_s")

# %%
here = [Machine(**run.header["roof"])] if run else []
figures.model_ladder(
    ladder.ladder(measured, ladder.known(ladder.calls(measured)), here), first="a prompt"
)

# %% [markdown]
# Where the time goes, rung by rung: attention's part shrinks, the products' stays. That part is the most that
# skipping can ever gain.

# %%
figures.model_parts(measured)

# %% [markdown]
# ## On trial
#
# A claim is **confirmed** where our figure says the same, **beaten** where it is better, and **not reproduced**
# where it is less; **not measurable here** means that neither this machine nor a recorded run has it. The claims are
# about GPUs: **measured on a CPU alone** is a figure that is shown, and can neither beat nor confirm one. Rates of
# two different GPUs are not compared: their shares of what each GPU allows are. A figure of a GPU counts before one of
# a CPU, one of the same model before one of another, and then one of this machine before a recorded one.

# %%
evidence = claims.Evidence.of([*read_runs(), *([run] if run else [])], claims.checks_here())
judged = claims.judged(evidence)
verdicts = pd.Series(claims.counts(judged), name="claims").rename_axis("verdict")
results.captioned(verdicts.to_frame(), f"{len(judged)} claims")

# %% [markdown]
# ### Prompts
#
# The gain of skipping is the clearest case of a number that does not travel. It is a ratio of two kernels, and
# the slower one is as much its cause as the faster.

# %%
results.trial(judged, "prefill")

# %% [markdown]
# ### Steps
#
# Splitting the keys travels well, since it is about idle multiprocessors, of which every large GPU has many. What
# does not is a comparison with a library that has changed since. The constant in the softmax is computed here:
# [03_decode](03_decode.ipynb) shows what it gives.

# %%
results.trial(judged, "decode")

# %% [markdown]
# ### The int4 product
#
# What a better load gains is hidden or shown by the caches: the bytes that must come from memory are the same.
# [04_int4](04_int4.ipynb) counts what a warp asks for.

# %%
results.trial(judged, "int4")

# %% [markdown]
# ### The whole model, later
#
# The later table has the same model from short prompts to the longest that its cache holds, beside llama.cpp on
# the same GPU. It names its GPU, an A100; so its rates are held against what an A100 allows.

# %%
results.trial(judged, "model")

# %% [markdown]
# ## Your own verdict
#
# `skiplab model gemma4-31b --ladder` measures all rungs on a GPU, and `skiplab model gemma4-31b --prompt
# 512,2048,8192 --depth 512,2048,8192` the later table's calls; with the run file in `data/runs`, this notebook
# and the pages judge anew. A claim is a few lines in `lab/skiplab/claims/declared.py`.
