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
# # A whole model: tokens a second, and where the time goes
#
# The notebooks before took a model apart: attention of a prompt, attention of a single query, products with packed
# weights. A user sees the sum: how long the prompt takes, and how fast tokens come after it. This one adds up, and
# asks of each choice (a window, drafts, bits) what it buys **of the whole**.
#
# **You learn** which part of a model the time of a prompt and of a token goes to, what that is on other machines, and
# where to look first. **You need** no other notebook and no GPU. Each number says where it is from: **predicted** from
# a machine's roofs, **recorded** on another machine, **published** by others, or **measured** on this one.

# %% tags=["parameters"]
# The model that is predicted, a file of data/models; WINDOW: of its sliding layers, None: its own
MODEL, PROMPT, WINDOW = "gemma4-31b", 2048, None
# Draft tokens that a step verifies, and the probability that one of them is right
DRAFTS, ACCEPTANCE = 3, 0.7
# One of `skiplab.throughput.machines()`
MACHINE = "NVIDIA H200 (recorded)"
# "quick": a minute or two on two cores; "full": some more; "no": nothing is measured here
MEASURE = "quick"
# The model that is measured here: a name, or a config.json
MEASURED = "laptop"

# %%
from datetime import date
from pathlib import Path

import pandas as pd
import skiplab
from skiplab import ModelWorkload, figures, model_of, results
from skiplab.contenders.ladder import LADDER
from skiplab.machine.roofline import predicted_parts
from skiplab.model import ModelSpec
from skiplab.rated import rated
from skiplab.store import frame, noted_runs, published, query, read_runs, recorded_llama_bench
from skiplab.text import percent
from skiplab.throughput import call_time, kept_tokens, machines, memory

# %% [markdown]
# ## The floor of a model is a sum
#
# A part of a model takes at least the longer of two times: its multiplications at the machine's full rate, or its bytes
# at the memory's. The parts run one after the other, so their times **add**. A prompt's products have a row for every
# token and are limited by multiplications; a step's have one row, and are limited by the bytes of the weights. So the
# same layer is on one roof in a prompt, and on the other in a step.
#
# *Pointwise* is what lies between the products: norms, rotations, activations. It multiplies next to nothing; here it
# has the bytes that a single kernel from each product to the next would move.

# %%
gpu = machines()[MACHINE]
prompt = ModelWorkload("prefill", PROMPT, model=MODEL)
step = ModelWorkload("decode", 1, PROMPT, model=MODEL)
if WINDOW:
    prompt, step = prompt.with_window(WINDOW), step.with_window(WINDOW)
columns = {}
for name, call in (("prompt", prompt), ("step", step)):
    parts = predicted_parts(call, gpu)
    columns[f"{name}, ms"] = {part: least.seconds * 1e3 for part, least in parts.items()}
    columns[f"{name}, limited by"] = {part: least.limited_by for part, least in parts.items()}
held = memory(step, PROMPT + 1)
rates = [call_time(call, gpu).tokens_per_s for call in (prompt, step)]
print(f"{MODEL}: {rates[0]:,.0f} prompt tokens/s, {rates[1]:,.0f} behind {PROMPT:,} tokens;")
print(f"{held.weights / 1e9:.1f} GB of weights, {held.cache / 1e9:.2f} GB of cache")
results.captioned(pd.DataFrame(columns), f"predicted for {gpu.name}, from its {gpu.source} roofs")

# %% [markdown]
# ## Play with it
#
# The same as bars, redrawn as you change something. Where a run of this model on the chosen machine is stored, its
# times stand beside, in grey. Try:
#
# - **Prompt length** 256, then 131,072: when does attention cost more than the products?
# - **Window**: what would the sliding layers cost if they saw all keys? Look at the cache, too.
# - **Draft length**: a step of four tokens reads the weights once, and takes hardly longer than a step of one. What it
#   brings hangs on how many drafts are right.
# - **Weights**: bfloat16 changes nothing about a prompt's time, and everything about a step's.
# - **Machine**: a GPU with half the bandwidth halves the rate of steps, whatever else it has.

