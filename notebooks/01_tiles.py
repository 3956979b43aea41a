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
# # Tiles: what attention can leave out
#
# Attention compares every query with every key: for a prompt of 131,072 tokens that is 17 thousand million
# pairs in each head of each layer. A **mask** says which of them count. A causal mask drops half; a sliding
# window of 1,024 keys drops more than 99 %. Yet the usual way, *dense + mask*, computes all of them and then
# throws the masked ones away.
#
# A GPU kernel works on **tiles**: blocks of, say, 128 queries × 64 keys that fit its fast memory. So it can
# leave out whole tiles, not single pairs.
#
# **You learn** which tiles a mask leaves, what that is worth, and why the result stays the same. **You need**
# no GPU and no more than to know what queries and keys are: everything is counted, and timed only where you
# press *Measure here*.

# %%
import blockskip as bs
from skiplab import figures

# %% [markdown]
# ## Three kinds of tiles
#
# Sixteen queries (downwards) and sixteen keys (to the right) in tiles of 4 × 4. Each query sees itself and
# the nine keys before it.
#
# - **empty** (`·`): no pair is kept. The kernel never loads these keys.
# - **partial** (`▒`): some pairs are kept. The kernel computes the tile and applies the mask.
# - **full** (`█`): all pairs are kept. The kernel computes the tile and needs no mask.

# %%
small = bs.TileMap.build(bs.sliding_window(10), q_len=16, kv_len=16, block_m=4, block_n=4)
print(small)

# %% [markdown]
# The last line holds the two numbers that matter. **Visited** tiles cost time; **waste** says how many pairs
# the visited tiles hold for each pair that the mask keeps: 1 would be perfect.
#
# Inside one of the partial tiles, element by element (1 is kept):

# %%
small.tile(2, 0).astype(int)

# %% [markdown]
# ## Play with it
#
# Change the mask, the window, the prompt length, the tiles. The map, the counts and the prediction follow at
# once, at 131,072 tokens too. Point at a tile to read what it is; click it, or press Enter, to open it
# element by element. A large map: *Ctrl* and the wheel, or `+`, come nearer; drag to move.
#
# - Any mask can be typed: choose *text*, and write it as in the cells below, `chunked(256) & causal() | sink(16)`.
# - *Measure here* times dense + mask against blockskip **on this machine**, each checked against a float64
#   reference first.
# - The prediction is arithmetic on a data sheet's figures: a best case, not a measurement.
# - *Copy as code* turns what you found into a cell.

# %%
from skiplab import MaskExplorer

explorer = MaskExplorer(kind="sliding window", window=512, q_len=4096)
explorer

# %% [markdown]
# Your own figures can follow the explorer. `explorer.observe(function, "settings")` calls a function after each change;
# a `LiveChart` does so with a chart of the settings. Move the window above and see what each size of tile would waste:

# %%
from skiplab.widgets import LiveChart

beside = LiveChart()
beside.follow(
    explorer,
    lambda s: figures.attention.waste(
        bs.TileMap.build(s.mask, s.q_len, s.keys, n, n) for n in (16, 32, 64, 128, 256)
    ),
)

# %% [markdown]
# ## How large should a tile be?
#
# Small tiles follow a mask's edge closely, so little is wasted. Large tiles keep a GPU's matrix units busy.
# How much a large tile costs depends on the mask: next to a window of 256 keys a tile of 128 × 128 is coarse,
# next to one of 4,096 it is fine.

# %%
figures.waste(
    bs.TileMap.build(bs.sliding_window(window), 16384, 16384, size, size)
    for window in (256, 1024, 4096)
    for size in (16, 32, 64, 128, 256)
)

# %% [markdown]
# ## Masks compose
#
# `&`, `|` and `~` combine any masks, and the map still comes from the masks' edges, never from an array of
# queries × keys. A window with an *attention sink*, as streaming models use it: the last 1,024 keys, and the
# first 128, which every query keeps.

# %%
mask = bs.sliding_window(1024) | (bs.sink(128) & bs.causal())
figures.tilemap(bs.TileMap.build(mask, 8192, 8192))

# %% [markdown]
# Three prompts packed into one batch row: each sees itself alone, and causally.

# %%
packed = bs.document([3000, 1192, 4000]) & bs.causal()
figures.tilemap(bs.TileMap.build(packed, 8192, 8192))

# %% [markdown]
# What no constructor says, a function says: FlexAttention's, of a query's and a key's number. It has no edges, so that
# the map looks at every pair. A dilated window that every 256th token is seen through:

# %%
by_function = bs.mask_mod(
    lambda b, h, q, k: (q >= k) & ((q - k < 512) & ((q - k) % 2 == 0) | (k % 256 == 0))
)
figures.tilemap(bs.TileMap.build(by_function, 2048, 2048))

# %% [markdown]
# ## Leaving tiles out changes nothing
#
# `bs.attention` computes the visited tiles alone. Against torch's dense attention with the same mask as a
# tensor, in float32:

# %%
import torch

q, k, v = (torch.randn(1, 4, 1024, 64) for _ in range(3))
window = bs.sliding_window(100)
dense = torch.nn.functional.scaled_dot_product_attention(
    q, k, v, attn_mask=window.dense(1024, 1024)
)
print(f"largest difference: {(bs.attention(q, k, v, window) - dense).abs().max().item():.1e}")
print(bs.explain(q, k, v, window))

# %% [markdown]
# Next: [02_prefill](02_prefill.ipynb) measures what this is worth while a prompt is read.
