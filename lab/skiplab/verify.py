"""Is a contender right? Its result against the same in float64.

Attention and decode: torch sets the tolerance: twice the error of its own result (SDPA written out, same dtype, same
inputs, same mask) plus one rounding of the dtype and of a float32 score. Up to 4,096 queries all rows are compared,
beyond that 256, tile borders among them.

Linear: the product of the contender's own operands. Tolerance: K float32 roundings of the sum of magnitudes (no order
of summing is worse), what the contender rounds of its weight inside, and one rounding of the dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import blockskip as bs
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from skiplab.contenders import Contender, contender
from skiplab.contenders.base import Call
from skiplab.failure import Failure, attempt
from skiplab.workload import AnyWorkload, DecodeWorkload, LinearWorkload, Workload

ALL_ROWS_UP_TO = 4096
SAMPLED_ROWS = 256
ROW_CHUNK = 256
TILE_BORDERS = (16, 32, 64, 128)  # tile heights whose borders are among the sampled rows


@dataclass(frozen=True)
class Check:
    """The largest absolute error, what is allowed, and what is wrong in words ('' when nothing is)."""

    error: float
    tolerance: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem


def sampled_rows(q_len: int, count: int = SAMPLED_ROWS) -> torch.Tensor:
    """Sorted query rows: the first and last, both sides of tile borders near start, middle and end, the rest even."""
    rows = {0, q_len - 1}
    for tile in TILE_BORDERS:
        tiles = max(1, q_len // tile)
        for border in {tile, (tiles // 2) * tile, tiles * tile}:
            rows |= {border - 1, border}
    rows = {row for row in rows if 0 <= row < q_len}
    even = (
        torch.linspace(0, q_len - 1, min(count, q_len), dtype=torch.float32, device="cpu")
        .round()
        .to(torch.int64)
        .tolist()
    )
    for row in even[:: max(1, -(-len(even) // max(1, count - len(rows))))]:
        rows.add(row)
    return torch.tensor(sorted(rows), dtype=torch.int64, device="cpu")


@dataclass(frozen=True)
class Truth:
    """Rows that are compared, the float64 result there [batch, q_heads, rows, head_dim], and the tolerance."""

    rows: torch.Tensor
    out: torch.Tensor
    tolerance: float


def product(workload: LinearWorkload, entry: Contender, inputs: Sequence[torch.Tensor]) -> Truth:
    """The truth for a linear layer's contender on these inputs: all rows, [rows, out_features]."""
    x, weight = entry.operands(workload, inputs) if entry.operands else (tensor.double() for tensor in inputs)
    out, magnitude = x @ weight.mT, (x.abs() @ weight.abs_().mT).max().item()
    inside = workload.in_features * torch.finfo(torch.float32).eps / 2 + entry.weight_rounding
    rounding = torch.finfo(workload.torch_dtype).eps / 2 * out.abs().max().item()
    return Truth(torch.arange(workload.rows, dtype=torch.int64, device="cpu"), out, inside * magnitude + rounding)


def truth(workload: Workload | DecodeWorkload, device: str, seed: int, deviation: float, sampled: bool) -> Truth:
    """The truth for `workload.inputs(device, seed, deviation)`; kept, since several contenders need the same."""
    return _truth(workload, workload.mask.version, device, seed, deviation, sampled)


@lru_cache(maxsize=2)
def _truth(workload, version, device: str, seed: int, deviation: float, sampled: bool) -> Truth:
    """version: the mask's, whose contents may change."""
    inputs = workload.inputs(device, seed, deviation)
    rows = sampled_rows(workload.q_len) if sampled else torch.arange(workload.q_len, dtype=torch.int64, device="cpu")
    exact, own = [], []
    for chunk in rows.split(ROW_CHUNK):
        exact_rows, own_rows = _rows(workload, inputs, chunk)
        exact.append(exact_rows)
        own.append(own_rows)
    out = torch.cat(exact, dim=2)
    torch_error = (torch.cat(own, dim=2).double() - out).abs().max().item()
    rounding = torch.finfo(workload.torch_dtype).eps / 2 * out.abs().max().item()
    return Truth(rows, out, 2 * torch_error + rounding + _score_rounding(workload, inputs))


