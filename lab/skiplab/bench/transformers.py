"""A model inside transformers on this device, with SDPA and with our attention and int4 weights, as they are and fused;
our decoder beside.

    skiplab bench transformers [--model gemma4-31b] [--layers 12] [--prompt 2048] [--tokens 32]
        [--ways sdpa blockskip fused decoder] [--parts eager compiled] [--head int4]
        [--inductor triton.enable_pdl=true combo_kernels=true]

The first layers of a model in `data/models`, random weights, one sequence. A row has, in ms: the prompt, and a token
behind it, eager, with a dynamic cache; and a token of a static cache, compiled (our decoder's is a CUDA graph of its
own). Rows are printed as they come. Compiling takes longest, so it may be left out, or done for one way alone. A head
that shares the embedding's weight stays in bfloat16, unless --head int4 parts them; --inductor sets what torch.compile
makes of the steps.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import blockskip as bs
import torch
from blockskip.arguments import integer
from blockskip.integrations import transformers as integration
from torch import Tensor, nn
from torch._dynamo import config as dynamo_config
from torch._dynamo.utils import counters
from torch._inductor import config as inductor_config

from skiplab.bench.record import FOLDER, Listed, machine, options, table, write
from skiplab.contenders.huggingface import HuggingFace, made
from skiplab.contenders.model import SEED, DecoderRunner, Runner
from skiplab.model import Decoder, model_names
from skiplab.paths import data_path
from skiplab.text import digits
from skiplab.workload import ModelWorkload
from skiplab.workload.model import named_or_read

WAYS = ("sdpa", "blockskip", "fused", "decoder")
OURS = {"blockskip": "blockskip", "fused": "blockskip fused"}
"""Ways inside transformers under our attention, in the order in which one model is changed to them, and their names."""
PARTS = ("eager", "compiled")
PROMPTS = 5
"""Times that a prompt is read, after one that is not timed."""
AT_ONCE = 4
"""Tokens between two waits for the GPU."""
WARM = 3
"""Tokens before those that are timed: they compile, and capture graphs."""
CHECKED = 64
"""Tokens of the prompt whose logits are compared."""
ROUNDINGS = 10
"""Results of a layer that are rounded to bfloat16."""
HEADS = ("bfloat16", "int4")
HEAD = ("prompt ms", "token ms", "compiled token ms", "host ms", "compiling s", "breaks", "off", "compiled off")


@dataclass
class TimedModel:
    """Samples in ns. host_ns: until a compiled step's call returned, of an idle device, which waited for it.

    breaks: of the compiled graph, and parts of it that are no CUDA graph. off: see `distance`; compiled_off: the
    largest of compiled steps from eager ones, of the same weights and cache.
    """

    name: str
    prompt_ns: list[int] = field(default_factory=list)
    token_ns: list[int] = field(default_factory=list)
    compiled_ns: list[int] = field(default_factory=list)
    host_ns: list[int] = field(default_factory=list)
    compiling_s: float | None = None
    breaks: int | None = None
    off: float | None = None
    compiled_off: float | None = None
    allowed: float | None = None

    @property
    def is_wrong(self) -> bool:
        allowed = math.inf if self.allowed is None else self.allowed
        return not all(off <= allowed for off in (self.off, self.compiled_off) if off is not None)

    def cells(self) -> list[str]:
        times = (self.prompt_ns, self.token_ns, self.compiled_ns, self.host_ns)
        medians = [digits(statistics.median(one) / 1e6) if one else "" for one in times]
        compiling = "" if self.compiling_s is None else f"{self.compiling_s:.0f}"
        offs = ["" if off is None else f"{off:.1e}" for off in (self.off, self.compiled_off)]
        offs[-1] += " wrong" * self.is_wrong
        return [self.name, *medians, compiling, "" if self.breaks is None else str(self.breaks), *offs]


def cut(model: str, layers: int) -> str:
    """The config.json of the model's first layers, but that the last one is of its last one's kind."""
    name, text = named_or_read(model)
    config = json.loads(text or data_path("models", f"{name}.json").read_text(encoding="utf-8"))
    integer("layers", layers, 1, config["num_hidden_layers"])
    config["num_hidden_layers"] = layers
    if "layer_types" in config:
        config["layer_types"] = [*config["layer_types"][: layers - 1], config["layer_types"][-1]]
    return json.dumps(config)


def timed(call: Callable[[], Any], device: str, count: int = 1) -> int:
    """ns of a call, of `count` of them one after the other."""
    return timed_with_host(call, device, count)[0]


def timed_with_host(call: Callable[[], Any], device: str, count: int) -> tuple[int, int]:
    """(ns of a call, of `count` of them one after the other, ns until the first of them returned)."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    start = time.perf_counter_ns()
    call()
    returned = time.perf_counter_ns()
    for _ in range(count - 1):
        call()
    wait()
    return (time.perf_counter_ns() - start) // count, returned - start


