"""The copying warp's part: which tiles come into which buffers, and when."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ....launching.scopes import enter_scope, exit_scope
from ...band import first_slot
from ...hopper.copies import copy_tiles, descriptors_of, mapped_sources, parts_descriptors_of, strides_of_values
from .items import item_limits, item_of, rounds, tiles_of


@gluon.jit
def copy(q, k, v, buffers, bars, visible, interleave, CONSTANTS: gl.constexpr):
    """The copying warp's part: the tiles of keys and values of all items, in the order in which they are attended."""
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    STAGES: gl.constexpr = CONSTANTS.STAGES
    gdc_launch_dependents()
    gdc_wait()
    if CONSTANTS.MAPPED:
        k_sources, v_sources = mapped_sources(k, CONSTANTS), mapped_sources(v, CONSTANTS)
    elif visible.lengths.items is None:
        v_strides = strides_of_values(k, v)
        k_sources = descriptors_of(k, k.strides, 0, visible.lengths.kv_len, BLOCK_N, CONSTANTS)
        v_sources = descriptors_of(v, v_strides, 0, visible.lengths.kv_len, BLOCK_N, CONSTANTS)
    else:
        v_strides = strides_of_values(k, v)
        k_sources = parts_descriptors_of(k, k.strides, CONSTANTS)
        v_sources = parts_descriptors_of(v, v_strides, CONSTANTS)
    count = 0
    for round_ in range(rounds(q, visible.lengths, CONSTANTS)):
        enter_scope("copies")
        item = item_of(round_, q, visible.lengths, interleave, CONSTANTS)
        tiles = tiles_of(item, item_limits(item, q, visible, CONSTANTS), q, visible)
        if visible.lengths.pointer is not None:
            # each batch has keys of its own number. A descriptor is overwritten by the next one: all copies by it
            # must have ended
            for late in range(gl.maximum(count - STAGES, 0), count):
                mbarrier.wait(bars.k_full.index(late % STAGES), late // STAGES & 1)
                mbarrier.wait(bars.v_full.index(late % STAGES), late // STAGES & 1)
            first, v_strides = 0, strides_of_values(k, v)
            if visible.lengths.first is not None:
                first = first_slot(visible.lengths, item[0])
            k_sources = descriptors_of(k, k.strides, first, tiles.kv_len, BLOCK_N, CONSTANTS)
            v_sources = descriptors_of(v, v_strides, first, tiles.kv_len, BLOCK_N, CONSTANTS)
        kv_head = item[1] // (q.shape[1] // k.shape[1])
        count = copy_tiles(
            item, kv_head, count, k_sources, v_sources, buffers, bars, visible.mask, tiles, CONSTANTS
        )  # fmt: skip
        exit_scope("copies")
