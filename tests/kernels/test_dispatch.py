"""The short way to a launch: arguments that Triton would not tell apart are compiled for once."""

from typing import NamedTuple

import pytest
import torch
import triton
from blockskip.dispatch import Dispatcher, Launch, traits


class Pair(NamedTuple):
    tensor: torch.Tensor | None
    sizes: tuple[int, ...]


class Recorded(triton.JITFunction):
    """Takes the place of a kernel f(tensor, number, FIRST, SECOND): says how it was reached."""

    def __init__(self):
        self.compiled, self.launched = [], []
        self.arg_names = ["tensor", "number", "FIRST", "SECOND"]

    def __getitem__(self, grid):
        def compile_and_launch(*arguments, **named):
            self.compiled.append((grid, arguments, named))
            return self.Compiled(self.launched)

        return compile_and_launch

    class Compiled:
        def __init__(self, launched):
            self.launched = launched

        def __getitem__(self, grid):
            return lambda *arguments: self.launched.append((grid, arguments))


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return Recorded()


CONSTANTS = {"SECOND": 2, "FIRST": 1}
TENSOR = torch.zeros(64)


def test_the_first_launch_compiles_and_the_next_of_its_kind_hands_all_arguments_over_in_order(kernel):
    dispatcher = Dispatcher()
    dispatcher.launch(kernel, Launch((TENSOR, 32), CONSTANTS, (5,)), num_warps=4)
    assert kernel.compiled == [((5,), (TENSOR, 32), CONSTANTS | {"num_warps": 4})] and kernel.launched == []
    dispatcher.launch(kernel, Launch((TENSOR, 48), CONSTANTS, (7, 2)), num_warps=4)
    ((grid, arguments),) = kernel.launched
    assert len(kernel.compiled) == 1 and grid[:3] == (7, 2, 1) and arguments[1:] == (48, 1, 2)
    assert arguments[0] is TENSOR


@pytest.mark.parametrize(
    "changed",
    [
        {"arguments": (TENSOR, 33)},
        {"arguments": (TENSOR, 1)},
        {"arguments": (TENSOR, 1 << 31)},
        {"arguments": (TENSOR[1:], 32)},
        {"arguments": (TENSOR.half(), 32)},
        {"arguments": (None, 32)},
        {"constants": {"SECOND": 2, "FIRST": 3}},
        {"num_warps": 8},
    ],
)
def test_what_triton_specialises_for_compiles_anew(kernel, changed):
    dispatcher = Dispatcher()
    dispatcher.launch(kernel, Launch((TENSOR, 32), CONSTANTS, (5,)), num_warps=4)
    launch = Launch(changed.get("arguments", (TENSOR, 32)), changed.get("constants", CONSTANTS), (5,))
    dispatcher.launch(kernel, launch, num_warps=changed.get("num_warps", 4))
    assert len(kernel.compiled) == 2


def test_another_device_compiles_anew(kernel, monkeypatch):
    dispatcher = Dispatcher()
    for device in (0, 1):
        monkeypatch.setattr(torch.cuda, "current_device", lambda device=device: device)
        dispatcher.launch(kernel, Launch((TENSOR, 32), CONSTANTS, (5,)))
    assert len(kernel.compiled) == 2


def test_tuples_are_looked_into():
    assert traits(Pair(TENSOR, (16, 32))) == traits(Pair(TENSOR, (48, 64)))
    different = [Pair(TENSOR, (16, 33)), Pair(TENSOR, (1, 32)), Pair(TENSOR, (16, 1 << 40)), Pair(None, (16, 32))]
    assert len({traits(pair) for pair in [Pair(TENSOR, (16, 32)), *different]}) == 5


def test_what_cannot_be_an_argument_is_refused():
    with pytest.raises(TypeError, match="arguments: given str"):
        traits("16")
    with pytest.raises(TypeError, match="plain tuple of Tensor; it must hold ints alone"):
        traits((TENSOR,))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="launches need CUDA")
def test_both_ways_give_the_same_bits(device):
    import blockskip as bs

    q, k, v = (torch.randn(1, 4, 96, 64, device=device, dtype=torch.bfloat16) for _ in range(3))
    first = bs.attention(q, k, v, bs.sliding_window(40))
    for length in (90, 80, 64, 96):
        want = bs.attention(q, k[:, :, :length], v[:, :, :length], bs.sliding_window(40))
        assert torch.equal(bs.attention(q, k, v, bs.sliding_window(40), kv_len=length), want)
    assert torch.equal(bs.attention(q, k, v, bs.sliding_window(40)), first)
