"""Every axis of a workload and a sweep, given what it is not: TypeError or ValueError, which names it."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from skiplab.packed_weight import Packed
from skiplab.sweep import DecodeSweep, LinearSweep, Sweep
from skiplab.tuning.attention import Tuning
from skiplab.widgets.int4.settings import Int4Settings
from skiplab.widgets.mask.settings import MaskSettings
from skiplab.widgets.splits.settings import SplitSettings
from skiplab.workload import DecodeWorkload, LinearWorkload, Workload

NO_INTS = [True, 64.0, 1.5, "64", [64], torch.tensor(True), np.float32(64), math.nan, 2**70, 10**5000, object()]
COUNTS = [*NO_INTS, 0, -1]
NO_WORDS = [1, None, "", "bfloat17", ["bfloat16"], torch.bfloat16]
NO_FLAGS = [1, 0, None, "yes"]
NO_AXES = [1, 64, "64", [64], (1.5,), (True,), ("64",), (2**70,), (0,)]
NO_DTYPES_OF_KEYS = [1, "", "bfloat17", "float16", ["bfloat16"], torch.float8_e4m3fn]
NO_SHARES = [True, "0.5", math.nan, math.inf, 0, 1, 1.5, -0.5, 10**400, torch.tensor(0.5), [0.5]]
TOGETHER = {
    "contenders": [1, "sdpa", ("nobody",)],
    "seed": [*NO_INTS, -1],
    "budget_s": [0, True, "1", math.nan, 10**400],
}
TOGETHER |= {"dtype": NO_WORDS, "device": [1, None, "tpu", torch.device("cpu")]}
HEADS = {name: COUNTS for name in ("batch", "q_heads", "kv_heads", "head_dim")}  # noqa: C420
CASES = {
    Workload: HEADS
    | {"q_len": COUNTS, "kv_len": COUNTS, "mask": [1, "causal()", None], "dtype": NO_WORDS, "q_start": NO_INTS}
    | {"kv_dtype": NO_DTYPES_OF_KEYS, "sinks": NO_FLAGS},
    DecodeWorkload: HEADS
    | {"kv_len": COUNTS, "window": COUNTS, "q_len": [*COUNTS, 129], "dtype": NO_WORDS, "buffer": COUNTS}
    | {"kv_dtype": NO_DTYPES_OF_KEYS, "ragged": NO_SHARES},
    LinearWorkload: {name: COUNTS for name in ("out_features", "in_features", "rows")}  # noqa: C420
    | {"bits": [*COUNTS, 5], "group_size": [*COUNTS, 48], "symmetric": NO_FLAGS, "dtype": NO_WORDS},
    Sweep: TOGETHER
    | HEADS
    | {"q_len": NO_AXES, "window": NO_AXES, "buffer": COUNTS, "mask": [1, "causal()", ("x",)]}
    | {"lengths": [*NO_AXES, ((1.5,),), ((0,),), ([64],), ((),), ((64,),)]}
    | {"kv_dtype": [*NO_AXES, (), ("float16",), ["bfloat16"]], "sinks": NO_FLAGS},
    DecodeSweep: TOGETHER
    | HEADS
    | {"kv_len": NO_AXES, "window": NO_AXES, "q_len": [*COUNTS, 129], "buffer": COUNTS}
    | {"kv_dtype": [*NO_AXES, (), ("float16",), ["bfloat16"]], "ragged": NO_SHARES},
    LinearSweep: TOGETHER
    | {"shape": [64, (64, 64), ((64,),), ((64.0, 64),), ((64, True),)], "rows": NO_AXES, "bits": [*NO_AXES, (5,)]}
    | {"group_size": [*NO_AXES, (48,)], "symmetric": NO_FLAGS},
    Tuning: {name: TOGETHER[name] for name in ("dtype", "seed", "budget_s")}
    | {"heads": ["8", "8/8"], "mask": [(), ("x",)], "q_len": [(), (1.5,), (True,)], "config": [((64.0, 64, 4, 2),)]},
    Packed: {"out_features": COUNTS, "in_features": COUNTS, "bits": [*COUNTS, 5], "group_size": [*COUNTS, 48]}
    | {"symmetric": NO_FLAGS, "metadata": NO_WORDS, "strided": NO_FLAGS},
    MaskSettings: {
        "q_len": COUNTS,
        "kv_len": COUNTS,
        "sink": [*NO_INTS, -1],
        "dtype": NO_WORDS,
        "inside_causal": NO_FLAGS,
    },
    Int4Settings: {"row": [*NO_INTS, -1], "step": [*NO_INTS, -1], "lane": [*NO_INTS, 32], "metadata": NO_WORDS},
    SplitSettings: {
        "kv_len": COUNTS,
        "window": COUNTS,
        "q_len": [*COUNTS, 17],
        "batch": COUNTS,
        "program": [*NO_INTS, -1],
    },
}
NEEDED = {
    Workload: {"q_len": 64},
    DecodeWorkload: {"kv_len": 64, "batch": 2},
    DecodeSweep: {"batch": 2},
    LinearWorkload: {"out_features": 64, "in_features": 64},
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, axes in CASES.items() for name in axes])
def test_what_an_axis_is_not_is_refused_by_name(kind, name):
    for value in CASES[kind][name]:
        instead = {"window": None} if kind is Sweep and name == "mask" else {}
        with pytest.raises((TypeError, ValueError)) as caught:
            kind(**{**NEEDED.get(kind, {}), **instead, name: value})
        message = str(caught.value)
        axis = {"contenders": "contender", "shape": "_features"}.get(name, name)
        assert axis in message or name in message, f"{value!r}: {message}"
        assert len(message) < 1000


@pytest.mark.parametrize("kind", [Workload, DecodeWorkload, LinearWorkload, Sweep, DecodeSweep, LinearSweep])
def test_every_axis_is_in_the_table(kind):
    assert {field.name for field in fields(kind)} == set(CASES[kind])


def test_numpys_ints_are_ints():
    workload = Workload(np.int64(64), batch=np.int32(2), q_start=np.int8(3))
    assert workload == Workload(64, batch=2, q_start=3) and workload.key() == Workload(64, batch=2, q_start=3).key()
    assert all(type(value) is not np.int64 for value in workload.axes().values())
