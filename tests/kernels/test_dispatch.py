"""The short way to a launch: arguments that Triton would not tell apart are compiled for once."""

import weakref
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import triton
from blockskip.launching import dispatch
from blockskip.launching.dispatch import Dispatcher, Launch, TmaTensor, traits
from blockskip.launching.memory import allocation
from blockskip.launching.ready import Ready, Step


class Pair(NamedTuple):
    tensor: torch.Tensor | None
    sizes: tuple[int, ...]


class Recorded(triton.JITFunction):
    """Takes the place of a kernel f(tensor, number, FIRST, SECOND): says how it was reached."""

    def __init__(self):
        self.compiled, self.launched = [], []
        self.arg_names = ["tensor", "number", "FIRST", "SECOND"]

    def warmup(self, *arguments, grid, **named):
        self.compiled.append((grid, arguments, named))
        return self.Compiled(self)

    class Compiled:
        metadata, function, packed_metadata = SimpleNamespace(global_scratch_size=0), 7, (4, 1, 0)

        def __init__(self, kernel):
            self.kernel, self.launched = kernel, kernel.launched  # alive, as a real one's: a kernel is known by its id

        def __getitem__(self, grid):
            return lambda *arguments, stream=None: self.launched.append((grid, arguments))

        def run(self, x, y, z, stream, function, packed, metadata, first, last, *arguments):
            assert (function, packed, metadata, first, last) == (7, (4, 1, 0), None, None, None)
            self.launched.append(((x, y, z), arguments))


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return Recorded()


CONSTANTS = {"SECOND": 2, "FIRST": 1}
TENSOR = torch.zeros(64)


def test_the_first_launch_compiles_and_each_hands_all_arguments_over_in_order(kernel):
    dispatcher = Dispatcher()
    dispatcher.launch(kernel, Launch((TENSOR, 32), CONSTANTS, (5,)), num_warps=4)
    assert kernel.compiled == [((5,), (TENSOR, 32), CONSTANTS | {"num_warps": 4})]
    dispatcher.launch(kernel, Launch((TENSOR, 48), CONSTANTS, (7, 2)), num_warps=4)
    assert len(kernel.compiled) == 1
    assert kernel.launched == [((5, 1, 1), (TENSOR, 32, 1, 2)), ((7, 2, 1), (TENSOR, 48, 1, 2))]


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


class Table(NamedTuple):
    tensor: torch.Tensor


def make_ready(kernel, x, *arguments, table=None):
    """f(x) -> [three numbers, None], by a kernel that is given x, what was made for it, and `arguments`."""

    def steps(inputs, made):
        given = Pair(inputs[0], (16,)), made[0], *arguments, *([] if table is None else [table])
        yield Step(kernel, Launch(given, CONSTANTS, (3,)), {"num_warps": 2})

    return Ready([x], [((3,), torch.int32), None], steps, tables=(Table,))


def test_what_is_ready_launches_with_other_tensors_in_the_same_places(kernel):
    kernel.arg_names = ["x", "made", "number", "table", "FIRST", "SECOND"]
    table, ones = Table(TENSOR), torch.ones(64)
    ready = make_ready(kernel, TENSOR, 7, table=table)
    assert len(kernel.compiled) == 1 and not kernel.launched
    (first, nothing), (second, _) = ready(TENSOR), ready(ones)
    assert nothing is None and first.shape == (3,) and first.dtype == torch.int32 and first is not second
    for (grid, arguments), x, made in zip(kernel.launched, (TENSOR, ones), (first, second), strict=True):
        assert grid == (3, 1, 1) and arguments == ((x.data_ptr(), (16,)), made.data_ptr(), 7, table, 1, 2)


def test_a_number_is_given_afresh_and_another_of_the_same_value_is_not(kernel):
    kernel.arg_names = ["pair", "made", "FIRST", "SECOND"]

    class Numbers(NamedTuple):
        grows: int
        stays: int

    def steps(inputs, made):
        yield Step(kernel, Launch((Numbers(inputs[1], 48), inputs[1], made[0]), CONSTANTS, (3,)), {})

    ready = Ready([TENSOR, 48], [((3,), torch.int32)], steps)
    (_, (numbers, number, _), _), *_ = kernel.compiled
    assert numbers == (48, 48) and {type(x) for x in (*numbers, number)} == {int}  # as Triton wants them
    ready(TENSOR, 64)
    assert [*kernel.launched[0][1][0], kernel.launched[0][1][1]] == [64, 48, 64]


def test_a_number_that_would_go_stale_is_refused(kernel):
    def steps(inputs, made):
        yield Step(kernel, Launch((Pair(None, (1,)), Pair(Pair(inputs[1], ()), ())), CONSTANTS, (3,)), {})

    with pytest.raises(ValueError, match="given 48 inside another argument"):
        Ready([TENSOR, 48], [], steps)