def _score_rounding(workload: Workload | DecodeWorkload, inputs: Sequence[torch.Tensor]) -> float:
    """How far one float32 rounding of the largest possible score can move a result.

    Scores are at most |q| |k| / sqrt(D) (Cauchy-Schwarz); weights that move by e^d, |d| small, move their mean of the
    values by at most 2 |d| max |v|. Where few rows are compared torch's own error may be small by luck.
    """
    q, k, v = (x if x is inputs[0] else x[:, :, : workload.keys] for x in inputs)
    longest = [x.float().norm(dim=-1).max().item() for x in (q, k)]
    score = longest[0] * longest[1] * workload.head_dim**-0.5
    return 2 * torch.finfo(torch.float32).eps / 2 * score * v.abs().max().item()


def _rows(
    workload: Workload | DecodeWorkload, inputs: Sequence[torch.Tensor], rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of some query rows: in float64, and by torch in the workload's dtype."""
    q, k, v = inputs
    rows = rows.to(q.device)
    keep = _kept(workload, rows)
    seen = keep.any(dim=0).any(dim=0).any(dim=0).nonzero()
    if not len(seen):
        shape = workload.batch, workload.q_heads, len(rows), workload.head_dim
        zeros = torch.zeros(shape, dtype=torch.float64, device=q.device)
        return zeros, zeros.to(q.dtype)
    # Keys outside this range are masked for every row: their weight is exactly 0.
    keys = slice(int(seen[0]), int(seen[-1]) + 1)
    keep = keep[..., keys]
    parts = []
    for head in range(workload.kv_heads):  # one at a time: float64 scores of all heads at once may not fit
        group = slice(head * workload.group, (head + 1) * workload.group)
        k_head, v_head = (x[:, head : head + 1, keys].expand(-1, workload.group, -1, -1) for x in (k, v))
        parts.append(_one_head(q[:, group][:, :, rows], k_head, v_head, keep[:, group] if keep.shape[1] > 1 else keep))
    exact, own = (torch.cat(outs, dim=1) for outs in zip(*parts, strict=True))
    return exact, own


def _one_head(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keep: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The query heads of one key/value head: in float64, and by torch. Rows that see nothing give 0."""
    blind = ~keep.any(dim=-1, keepdim=True)
    with sdpa_kernel(SDPBackend.MATH):
        own = scaled_dot_product_attention(q, k, v, attn_mask=keep).masked_fill(blind, 0)
    scores = (q.double() @ k.double().mT) * q.shape[-1] ** -0.5
    weights = scores.masked_fill_(~keep, float("-inf")).softmax(dim=-1).masked_fill_(blind, 0)
    return weights @ v.double(), own


def _kept(workload: Workload | DecodeWorkload, rows: torch.Tensor) -> torch.Tensor:
    """bool [batch or 1, q_heads or 1, rows, kv_len]: which keys those query rows see."""
    by_batch, by_head = workload.mask.varies
    q_pos = (workload.first_position + rows)[:, None]
    k_pos = torch.arange(workload.keys, dtype=torch.int64, device=rows.device)[None, :]
    return torch.stack([
        torch.stack([
            workload.mask.keep(q_pos, k_pos, batch, head, q_row=rows[:, None]).expand(len(rows), workload.keys)
            for head in range(workload.q_heads if by_head else 1)
        ])
        for batch in range(workload.batch if by_batch else 1)
    ])  # fmt: skip


def compare(workload: AnyWorkload, out: torch.Tensor, expected: Truth) -> Check:
    """Judge a result: kind, shape, dtype, NaN, then the error on the compared rows."""
    tolerance, shape = expected.tolerance, workload.out_shape
    if not isinstance(out, torch.Tensor) or tuple(out.shape) != shape or out.dtype != workload.torch_dtype:
        given = f"{tuple(out.shape)} {out.dtype}" if isinstance(out, torch.Tensor) else type(out).__name__
        return Check(float("nan"), tolerance, f"the result is {given}; expected is {shape} {workload.torch_dtype}")
    if not torch.isfinite(out).all():
        return Check(float("inf"), tolerance, "the result holds NaN or infinity")
    error = (out.index_select(-2, expected.rows.to(out.device)).double() - expected.out).abs().max().item()
    if error > tolerance:
        return Check(error, tolerance, f"error {error:.3g} is above the tolerance {tolerance:.3g}")
    return Check(error, tolerance)


def verify(
    workload: AnyWorkload,
    entry: Contender,
    device: str,
    seed: int,
    *,
    deviation: float = 1.0,
    fn: Call | None = None,
    sampled: bool | None = None,
) -> Check:
    """Run the contender on fresh inputs of that seed and judge the result; its inputs must come back unchanged.

    `fn` is the built callable, where there is one already. `sampled=None` compares all rows up to 4,096.
    """
    inputs = workload.inputs(device, seed, deviation)
    given = [tensor.clone() for tensor in inputs]
    arguments = entry.prepare(workload, inputs)
    call = fn or entry.build(workload, arguments)
    with torch.no_grad():
        out = call(*arguments)
    names = ("x", "weight") if isinstance(workload, LinearWorkload) else ("q", "k", "v")
    changed = [name for name, now, before in zip(names, inputs, given, strict=True) if not same_bits(now, before)]
    result = compare(workload, out, expected_of(workload, entry, device, seed, given, deviation, sampled))
    if changed:
        return Check(result.error, result.tolerance, f"the call changed its input {', '.join(changed)}")
    return result


def expected_of(
    workload: AnyWorkload,
    entry: Contender,
    device: str,
    seed: int,
    inputs: Sequence[torch.Tensor],
    deviation: float = 1.0,
    sampled: bool | None = None,
) -> Truth:
    """The truth for this contender and `inputs`, which are the workload's of that seed and deviation."""
    if isinstance(workload, LinearWorkload):
        return product(workload, entry, inputs)
    sampled = workload.q_len > ALL_ROWS_UP_TO if sampled is None else sampled
    return truth(workload, device, seed, deviation, sampled)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal, NaN in the same places included: a cache holds some where there is no key."""
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


# Shapes that have caught bugs in other kernels: (q_len, kv_len, q_heads, kv_heads, head_dim, mask).
AWKWARD: tuple[tuple[int, int, int, int, int, bs.Mask], ...] = (
    (1, 1, 2, 2, 64, bs.causal()),
    (239, 239, 2, 2, 64, bs.causal()),
    (113, 203, 4, 2, 64, bs.causal()),
    (108, 256, 6, 2, 80, bs.sliding_window(64)),
    (384, 256, 4, 1, 128, bs.causal()),
    (640, 640, 4, 4, 40, bs.sliding_window(1)),
    (1023, 1024, 2, 1, 96, bs.sliding_window(256)),
    (1024, 1023, 2, 2, 128, bs.sliding_window(1024)),
    (300, 300, 2, 2, 320, bs.band(70, 30)),
    (500, 500, 2, 1, 64, bs.sliding_window(96) | (bs.sink(4) & bs.causal())),
    (257, 257, 2, 2, 64, bs.document((100, 57, 100))),
    (200, 200, 2, 2, 64, bs.prefix_lm(70)),
)
# (kv_len, window, q_len, q_heads, kv_heads, head_dim, buffer)
AWKWARD_DECODE: tuple[tuple[int, int | None, int, int, int, int, int], ...] = (
    (1, None, 1, 2, 2, 64, 1),
    (70, None, 1, 4, 2, 64, 128),
    (100, 1, 1, 2, 1, 96, 100),
    (256, None, 1, 6, 2, 80, 300),
    (203, 64, 5, 4, 2, 128, 203),
    (640, None, 8, 4, 1, 40, 2048),
    (1023, 256, 1, 4, 4, 256, 1024),
    (1024, 1025, 2, 2, 2, 320, 1500),
    (2048, 1024, 1, 8, 2, 512, 4096),
)
# (out_features, in_features, rows, bits, group_size, symmetric)
AWKWARD_LINEAR: tuple[tuple[int, int, int, int, int, bool], ...] = (
    (1, 32, 1, 4, 32, False),
    (7, 96, 1, 4, 32, True),
    (33, 160, 3, 4, 32, False),
    (64, 5376, 1, 4, 64, False),
    (129, 1024, 8, 4, 128, False),
    (65, 544, 2, 8, 32, False),
    (48, 256, 1, 8, 128, True),
    (96, 384, 9, 4, 32, False),
    (17, 128, 70, 8, 64, False),
)
DEVIATIONS = (1.0, 8.0)


def awkward(operation: str, dtype: str) -> list[AnyWorkload]:
    """The operation's workloads that have caught bugs, in that dtype."""
    if operation == "decode":
        return [
            DecodeWorkload(kv_len, window, q_len, 1, q_heads, kv_heads, head_dim, dtype, buffer)
            for kv_len, window, q_len, q_heads, kv_heads, head_dim, buffer in AWKWARD_DECODE
        ]
    if operation == "linear":
        return [LinearWorkload(*shape, dtype=dtype) for shape in AWKWARD_LINEAR]
    return [
        Workload(q_len, kv_len, mask, 1, q_heads, kv_heads, head_dim, dtype)
        for q_len, kv_len, q_heads, kv_heads, head_dim, mask in AWKWARD
    ]


@dataclass(frozen=True)
class CheckRow:
    """One shape of a check: `status` ok, wrong, unsupported, out-of-memory or crashed, and why."""

    workload: AnyWorkload
    deviation: float
    status: str
    error: float = float("nan")
    tolerance: float = float("nan")
    text: str = ""


@dataclass(frozen=True)
class CheckReport:
    """What came of checking one contender on the awkward shapes."""

    contender: str
    device: str
    rows: tuple[CheckRow, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """All shapes right that are supported, and at least one."""
        states = {row.status for row in self.rows}
        return "ok" in states and states <= {"ok", "unsupported"}

    def counts(self) -> dict[str, int]:
        """How many shapes ended in which status."""
        states = [row.status for row in self.rows]
        return {state: states.count(state) for state in sorted(set(states))}

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {state}" for state, number in self.counts().items())
        lines = [f"{self.contender} on {self.device}: {counts}"]
        lines += [
            f"  {row.status}: {row.workload.key()}, deviation {row.deviation:g}: {row.text}"
            for row in self.rows
            if row.status != "ok"
        ]
        return "\n".join(lines)


def check(
    name: str,
    device: str | None = None,
    dtypes: Sequence[str] | None = None,
    seed: int = 0,
    operation: str = "attention",
) -> CheckReport:
    """Check a contender on shapes that have caught bugs, at logits (or activations) of deviation 1 and 8.

    `dtypes` defaults to bfloat16, float16 and float32. ValueError for no such name.
    """
    from skiplab.machine import default_device

    entry, device = contender(name, operation), device or default_device()
    rows = [
        _check_row(workload, entry, device, seed, deviation)
        for dtype in dtypes or ("bfloat16", "float16", "float32")
        for workload in awkward(operation, dtype)
        for deviation in DEVIATIONS
    ]
    return CheckReport(name, device, tuple(rows))


def _check_row(workload: AnyWorkload, entry: Contender, device: str, seed: int, deviation: float) -> CheckRow:
    result = attempt(lambda: _supported(workload, entry, device, seed, deviation))
    if isinstance(result, Failure):
        return CheckRow(workload, deviation, result.status, text=result.text)
    status = "ok" if result.passed else "wrong"
    return CheckRow(workload, deviation, status, result.error, result.tolerance, result.problem)


def _supported(workload: AnyWorkload, entry: Contender, device: str, seed: int, deviation: float) -> Check | Failure:
    reason = entry.supports(workload, device)
    return Failure("unsupported", reason) if reason else verify(workload, entry, device, seed, deviation=deviation)
