"""What Hopper's kernels of prefill and of decode share: a warp that copies tiles, and warp groups that attend them.

Written in Gluon. A warp group has 64 query rows, and its products run while the other groups' exponentials do
(FlashAttention-3, arXiv 2407.08608, section 3.1). The kernels are `prefill.hopper` and `decode.hopper`. CONSTANTS is
what one of them is compiled for, a named tuple of its own that has SKIP, HEAD_DIM, PIECE, REST, BLOCK_M, BLOCK_N,
STAGES, GROUPS and BY_COLUMNS.
"""
