"""Vectors of 16, 8 or 4 elements as values in kernels, prefetching and streaming stores.

LLVM does not vectorise the short loops of small blocks, nor loops whose arrays might overlap. Here
kernels ask for vectors themselves: `store(out, i, load_x16(array, j))`. Arithmetic between vectors,
and with scalars, is written as for scalars, so that one rule serves both. Where the machine's
registers are shorter than a vector, LLVM splits it.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import (
    intrinsic,
    lower_builtin,
    models,
    register_model,
    type_callable,
)

from robe_numba.kernels.cpu.simd.elements import load_stored, pointer_to, splat_of
from robe_numba.kernels.cpu.simd.halves import widen_bfloat16, widen_float16
from robe_numba.kernels.cpu.simd.int8 import is_quantized, load_quantized, quantized_pointers

CACHE_LINE = 64  # bytes
WIDEN = {types.uint16: widen_float16, types.int16: widen_bfloat16}  # halves, by their bits


class Vector(types.Type):
    """Numba's type of `lanes` elements of a real dtype in a register."""

    def __init__(self, dtype: types.Float, lanes: int):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Vector):
        element = manager.lookup(fe_type.dtype).get_value_type()
        super().__init__(manager, fe_type, ir.VectorType(element, fe_type.lanes))


def real_type(array: Any) -> Any:
    """The type of a loaded element; halves and int8 are widened."""
    return types.float32 if is_quantized(array) or array.dtype in WIDEN else array.dtype


def _load(lanes: int) -> Any:
    @intrinsic
    def load(typing_context: Any, array: Any, index: Any) -> Any:
        real = real_type(array)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            stored, place = arguments
            if is_quantized(array):
                return load_quantized(context, builder, array, stored, place, lanes)
            value = load_stored(context, builder, array, stored, place, lanes)
            widen = WIDEN.get(array.dtype)
            return widen(builder, value, lanes) if widen else value

        return (Vector(real, lanes) if lanes > 1 else real)(array, index), generate

    return load


# load_x16(array, i) is array[i], ..., array[i + 15]; indices are unsigned and in range.
load_x16, load_x8, load_x4, load_x1 = _load(16), _load(8), _load(4), _load(1)


def _store(streaming: bool) -> Any:
    @intrinsic
    def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = pointer_to(context, builder, array, *arguments[:2])
            target = builder.bitcast(pointer, arguments[2].type.as_pointer())
            size = context.get_abi_sizeof(context.get_data_type(array.dtype))
            if streaming:
                size = min(CACHE_LINE, context.get_abi_sizeof(arguments[2].type))
            instruction = builder.store(arguments[2], target, align=size)
            if streaming:
                one = builder.module.add_metadata([ir.IntType(32)(1)])
                instruction.set_metadata("nontemporal", one)
            return context.get_dummy_value()

        return types.void(array, index, value), generate

    return store


store = _store(streaming=False)
# Bypasses the caches, for whole lines that are not read soon; the address must begin a line.
stream = _store(streaming=True)


def _only_pointer(*place: Any) -> list[Any]:
    return [pointer_to(*place)]


def _prefetch(to_write: int, level: int) -> Any:
    @intrinsic
    def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointers = quantized_pointers if is_quantized(array) else _only_pointer
            word, byte = ir.IntType(32), ir.IntType(8).as_pointer()
            function = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(ir.VoidType(), [byte, word, word, word]),
                "llvm.prefetch.p0i8",
            )
            hints = [word(to_write), word(4 - level), word(1)]  # 1 for data
            for pointer in pointers(context, builder, array, *arguments):
                builder.call(function, [builder.bitcast(pointer, byte), *hints])
            return context.get_dummy_value()

        return types.void(array, index), generate

    return prefetch


# Ask for the cache line of an element, whose index may be out of range. For reading: into the
# second-level cache, which can wait for more lines at a time than the first.
prefetch = _prefetch(to_write=0, level=2)
# For writing: other cores give up their copies of the line now, not when it is written.
prefetch_write = _prefetch(to_write=1, level=1)


