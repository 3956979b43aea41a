"""The claims, as data: in our words, the published figure by its file, and where ours is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from skiplab import ladder
from skiplab.claims.evidence import (
    Finder,
    beside_llama,
    between_rungs,
    call_of,
    check,
    of_the_roofs,
    peak,
    roof_rate,
    share,
    times_as_fast,
)
from skiplab.machine import known_gpus
from skiplab.text import digits, percent

UNITS: Mapping[str, Callable[[float], str]] = {
    "times": lambda value: f"{value:.2f}×" if value < 10 else f"{value:.1f}×",
    "share": lambda value: percent(value, 1),
    "GB": "{:.1f} GB".format,
    "count": "{:.0f}".format,
}
BETTER = ("more", "less", "at least", "exactly")
FIRST, BOUNDS = "ladder-1-dense", "ladder-3-bounds"
SHAPE = {"q_heads": 32, "kv_heads": 16, "head_dim": 256, "window": None, "batch": 1, "q_len": 1}
LAYER = {"rows": 1, "bits": 4, "group_size": 32, "out_features": 21504, "in_features": 5376, "kernel": ["matvec", None]}
A100 = "NVIDIA A100 80GB SXM"


@dataclass(frozen=True)
class Claim:
    """One claim. name: unique. request: the pull request. topic: prefill, decode, int4, model. words: what it says.

    published: its figure. unit: see `UNITS`. find: ours. better: `more` or `less` of it; `at least`: it holds from
    the published figure on; `exactly`: only this very figure will do. why: what makes ours differ.
    """

    name: str
    request: int
    topic: str
    words: str
    published: float
    unit: str
    find: Finder
    better: str
    why: str

    def text(self, value: float) -> str:
        """A figure with its unit."""
        return UNITS[self.unit](value)


def _prefill() -> Iterator[Claim]:
    yield Claim(
        "bits", 20198, "prefill", "Skipping masked blocks changes no bit of the result: elements that differ",
        0, "count", check("bits"), "exactly",
        "Both kernels do nothing in a dropped tile; ours does so in each of four modes, in the same order",
    )  # fmt: skip
    lines = ladder.lines_of("executorch-20198-prefill.csv")
    for line in lines:
        tokens, gain = int(line["prompt_tokens"]), float(line["after_tps"]) / float(line["before_tps"])
        yield Claim(
            f"skip-{tokens}", 20198, "prefill", f"Skipping makes a prompt of {tokens:,} tokens faster, the whole model",
            gain, "times", between_rungs(call_of("prefill", tokens), FIRST, BOUNDS), "more",
            "What skipping can gain is attention's share of the time: their dense kernel took most of it, and at the "
            "roofs it takes little beside the products",
        )  # fmt: skip
    yield from _share()
    for line in lines:
        tokens, ratio = int(line["prompt_tokens"]), float(line["after_tps"]) / float(line["llama_cpp_tps"])
        yield Claim(
            f"llama-{tokens}", 20198, "prefill", f"A prompt of {tokens:,} tokens, times as fast as llama.cpp",
            ratio, "times", beside_llama("prefill", tokens), "more",
            "Products take nearly all of a prompt's time: llama.cpp's are of int8 by its own kernels, ours turn int4 "
            "to bfloat16 inside the product or before it",
        )  # fmt: skip


def _share() -> Iterator[Claim]:
    (line,) = ladder.lines_of("executorch-20198-share.csv")
    before, after, prompt = float(line["before_percent"]), float(line["after_percent"]), ladder.CALLS[0]
    yield Claim(
        "share-cut", 20198, "prefill", "Skipping divides attention's share of a prompt's time (its length is not told)",
        before / after, "times", share(prompt, lambda by: by.get(FIRST, float("nan")) / by.get(BOUNDS, float("nan"))),
        "more", "The slower a dense kernel is, the larger is the part that skipping removes",
    )  # fmt: skip
    yield Claim(
        "share", 20198, "prefill", "Attention's share of a prompt's time, with skipping",
        after / 100, "share", share(prompt, lambda by: by.get("blockskip", by.get(BOUNDS, float("nan")))), "less",
        "What is left is the work on tiles that are kept, at the rate of each kernel",
    )  # fmt: skip


def _decode() -> Iterator[Claim]:
    peers = (
        ("standard", "the standard kernel", "blockskip-prefill",
         "A program a head leaves most multiprocessors idle; the gain is how idle they were, and GPUs have 108 or 132"),
        ("pytorch", "PyTorch's default", "sdpa", "torch chooses another kernel for one query by now"),
        ("flash", "FlashAttention in PyTorch", "sdpa-flash", "torch's kernel splits the keys, too"),
    )  # fmt: skip
    for column, peer, than, why in peers:
        for line in ladder.lines_of("executorch-20198-decode-sdpa.csv"):
            if line[f"{column}_us"]:
                keys, gain = int(line["kv_len"]), float(line[f"{column}_us"]) / float(line["splitk_us"])
                find = times_as_fast("decode", than, kv_len=keys, **SHAPE)
                words = f"Split-K, times as fast as {peer}: {keys:,} keys, one layer"
                yield Claim(f"{column}-{keys}", 20198, "decode", words, gain, "times", find, "more", why)
    yield Claim(
        "crossover", 20198, "decode", "In a CUDA graph, splitting pays from 256 keys on: times as fast there, at least",
        1.0, "times", times_as_fast("decode", "blockskip-prefill", kv_len=256, **SHAPE), "at least",
        "16 programs leave a large GPU idle at any number of keys; what splitting costs is a merge",
    )  # fmt: skip
    yield Claim(
        "softmax", 20198, "decode", "Shares merge by a constant in the maximum's place: of four kinds of scores right",
        4, "count", check("softmax"), "exactly",
        "float32's exponential ends at e^88.7 and begins at e^-103; pull request 22133 keeps the maximum",
    )  # fmt: skip


CHANGES = {
    "coalesced int4 metadata": (
        "int4", FIRST, "ladder-4-coalesced", "Metadata beside the weights, a whole step of the model",
        "Strided scales ask for sixteen times the bytes; caches give back a part that depends on their size",
    ),
    "split-K decode": (
        "decode", "ladder-4-coalesced", "ladder-5-splits", "Split-K, a whole step of the model",
        "Attention's share of a step without splits decides, and how fast the products are beside it",
    ),
    "vectorised activation loads": (
        "int4", "ladder-5-splits", "ladder-6-vector", "Activations in 16-byte loads, a whole step of the model",
        "These loads hit caches: what they cost is instructions, of which a faster GPU has more to spare",
    ),
}  # fmt: skip
"""By the name of the published change: topic, rungs, words, and why gains differ."""


def _steps() -> Iterator[Claim]:
    for line in ladder.lines_of("executorch-20198-decode.csv"):
        topic, low, high, words, why = CHANGES[line["change"]]
        gain = float(line["after_tps"]) / float(line["before_tps"])
        find = between_rungs(ladder.CALLS[1], low, high)
        yield Claim(f"step-{high}", 20198, topic, words, gain, "times", find, "more", why)
    (line,) = ladder.lines_of("executorch-20198-linear.csv")
    yield Claim(
        "vector-product", 20198, "int4", "Activations in 16-byte loads, the product alone (its shape is not told)",
        float(line["before_us"]) / float(line["after_us"]), "times",
        times_as_fast("linear", "blockskip-scalar", **LAYER), "more", CHANGES["vectorised activation loads"][4],
    )  # fmt: skip


def _later() -> Iterator[Claim]:
    """Of the later table: rates as shares of what the GPU allows, for the GPUs differ; llama.cpp; memory."""
    roofs = "Rates of two GPUs say little of two programs; shares of what each allows say more"
    for line in ladder.lines_of("executorch-20571.csv"):
        tokens = int(line["prompt_tokens"])
        for phase, words in (("prefill", "a prompt of {} tokens"), ("decode", "a step behind {} tokens")):
            rate, theirs = (float(line[f"{who}_{phase}_tps"]) for who in ("executorch", "llama_cpp"))
            what = words.format(f"{tokens:,}")
            allowed = roof_rate(call_of(phase, tokens), known_gpus()[A100])
            yield Claim(
                f"{phase}-{tokens}", 20571, "model", f"{what}: {digits(rate)} tokens/s, of what an A100's roofs allow",
                rate / allowed, "share", of_the_roofs(phase, tokens), "more", roofs,
            )  # fmt: skip
            yield Claim(
                f"{phase}-llama-{tokens}", 20571, "model", f"{what}, times as fast as llama.cpp",
                rate / theirs, "times", beside_llama(phase, tokens), "more",
                "llama.cpp's own share of the roofs is another on each GPU",
            )  # fmt: skip
        yield Claim(
            f"peak-{tokens}", 20571, "model", f"Memory at most, for a prompt of {tokens:,} tokens",
            float(line["executorch_peak_gb"]), "GB", peak("prefill", tokens), "less",
            "Theirs holds a cache for the longest prompt from the start; ours grows, and sliding layers keep a window",
        )  # fmt: skip


CLAIMS = (*_prefill(), *_decode(), *_steps(), *_later())
TOPICS = tuple(dict.fromkeys(claim.topic for claim in CLAIMS))
