"""Elements of arrays in memory and in registers, in terms of LLVM."""

from typing import Any

from llvmlite import ir


def pointer_to(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """The address of an element."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


def load_stored(
    context: Any, builder: Any, array_type: Any, array: Any, index: Any, lanes: int
) -> Any:
    """A vector of elements as they are stored, or one element."""
    pointer = pointer_to(context, builder, array_type, array, index)
    element = context.get_data_type(array_type.dtype)
    size = context.get_abi_sizeof(element)
    stored = ir.VectorType(element, lanes) if lanes > 1 else element
    return builder.load(builder.bitcast(pointer, stored.as_pointer()), align=size)


def splat_of(builder: Any, value: Any, lanes: int) -> Any:
    """A vector of equal elements."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), None)
    return builder.shuffle_vector(first, undefined, zeros)
