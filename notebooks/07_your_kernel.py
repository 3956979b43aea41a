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
# # Your kernel: from a cell to a report
#
# A kernel of your own is a function in a cell. The lab checks it on shapes that have caught bugs, times it in a child
# process that a crash does not take this notebook with, and compares it with others, or with itself of last week.
#
# **You learn** how a kernel comes in, what a check says of a wrong one, and how its runs are compared and sent.
# **You need** no GPU: this one is written in PyTorch. A Triton kernel comes in the same way; without a GPU `check` runs
# it in Triton's interpreter.

# %%
import skiplab
import torch
from skiplab import results
from skiplab.compare import compare
from torch.nn.functional import scaled_dot_product_attention as sdpa

# %% [markdown]
# ## A kernel in a cell
#
# Block after block of queries, it reads only the keys that some query of the block may see: the tile map says which.
# `@skiplab.kernel` registers what builds it. `build` is given a workload and q, k and v, may prepare what it likes,
# untimed, and returns the call that is timed. `configs` names numbers to choose from.


# %%
@skiplab.kernel("attention", name="mine", configs={"ROWS": (64, 128, 256)})
def build(workload, inputs, config):
    """Blocks of queries over the keys that they see."""
    rows = config["ROWS"]
    keys = visible_keys(workload, rows)
    mask = workload.mask.dense(workload.q_len, workload.keys, q_start=0)
    blocks = [(slice(i * rows, (i + 1) * rows), one) for i, one in enumerate(keys)]
    masks = [mask[block] for block in blocks]

    def call(q, k, v):
        parts = [
            sdpa(q[:, :, queries], k[:, :, one], v[:, :, one], attn_mask=kept, enable_gqa=True)
            for (queries, one), kept in zip(blocks, masks, strict=True)
        ]
        return torch.cat(parts, dim=2)

    return call


def visible_keys(workload, rows):
    """Of each block of queries the keys from the first to the last tile that is not empty."""
    state = workload.tilemap(rows, 64).state
    spans = [line.nonzero().flatten().tolist() or [0] for line in state]
    return [slice(span[0] * 64, (span[-1] + 1) * 64) for span in spans]


# %% [markdown]
# ## It is wrong
#
# `check` runs it on ragged lengths, grouped heads, caches with more keys than queries, and rows that see no key, and
# compares each result with attention in float64. The tolerance is derived from roundings.

# %%
found = skiplab.check("mine", device="cpu", dtypes=["float32"])
print(*str(found).splitlines()[:5], sep="\n")

# %% [markdown]
# Two things are. The mask puts the first query beside the first key (`q_start=0`); where there are more keys than
# queries, as behind a prompt that was read before, the queries stand at the end. And a query that sees no key gets 0
# here, where torch's own attention says NaN. The cell again, mended; running it replaces the kernel: the newest cell
# counts.


# %%
@skiplab.kernel("attention", name="mine", configs={"ROWS": (64, 128, 256)})
def build(workload, inputs, config):
    """Blocks of queries over the keys that they see."""
    rows = config["ROWS"]
    keys = visible_keys(workload, rows)
    mask = workload.mask.dense(workload.q_len, workload.keys, q_start=workload.first_position)
    blocks = [(slice(i * rows, (i + 1) * rows), one) for i, one in enumerate(keys)]
    masks = [mask[block] for block in blocks]

    def call(q, k, v):
        parts = [
            sdpa(q[:, :, queries], k[:, :, one], v[:, :, one], attn_mask=kept, enable_gqa=True)
            for (queries, one), kept in zip(blocks, masks, strict=True)
        ]
        return torch.cat(parts, dim=2).nan_to_num()

    return call


found = skiplab.check("mine", device="cpu", dtypes=["float32"])
print(found)

# %% [markdown]
# ## Timed beside others
#
# Each point is checked again before and after it is timed. The kernel reaches the child process by its source: that of
# this cell and of what it names. Its hash stands in each row, so that a run says which kernel it timed.

# %%
WHERE = {
    "q_len": (256, 1024),
    "window": (128,),
    "device": "cpu",
    "budget_s": 0.5,
    "progress": False,
}
first = skiplab.sweep(["mine", "blockskip", "sdpa"], path="runs/your-kernel.jsonl", **WHERE)
first

# %% [markdown]
# ## Its numbers chosen
#
# `tune` times every combination of `configs` and gives the best as a dict.

# %%
tuned = skiplab.tune(
    "mine",
    q_len=(1024,),
    window=(128,),
    budget_s=0.3,
    device="cpu",
    path="runs/your-tuning.jsonl",
    progress=False,
)
print("fastest:", tuned.best)
tuned

# %% [markdown]
# ## Compared with itself
#
# A change, and the same sweep once more: every block now reads all keys up to its last one. `compare` pairs the points
# of two runs and says which are faster or slower by more than their scatter; the kernel's source is among what differs.


# %%
def visible_keys(workload, rows):
    """Of each block of queries all keys up to the last tile that is not empty."""
    state = workload.tilemap(rows, 64).state
    return [
        slice(0, (max(line.nonzero().flatten().tolist(), default=0) + 1) * 64) for line in state
    ]


second = skiplab.sweep(
    ["mine", "blockskip", "sdpa"], path="runs/your-kernel-changed.jsonl", **WHERE
)
comparison = compare(first, second)
print(
    {name: hashes for name, hashes in comparison.differences.items() if name.startswith("kernel")}
)
changes = comparison.frame()
heads = {"contender": "contender", "q_len": "prompt length", "window": "window"}
heads |= {"old_ms": "before, ms", "new_ms": "after, ms", "ratio": "after ÷ before"}
changes = changes[[*heads, "verdict", "doubts"]].rename(columns=heads)
results.captioned(changes, f"measured twice on {comparison.device}")

# %% [markdown]
# ## Sent, and repeated
#
# A report is one HTML file that works offline. The run's command works as written, on a machine without this notebook,
# too: the kernel's source lies in a file beside the run. `skiplab rerun` says which file a run needs.

# %%
skiplab.write_report(first, "out/your-kernel.html")
print(first.header["command"])

# %% [markdown]
# Next: [08_anatomy](08_anatomy.ipynb) shows what a compiler makes of a Triton kernel, and what its programs do.