def time_eager(row: TimedModel, runner: Runner, ids: Tensor, tokens: int, device: str) -> None:
    """The prompt, and tokens behind it."""
    prompt = partial(runner.prefill, ids, graph=False)
    prompt()
    row.prompt_ns = [timed(prompt, device) for _ in range(PROMPTS)]
    step = partial(runner.step, ids[:, :1], graph=False)
    timed(step, device, WARM)
    row.token_ns = [timed(step, device, AT_ONCE) for _ in range(math.ceil(tokens / AT_ONCE))]


def time_compiled(row: TimedModel, eager: Runner, runner: Runner, ids: Tensor, chosen: argparse.Namespace) -> None:
    """Tokens of a static cache, as deep as the prompt is long; the first of them held against eager ones.

    transformers' cache counts the tokens of layers with a window in ints, of which the first step would be compiled for
    one and the second for all. As variables floats would come with each call, in tensors of the CPU.
    """
    depth, room, token = ids.shape[1], chosen.tokens + AT_ONCE + WARM, ids[:, :1]
    eager.begin(depth, room)
    wanted = [eager.step(token, graph=False).clone() for _ in range(WARM)]
    counters.clear()
    runner.begin(depth, room)
    step, found = partial(runner.step, token), list[Tensor]()
    static = dynamo_config.patch(assume_static_by_default=getattr(runner, "ring", True), specialize_float=True)
    with static, inductor_config.patch(chosen.inductor):
        row.compiling_s = WARM * timed(lambda: found.append(step().clone()), chosen.device, WARM) / 1e9
    row.compiled_off = max(map(distance, found, wanted))
    for _ in range(math.ceil(chosen.tokens / AT_ONCE)):
        token_ns, host_ns = timed_with_host(step, chosen.device, AT_ONCE)
        row.compiled_ns.append(token_ns)
        row.host_ns.append(host_ns)
    row.breaks = sum(counters["graph_break"].values()) + counters["inductor"]["cudagraph_skips"]


def measure(row: TimedModel, runner: Callable[[bool], Runner], ids: Tensor, chosen: argparse.Namespace) -> TimedModel:
    """The row with its times, printed. runner(compiled): the model, for this kind of steps."""
    if "eager" in chosen.parts:
        time_eager(row, runner(False), ids, chosen.tokens, chosen.device)
    if "compiled" in chosen.parts and (compiled := runner(True)).is_graph("decode", 1):
        time_compiled(row, runner(False), compiled, ids, chosen)
    named = zip(("", *HEAD), row.cells(), strict=True)
    print("  ".join(f"{name} {cell}".strip() for name, cell in named if cell), flush=True)
    return row


def distance(found: Tensor, wanted: Tensor) -> float:
    """Of two results, by the length of the wanted one."""
    return ((found - wanted).norm() / wanted.norm()).item()


def rows_in_transformers(
    workload: ModelWorkload, ids: Tensor, chosen: argparse.Namespace
) -> tuple[list[TimedModel], Tensor]:
    """(the rows of the float and of the int4 weights, the logits of the int4 weights with SDPA)."""
    model = made(workload, chosen.device, "sdpa")

    def runner(compiled: bool, ring: bool = False) -> Runner:
        torch.compiler.reset()
        return HuggingFace(model, compiled, ring)

    rows = []
    if "sdpa" in chosen.ways:
        rows.append(measure(TimedModel("transformers, bf16, SDPA"), runner, ids, chosen))
    if keeps_head(workload, chosen):
        bs.quantize_(model, select=lambda name, _: name != "lm_head")
    else:
        model.lm_head.weight = nn.Parameter(
            model.lm_head.weight.detach(), requires_grad=False
        )  # the embedding's no more
        bs.quantize_(model)
    wanted = HuggingFace(model).prefill(ids[:, :CHECKED])
    integration.register()
    model.set_attn_implementation("blockskip")
    for way, name in OURS.items():
        if way not in chosen.ways:
            continue
        if way == "fused":
            integration.fuse_(model)
        off = distance(HuggingFace(model).prefill(ids[:, :CHECKED]), wanted)
        row = TimedModel(f"transformers, int4, {name}", off=off, allowed=allowed(workload))
        rows.append(measure(row, partial(runner, ring=True), ids, chosen))
    return rows, wanted


def keeps_head(workload: ModelWorkload, chosen: argparse.Namespace) -> bool:
    """Whether the head, whose weight is the embedding's, stays as it is."""
    return workload.spec.tied and chosen.head == "bfloat16"


