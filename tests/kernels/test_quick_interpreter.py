"""The interpreter's short cuts: the language is patched once a launch, and its results are what they were."""

import blockskip as bs
import pytest
import torch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="nothing is interpreted where there is a GPU")


def test_a_launch_patches_the_language_once_and_puts_it_back(monkeypatch):
    import triton.language as tl
    from triton.runtime import interpreter

    patched, patch = [], interpreter._patch_builtin
    monkeypatch.setattr(interpreter, "_patch_builtin", lambda of, *more: patched.append(of) or patch(of, *more))
    q, k, v = (torch.randn(1, 2, 70, 16) for _ in range(3))
    outs = [bs.attention(q, k, v, bs.causal(), impl="triton", config=(16, 16, 1, 1)) for _ in range(2)]
    assert torch.equal(*outs)
    assert 2 <= patched.count(tl) <= 4  # of two launches; Triton's own functions know it by another name
    assert tl.core.is_builtin(tl.load)


def test_what_is_kept_of_types_and_shapes_is_what_triton_makes_of_them():
    import triton.language as tl

    for _ in range(2):  # made, and looked up
        for element in (tl.float32, tl.pointer_type(tl.int8)):
            block = tl.block_type(element, [tl.constexpr(4), 8])
            assert (block.numel, (*block.shape,)) == (32, (4, 8)) and str(element) in block.name
            assert block.element_ty is element and block == tl.block_type(element, (4, 8)) != tl.block_type(
                element, [4]
            )
            assert tl.block_type(element, (4, 8)).shape is block.shape
            of_block, alone = tl.tensor("handle", block), tl.tensor("handle", element)
            assert (of_block.handle, of_block.type, of_block.dtype) == ("handle", block, element)
            assert [size.value for size in of_block.shape] == [4, 8] and of_block.numel.value == 32
            assert len(alone.shape) == 0 and alone.numel.value == 1 and alone.type is element
    for wrong in ([3], []):
        with pytest.raises((ValueError, TypeError)):
            tl.block_type(tl.float32, wrong)


def test_no_sum_is_computed_twice_for_a_check_that_is_not_done():
    from triton.runtime.interpreter import interpreter_builder

    assert not interpreter_builder.options.debug and not interpreter_builder.options.sanitize_overflow


def test_sizes_of_numbers_are_those_of_their_types():
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import _get_np_dtype

    expected = (
        (tl.int1, bool),
        (tl.bfloat16, np.uint16),
        (tl.float32, np.float32),
        (tl.pointer_type(tl.int8), np.uint64),
    )
    for element, dtype in expected:
        for _ in range(2):
            assert _get_np_dtype(element) == _get_np_dtype(tl.block_type(element, [4])) == np.dtype(dtype)


def test_operands_become_what_triton_makes_of_them():
    """For pairs of tensors and numbers of any types and shapes, first and again; what is refused is refused again."""
    import itertools

    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle, _get_np_dtype, interpreter_builder, interpreter_semantic

    def tensor(element, shape):
        data = np.arange(1, 1 + np.prod(shape, dtype=int)).reshape(shape or (1,)).astype(_get_np_dtype(element))
        return tl.tensor(TensorHandle(data, element), tl.block_type(element, list(shape)) if shape else element)

    def said(check, *operands):
        try:
            with np.errstate(over="ignore"):
                made = check(interpreter_semantic, *operands)
        except Exception as error:
            return str(error)
        return [(one.type.name, one.handle.dtype.name, one.handle.data.dtype, broadcast(one).tolist()) for one in made]

    def broadcast(one):
        """Its numbers in its type's shape, as numpy makes it with the other's in an operation."""
        return np.broadcast_to(one.handle.data, [*map(int, one.shape)] or one.handle.data.shape)

    quick = type(interpreter_semantic).binary_op_type_checking_impl
    elements = (tl.int1, tl.int32, tl.uint8, tl.int64, tl.float16, tl.float32, tl.pointer_type(tl.float16))
    tensors = [tensor(element, shape) for element in elements for shape in ((), (1,), (4,), (4, 1), (2, 4))]
    numbers = (0, 1, True, 1.0, -0.0, -3, 2**31, 300, 0.5, float("nan"), float("inf"))
    pairs = [*itertools.product(tensors, tensors), *itertools.product(tensors, numbers), (1, 2.0)]
    assert interpreter_builder.options.debug is False
    for lhs, rhs in pairs + [pair[::-1] for pair in pairs]:
        for flags in ((), (True, True), (True, False), (False, False, True, True), (False, False, False)):
            expected = said(quick.__wrapped__, lhs, rhs, *flags)
            for _ in range(2):
                assert repr(said(quick, lhs, rhs, *flags)) == repr(expected), (lhs, rhs, flags)