def test_hooks_are_called_where_there_are_some(kernel, monkeypatch):
    ready = make_ready(kernel, TENSOR)
    ready(TENSOR)
    monkeypatch.setattr(Recorded.Compiled, "run", None)  # the way past them is not taken
    for name in ("launch_enter_hook", "launch_exit_hook"):
        with monkeypatch.context() as changed:
            changed.setattr(triton.knobs.runtime, name, lambda metadata: None)
            ready(TENSOR)
        hooks = getattr(triton.knobs.runtime, name)
        hooks.add(print)
        ready(TENSOR)
        hooks.remove(print)
    assert len(kernel.launched) == 5


@pytest.mark.parametrize("argument", [torch.zeros(3), Pair(torch.zeros(3), (1,)), "word", Pair(None, [TENSOR])])
def test_a_tensor_that_would_go_stale_is_refused(kernel, argument):
    with pytest.raises(ValueError, match="neither an input of the call nor allocated for it"):
        make_ready(kernel, TENSOR, argument)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="launches need CUDA")
def test_both_ways_give_the_same_bits(device):
    import blockskip as bs

    q, k, v = (torch.randn(1, 4, 96, 64, device=device, dtype=torch.bfloat16) for _ in range(3))
    first = bs.attention(q, k, v, bs.sliding_window(40))
    for length in (90, 80, 64, 96):
        want = bs.attention(q, k[:, :, :length], v[:, :, :length], bs.sliding_window(40))
        assert torch.equal(bs.attention(q, k, v, bs.sliding_window(40), kv_len=length), want)
    assert torch.equal(bs.attention(q, k, v, bs.sliding_window(40)), first)


def test_a_kernel_that_makes_descriptors_is_lent_memory_and_the_callers_allocator_stays(kernel, monkeypatch):
    from triton.runtime import _allocation

    asked = []
    monkeypatch.setattr(torch, "empty", lambda *shape, **named: asked.append((shape, named)))
    monkeypatch.setattr(
        Recorded.Compiled, "__getitem__", lambda self, grid: lambda *_, **__: _allocation._allocator.get()(512, 128, 0)
    )
    monkeypatch.setattr(Recorded.Compiled, "metadata", SimpleNamespace(global_scratch_size=256))
    before = _allocation._allocator.get()
    Dispatcher().launch(kernel, Launch((TENSOR, 32), CONSTANTS, (5,)))
    assert asked == [((512,), {"dtype": torch.int8, "device": "cuda"})]
    assert _allocation._allocator.get() is before


@pytest.fixture
def tma(kernel, monkeypatch):
    """The kernel as one whose first argument comes by a descriptor, launched by Triton's own launcher; what that hands
    to the C function below it, and the descriptors that were encoded."""
    from triton.backends.nvidia import driver

    handed, encoded = [], []

    def encode(descriptor, metadata):
        encoded.append(descriptor.base.data_ptr())
        return [("map", descriptor.base.data_ptr(), metadata), *descriptor.shape, *descriptor.strides]

    monkeypatch.setattr(driver, "make_tensordesc_arg", encode)
    launcher = object.__new__(driver.CudaLauncher)
    signature = {"x": "tensordesc<bf16[8, 64]>", "made": "*i32", "number": "i32"}
    launcher.launch = driver.wrap_handle_tensordesc(lambda *given: handed.append(given[-1]), signature, ["layout"])
    if triton.__version__ < "3.7":  # which hands arguments over one by one
        launcher.launch = driver.wrap_handle_tensordesc(lambda *given: handed.append(given[13:]), signature, ["layout"])
    for name in ("global_scratch_size", "global_scratch_align", "profile_scratch_size", "profile_scratch_align"):
        setattr(launcher, name, 0)
    launcher.launch_cooperative_grid = launcher.launch_pdl = False
    launcher.num_ctas, launcher.arg_annotations, launcher.kernel_signature = 1, None, None

    class Compiled(Recorded.Compiled):
        _run = launcher
        run = property(lambda self: self._run)

    kernel.Compiled, kernel.arg_names = Compiled, ["x", "made", "number", "FIRST", "SECOND"]
    return SimpleNamespace(kernel=kernel, handed=handed, encoded=encoded)


def ready_by_descriptor(kernel, x):
    def steps(inputs, made):
        yield Step(kernel, Launch((TmaTensor.lines(inputs[0], 64, (8, 64), 128), made[0], 7), CONSTANTS, (3,)), {})

    return Ready([x], [((3,), torch.int32)], steps)


def test_a_descriptor_is_encoded_once_for_each_address(tma):
    one, other = torch.zeros((8, 64), dtype=torch.bfloat16), torch.ones((8, 64), dtype=torch.bfloat16)
    ready = ready_by_descriptor(tma.kernel, one)
    tma.encoded.clear()
    made = [ready(x)[0] for x in (one, other, one, one)]
    assert tma.encoded == [one.data_ptr(), other.data_ptr()]
    for given, x, out in zip(tma.handed, (one, other, one, one), made, strict=True):
        assert list(given) == [("map", x.data_ptr(), "layout"), 8, 64, 64, 1, out.data_ptr(), 7, 1, 2]
    left = weakref.ref(other)
    del other, x
    assert left() is None


