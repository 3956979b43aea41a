"""Is a contender right? Its result against attention in float64, with a tolerance that torch itself sets.

Tolerance: twice the error of torch's own result (SDPA written out, same dtype, same inputs, same mask) plus one
rounding of the dtype. Up to 4,096 queries all rows are compared, beyond that 256, tile borders among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import blockskip as bs
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from skiplab.contenders import Contender, Unsupported, contender
from skiplab.workload import Workload

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
    even = torch.linspace(0, q_len - 1, min(count, q_len)).round().to(torch.int64).tolist()
    for row in even[:: max(1, -(-len(even) // max(1, count - len(rows))))]:
        rows.add(row)
    return torch.tensor(sorted(rows))


@dataclass(frozen=True)
class Truth:
    """Rows that are compared, the float64 result there [batch, q_heads, rows, head_dim], and the tolerance."""

    rows: torch.Tensor
    out: torch.Tensor
    tolerance: float


@lru_cache(maxsize=2)
def truth(workload: Workload, device: str, seed: int, deviation: float, sampled: bool) -> Truth:
    """The truth for `workload.inputs(device, seed, deviation)`; kept, since several contenders need the same."""
    inputs = workload.inputs(device, seed, deviation)
    rows = sampled_rows(workload.q_len) if sampled else torch.arange(workload.q_len)
    exact, own = [], []
    for chunk in rows.split(ROW_CHUNK):
        exact_rows, own_rows = _rows(workload, inputs, chunk)
        exact.append(exact_rows)
        own.append(own_rows)
    out = torch.cat(exact, dim=2)
    torch_error = (torch.cat(own, dim=2).double() - out).abs().max().item()
    rounding = torch.finfo(workload.torch_dtype).eps / 2 * out.abs().max().item()
    return Truth(rows, out, 2 * torch_error + rounding)


def _rows(workload: Workload, inputs: Sequence[torch.Tensor], rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of some query rows: in float64, and by torch in the workload's dtype."""
    q, k, v = inputs
    rows = rows.to(q.device)
    keep = _kept(workload, rows)
    seen = keep.any(dim=0).any(dim=0).any(dim=0).nonzero()
    if not len(seen):
        zeros = torch.zeros(workload.batch, workload.q_heads, len(rows), workload.head_dim, device=q.device)
        return zeros.double(), zeros.to(q.dtype)
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


def _kept(workload: Workload, rows: torch.Tensor) -> torch.Tensor:
    """bool [batch or 1, q_heads or 1, rows, kv_len]: which keys those query rows see."""
    by_batch, by_head = workload.mask.varies
    q_pos = (workload.first_position + rows)[:, None]
    k_pos = torch.arange(workload.keys, device=rows.device)[None, :]
    return torch.stack([
        torch.stack([
            workload.mask.keep(q_pos, k_pos, batch, head, q_row=rows[:, None]).expand(len(rows), workload.keys)
            for head in range(workload.q_heads if by_head else 1)
        ])
        for batch in range(workload.batch if by_batch else 1)
    ])  # fmt: skip


def compare(workload: Workload, out: torch.Tensor, expected: Truth) -> Check:
    """Judge a result: kind, shape, dtype, NaN, then the error on the compared rows."""
    tolerance = expected.tolerance
    shape = (workload.batch, workload.q_heads, workload.q_len, workload.head_dim)
    if not isinstance(out, torch.Tensor) or tuple(out.shape) != shape or out.dtype != workload.torch_dtype:
        given = f"{tuple(out.shape)} {out.dtype}" if isinstance(out, torch.Tensor) else type(out).__name__
        return Check(float("nan"), tolerance, f"the result is {given}; expected is {shape} {workload.torch_dtype}")
    if not torch.isfinite(out).all():
        return Check(float("inf"), tolerance, "the result holds NaN or infinity")
    error = (out[:, :, expected.rows.to(out.device)].double() - expected.out).abs().max().item()
    if error > tolerance:
        return Check(error, tolerance, f"error {error:.3g} is above the tolerance {tolerance:.3g}")
    return Check(error, tolerance)


def verify(
    workload: Workload,
    entry: Contender,
    device: str,
    seed: int,
    *,
    deviation: float = 1.0,
    fn=None,
    sampled: bool | None = None,
) -> Check:
    """Run the contender on fresh inputs of that seed and judge the result; its inputs must come back unchanged.

    `fn` is the built callable, where there is one already. `sampled=None` compares all rows up to 4,096.
    """
    inputs = workload.inputs(device, seed, deviation)
    given = [tensor.clone() for tensor in inputs]
    call = fn or entry.build(workload, inputs)
    with torch.no_grad():
        out = call(*inputs)
    changed = [name for name, now, before in zip("qkv", inputs, given, strict=True) if not torch.equal(now, before)]
    if sampled is None:
        sampled = workload.q_len > ALL_ROWS_UP_TO
    result = compare(workload, out, truth(workload, device, seed, deviation, sampled))
    if changed:
        return Check(result.error, result.tolerance, f"the call changed its input {', '.join(changed)}")
    return result


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
DEVIATIONS = (1.0, 8.0)


@dataclass(frozen=True)
class CheckRow:
    """One shape of a check: `status` ok, wrong, unsupported or crashed, and why."""

    workload: Workload
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
        """Nothing wrong or crashed, and at least one shape supported."""
        states = {row.status for row in self.rows}
        return "ok" in states and not states & {"wrong", "crashed"}

    def counts(self) -> dict[str, int]:
        """How many shapes ended in which status."""
        states = [row.status for row in self.rows]
        return {state: states.count(state) for state in sorted(set(states))}

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {state}" for state, number in self.counts().items())
        lines = [f"{self.contender} on {self.device}: {counts}"]
        lines += [
            f"  {row.status}: {row.workload.key()}, logits of deviation {row.deviation:g}: {row.text}"
            for row in self.rows
            if row.status != "ok"
        ]
        return "\n".join(lines)


def check(name: str, device: str | None = None, dtypes: Sequence[str] | None = None, seed: int = 0) -> CheckReport:
    """Check a contender on shapes that have caught bugs, at logits of deviation 1 and 8; ValueError for no such name.

    `dtypes` defaults to bfloat16, float16 and float32.
    """
    from skiplab.machine import default_device

    entry, device = contender(name), device or default_device()
    rows = []
    for dtype in dtypes or ("bfloat16", "float16", "float32"):
        for q_len, kv_len, q_heads, kv_heads, head_dim, mask in AWKWARD:
            workload = Workload(q_len, kv_len, mask, 1, q_heads, kv_heads, head_dim, dtype)
            rows += [_check_row(workload, entry, device, seed, deviation) for deviation in DEVIATIONS]
    return CheckReport(name, device, tuple(rows))


def _check_row(workload: Workload, entry: Contender, device: str, seed: int, deviation: float) -> CheckRow:
    reason = entry.supports(workload, device)
    if reason is not None:
        return CheckRow(workload, deviation, "unsupported", text=reason)
    try:
        result = verify(workload, entry, device, seed, deviation=deviation)
    except Unsupported as error:
        return CheckRow(workload, deviation, "unsupported", text=str(error))
    except Exception as error:  # a user's kernel may raise anything; the report names it
        return CheckRow(workload, deviation, "crashed", text=f"{type(error).__name__}: {error}")
    status = "ok" if result.passed else "wrong"
    return CheckRow(workload, deviation, status, result.error, result.tolerance, result.problem)
