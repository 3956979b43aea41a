"""Attention in PyTorch over pieces of the keys, and their merge into one result.

A piece's weight in the merge is the sum of its exponentials, held as a row's maximum and the sum below that maximum. On
a CPU a piece is one call of torch's flash kernel, which returns the log-sum-exp alone: near 10,000 float32 rounds that
by 5e-4, and the weights with it. Where such an error would show, maximum and sum are computed again from the scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

PLAIN_SCORES = 1 << 24  # the most scores that one step of `_plain` holds: 64 MiB
PLAIN_KEYS = 4096  # the most keys of one step of `_plain`, and the most float8 ones that are converted at once
SCORE_KEYS = 512  # keys of a step of `_sums`: its scores and a float32 copy of its keys fit a core's cache
COARSE_FROM = {torch.float32: 16.0, torch.float16: 512.0, torch.bfloat16: 512.0}
"""By the result's dtype: from this size on the log-sum-exp is too coarse. Its rounding, 5e-7 at 16 and 3e-5 at 512, is
the relative error of a piece's weight."""
FAINT = -24.0  # a piece whose log-sum-exp lies this far below the largest changes no digit of the result


@dataclass(frozen=True, eq=False)
class Bias:
    """A mask as what is added to scores: float32 [rows, keys], 0 where a key is kept and -inf elsewhere.

    blind: bool [rows], the rows that keep no key; None if every row keeps some.
    """

    values: torch.Tensor
    blind: torch.Tensor | None

    @classmethod
    def of(cls, kept: torch.Tensor) -> Bias:
        """The bias of bool [rows, keys]."""
        blind = ~kept.any(1)
        values = torch.zeros(kept.shape, dtype=torch.float32, device=kept.device).masked_fill_(~kept, float("-inf"))
        return cls(values, blind if blind.any() else None)


class ScoreMap(NamedTuple):
    """How products q k become scores: times scale, and then, where there is a softcap, softcap * tanh(. / softcap)."""

    scale: float
    softcap: float | None


class Piece(NamedTuple):
    """Some keys for some rows: q [A, B, rows, D], k and v [A, B, keys, D] with any strides, as q or float8."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    bias: Bias | None


def rows_apart(x: torch.Tensor) -> torch.Tensor:
    """`x`, or a copy, with a dense last dimension and rows that do not overlap, as products need it."""
    return x if x.stride(-1) == 1 and x.stride(-2) >= x.shape[-1] else x.contiguous()


class Part(NamedTuple):
    """A piece's result: out [A, B, rows, D], and row_sum * exp(row_max) [A, B, rows], the sum of its exponentials."""

    out: torch.Tensor
    row_max: torch.Tensor
    row_sum: torch.Tensor


def attend(
    pieces: list[Piece],
    scoring: ScoreMap,
    sinks: torch.Tensor | None,
    dtype: torch.dtype,
    exact: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out [A, B, rows, D], lse [A, B, rows]) over all pieces, whose keys are disjoint; a row that sees none: 0, -inf.

    sinks: logits without a value, of a shape that broadcasts to lse's. dtype: the result's, which decides how exact the
    weights of pieces must be. exact: lse is as exact as float32 allows also for 16-bit inputs, for which the flash
    kernel's is off by 2e-5; that costs a second product of q and k.
    """
    pieces = [part for piece in pieces for part in _short(piece)]
    if pieces[0].q.device.type != "cpu" or scoring.softcap is not None:  # torch's flash kernel has no soft cap
        parts = [_plain(*piece, scoring) for piece in pieces]
        return _merge(_with_sinks(parts, sinks))
    parts = [_flash(*piece, scoring) for piece in pieces]
    merged = _with_sinks(parts, sinks)
    if exact and pieces[0].q.dtype != torch.float32:
        _sharpen(parts, pieces, scoring, range(len(parts[0].row_max)))
    elif len(merged) > 1:
        coarse = _coarse(merged, COARSE_FROM[dtype])
        _sharpen(parts, pieces, scoring, coarse.flatten(1).any(1).nonzero().flatten().tolist())
    return _merge(merged)


def _short(piece: Piece) -> Iterator[Piece]:
    """The piece, cut where its float8 keys and values are too many to be converted at once."""
    q, k, v, bias = piece
    if k.dtype == q.dtype:
        yield piece
        return
    for first in range(0, k.shape[-2], PLAIN_KEYS):
        keys = slice(first, first + PLAIN_KEYS)
        part = None if bias is None else Bias.of(bias.values[:, keys] == 0)
        yield Piece(q, k[..., keys, :], v[..., keys, :], part)


def _with_sinks(parts: list[Part], sinks: torch.Tensor | None) -> list[Part]:
    """The parts, and one of the sinks: a key's whose value is 0."""
    if sinks is None:
        return parts
    row_max = sinks.float().expand_as(parts[0].row_max)
    return [*parts, Part(row_max.new_zeros(1), row_max, torch.ones_like(row_max))]


def _sharpen(parts: list[Part], pieces: list[Piece], scoring: ScoreMap, chosen: Iterable[int]) -> None:
    """Replaces rounded log-sum-exps by maxima and sums from the scores, at chosen indices of the first dimension."""
    for first in chosen:
        for piece, part in zip(pieces, parts, strict=True):
            part.row_max[first], part.row_sum[first] = _sums(piece.q[first], piece.k[first], piece.bias, scoring)


