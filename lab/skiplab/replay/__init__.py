"""Replay: what the programs of a kernel do, step by step, and where a GPU's multiprocessors spend their time.

record.py: `replay`, which runs a kernel in Triton's interpreter in a child process (recorder.py);
steps.py: what comes of it. timeline.py: what a GPU recorded of a launch, by multiprocessor, as a Perfetto file, which
traces.py reads; recording.py: who is recorded; scoped.py: its process, where our kernels have Proton's records in them;
whole.py: programs that name no parts of theirs; proton.py: the records, taken from the GPU and read.
"""

from skiplab.replay.record import replay
from skiplab.replay.recording import contender_timelines, record_timeline, why_no_timeline
from skiplab.replay.steps import RecordedProgram, Replay, TensorLoad, TileStep
from skiplab.replay.timeline import Timeline
from skiplab.replay.traces import read_timeline

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
    "why_no_timeline",
]  # fmt: skip