def test_numbers_wider_than_their_type_are_refused_each_time():
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    for _ in range(2):
        with pytest.raises(ValueError, match="exceeds dtype primitive_bitwidth"):
            TensorHandle(np.zeros(2, np.float64), tl.float32)
    assert TensorHandle(np.zeros(2), tl.float64).attr == {} and TensorHandle(np.zeros(2), tl.float64, {"a": 1}).attr


def test_operations_give_what_triton_gives_once_they_are_known(monkeypatch):
    """Of pairs of tensors and numbers of any types and shapes: first, and again with other values."""
    import itertools

    import numpy as np
    import quick_operations
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle, _get_np_dtype, interpreter_semantic

    def tensor(element, shape, first):
        data = np.arange(first, first + np.prod(shape, dtype=int)).reshape(shape or (1,)).astype(_get_np_dtype(element))
        return tl.tensor(TensorHandle(data, element), tl.block_type(element, list(shape)) if shape else element)

    def said(function, *operands):
        try:
            with np.errstate(all="ignore"):
                made = function(*operands)
        except Exception as error:
            return type(error).__name__
        data = made.handle.data
        size = [*map(int, made.shape)], made.numel.value
        element = made.handle.dtype.name.removeprefix("u")  # signs are those of `data`
        return made.type.name, element, size, data.dtype, data.shape, data.tobytes()

    def both(owner, name):
        """(Triton's function, ours)."""
        function = getattr(owner, name).__wrapped__

        def slow(*operands, **named):
            return function(*operands, **named, _semantic=interpreter_semantic)

        return slow, quick_operations.quick(owner, name, slow)

    monkeypatch.setattr(quick_operations, "KNOWN", {})
    elements = (tl.int1, tl.int32, tl.uint8, tl.int64, tl.float16, tl.bfloat16, tl.float32, tl.pointer_type(tl.float16))
    kinds = [(element, shape) for element in elements for shape in ((), (4,), (2, 4))]
    tensors = [[tensor(*kind, first) for kind in kinds] for first in (0, 3)]
    numbers = (0, 1, True, 1.0, 0.0, -0.0, -3, 2**31, 0.5, float("nan"), float("inf"))
    for owner, name in [(tl.tensor, name) for name in quick_operations.OPERATIONS] + [(tl, "minimum"), (tl, "maximum")]:
        slow, ours = both(owner, name)
        assert ours is not slow
        for values in tensors:
            of_module = itertools.product(numbers, values) if owner is tl else ()
            for pair in (*itertools.product(values, values), *itertools.product(values, numbers), *of_module):
                assert said(ours, *pair) == said(slow, *pair), (name, pair)
    to, quick_to = both(tl.tensor, "to")
    cast, quick_cast = both(tl, "cast")
    at, quick_at = both(tl.tensor, "__getitem__")
    for values in tensors:
        for one, element in itertools.product(values, elements):
            assert said(quick_to, one, element) == said(to, one, element) == said(quick_cast, one, element)
        for number, element in itertools.product(numbers, elements[:-1]):
            assert said(quick_cast, number, element) == said(cast, number, element)
        for one, index in itertools.product(values, ((None, slice(None)), (slice(None), None), (slice(1, 2), None))):
            assert said(quick_at, one, index) == said(at, one, index)
    where, quick_where = both(tl, "where")
    for values, seen in ((values, [tensor(tl.int1, shape, first) for shape in ((), (4,), (2, 4)) for first in (0, 1)])
                         for values in tensors):  # fmt: skip
        few = [one for one in values if one.dtype not in (tl.uint8, tl.int64)]
        for condition, (x, y) in itertools.product(
            seen, [*itertools.product(few, few), *itertools.product(few, numbers)]
        ):
            assert said(quick_where, condition, x, y) == said(where, condition, x, y)
