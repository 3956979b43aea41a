"""Greedy decoding, a token at a time or with drafts that a step verifies (speculative decoding).

Drafts are taken from a known continuation, and each of their tokens is replaced by a wrong one with some probability,
so that the acceptance is a parameter. A step accepts drafts by its logits, as with any drafter.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from blockskip.arguments import integer, number
from blockskip.attention.decode.plan import LONGEST_QUERY
from torch import Tensor

from skiplab.model.decoder import Decoder


@dataclass(frozen=True)
class Generated:
    """tokens: int64 [B, new]. steps: of the model behind the prompt; drafted, accepted: draft tokens of all rows."""

    tokens: Tensor
    steps: int
    drafted: int = 0
    accepted: int = 0

    @property
    def acceptance(self) -> float:
        """The share of drafted tokens that were accepted; nan where none were drafted."""
        return self.accepted / self.drafted if self.drafted else float("nan")


@dataclass(frozen=True)
class Drafts:
    """Drafts of `count` tokens a step. continuation: int64 [B, new], the model's tokens, as `generate` returned them.

    acceptance: the probability that a draft token is the continuation's; a wrong one is the next in the vocabulary.
    """

    continuation: Tensor
    count: int
    acceptance: float = 1.0
    seed: int = 0

    def __post_init__(self):
        integer("count", self.count, 1, LONGEST_QUERY - 1)
        integer("seed", self.seed)
        if not 0 <= number("acceptance", self.acceptance) <= 1:
            raise ValueError(f"acceptance: given {self.acceptance}; must be from 0 to 1")


def generate(
    model: Decoder,
    ids: Tensor,
    new: int,
    *,
    lengths: Sequence[int] | None = None,
    chunk: int | None = None,
    drafts: Drafts | None = None,
) -> Generated:
    """The `new` tokens that follow each prompt, each the likeliest. ids, lengths, chunk: see `Decoder.prefill`.

    With drafts a step reads the last token and its draft, and keeps what the logits confirm. The tokens are the same,
    but where two logits are so close that a step of several tokens rounds them the other way.
    """
    integer("new", new, least=1)
    if drafts is not None and drafts.continuation.shape[0] != ids.shape[0]:
        raise ValueError(f"drafts: given {drafts.continuation.shape[0]} rows; there are {ids.shape[0]} prompts")
    token = model.prefill(ids, lengths=lengths, chunk=chunk).argmax(-1)  # [B, 1]
    if drafts is not None:
        return _verified(model, token, new, drafts)
    tokens = [token]
    for _ in range(new - 1):
        tokens.append(model.step(tokens[-1]).argmax(-1))
    return Generated(torch.cat(tokens, 1), new - 1)


def _verified(model: Decoder, token: Tensor, new: int, drafts: Drafts) -> Generated:
    """`generate` with drafts; rows that have enough tokens are rewound by all that a step reads."""
    said = [[first] for first in token[:, 0].tolist()]
    known, chance = drafts.continuation.tolist(), random.Random(drafts.seed)
    steps = drafted = accepted = 0
    while min(map(len, said)) < new:
        guesses = [
            _draft(drafts, will, len(tokens), chance, model.spec.vocabulary)
            for will, tokens in zip(known, said, strict=True)
        ]
        given = [[tokens[-1], *guess] for tokens, guess in zip(said, guesses, strict=True)]
        read = torch.tensor(given, dtype=torch.int64, device="cpu").to(model.device)
        answers = model.step(read).argmax(-1).tolist()
        steps, back = steps + 1, []
        for tokens, guess, answer in zip(said, guesses, answers, strict=True):
            if len(tokens) >= new:
                back.append(1 + drafts.count)
                continue
            right = _agreed(guess, answer)
            tokens += answer[: right + 1]
            drafted, accepted = drafted + drafts.count, accepted + right
            back.append(drafts.count - right)
        model.rewind(back)
    kept = torch.tensor([tokens[:new] for tokens in said], dtype=torch.int64, device="cpu").to(model.device)
    return Generated(kept, steps, drafted, accepted)


def _draft(drafts: Drafts, known: list[int], said: int, chance: random.Random, vocabulary: int) -> list[int]:
    """A draft that follows a row's first `said` tokens; past the continuation's end it starts over."""
    right = [known[(said + i) % len(known)] for i in range(drafts.count)]
    return [t if chance.random() < drafts.acceptance else (t + 1) % vocabulary for t in right]


def _agreed(guess: list[int], answer: list[int]) -> int:
    """The number of leading draft tokens that the model confirms."""
    return next((i for i, (a, b) in enumerate(zip(guess, answer, strict=False)) if a != b), len(guess))