def _flash(q, k, v, bias: Bias | None, scoring: ScoreMap) -> Part:
    """A piece without a soft cap by torch's flash kernel for CPUs; its log-sum-exp is the maximum, its sum 1."""
    k, v = k.to(q.dtype), v.to(q.dtype)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, attn_mask=None if bias is None else bias.values, scale=scoring.scale
    )
    if bias is not None and bias.blind is not None:
        lse = lse.masked_fill(bias.blind, float("-inf"))  # torch says 0 for a row that sees nothing
    return Part(out, lse, torch.ones_like(lse))


def _plain(q, k, v, bias: Bias | None, scoring: ScoreMap) -> Part:
    """A piece by plain products, on any device; a long one in steps, to bound memory."""
    keys = k.shape[-2]
    if keys > PLAIN_KEYS:
        steps = (slice(first, first + PLAIN_KEYS) for first in range(0, keys, PLAIN_KEYS))
        return _join([_plain(q, k[..., s, :], v[..., s, :], _bias_of(bias, s), scoring) for s in steps])
    for dim in (0, 1):
        if q.shape[dim] > 1 and q[..., 0].numel() * keys > PLAIN_SCORES:
            halves = zip(q.chunk(2, dim), k.chunk(2, dim), v.chunk(2, dim), strict=True)
            found = (_plain(*half, bias, scoring) for half in halves)
            return Part(*(torch.cat(x, dim) for x in zip(*found, strict=True)))
    weights, row_max, row_sum = _weights(q, k, bias, scoring)
    return Part((weights @ v.float()) / row_sum.masked_fill(row_sum == 0, 1), row_max.squeeze(-1), row_sum.squeeze(-1))


def _bias_of(bias: Bias | None, keys: slice) -> Bias | None:
    return None if bias is None else Bias(bias.values[:, keys], None)


def _weights(q, k, bias: Bias | None, scoring: ScoreMap) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(exp(score - row_max), row_max, row_sum), float32; row_max is 0 for a row that sees nothing."""
    scale, softcap = scoring
    scores = q.float() @ k.float().mT
    if softcap is None:
        scores.mul_(scale)
    else:
        scores.mul_(scale / softcap).tanh_().mul_(softcap)
    if bias is not None:
        scores += bias.values
    row_max = scores.amax(-1, keepdim=True)
    row_max = row_max.masked_fill(row_max == float("-inf"), 0)
    weights = scores.sub_(row_max).exp_()
    return weights, row_max, weights.sum(-1, keepdim=True)


def _sums(q, k, bias: Bias | None, scoring: ScoreMap) -> tuple[torch.Tensor, torch.Tensor]:
    """(row_max, row_sum) of a piece's rows, from its scores alone."""
    steps = []
    for first in range(0, k.shape[-2], SCORE_KEYS):
        keys = slice(first, first + SCORE_KEYS)
        _, row_max, row_sum = _weights(q, k[..., keys, :], _bias_of(bias, keys), scoring)
        steps.append((row_max.squeeze(-1), row_sum.squeeze(-1)))
    return _sum([row_max for row_max, _ in steps], [row_sum for _, row_sum in steps])[:2]


def _coarse(parts: list[Part], limit: float) -> torch.Tensor:
    """bool [A, B, rows]: where several parts count and their log-sum-exps are too coarse to weigh them by."""
    row_maxes = torch.stack([part.row_max for part in parts])
    row_max = row_maxes.amax(0)
    return (row_max.abs() > limit) & ((row_maxes > row_max + FAINT).sum(0) > 1)


def _sum(
    row_maxes: list[torch.Tensor], row_sums: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """(row_max, row_sum, shares of it): row_sum * exp(row_max) is the sum of row_sums * exp(row_maxes)."""
    empty = [row_sum == 0 for row_sum in row_sums]
    seen = [row_max.masked_fill(none, float("-inf")) for row_max, none in zip(row_maxes, empty, strict=True)]
    row_max = torch.stack(seen).amax(0)
    row_max = row_max.masked_fill(row_max == float("-inf"), 0)
    shares = [row_sum * (own - row_max).exp() for own, row_sum in zip(seen, row_sums, strict=True)]
    return row_max, torch.stack(shares).sum(0), shares


def _join(parts: list[Part]) -> Part:
    """Parts over disjoint keys as one part."""
    if len(parts) == 1:
        return parts[0]
    row_max, row_sum, shares = _sum([part.row_max for part in parts], [part.row_sum for part in parts])
    divisor = row_sum.masked_fill(row_sum == 0, 1)
    out = parts[0].out.float() * (shares[0] / divisor).unsqueeze(-1)
    for part, share in zip(parts[1:], shares[1:], strict=True):
        out += part.out.float() * (share / divisor).unsqueeze(-1)
    return Part(out, row_max, row_sum)


def _merge(parts: list[Part]) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, lse) of parts over disjoint keys."""
    out, row_max, row_sum = _join(parts)
    return out, row_max + row_sum.log()
