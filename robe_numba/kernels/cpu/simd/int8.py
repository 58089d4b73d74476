"""Elements of a `QuantizedArray` as floats: int8, each times the scale of its block."""

from typing import Any

from llvmlite import ir
from numba.core.types.containers import NamedTuple

from robe_numba.kernels.cpu.simd.elements import load_stored, pointer_to, splat_of


def is_quantized(array_type: Any) -> bool:
    """Whether what a kernel reads is a `QuantizedArray`, the one named tuple among arrays."""
    return isinstance(array_type, NamedTuple)


def _scales_at(builder: Any, array: Any, index: Any) -> tuple[Any, Any, Any]:
    """The scales, which of them is that of an element, and log2 of the elements of a block."""
    shift = builder.cttz(builder.extract_value(array, 2), ir.IntType(1)(1))
    return builder.extract_value(array, 1), builder.lshr(index, shift), shift


def load_quantized(
    context: Any, builder: Any, array_type: Any, array: Any, index: Any, lanes: int
) -> Any:
    """A vector of elements, or one element."""
    values_type, scales_type, _ = array_type.types
    values = builder.extract_value(array, 0)
    integers = load_stored(context, builder, values_type, values, index, lanes)
    scales, first, shift = _scales_at(builder, array, index)
    last = builder.lshr(builder.add(index, index.type(lanes - 1)), shift)
    low, high = (load_stored(context, builder, scales_type, scales, k, 1) for k in (first, last))
    if lanes == 1:
        return builder.fmul(builder.sitofp(integers, high.type), high)
    # No vector is longer than a block, so there are at most two scales: the second is that of the
    # lanes from `border` on, which are all where both are the same.
    border = builder.trunc(builder.sub(builder.shl(last, shift), index), ir.IntType(32))
    numbers = ir.Constant(ir.VectorType(border.type, lanes), list(range(lanes)))
    before = builder.icmp_signed("<", numbers, splat_of(builder, border, lanes))
    each = builder.select(before, splat_of(builder, low, lanes), splat_of(builder, high, lanes))
    return builder.fmul(builder.sitofp(integers, each.type), each)


def quantized_pointers(
    context: Any, builder: Any, array_type: Any, array: Any, index: Any
) -> list[Any]:
    """The addresses of an element and of its scale."""
    scales, block, _ = _scales_at(builder, array, index)
    values = builder.extract_value(array, 0)
    places = zip(array_type.types[:2], (values, scales), (index, block), strict=True)
    return [pointer_to(context, builder, *place) for place in places]