# %%
from skiplab import ModelExplorer

explorer = ModelExplorer(
    model=MODEL, prompt=PROMPT, window=WINDOW, drafts=DRAFTS, acceptance=ACCEPTANCE, machine=MACHINE
)
explorer

# %% [markdown]
# ## Where the time goes: predicted and recorded
#
# A profile names what a decoder runs: attention, products, the head; *pointwise* is what has no name, and *gaps* is
# when nothing runs. Beside the prediction stands what stored runs took apart on that machine. Choose the call
# in the menu. A part that is far above its floor is a kernel to mend; large *pointwise* or *gaps* are kernels to fuse.

# %%
# recorded, and your own; without the rungs below the decoder as it is, which 06_claims has
runs = [*read_runs(operation="model"), *read_runs("runs", operation="model")]
recorded = query(rated(runs, ("*-nvidia-h200-*", "*-nvidia-*", "*")), model=MODEL)
recorded = recorded[~recorded["contender"].isin(LADDER[:-1])]
there = recorded[recorded["device"] == gpu.name]
if not len(there):
    print(f"No run of {MODEL} on {gpu.name} is stored: what follows is predicted, published,")
    print("or of other programs.")
taken = [
    ModelWorkload.from_axes(row["axes"])
    for run in runs
    for row in run.rows
    if row["axes"]["model"] == MODEL
]
ours = figures.predictions([*taken, prompt, step], gpu)
ours = query(ours, contender="blockskip").drop_duplicates(["model", "phase", "q_len", "depth"])
figures.model_parts(
    pd.concat([there, ours], ignore_index=True), first=figures.model.settings_words(step.axes())
)

# %% [markdown]
# ## Tokens a second across prompt lengths and depths
#
# Dotted: predicted. Beside it what is recorded and published of the same model: of ExecuTorch and llama.cpp on an A100
# (published), of llama.cpp on an H200 (recorded, by its own program), and ours where there is a run. A prompt's rate
# rises until the products are full, and falls when the full layers' attention, which grows with the square of the
# length, catches up. Short prompts lie far below their floor wherever launches and small grids cost more than work.

# %%
lengths = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072]
prompts = [ModelWorkload("prefill", length, model=MODEL) for length in lengths]
steps = [
    ModelWorkload("decode", rows, length, model=MODEL)
    for rows in {1, 1 + DRAFTS}
    for length in lengths
]
llama = query(
    frame(recorded_llama_bench()), model=MODEL, contender=["llama.cpp", "llama.cpp-cublas"]
)
others = [recorded, llama, query(published("model"), model=MODEL)]
others = pd.concat([table for table in others if len(table)] or others[:1])
others = others.drop_duplicates(
    ["source", "device", "contender", "label", "phase", "q_len", "depth", "by_kind"]
)
figures.model_prefill(pd.concat([figures.predictions(prompts, gpu), others], ignore_index=True))

# %% [markdown]
# Behind a long text a step also reads its cache. The sliding layers' part of that is bounded by the window; the full
# layers' grows.

# %%
figures.model_decode(pd.concat([figures.predictions(steps, gpu), others], ignore_index=True))

# %% [markdown]
# ## What a longer window would cost
#
# The sliding layers see a window's keys. Were it longer, prompts would multiply more pairs, steps would read more keys,
# and the cache would hold more. **Predicted**, against the model's own window: how many times as long a prompt, and a
# step behind it, would take.

