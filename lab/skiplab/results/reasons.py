"""Why targets are missed, by table and point: for `data/TARGETS.md`."""

from __future__ import annotations

from skiplab.results.targets import PROMPT_RATES, STEP_RATES

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
FEW_TILES = (
    "5,376 outputs are 42 tiles of 128, for 132 multiprocessors: with 2,048 rows 112 programs had three tiles each, "
    "and the others were idle; tensor cores are busy in 69 % of cycles. By Nsight Compute (data/TUNING.md), where it "
    "is also said what was tried since"
)
SHARED_LOOPS = (
    "programs share tiles here, and in the kernels that do each step took 1.2 times as long: the wait for other "
    "programs' sums kept the addresses of all loops out of the uniform registers. That is mended in the code, and was "
    'not timed before this page was made (data/TUNING.md, "What shared tiles cost")'
)
TWO_GROUPS = (
    "recorded with two groups of 64 rows; since then causal prompts of 8,192 tokens and more take three, which reach "
    "475 TFLOP/s where two reach 450 (data/benchmarks/prefill_classes_h200.csv)"
)
UNPACKING = (
    "tensor cores are busy in 78 to 84 % of cycles at 512 and 2,048 rows (59 % at 128), cuBLAS's in 93 %: codes become "
    "operands in the warps that multiply, and these wait for each other at a step's end. Humming's are busy in 64 % "
    "at 128 rows. The GPU ran at its power limit under both (Nsight Compute, data/TUNING.md)"
)
PROMPT_PARTS = (
    "by its parts, 88 % of a prompt of 512 tokens is products, 86 % of one of 2,048, 83 % of 8,192, 64 % of 32,768 and "
    "36 % of 131,072; with 2,048 rows these run at 79 to 94 % of bf16's speed, on a GPU at its power limit. From 8,192 "
    "on attention over all keys counts: 9, 27 and 59 % of the time. Its head size of 512 leaves room for one tile in "
    "shared memory, and so reaches 330 TFLOP/s"
)
STEP_PARTS = (
    "between the products of a layer, which read at 4.4 TB/s from their first step to their last, lie 33 of its 103 "
    "µs: norms, rotation, attention and its merge, each a launch that waits for the one before it (data/TUNING.md, on "
    "a model's step)"
)
LAYERS_BEHIND = {
    FEW_TILES: [(5376, 8192, 2048)],
    SHARED_LOOPS: [
        *((5376, 8192, rows) for rows in (128, 256, 512)),
        *((5376, 21504, rows) for rows in (128, 256, 512, 2048)),
        *((43008, 5376, rows) for rows in (128, 256, 512)),
    ],
    UNPACKING: [*((16384, 5376, rows) for rows in (128, 256, 512, 2048)), (43008, 5376, 2048)],
}
REASONS: dict[str, dict[tuple, str]] = {
    "causal-d64": {(16384,): TWO_GROUPS},
    "packed": {("64/8 of 64", "128 of 128"): ONE_TILE},
    "causal-d512": {(length,): ONE_STAGE for length in (1024, 2048, 4096, 8192, 16384, 32768)},
    "share": {("32/8 of 128", window): WINDOW_ENDS for window in (128, 256, 512)},
    "decode": {("16/2 of 256", 16384): FEW_BYTES},
    "model-prompts": dict.fromkeys(((length,) for length in PROMPT_RATES), PROMPT_PARTS),
    "model-steps": dict.fromkeys(((1, depth) for depth in STEP_RATES), STEP_PARTS),
    "linear-layers": {point: reason for reason, points in LAYERS_BEHIND.items() for point in points},
}
"""By table and point, why its target is missed, as found in the runs; shown only where it is."""
