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
# # Anatomy: what a kernel became, and what it does
#
# Triton compiles for any NVIDIA GPU, and its wheel brings the tools that take the result apart. So registers, spills
# and the inner loop of a kernel can be seen on a laptop, for a GPU that is elsewhere. And its interpreter runs a kernel
# step by step, so that one sees which tiles its programs visit.
#
# **You learn** what limits how many blocks a multiprocessor holds, which instructions the inner loop is made of, which
# line they came from, and what each program loads. **You need** no GPU, but Triton, which exists for Linux alone.

# %%
import skiplab
import triton
import triton.language as tl
from skiplab import results
from skiplab.anatomy import anatomy_table, contender_anatomies, kernel_anatomy

# %% [markdown]
# ## A kernel of your own
#
# A sum over rows. The arguments are written as Triton writes them: `*bf16` is a pointer, `i32:16` a number that 16
# divides. `sm_90`, `9.0` and `(9, 0)` all name a Hopper GPU.


# %%
@triton.jit
def total(x, y, n, BLOCK: tl.constexpr):
    acc = tl.zeros((BLOCK,), tl.float32)
    for i in tl.range(0, n, BLOCK):
        acc += tl.load(x + i + tl.arange(0, BLOCK)).to(tl.float32)
    tl.store(y, tl.sum(acc))


one = kernel_anatomy(total, "*bf16", "*fp32", "i32:16", arch="sm_90", BLOCK=1024)
print(one.told())

# %% [markdown]
# The last lines are the inner loop beside the lines of the cell that it came from. What if nothing is known of `n`, or
# the block is smaller? A table over several.

# %%
several = {
    f"{argument}, BLOCK {block}": kernel_anatomy(
        total, "*bf16", "*fp32", argument, arch="sm_90", BLOCK=block
    )
    for argument in ("i32:16", "i32")
    for block in (128, 1024)
}
columns = ["registers", "blocks_per_sm", "limited_by"]
columns += ["128-bit loads", "narrower loads", "loop_instructions"]
shown = anatomy_table(several)[columns].rename(columns=lambda name: name.replace("_", " "))
results.captioned(shown, "total, compiled here for sm_90")

# %% [markdown]
# ## Our attention kernel, its tiles as sliders
#
# Larger tiles mean fewer loads for each product, and more registers. Beyond 255 a thread, they spill: *local memory*.
# Move `block_m` to 128, then `num_warps` to 8. Then another GPU: below Hopper there is no *wgmma*.

# %%
explorer = skiplab.AnatomyExplorer("blockskip", at={"q_len": 4096, "window": 1024}, arch="sm_90")
explorer

# %% [markdown]
# The same from code, for several tiles and two GPUs: `skiplab anatomy blockskip --arch sm_90,sm_80 --config
# 64x64x4x3,128x64x8x2` on the command line.

# %%
prompt = skiplab.Workload(4096)
configs = [(64, 64, 4, 3), (128, 64, 8, 2)]
made = {
    f"{name} {arch}": anatomy
    for arch in ("sm_90", "sm_80")
    for name, anatomy in contender_anatomies("blockskip", prompt, arch, configs).items()
}
columns = [
    "registers",
    "spill_bytes",
    "shared_bytes",
    "blocks_per_sm",
    "limited_by",
    "wgmma",
    "mma",
]
shown = anatomy_table(made)[columns].rename(columns=lambda name: name.replace("_", " "))
results.captioned(shown, "blockskip, compiled here for two kinds of GPU")

# %% [markdown]
# ## Replay: what its programs do
#
# The kernel runs in Triton's interpreter, in a process of its own, on one small head. Step through it: which tile
# comes, whether the mask is applied, which rows are loaded, and how each row's maximum and sum grow. Programs with the
# longest rows come first: that is the schedule.

# %%
replay = skiplab.ReplayExplorer(
    mask="sliding_window(96) | (sink(16) & causal())", q_len=256, block_m=32, block_n=32
)
replay.go(9)
replay

# %% [markdown]
# ## On a GPU: where the time went
#
# With a GPU, Triton's Proton records from inside the kernel when each block comes and goes on its multiprocessor. Where
# nobody records, these records are compiled to nothing. `perfetto` writes a trace for
# [ui.perfetto.dev](https://ui.perfetto.dev). Without a GPU, here is what an H200 recorded: a token over 16,384 keys,
# whose shares are divided evenly among 128 multiprocessors. The last program of each head to arrive also merges the
# shares, and these few stay longer than the others.

# %%
from pathlib import Path

from skiplab.figures.timeline import picture
from skiplab.paths import data_path
from skiplab.replay import contender_timelines, read_timeline, why_no_timeline

reason = why_no_timeline()
recorded = data_path("timelines", "2026-11-30-nvidia-h200-decode.json")
long_prompt = skiplab.Workload(8192, q_heads=32, kv_heads=8)
timelines = read_timeline(recorded) if reason else contender_timelines("blockskip", long_prompt)
print(f"{reason}. Recorded on an H200: {recorded.name}" if reason else "Recorded now.")
Path("runs").mkdir(exist_ok=True)
for timeline in timelines.values():
    timeline.perfetto("runs/timeline.json")
picture(timeline)

# %% [markdown]
# Your own kernel is taken apart in the same way (`skiplab anatomy mine --from mine.py`), replayed
# (`skiplab.ReplayExplorer(kernel="mine")`), and recorded (`contender_timelines("mine", ...)`, `skiplab timeline mine
# --from mine.py`): [07_your_kernel](07_your_kernel.ipynb) writes one.
