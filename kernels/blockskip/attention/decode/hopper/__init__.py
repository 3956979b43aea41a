"""The split-K kernel for Hopper in Gluon, for many rows of a KV head: one warp copies tiles, two warp groups compute.

A program has a share of the keys for 64 or 128 rows, and leaves for the merge what `decode.kernel` does. What differs
is that copies, products and exponentials run beside each other. 128 rows are 64 for each group. Of 64 rows both groups
compute all scores, and each has half of the results' columns: at head size 512 a group's registers hold no more.
"""

from .described import constants_of
from .kernel import HopperConstants, decode

__all__ = ["HopperConstants", "constants_of", "decode"]
