"""Triton's interpreter without most of its overhead: imported with TRITON_INTERPRET set, before there are kernels."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import quick_operations
from quick_operations import CAST_AS_THEY_ARE, NUMBERS, number_key
from triton import language
from triton.language import core
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter


def patch_the_language_once() -> None:
    """A launch patches Triton's language once, not at each call of a function.

    Triton does the latter, which looks through hundreds of names a call: half the time of a small problem.
    """
    patch, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    patched, nothing = set(), interpreter._LangPatchScope()

    def patch_lang(fn):
        if (module := id(fn.__globals__)) in patched:
            return nothing
        patched.add(module)
        languages = {id(value) for value in fn.__globals__.values() if value is language or value is core}
        if languages and languages <= patched:
            return nothing
        patched.update(languages)
        return patch(fn)

    def call(self, *args, **kwargs):
        patched.clear()
        try:
            return launch(self, *args, **kwargs)
        finally:
            patched.clear()

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch_lang, call


def call_builtins_at_once() -> None:
    """A function of the language is called without the two wrappers that look through its arguments."""

    def patch_attr(obj, name, member, builder, scope) -> None:
        function, semantic = getattr(member, "__wrapped__", member), TritonSemantic(builder)

        def call(*args, _semantic=None, **kwargs):
            return function(*args, _semantic=semantic, **kwargs)

        scope.set_attr(obj, name, quick_operations.quick(obj, name, call))

    interpreter._patch_attr = patch_attr


def leave_out_what_is_dropped() -> None:
    """Sums of integers are not computed again in 64 bits to see an overflow: without `debug`, nothing looks at that."""
    builder = interpreter.interpreter_builder
    assert not builder.options.debug
    builder.options = replace(builder.options, sanitize_overflow=False)


def keep_types() -> None:
    """What follows from a type or a shape alone is made once: making it for each value takes a fifth of the time."""
    block_init, tensor_init = core.block_type.__init__, core.tensor.__init__
    blocks: dict[Any, dict[str, Any]] = {}

    def shape_of(type) -> tuple[Any, Any]:
        shaped = core.tensor.__new__(core.tensor)
        tensor_init(shaped, None, type)
        return shaped.numel, shaped.shape

    def init_block(self, element_ty, shape) -> None:
        key = element_ty.name, *[int(size) for size in shape]
        if key not in blocks:
            block_init(self, element_ty, shape)
            blocks[key] = vars(self) | {"of_tensors": shape_of(self)}
        vars(self).update(blocks[key], element_ty=element_ty)

    def init_tensor(self, handle, type) -> None:
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.numel, self.shape = vars(type).get("of_tensors", alone)

    alone = shape_of(core.int32)
    core.block_type.__init__, core.tensor.__init__ = init_block, init_tensor
    interpreter._get_np_dtype = kept(interpreter._get_np_dtype)


def kept(dtype_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`dtype_of` of each kind of element, looked up by its name."""
    found: dict[str, Any] = {}

    def look_up(type) -> Any:
        name = type.scalar.name
        if name not in found:
            found[name] = dtype_of(type)
        return found[name]

    return look_up


def check_sizes_once() -> None:
    """Whether numbers are as wide as their type is asked once for each pair of both, not for each value."""
    fits, check = interpreter._validate_np_data_size, interpreter.TensorHandle.__post_init__
    known: dict[tuple[int, str], bool] = {}

    def validate(numbers, type) -> bool:
        key = numbers.itemsize, type.name
        if key not in known:
            known[key] = fits(numbers, type)
        return known[key]

    def init_handle(self, data, dtype, attr=None) -> None:
        self.data, self.dtype, self.attr = data, dtype, {} if attr is None else attr
        if not validate(data, dtype):
            check(self)

    interpreter._validate_np_data_size, interpreter.TensorHandle.__init__ = validate, init_handle


def look_for_constants_last() -> None:
    """Most of what might be a constant, or a tuple with some, is a tensor or a number."""
    unwrap, plain = core._unwrap_if_constexpr, frozenset((core.tensor, *NUMBERS))

    def unwrap_rarely(value) -> Any:
        return value if type(value) in plain else unwrap(value)

    core._unwrap_if_constexpr = unwrap_rarely


def remember_operands() -> None:
    """How the operands of a binary operation are cast and broadcast is found once for each pair of their types.

    Finding it for each pair of values takes half the time of a small problem. A number beside a tensor becomes the same
    array each time.
    """
    check = TritonSemantic.binary_op_type_checking_impl
    pairs: dict[Any, tuple[Any, Any]] = {}  # what they become; None: they stay
    numbers: dict[Any, tuple[Any, Any, Any]] = {}

    @wraps(check)
    def operands(self, lhs, rhs, *flags, **named) -> Any:
        key = *flags, *named.items()
        if isinstance(lhs, core.tensor) and isinstance(rhs, core.tensor):
            return of_tensors(self, lhs, rhs, key, lambda: check(self, lhs, rhs, *flags, **named))
        if isinstance(lhs, core.tensor) and type(rhs) in NUMBERS:
            return with_number(lhs, rhs, (False, *key), lambda: check(self, lhs, rhs, *flags, **named))
        if type(lhs) in NUMBERS and isinstance(rhs, core.tensor):
            return with_number(rhs, lhs, (True, *key), lambda: check(self, lhs, rhs, *flags, **named)[::-1])[::-1]
        return check(self, lhs, rhs, *flags, **named)

    def of_tensors(self, lhs, rhs, key, make):
        key = lhs.type.name, rhs.type.name, key
        if key not in pairs:
            made = left, right = make()
            pairs[key] = None if left is lhs else left.type, None if right is rhs else right.type
            return made
        left, right = pairs[key]
        return lhs if left is None else become(self, lhs, left), rhs if right is None else become(self, rhs, right)

    def with_number(tensor, number, key, make):
        """(the tensor, the number as one)."""
        key = tensor.type.name, *number_key(number), key
        if key in numbers:
            data, element, whole = numbers[key]
            return tensor, core.tensor(interpreter.TensorHandle(data, element), whole)
        same, made = make()
        if same is tensor:
            made.handle.data.flags.writeable = False
            numbers[key] = made.handle.data, made.handle.dtype, made.type
        return same, made

    TritonSemantic.binary_op_type_checking_impl = operands


def become(semantic, tensor, to):
    """The tensor in a type of another element, another shape or both; numpy broadcasts its numbers with the other's."""
    element = tensor.dtype.name, to.scalar.name
    if element in CAST_AS_THEY_ARE:
        data = tensor.handle.data.astype(interpreter._get_np_dtype(to))
        return core.tensor(interpreter.TensorHandle(data, to.scalar), to)
    if element[0] != element[1]:
        tensor = semantic.cast(tensor, to.scalar)
    handle = tensor.handle
    return core.tensor(interpreter.TensorHandle(handle.data, handle.dtype), to)


def leave_equal_shapes() -> None:
    """Values of one shape are not looked at dimension by dimension, but by the names of their types."""
    broadcast = TritonSemantic.broadcast_impl_value
    alike: set[tuple[str, str]] = set()

    def broadcast_rarely(self, lhs, rhs):
        key = lhs.type.name, rhs.type.name
        if key in alike:
            return lhs, rhs
        left, right = broadcast(self, lhs, rhs)
        if left is lhs and right is rhs:
            alike.add(key)
        return left, right

    TritonSemantic.broadcast_impl_value = broadcast_rarely


patch_the_language_once()
call_builtins_at_once()
leave_out_what_is_dropped()
keep_types()
check_sizes_once()
look_for_constants_last()
leave_equal_shapes()
remember_operands()
