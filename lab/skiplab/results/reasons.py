"""Why targets are missed, by table and point: for `data/TARGETS.md`."""

from __future__ import annotations

from skiplab.results.targets import PROMPT_RATES, STEP_RATES

D64, D128, D256, D512 = "64/8 of 64", "32/8 of 128", "32/16 of 256", "32/4 of 512"

FEW_BYTES = (
    "a kernel that does nothing but read as many bytes takes nearly three quarters of that time itself, since memory "
    "needs some microseconds to come to its rate; the rest is the merge of many shares of few heads"
)
WINDOW_ENDS = (
    "tiles end where no window does, and a row has few of them. A window of 512 takes five tiles of 128 keys for "
    "four's worth, and in tiles of 64, which are taken below, one of 256 five for four's and one of 128 three "
    "for two's: at the share that causal prompts reach, 84 %, these would be 67, 67 and 56 %. And what is read and "
    "written, 168 MB, takes 56 µs at 3.0 TB/s: a window of 128 cannot have more than 39 %, one of 256 more than 78 %. "
    "The rest is what a row costs beside its tiles' products, two of which are masked: of the 11 to 12 µs that 128 "
    "rows take with a window of 512, five tiles at a causal prompt's pace are 8.3 (data/TUNING.md)"
)
ONE_TILE = (
    "a prompt of 128 tokens is two tiles of 64 keys: what counts is what begins and ends a program, of which there are "
    "16,384, and the list of items, 5 µs (data/TUNING.md). With head size 64 short prompts do not take the "
    "warp-specialized kernel, whose programs go from item to item"
)
ONE_STAGE = (
    "64 queries of 512 and one tile of 128 keys fill 208 of 227 KB of shared memory, so that no tile is copied while "
    "the one before is multiplied; without these tiles it was 1.7 times slower (data/TUNING.md). And 64 queries at a "
    "time read 35 GB of keys and values from the L2 for 8,192 tokens, 6.1 TB/s, near what it delivers. FlexAttention's "
    "own tiles do not fit at all: it runs with `kernel_options` that the lab found for it"
)
FFPA_AHEAD = (
    "64 queries of 512 and one tile of 128 keys fill 208 of 227 KB of shared memory, so that no tile is copied while "
    "the one before is multiplied. Two groups with half of the columns each take tiles of 32 keys in two stages: "
    "up to 22 % faster, but 6 % slower beyond 16,384 tokens; by arithmetic shared memory, from which both groups read "
    "the queries again for every 32 keys, then limits to 420 TFLOP/s (data/TUNING.md)"
)
BEGIN_AND_END = (
    "with 128 queries FlashAttention-3 is ahead by 4.4, 5.8 and 6.8 µs over 2,048, 8,192 and 32,768 keys, so it is "
    "mostly what begins and ends a call: queries that come before the first product, and shares that are left in "
    "float32 and merged by small programs (data/TUNING.md). Not by counters"
)
SHARES_LEFT = (
    "each share leaves its rows in float32, which the merge reads again: with 64 rows of 512 17 MB, a quarter of what "
    "8,192 keys and values are, with 64 rows of 128 4 MB, an eighth of it (data/TUNING.md). Not by counters"
)
SHORT_BATCH = (
    "what begins and ends a call, the sums of lengths and the merge, is some 10 µs, whatever the lengths: over four "
    "times as many keys the same programs read at more than 4.0 TB/s"
)
CONVERSIONS = (
    "instructions count: by the compiled code 113 for each KiB of keys and values at head size 128 and 128 at 64, most "
    "of them conversions to float16, where 90 and 93 at 256 and 512 meet the target (data/TUNING.md). Why 8 key heads "
    "alone gain less than 16 sequences of them has not been found. Not by counters"
)
FEW_TILES = (
    "5,376 outputs are 42 tiles of 128 a block of 256 rows, for 132 multiprocessors. At the pace of 16,384 x 5,376, "
    "whose programs have whole tiles, they would take 40, 71 and 261 µs: 9 of them before the first step and behind "
    "the last, which a short product cannot hide. The rest is tiles that programs share. By counters tensor cores are "
    "busy in 61, 74 and 86 % of cycles with 256, 512 and 2,048 rows and in 70, 86 and 93 % of cuBLAS's, and nothing "
    "else is near full: cuBLAS takes tiles of 96 and 168 rows, of which 112 and 128 fill the GPU once, and Triton's "
    'tensors are powers of two (data/TUNING.md, "What shared tiles cost")'
)
SHARED_TILES = (
    "programs share tiles, and with 21,504 inputs read different columns of activations that are 22 MB with 512 rows "
    "and 88 with 2,048, more than the L2 holds. At the pace of 16,384 x 5,376, whose programs have whole tiles, it "
    "would be 165 and 702 µs. By counters tensor cores are busy in 85 and 88 % of cycles, in 92 and 95 % of cuBLAS's, "
    'and nothing else is near full (data/TUNING.md, "What shared tiles cost")'
)
SOFTMAX = (
    "exponentials, maxima and masks are as many at any head size, and products fewer: at head size 64 causal prompts "
    "of 16,384 tokens reach 473 TFLOP/s, 80 % of the 589 at 128 in the same session. By counters tensor cores are busy "
    "in 43 % of cycles at 80, special-function units in 44 %, and instructions are issued in 35 %: no unit is full. "
    "Exponentials between a group's two products, and the groups in turns, brought 3 and 5 % (data/TUNING.md)"
)
BEHIND_THE_WAIT = (
    "no unit is full: by counters tensor cores are busy in 83 % of cycles at head size 256 and in 48 % at 64, where "
    "special-function units are in 51 %. What the counters left was tried: a group's exponentials before the wait for "
    "the product that they should run beside, and the groups in turns, as FlashAttention-3 has them by its paper. Both "
    "made no more than 3 % of difference at 128 and 256, and were 3 to 5 % slower at 64: so it is not that "
    "(data/TUNING.md). FlashAttention-3's tiles of 80 or 176 keys are not to be had in Triton. From 4,096 tokens on "
    "all ran at the GPU's power limit"
)
NARROW = (
    "by counters tensor cores are busy in 62 % of cycles, 83 in causal prompts: each item of 128 rows has 17 tiles, "
    "two of them masked, and begins and ends beside few products. Exponentials between a group's two products made it "
    "5 % slower (data/TUNING.md)"
)
ONE_ROUND = (
    "128 items or 256 for 132 multiprocessors: one or two rounds, and a program's beginning, before its first queries "
    "have come, took 5 of 40 µs by samples of 8 prompts of 384 tokens (data/TUNING.md). The peer is ahead by 1 to 2 %"
)
PROMPT_PARTS = (
    "by its parts, 85 % of a prompt of 512 and of 2,048 tokens is products, 83 % of 8,192, 64 % of 32,768 and 36 % of "
    "131,072; with 2,048 rows these run at 94 to 101 % of bf16's speed, on a GPU at its power limit. Norms, "
    "rotation and gates between them take 5 %, gaps up to 5 %. From 8,192 on attention over all keys counts: 9, 27 and "
    "59 % of the time. Its head size of 512 leaves room for one tile in shared memory, and so reaches 330 TFLOP/s"
)
STEP_PARTS = (
    "between the products of a layer, which read at 4.4 TB/s from their first step to their last, lie 33 of its 103 "
    "µs: norms, rotation, attention and its merge, each a launch that waits for the one before it (data/TUNING.md, on "
    "a model's step)"
)
LAYERS_BEHIND = {
    FEW_TILES: [(5376, 8192, rows) for rows in (256, 512, 2048)],
    SHARED_TILES: [(5376, 21504, rows) for rows in (512, 2048)],
}
LONG = (4096, 8192, 16384, 32768)
REASONS: dict[str, dict[tuple, str]] = {
    "sliding": {(512,): ONE_ROUND, (1024,): ONE_ROUND, **dict.fromkeys(((length,) for length in LONG), NARROW)},
    "causal-d64": dict.fromkeys(((length,) for length in LONG), BEHIND_THE_WAIT),
    "windows-d64": dict.fromkeys(((1024, length) for length in LONG), BEHIND_THE_WAIT),
    "sinks-d64": dict.fromkeys(((None, length) for length in LONG), BEHIND_THE_WAIT),
    "flash": {
        **dict.fromkeys(((heads, None, length) for heads in (D128, D256) for length in LONG), BEHIND_THE_WAIT),
        **dict.fromkeys(((D256, 1024, length) for length in LONG), NARROW),
    },
    "batches": {(4, 256): ONE_ROUND},
    "heads-80-96": {(size, length): SOFTMAX for size in (80, 96) for length in (1024, 4096, 16384)},
    "ffpa": {(length,): FFPA_AHEAD for length in (8192, 16384)},
    "decode-queries": {
        **{(D128, keys, queries): BEGIN_AND_END for keys in (2048, 8192, 32768) for queries in (64, 128)},
        (D256, 32768, 16): BEGIN_AND_END,
        **{(D512, keys, 8): SHARES_LEFT for keys in (8192, 32768)},
        (D128, 8192, 16): SHARES_LEFT,
    },
    "decode-ragged": {(D128, *lengths): SHORT_BATCH for lengths in ((16, 8192), (64, 2048), (64, 4096))},
    "decode-float8": {
        **{(D128, batch, keys): CONVERSIONS for batch, keys in ((1, 65536), (1, 131072), (16, 4096), (16, 16384))},
        **{(D64, 1, keys): CONVERSIONS for keys in (65536, 131072)},
    },
    "packed": {("64/8 of 64", "128 of 128"): ONE_TILE},
    "causal-d512": {(length,): ONE_STAGE for length in (1024, 2048, 4096, 8192, 16384, 32768)},
    "share": {("32/8 of 128", window): WINDOW_ENDS for window in (128, 256, 512)},
    "decode": {("16/2 of 256", 16384): FEW_BYTES},
    "model-prompts": dict.fromkeys(((length,) for length in PROMPT_RATES), PROMPT_PARTS),
    "model-steps": dict.fromkeys(((1, depth) for depth in STEP_RATES), STEP_PARTS),
    "linear-layers": {point: reason for reason, points in LAYERS_BEHIND.items() for point in points},
}
"""By table and point, why its target is missed, as found in the runs; shown only where it is."""
