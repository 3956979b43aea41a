"""Replay: what the programs of a kernel do, step by step, and where a GPU's multiprocessors spend their time.

record.py: `replay`, which runs a kernel in Triton's interpreter in a child process (fresh.py, recorder.py);
steps.py: what comes of it. timeline.py: what a GPU recorded of a launch, by multiprocessor, and as a Perfetto file;
scoped.py: kernels with Proton's records in them; whole.py: of programs that name no parts of theirs.
"""

from skiplab.replay.record import replay
from skiplab.replay.steps import RecordedProgram, Replay, TensorLoad, TileStep
from skiplab.replay.timeline import Timeline, contender_timelines, read_timeline, record_timeline

__all__ = [
    "RecordedProgram",
    "Replay",
    "TensorLoad",
    "TileStep",
    "Timeline",
    "contender_timelines",
    "read_timeline",
    "record_timeline",
    "replay",
]  # fmt: skip
