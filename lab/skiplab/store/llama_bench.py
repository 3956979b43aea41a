"""llama.cpp's own times of a whole model: the JSON lines that its program llama-bench prints, as rows of a run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from skiplab.machine import device_kind
from skiplab.machine.roofs import recorded_roofs
from skiplab.paths import data_path
from skiplab.store.runs import Run
from skiplab.text import why
from skiplab.workload import ModelWorkload
from skiplab.workload.model import parameters

Line = dict[str, Any]
NEEDED = ("n_prompt", "n_gen", "n_depth", "samples_ns", "model_n_params", "gpu_info", "flash_attn")
KEPT = (
    "build_commit", "backends", "model_type", "model_size", "n_batch", "n_ubatch", "n_gpu_layers", "flash_attn",
    "type_k", "type_v", "forced_cublas", "weights", "test_time",
)  # fmt: skip
"""What a row's plan keeps of a line."""
SAME_SIZE = 0.02
"""How far, relatively, its number of parameters may be from the model's: norms are not counted here."""
RECORDED, DEVICE = "llama_bench_h200_gemma4_31b_q4_0.jsonl", "NVIDIA H200"


def read_bench(path: Path) -> list[Line]:
    """The lines of a file that `llama-bench -o jsonl` wrote; ValueError names file, line and what it lacks."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = "; of the program itself --gguf names the model" if isinstance(error, UnicodeDecodeError) else ""
        raise ValueError(f"{path.name}: cannot be read as JSON lines: {why(error)}{hint}") from error
    return _parsed(path.name, text)


def benched(program: Path, gguf: Path, prompt: Iterable[int], depth: Iterable[int], new: int) -> list[Line]:
    """What llama-bench says of a model: every prompt length, and `new` steps at every depth, with flash attention."""
    found = program.resolve() if program.is_file() else program  # else it is looked for as any command is
    common = [str(found), "-m", str(gguf), "-fa", "1", "-o", "jsonl"]
    asked = []
    if lengths := ",".join(map(str, prompt)):
        asked.append(["-p", lengths, "-n", "0"])
    if depths := ",".join(map(str, depth)):
        asked.append(["-p", "0", "-n", str(new), "-d", depths])
    lines = []
    for words in asked:
        done = subprocess.run([*common, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ValueError(f"{program.name}: ended with {done.returncode}: {said}")
        lines += _parsed(program.name, done.stdout)
    return lines


def _parsed(name: str, text: str) -> list[Line]:
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{name}, line {number}: is no JSON: {error}; llama-bench writes it with -o jsonl"
            ) from error
        missing = [key for key in NEEDED if key not in found] if isinstance(found, dict) else NEEDED
        if missing:
            raise ValueError(f"{name}, line {number}: lacks {', '.join(missing)}; a line of llama-bench has them")
        lines.append(found)
    return lines


def left_out(lines: Iterable[Line]) -> int:
    """How many lines are of tests that a run has no place for: prompts at a depth, prompts and steps as one."""
    return sum(not _is_prompt(line) and not _is_steps(line) for line in lines)


def rows_of(lines: Iterable[Line], like: Sequence[ModelWorkload], device: str, kind: str) -> list[dict[str, Any]]:
    """Rows of a run on that device, of the model that the workloads are of; tests without a place are left out.

    ValueError where the lines are of another device, or of a model of another size.
    """
    size, rows = parameters(like[0].whole_spec), []
    for line in lines:
        _check_device(line, device, kind)
        if abs(line["model_n_params"] / size - 1) > SAME_SIZE:
            raise ValueError(
                f"llama-bench: its model has {line['model_n_params']:,} parameters; {like[0].model} has {size:,}"
            )
        if _is_prompt(line) or _is_steps(line):
            rows.append(_row(line, like[0], device, kind))
    return rows


def _is_prompt(line: Line) -> bool:
    return line["n_prompt"] > 0 and not line["n_gen"] and not line["n_depth"]


def _is_steps(line: Line) -> bool:
    return line["n_gen"] > 0 and not line["n_prompt"]


def _check_device(line: Line, device: str, kind: str) -> None:
    on_gpu = bool(line["gpu_info"]) and line.get("n_gpu_layers", 1) != 0
    theirs = line["gpu_info"] if on_gpu else line.get("cpu_info", "")
    if on_gpu != (device_kind(kind) == "cuda") or theirs.strip() not in device:
        raise ValueError(f"llama-bench: its times are of {theirs or 'a device not told'}, the run's of {device}")


def _row(line: Line, like: ModelWorkload, device: str, kind: str) -> dict[str, Any]:
    if _is_prompt(line):
        place, calls = {"phase": "prefill", "q_len": line["n_prompt"], "depth": 0, "steps": None}, 1
    else:
        place, calls = {"phase": "decode", "q_len": 1, "depth": line["n_depth"], "steps": line["n_gen"]}, line["n_gen"]
    workload = replace(like, by_kind=False, **place)
    contender, label = _name(line)
    work = workload.work()
    point = f"{contender} | {workload.key()} | {device_kind(kind)}"
    return {
        "key": f"{point} | llama-bench {line.get('build_commit', '')}", "point": point, "axes": workload.axes(),
        "contender": contender, "label": label, "torch_device": kind, "device": device, "status": "ok",
        "method": "llama-bench", "samples_ns": [round(sample / calls) for sample in line["samples_ns"]],
        "flags": ["unchecked"], "work": {"useful_flops": work.useful_flops, "minimal_bytes": work.bytes},
        "plan": {name: line[name] for name in KEPT if name in line},
    }  # fmt: skip


def _name(line: Line) -> tuple[str, str]:
    """The contender and its label: what was switched is part of both."""
    switches = {
        ("cublas", "cuBLAS"): line.get("forced_cublas"),
        ("plain", "no flash attention"): not line["flash_attn"],
    }
    names, words = ["llama.cpp"], ["llama.cpp"]
    for (name, said), switched in switches.items():
        names += [name] * bool(switched)
        words += [said] * bool(switched)
    return "-".join(names), ", ".join(words)


def recorded_llama_bench() -> Run:
    """The recorded lines of Gemma 4 31B's shape on one H200, as a run: random weights in Q4_0, every sample."""
    path = data_path("benchmarks", RECORDED)
    lines, machine = read_bench(path), recorded_roofs()[DEVICE].machine()
    header = {
        "run_id": path.stem, "operation": "model", "device": {"name": DEVICE, "kind": "cuda"},
        "roof": {"bandwidth_gbps": machine.bandwidth_gbps, "tflops": machine.tflops}, "start": lines[0]["test_time"],
    }  # fmt: skip
    like = [ModelWorkload("prefill", 1, model="gemma4-31b")]
    return Run(header, tuple(rows_of(lines, like, DEVICE, "cuda")), path=path)