def test_what_is_handed_over_is_what_triton_hands_over(tma):
    """But for tensors, of which Triton's C function takes the address itself."""
    x = torch.zeros((8, 64), dtype=torch.bfloat16)
    (out,) = ready_by_descriptor(tma.kernel, x)(x)
    described = TmaTensor.lines(x, 64, (8, 64), 128)
    found = Dispatcher().find(tma.kernel, Launch((described, out, 7), CONSTANTS, (3,)))
    found.run(described.descriptor(), out, 7, *found.last, stream=0)
    short, plain = tma.handed
    assert list(short) == [one.data_ptr() if isinstance(one, torch.Tensor) else one for one in plain]


def test_the_c_function_below_tritons_launcher_is_given_what_that_gives_it(tma, monkeypatch):
    """The launcher itself is asked once, when the launch is prepared."""
    launcher = tma.kernel.Compiled._run
    launcher.arg_annotations, launcher.kernel_signature, launcher.launch_pdl = ["annotation"], b"signature", True
    given = []
    launcher.launch = lambda *all_of_it: given.append(all_of_it)
    monkeypatch.setattr(dispatch, "encoding", lambda compiled: (compiled, {}))
    tma.kernel.arg_names = ["x", "number", "FIRST", "SECOND"]
    found = Dispatcher().find(tma.kernel, Launch((TENSOR, 7), CONSTANTS, (3, 2)))
    found.run(5, 7, *found.last, stream=11)
    with monkeypatch.context() as changed:
        changed.setattr(type(launcher), "__call__", None)
        found.by_address((5, 7, *found.last), 11)
    assert len(given) == 2 and given[0] == given[1] and given[0][:4] == (3, 2, 1, 11)


@pytest.mark.parametrize("name", ["global_scratch_size", "profile_scratch_size"])
def test_a_launcher_that_asks_for_memory_is_asked_each_time(tma, name, monkeypatch):
    from triton.runtime import _allocation

    launcher, asked = tma.kernel.Compiled._run, []
    setattr(launcher, name, 64)
    launcher.launch = lambda *given: None
    for allocator in ("_allocator", "_profile_allocator"):
        held = SimpleNamespace(get=lambda: lambda size, alignment, stream: asked.append((size, stream)))
        monkeypatch.setattr(_allocation, allocator, held)
    monkeypatch.setattr(dispatch, "encoding", lambda compiled: (compiled, {}))
    tma.kernel.arg_names = ["x", "number", "FIRST", "SECOND"]
    found = Dispatcher().find(tma.kernel, Launch((TENSOR, 7), CONSTANTS, (3,)))
    found.by_address((5, 7, *found.last), 11)
    assert asked == [(192, 11)]


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 1, 7), (4, 0, 3), (), (6,)])
@pytest.mark.parametrize("inference", [False, True])
def test_new_memory_is_as_that_of_torch_empty(shape, inference):
    with torch.inference_mode(inference):
        made = allocation(shape, torch.bfloat16, torch.device("cpu"))()
        other = torch.empty(shape, dtype=torch.bfloat16)
    for what in ("dtype", "device", "shape", "requires_grad"):
        assert getattr(made, what) == getattr(other, what)
    assert made.stride() == other.stride() and made.is_inference() == inference


def test_new_memory_is_filled_where_torch_is_asked_to_fill_it():
    torch.use_deterministic_algorithms(True)
    try:
        assert allocation((3, 2), torch.float32, torch.device("cpu"))().isnan().all()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_launcher_that_is_made_otherwise_gets_tensors_and_descriptors(kernel):
    kernel.arg_names = ["x", "made", "number", "FIRST", "SECOND"]
    x = torch.zeros((8, 64), dtype=torch.bfloat16)
    (out,) = ready_by_descriptor(kernel, x)(x)
    (descriptor, made, *_) = kernel.launched[0][1]
    assert descriptor.base is x and made is out


def test_what_launches_keep_to_themselves_shares_an_allocation(kernel):
    kernel.arg_names = ["x", "out", "first", "second", "FIRST", "SECOND"]

    def steps(inputs, made):
        assert made[0].shape == (6,)
        yield Step(kernel, Launch((inputs[0], *made[:2], made[3]), CONSTANTS, (3,)), {})

    memory = [((6,), torch.int32), ((3,), torch.float64), None, ((2, 5), torch.int8)]
    ready = Ready([TENSOR], memory, steps, results=[(2, 3)])
    for (out,) in (ready(TENSOR), ready(TENSOR)):
        assert out.shape == (2, 3)
    (_, given), (_, again) = kernel.launched
    assert given[0] == TENSOR.data_ptr() and given[3] - given[2] == 256 and given[1] != again[1]