@intrinsic
def prefetch_step(typing_context: Any, array: Any) -> Any:
    """Elements from one prefetch of a block to the next: 16, or half a cache line if that is more.

    A request may be dropped, and asking twice for a line of halves is faster than once.
    """
    stored = array.types[0] if is_quantized(array) else array
    step = max(16, CACHE_LINE * 4 // stored.dtype.bitwidth)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.IntType(64)(step)

    return types.uint64(array), generate


@intrinsic
def splat(typing_context: Any, value: Any) -> Any:
    """A vector of 16 equal elements."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return splat_of(builder, arguments[0], 16)

    return Vector(value, 16)(value), generate


def _arithmetic(function: Callable, real: str, integer: str) -> None:
    """Define an operator on two vectors, and on a vector and a scalar of the same dtype.

    `real` and `integer` are LLVM's instructions for real and unsigned numbers; "" for none.
    """

    @type_callable(function)
    def typed(context: Any) -> Any:
        def typer(left: Any, right: Any) -> Any:
            vectors = [x for x in (left, right) if isinstance(x, Vector)]
            dtypes = {getattr(x, "dtype", x) for x in (left, right)}
            if not vectors or len(dtypes) > 1:
                return None
            known = real if isinstance(vectors[0].dtype, types.Float) else integer
            return vectors[0] if known else None

        return typer

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.return_type
        operands = [
            value if isinstance(operand, Vector) else splat_of(builder, value, kind.lanes)
            for operand, value in zip(signature.args, arguments, strict=True)
        ]
        instruction = real if isinstance(kind.dtype, types.Float) else integer
        return getattr(builder, instruction)(*operands)

    for scalar in (types.Float, types.Integer):
        for left, right in ((Vector, Vector), (Vector, scalar), (scalar, Vector)):
            lower_builtin(function, left, right)(lower)


_arithmetic(operator.add, "fadd", "add")
_arithmetic(operator.sub, "fsub", "sub")
_arithmetic(operator.mul, "fmul", "mul")
_arithmetic(operator.truediv, "fdiv", "")
_arithmetic(operator.and_, "", "and_")
_arithmetic(operator.or_, "", "or_")
_arithmetic(operator.xor, "", "xor")
_arithmetic(operator.lshift, "", "shl")
_arithmetic(operator.rshift, "", "lshr")


def _bits(element: Any) -> str:
    return "f64" if isinstance(element, ir.DoubleType) else "f32"


@type_callable(math.sqrt)
def _typed_sqrt(context: Any) -> Any:
    return lambda value: value if isinstance(value, Vector) else None


@lower_builtin(math.sqrt, Vector)
def _lower_sqrt(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    kind = arguments[0].type
    name = f"llvm.sqrt.v{kind.count}{_bits(kind.element)}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name)
    return builder.call(function, arguments)


@intrinsic
def multiply_add(typing_context: Any, left: Any, right: Any, addend: Any) -> Any:
    """left * right + addend of vectors, rounded once where the machine can."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        name = f"llvm.fmuladd.v{kind.count}{_bits(kind.element)}"
        function_type = ir.FunctionType(kind, [kind] * 3)
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        return builder.call(function, arguments)

    return left(left, right, addend), generate


@intrinsic
def where_moved(typing_context: Any, grad: Any, new: Any, old: Any) -> Any:
    """Select `new` where the gradient is not 0, else `old`, bit for bit; vectors or scalars."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        grad, new, old = arguments
        moved = builder.fcmp_unordered("!=", grad, ir.Constant(grad.type, None))
        return builder.select(moved, new, old)

    return new(grad, new, old), generate


@intrinsic
def negate_lanes(typing_context: Any, value: Any, signs: Any) -> Any:
    """The value, negated in the lanes whose bit of `signs` is 1; bit 0 is lane 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, signs = arguments
        lanes = value.type.count if isinstance(value.type, ir.VectorType) else 1
        bits = builder.trunc(signs, ir.IntType(lanes))
        if lanes > 1:
            bits = builder.bitcast(bits, ir.VectorType(ir.IntType(1), lanes))
        return builder.select(bits, builder.fneg(value), value)

    return value(value, signs), generate


@intrinsic
def zero_like(typing_context: Any, value: Any) -> Any:
    """Zeros of the type of a value, vector or scalar."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(arguments[0].type, None)

    return value(value), generate


@intrinsic
def line_offset(typing_context: Any, array: Any) -> Any:
    """Bytes from the beginning of its cache line to an array's first element."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(array)(context, builder, arguments[0]).data
        address = builder.ptrtoint(data, ir.IntType(64))
        return builder.and_(address, ir.IntType(64)(CACHE_LINE - 1))

    return types.uint64(array), generate


@intrinsic
def fence(typing_context: Any) -> Any:
    """Complete streaming stores before any later store becomes visible to other threads."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate
