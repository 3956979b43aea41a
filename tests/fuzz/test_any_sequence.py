"""Any sequence of calls: what was kept from the earlier ones never shows in a later one.

One machine calls in PyTorch, one in Triton's interpreter with small shapes, whose launches are kept ready.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import blockskip as bs
import numpy as np
import oracle
import torch
from draws import (
    DTYPES,
    FUNCTIONS,
    NAN,
    check,
    exactly,
    examples,
    lay_out,
    layouts,
    leaves,
    mask_of,
    numbers,
    oracle_words,
    score_words,
    trees,
)
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

HEAD_DIM = 8
dtypes = st.sampled_from(list(DTYPES))
seeds = st.integers(0, 9999)


@contextmanager
def default_dtype(dtype: torch.dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def surroundings(name: str):
    """What a call may stand in that must not change its result."""
    match name:
        case "plain":
            return torch.no_grad()
        case "inference":
            return torch.inference_mode()
        case "autocast":
            return torch.autocast("cpu", torch.bfloat16)
    return default_dtype({"default bfloat16": torch.bfloat16, "default float64": torch.float64}[name])


AROUND = ("plain", "plain", "inference", "autocast", "default bfloat16", "default float64")


class Calls(RuleBasedStateMachine):
    """A cache of two heads that fills, and calls on it; masks whose data change; a layer whose bias does."""

    impls: tuple[str, ...]
    slots, longest, outputs, far = 40, 30, 9, False

    def __init__(self):
        super().__init__()
        self.table = torch.zeros(self.longest, self.slots, dtype=torch.bool)
        self.data = torch.zeros(self.longest, self.slots, dtype=torch.bool)
        self.masks = [(("causal",), bs.causal())]

    @initialize(ring=st.booleans(), dtype=dtypes, seed=seeds)
    def a_cache(self, ring, dtype, seed):
        """Ring or not, without a key."""
        self.ring, self.dtype, self.seed, self.length = ring, dtype, seed, 0
        self.k, self.v = (torch.full((1, 2, self.slots, HEAD_DIM), NAN, dtype=DTYPES[dtype]) for _ in "kv")
        self.grow(5)

    @rule(n=st.integers(1, 13))
    def grow(self, n):
        """Tokens come; beyond its slots a ring's last ones stay, and another cache takes no more."""
        if not self.ring:
            n = min(n, self.slots - self.length)
        for position in range(self.length, self.length + n):
            self.seed += 1
            for t in (self.k, self.v):
                t[:, :, position % self.slots] = numbers((1, 2, HEAD_DIM), "normal", self.seed + t.numel(), t.dtype)
        self.length += n

    @rule(layout=layouts.filter(lambda name: name not in ("heads", "batches", "positions")))
    def move(self, layout):
        """The same cache in other memory, with other strides."""
        self.k, self.v = lay_out(self.k, layout), lay_out(self.v, layout)

    @rule(tree=trees(leaves, 3))
    def another_mask(self, tree):
        self.masks.append((tree, mask_of(tree)))

    @rule(which=st.sampled_from(FUNCTIONS))
    def another_function(self, which):
        self.masks.append((("mod", which), bs.mask_mod(which)))

    @rule(seed=seeds, share=st.sampled_from([0.1, 0.5, 0.9]))
    def data_change(self, seed, share):
        """A function that looks at a tensor is a new mask once that has changed; the old one is not used again."""
        generator = torch.Generator().manual_seed(seed)
        self.data.copy_(torch.rand(self.data.shape, generator=generator) < share)
        table = self.data.numpy().copy()
        self.masks = [one for one in self.masks if one[0][0] != "mod" or one[0][1] in FUNCTIONS]
        self.masks.append((("mod", lambda b, h, q, k: table[q, k]), bs.mask_mod(self.looks_at)))

    def looks_at(self, b, h, q, k):
        return self.data[q, k]

    @rule(seed=seeds, share=st.sampled_from([0.1, 0.5, 0.9]))
    def fill_a_dense_mask(self, seed, share):
        """The tensor of a mask, made once, is filled in place: it and no other mask changes."""
        drawn = torch.rand(self.table.shape, generator=torch.Generator().manual_seed(seed)) < share
        for tree, mask in self.masks:
            if tree[0] == "dense":
                tree[1][:] = drawn.numpy()
                mask.tensor.copy_(drawn)
                break
        self.masks.append((("dense", drawn.numpy().copy()), bs.dense(drawn)))

    @precondition(lambda self: self.length)
    @rule(data=st.data(), q_len=st.integers(1, 16), around=st.sampled_from(AROUND), seed=seeds)
    def decode(self, data, q_len, around, seed):
        impl, most = data.draw(st.sampled_from(self.impls)), self.slots - q_len + 1
        window = data.draw((st.none() if self.length <= self.slots else st.nothing()) | st.integers(1, most))
        tree = ("causal",) if window is None else ("window", window)
        q, words = self.queries(q_len, seed), self.words(data)
        with surroundings(around):
            found = bs.decode(q, self.k, self.v, window=window, impl=impl, return_lse=True, **words)
        self.check(q, tree, found, words)

    @precondition(lambda self: self.length)
    @rule(data=st.data(), around=st.sampled_from(AROUND), seed=seeds)
    def attend(self, data, around, seed):
        tree, mask = self.drawn_mask(data)
        q_len = self.longest if uses_rows(tree) else data.draw(st.integers(1, self.longest))
        q = self.queries(q_len, seed)
        impl, words = data.draw(st.sampled_from(self.impls)), self.words(data, tensor=not self.ring)
        if self.is_overwritten():
            return
        with surroundings(around):
            found = bs.attention(q, self.k, self.v, mask, impl=impl, return_lse=True, **words, **self.more(data))
        self.check(q, tree, found, words)

    @rule(data=st.data(), rows=st.sampled_from([1, 2, 8, 9, 17]), bits=st.sampled_from([4, 8]), seed=seeds,
          around=st.sampled_from(AROUND))  # fmt: skip
    def multiply(self, data, rows, bits, seed, around):
        impl, dtype = data.draw(st.sampled_from(self.impls)), DTYPES[self.dtype]
        w = bs.quantize(numbers((self.outputs, 64), "normal", seed % 3, dtype), bits)
        x = lay_out(numbers((rows, 64), "normal", seed, dtype), data.draw(layouts))
        bias = numbers((self.outputs,), "normal", seed + 1, dtype) if data.draw(st.booleans()) else None
        with surroundings(around):
            out = bs.linear(x, w, bias, impl=impl)
        values, terms = oracle.weight(w.data.numpy(), bits, exactly(w.scale), exactly(w.zero))
        want = oracle.linear(exactly(x), values, terms, None if bias is None else exactly(bias), self.dtype)
        check(out, want.out, want.bound, "out")

    def drawn_mask(self, data):
        return self.masks[data.draw(st.integers(0, len(self.masks) - 1))]

    def more(self, data) -> dict:
        return {}

    def queries(self, q_len, seed):
        return numbers((1, 4, q_len, HEAD_DIM), "normal", seed, DTYPES[self.dtype])

    def words(self, data, tensor=True) -> dict:
        """kv_len as an int, or where a mask allows it in any cache as a tensor."""
        as_tensor = tensor and not self.ring and data.draw(st.booleans())
        kv_len = torch.tensor(self.length, dtype=torch.int32) if as_tensor else self.length
        return {"kv_len": kv_len, "ring": self.ring, **data.draw(score_words(4, DTYPES[self.dtype]))}

    def is_overwritten(self) -> bool:
        """Whether a ring has lost keys, which most masks here see: `test_any_attention` has those that do not."""
        return self.ring and self.length > self.slots

    def check(self, q, tree, found, words):
        held = oracle.ring_positions(self.length, self.slots) if self.ring else np.arange(self.slots)
        real = (held >= 0) & (held < self.length)
        keys = np.where(real, held, 0)
        keep = oracle.kept(tree, 1, 4, q.shape[2], keys, [self.length - q.shape[2]]) & real
        tensors = map(exactly, (q, self.k, self.v))
        options = oracle_words(words)
        want = oracle.attention(*tensors, keep, HEAD_DIM**-0.5, self.dtype, far=self.far, **options)
        assert found[0].dtype == q.dtype and found[1].dtype == torch.float32
        check(found[0], want.out, want.bound, "out")
        check(found[1], want.lse, want.lse_bound, "lse")