# %%
own = next((layer.window for layer in ModelSpec.named(MODEL).layers if layer.window), None)
windows = [own // 4, own, 4 * own, 16 * own, max(lengths)] if own else []
if not own:
    print(f"{MODEL} has no sliding layers: every layer sees all keys.")
costs = {}
for length in (2048, 8192, 32768, 131072):
    for name, q_len, depth in (("prefill", length, 0), ("decode", 1, length)):
        call = ModelWorkload(name, q_len, depth, model=MODEL)
        took = {window: call_time(call.with_window(window), gpu).seconds for window in windows}
        costs[f"{length:,} tokens", "prompt" if name == "prefill" else "step"] = {
            w: took[w] / took[own] for w in windows
        }
costs["131,072 tokens", "cache, GB"] = {
    w: memory(call.with_window(w), length + 1).cache / 1e9 for w in windows
}
table = pd.DataFrame(costs, index=windows).rename(index="window {:,}".format)
table = table.set_axis(map(": ".join, table.columns), axis="columns")
results.captioned(table, f"times as long as with {MODEL}'s own window: predicted for {gpu.name}")

# %% [markdown]
# ## Drafts: several tokens a step
#
# A small model, or a look-up in the text so far, guesses the next tokens; the large one reads them in one step and
# keeps those that it would have said. Weights are read once for all of them. If each is right with probability *a*, a
# step of *n* drafts keeps 1 + a + a² + … + aⁿ tokens. **Predicted** tokens/s, the making of the drafts left out:

# %%
drafts, acceptances = (0, 1, 2, 3, 5, 7, 15), (0.5, 0.7, 0.8, 0.9, 1.0)
verified = {n: ModelWorkload("decode", 1 + n, PROMPT, model=MODEL) for n in drafts}
rates = {
    f"{n} drafts": {
        "step, ms": call_time(call, gpu).seconds * 1e3,
        **{
            f"{percent(a)} right": call_time(call, gpu, acceptance=a).tokens_per_s
            for a in acceptances
        },
    }
    for n, call in verified.items()
}
results.captioned(
    pd.DataFrame(rates).T, f"tokens/s behind {PROMPT:,} tokens, int4: predicted for {gpu.name}"
)

# %% [markdown]
# What a longer step really costs is where kernels differ. A run that has steps of several tokens says it, and what it
# comes to at the acceptance chosen above:

# %%
longer = there[(there["phase"] == "decode") & (there["contender"] == "blockskip")]
longer = longer[longer["by_kind"] != 1]  # a whole model alone, not one layer of each kind
longer = longer.assign(
    drafts=longer["q_len"] - 1, kept=[kept_tokens(n - 1, ACCEPTANCE) for n in longer["q_len"]]
)
longer["tokens/s"] = longer["kept"] / longer["median_ms"] * 1e3
if len(longer):
    shown = longer[["depth", "drafts", "median_ms", "kept", "tokens/s"]].sort_values(
        ["depth", "drafts"]
    )
    shown = shown.astype({"depth": int}).rename(
        columns={"depth": "tokens before", "median_ms": "step, ms"}
    )
    where = figures.theme.provenances(zip(longer["source"], longer["device"], strict=True))
    caption = f"at {percent(ACCEPTANCE)} of drafts right: {where}"
    shown = results.captioned(shown.set_index("tokens before"), caption)
else:
    shown = f"no run of steps of {MODEL} on {gpu.name} is stored"
shown

# %% [markdown]
# ## What int4 buys, at 1, 4 and 16 rows
#
# A weight of five bits instead of sixteen is read in less than a third of the time, as long as reading is what takes
# the time. At 16 rows it still is, on paper. **Predicted**, a whole step:

# %%
rows = {n: ModelWorkload("decode", n, PROMPT, model=MODEL) for n in (1, 4, 16)}
eight = {n: ModelWorkload("decode", n, PROMPT, model=MODEL, bits=8) for n in rows}
times = {
    f"{n} row{'s' * (n > 1)}": {
        "bfloat16, ms": call_time(call, gpu, quantised=False).seconds * 1e3,
        "int8, ms": call_time(eight[n], gpu).seconds * 1e3,
        "int4, ms": call_time(call, gpu).seconds * 1e3,
    }
    for n, call in rows.items()
}
table = pd.DataFrame(times).T
table["int4, times as fast as bfloat16"] = table["bfloat16, ms"] / table["int4, ms"]
results.captioned(table, f"a step behind {PROMPT:,} tokens: predicted for {gpu.name}")

# %% [markdown]
# And the four products of a sliding layer of Gemma 4 31B one after the other, as they were **recorded** on an H200, in
# microseconds: with weights in rows, the dp4a kernel pays for each further row; in tiles, tensor cores hardly do
# ([04_int4](04_int4.ipynb) says why). Those in rows are medians that were noted, without samples, on another day.

# %%
layers = model_of("gemma4-31b").linears(fused=True)
in_tiles = rated(read_runs(operation="linear"), ("*-nvidia-h200-linear-int4-fused*",))
noted = query(rated(noted_runs(), results.H200), operation="linear")
in_rows = noted[noted["label"] == "blockskip, rows"]  # medians of when all weights lay so
products = pd.concat([in_tiles, in_rows])
few = query(products, device="NVIDIA H200", rows=[1, 4, 16], bits=4, group_size=32, status="ok")
sums = {}
names = {
    "blockskip, rows": "int4 in rows",
    "blockskip": "int4 in tiles",
    "float weight": "bfloat16",
}
for (label, count), group in few.groupby(["label", "rows"]):
    times = group.set_index(["out_features", "in_features"])["median_ms"].to_dict()
    found = [times.get(layers[name]) for name in ("qkv", "o", "gate+up", "down")]
    if None not in found:
        sums.setdefault(names.get(label, label), {})[int(count)] = 1e3 * sum(found)
table = pd.DataFrame(sums).T.rename(columns=lambda n: f"{n} row{'s' * (n > 1)}")
results.captioned(table, "µs: recorded on NVIDIA H200")

# %% [markdown]
# ## Measured: this machine
#
# `laptop` is a model of Gemma 4's kinds of layers with a four-hundredth of its weights, which a laptop holds; they are
# random, and its logits are checked against float64 before anything is timed. Ours beside the same decoder with torch's
# SDPA and bfloat16 weights. On a CPU, too, a step reads a third of the bytes: expect steps of one token to be about
# twice as fast, prompts hardly faster, since many rows are unpacked to floats first.

# %%
sweeps = {
    "quick": {"prompt": [256, 512], "depth": [512], "rows": [1, 4], "new": 4, "budget_s": 0.1},
    "full": {
        "prompt": [256, 512, 1024, 2048],
        "depth": [512, 2048],
        "rows": [1, 4],
        "new": 16,
        "budget_s": 2.0,
    },
}
run = None
if MEASURE in sweeps:
    path = Path("runs") / f"{date.today()}-model-{MEASURE}.jsonl"
    run = skiplab.sweep_model(["blockskip", "sdpa"], model=MEASURED, path=path, **sweeps[MEASURE])
measured = rated([run] if run else [])
results.points(measured, "problem", "median_ms", "tokens_per_s", "error", "tolerance")

# %%
figures.model_parts(measured)

# %%
figures.measured_vs_predicted(measured)

# %% [markdown]
# On the dashed line a call would take the least time that this machine's roofs allow, which were measured before it.
#
# ## Your own question
#
# Choose a model, type prompt lengths, depths and tokens a step, press *Run*. Stored runs, the published table and
# predictions can be laid over it. `skiplab model gemma4-31b --prompt 512,2048 --new 16 --depth 2048 --rows 1,4` does
# the same on a GPU from a command line, with a report.

# %%
from skiplab import SweepPanel

panel = SweepPanel(
    ["blockskip", "sdpa"],
    operation="model",
    model="laptop",
    prompt=[256, 512],
    depth=[0, 512],
    directory="runs",
)
panel

# %% [markdown]
# Next: [06_claims](06_claims.ipynb), which puts the numbers that this lab grew out of on trial.
