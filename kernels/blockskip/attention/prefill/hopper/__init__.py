"""The prefill kernel for Hopper in Gluon: one warp copies tiles, two or three warp groups compute, 64 query rows each.

The arithmetic of the plain kernel, tile for tile and in its order: results are equal bit for bit where both take tiles
of as many keys. What differs is who waits for whom. A warp group's products run while the others' exponentials do, and
their rows share every copy of keys and values (FlashAttention-3, arXiv 2407.08608, section 3.1). A program does item
after item, 128 or 192 rows of one head each, so that copies need not wait for what begins and ends one: the next item
is looked up, and its queries are copied, beside an item's first product, and results leave by the copy engine. Heads
whose size is no power of two are multiplied in two pieces (`products`).
"""

from .described import constants_of, tensors_of
from .items import HopperConstants
from .kernel import prefill

__all__ = ["HopperConstants", "constants_of", "prefill", "tensors_of"]