def uses_rows(tree) -> bool:
    """Whether a tensor inside the mask fixes the number of queries."""
    return tree[0] == "dense" or (tree[0] == "mod" and tree[1] not in FUNCTIONS)


class PytorchCalls(Calls):
    impls = ("tiled", "auto", "reference")

    @precondition(lambda self: self.length)
    @rule(data=st.data(), seed=seeds)
    def threads(self, data, seed):
        """Two masks at once, by turns."""
        if self.is_overwritten():
            return
        chosen = [self.drawn_mask(data) for _ in "ab"]
        q = self.queries(self.longest, seed)
        impl, words = data.draw(st.sampled_from(self.impls)), self.words(data, tensor=False)

        def call(mask):
            with torch.no_grad():
                return bs.attention(q, self.k, self.v, mask, impl=impl, return_lse=True, **words)

        with ThreadPoolExecutor(2) as pool:
            for (tree, _), found in zip(chosen * 2, pool.map(call, [mask for _, mask in chosen * 2]), strict=True):
                self.check(q, tree, found, words)


class KernelCalls(Calls):
    """Without threads, which Triton's interpreter does not stand."""

    impls = ("triton",)
    slots, longest, outputs, far = 20, 12, 3, True

    def more(self, data) -> dict:
        return data.draw(st.sampled_from([{}, {"skip": "mask"}, {"skip": "none", "config": (16, 16, 1, 1)}]))


def test_calls_in_pytorch():
    run_state_machine_as_test(PytorchCalls, settings=examples(40, stateful_step_count=25))


def test_calls_of_the_kernels():
    run_state_machine_as_test(KernelCalls, settings=examples(8, stateful_step_count=10))