def setting(text: str) -> tuple[str, Any]:
    """(name, value) of a setting of inductor, from name=value, the value in JSON. Raises ValueError for any other."""
    name, _, value = text.partition("=")
    present = getattr(inductor_config, name, None)
    if not isinstance(present, (bool, int, float, str)):
        raise ValueError(
            f"inductor: given {name!r}, no number, text or truth value that inductor in torch {torch.__version__} has"
        )
    try:
        found = json.loads(value)
    except json.JSONDecodeError:
        found = None
    if type(found) is not type(present):
        raise ValueError(f"inductor: given {text!r}; {name}=VALUE is needed, a value like {json.dumps(present)}")
    return name, found


def row_of_decoder(workload: ModelWorkload, ids: Tensor, chosen: argparse.Namespace, wanted: Tensor) -> TimedModel:
    """Of the same weights in our decoder."""
    spec, held = workload.spec, {"dtype": workload.torch_dtype, "bits": workload.bits}
    head = not keeps_head(workload, chosen)
    decoder = Decoder.random(spec, device=chosen.device, seed=SEED, head=head, **held)
    runner = DecoderRunner(decoder)
    off = distance(runner.prefill(ids[:, :CHECKED]), wanted)
    return measure(
        TimedModel("our decoder, int4", off=off, allowed=allowed(workload)), lambda compiled: runner, ids, chosen
    )


def allowed(workload: ModelWorkload) -> float:
    """How far logits may be off: by four deviations of the sum of all roundings."""
    return 4 * torch.finfo(workload.torch_dtype).eps / 2 * math.sqrt(ROUNDINGS * len(workload.spec.layers))


def notes_of(chosen: argparse.Namespace, device: str) -> list[str]:
    return [
        f"Device: {device}. The first {chosen.layers} layers of {chosen.model}, random weights, one sequence; median "
        f"times. prompt: of {chosen.prompt} tokens; token: behind them, eager, with a dynamic cache; compiled token: "
        "of a static cache (blockskip's is `ring_cache`), by torch.compile's reduce-overhead; in our decoder a CUDA "
        "graph of its own. host: until a step's call returned, of which every "
        f"{AT_ONCE}th waits for an idle device. compiling: "
        f"with the first {WARM} of them. breaks: of the graph, and parts that are no CUDA graph.",
        f"int4: groups of 32; a head that shares the embedding's weight is in {chosen.head}. fused: by `fuse_`. off: "
        "the distance of a prompt's logits from those of the same int4 weights with SDPA in transformers, by their "
        f"length; {CHECKED} tokens. compiled off: of the first {WARM} compiled steps' logits from eager ones.",
    ]


def main(arguments: Sequence[str]) -> None:
    is_cuda = torch.cuda.is_available()
    parser = options("transformers", __doc__)
    parser.add_argument("--device", default="cuda" if is_cuda else "cpu")
    what = f"{', '.join(model_names())}, or a config.json"
    parser.add_argument("--model", help=what, default="gemma4-31b" if is_cuda else "laptop")
    parser.add_argument("--layers", type=int, default=12 if is_cuda else 6)
    parser.add_argument("--prompt", type=int, default=2048 if is_cuda else 256)
    parser.add_argument("--tokens", type=int, default=32 if is_cuda else 8, help="that are timed, of each kind of step")
    parser.add_argument(
        "--ways", action=Listed, choices=WAYS, default=list(WAYS), help="the rows; compiling takes longest"
    )
    parser.add_argument("--parts", action=Listed, choices=PARTS, default=list(PARTS if is_cuda else PARTS[:1]))
    parser.add_argument("--head", choices=HEADS, default=HEADS[0], help="of a head that shares the embedding's weight")
    what = "settings of torch.compile's inductor for the steps inside transformers, such as triton.enable_pdl=true"
    parser.add_argument("--inductor", action=Listed, default=[], help=what)
    parser.add_argument("--out", type=Path, default=FOLDER)
    chosen = parser.parse_args(arguments)
    chosen.inductor = dict(setting(text) for text in chosen.inductor)
    where, config = machine(), cut(chosen.model, chosen.layers)
    on_cuda = chosen.device.startswith("cuda")
    device = torch.cuda.get_device_name(chosen.device) if on_cuda else where["cpu"]
    workload = ModelWorkload("prefill", chosen.prompt, model=named_or_read(chosen.model)[0], config=config)
    (ids,) = workload.inputs(chosen.device, seed=1)
    found, wanted = rows_in_transformers(workload, ids, chosen)
    if "decoder" in chosen.ways:
        found.append(row_of_decoder(workload, ids, chosen, wanted))
    facts = {name: getattr(chosen, name) for name in ("model", "layers", "prompt", "tokens", "head", "inductor")}
    data = {"machine": where | {"device": device, "transformers": version("transformers")}, **facts}
    data["rows"] = [asdict(row) for row in found]
    name, parts = "transformers" if on_cuda else "transformers_cpu", [table(["", *HEAD], [r.cells() for r in found])]
    write(name, "Inside transformers", notes_of(chosen, device), parts, data, chosen.out)
    if any(row.is_wrong for row in found):
        raise SystemExit(1)
