"""Contenders that misbehave, in every way, at every stage: importing this module registers them."""

from __future__ import annotations

import torch
from skiplab.contenders import Unsupported, contender, kernel
from skiplab.measure import rotation


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Own(BaseException):
    pass


RAISES = {
    "ValueError": (lambda: ValueError("no\nmore"), "crashed"),
    "an empty error": (lambda: RuntimeError(), "crashed"),
    "an error without words": (Mute, "crashed"),
    "SystemExit": (lambda: SystemExit(0), "crashed"),
    "KeyboardInterrupt": (KeyboardInterrupt, "crashed"),
    "GeneratorExit": (GeneratorExit, "crashed"),
    "StopIteration": (StopIteration, "crashed"),
    "a BaseException": (lambda: Own("mine"), "crashed"),
    "MemoryError": (MemoryError, "out-of-memory"),
    "OutOfMemoryError": (lambda: torch.OutOfMemoryError("full"), "out-of-memory"),
    "Unsupported": (lambda: Unsupported("not today"), "unsupported"),
}
"""What is raised, and the status that comes of it."""


def _scratched(out, q, k, v):
    out[0, 0, 0, 0] = float("nan")
    return out


def _changing(name):
    def change(out, **inputs):
        inputs[name].mul_(2)
        return out

    return change


RETURNS = {
    "None": lambda out, **inputs: None,
    "a number": lambda out, **inputs: 1.0,
    "a tuple": lambda out, **inputs: (out, out),
    "another shape": lambda out, **inputs: out[:, :, :-1],
    "another dtype": lambda out, **inputs: out.double(),
    "zeros": lambda out, **inputs: torch.zeros_like(out),
    "a NaN": _scratched,
    "an infinity": lambda out, **inputs: out / 0,
    "an error of a tenth": lambda out, **inputs: out + 0.1,
    "another q": _changing("q"),
    "another k": _changing("k"),
    "another v": _changing("v"),
}
"""What is made of a right result; all of it is wrong."""

FROM_CALL = (0, 1, 4)
"""The call from which on a contender misbehaves: while it is checked, in the warm-up, or while it is timed."""
STATUS: dict[str, str] = {"misbehaving: is good": "ok"}
"""The status that each contender's row must have, by its name."""


def few_copies():
    """Of the child that calls it: making thousands of copies of small inputs takes most of the time."""
    rotation.ROTATION_LIMIT["cpu"] = 1 << 20


def _calls(act, since):
    """build(workload, inputs) of a contender that acts so from the call `since` on."""

    def build(workload, inputs):
        few_copies()
        right, calls = contender("sdpa").build(workload, inputs), []

        def call(q, k, v):
            calls.append(1)
            out = right(q, k, v)
            return act(out, q=q, k=k, v=v) if len(calls) > since else out

        return call

    return build


def _raising(make):
    def act(*_, **__):
        raise make()

    return act


def _register(name, status, build, supports=None):
    STATUS[f"misbehaving: {name}"] = status
    kernel(name=f"misbehaving: {name}", supports=supports)(build)


kernel(name="misbehaving: is good")(_calls(lambda out, **inputs: out, 0))
for _name, (_make, _status) in RAISES.items():
    _register(f"raises {_name} in build", _status, _raising(_make))
    # a supports may say no, and raises nothing else that means it
    _register(f"raises {_name} in supports", _status, _calls(lambda out, **inputs: out, 0), _raising(_make))
    for _since in FROM_CALL:
        _register(f"raises {_name} from call {_since}", _status, _calls(_raising(_make), _since))
for _name, _change in RETURNS.items():
    for _since in FROM_CALL:
        _register(f"returns {_name} from call {_since}", "wrong", _calls(_change, _since))
_register("builds nothing", "crashed", lambda workload, inputs: None)
