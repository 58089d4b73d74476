"""Elements of arrays in memory and in registers, in terms of LLVM; what the machine can do."""

from typing import Any

import numba
from llvmlite import binding as llvm
from llvmlite import ir


def machine_features() -> str:
    """The features of the machine that kernels are compiled for, as LLVM writes them."""
    features = numba.config.CPU_FEATURES  # what the user chose; "" with NUMBA_CPU_NAME=generic
    return llvm.get_host_cpu_features().flatten() if features is None else features


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
