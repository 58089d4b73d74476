"""What the compiler would do otherwise: halves of bfloat16, four elements in one instruction,
products of their own.
"""

from typing import Any

import numba
import numpy as np

if numba.config.ENABLE_CUDASIM:

    def load1(array: Any, i: Any, real: Any) -> Any:
        """array[i] as a `real`; elements of int16 are the bits of bfloat16."""
        if array.dtype == np.int16:
            return (np.uint32(np.uint16(array[i])) << np.uint32(16)).view(np.float32)
        return real(array[i])

    def load4(array: Any, i: Any, real: Any) -> Any:
        """`load1` of i, ..., i + 3; array[i] is aligned to four elements."""
        return tuple(load1(array, i + lane, real) for lane in range(4))

    def store4(array: Any, i: Any, values: Any) -> None:
        """array[i], ..., array[i + 3] = values; array[i] is aligned to four elements."""
        for lane in range(4):
            array[i + lane] = values[lane]

    def multiply(left: Any, right: Any) -> Any:
        """left * right, rounded before it is added to anything."""
        return left * right

else:
    from llvmlite import ir
    from numba.cuda import cgutils, types
    from numba.cuda.extending import intrinsic

    def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
        data = context.make_array(array_type)(context, builder, array).data
        element = context.get_data_type(array_type.dtype)
        vector = ir.VectorType(element, 4).as_pointer()
        align = 4 * context.get_abi_sizeof(element)
        return builder.bitcast(builder.gep(data, [index]), vector), align

    def _widened(context: Any, builder: Any, value: Any, stored: Any, real: Any) -> Any:
        if stored != types.int16:
            return context.cast(builder, value, stored, real)
        word = ir.IntType(32)
        return builder.bitcast(builder.shl(builder.zext(value, word), word(16)), ir.FloatType())

    @intrinsic
    def load1(typing_context: Any, array: Any, index: Any, real: Any) -> Any:
        """array[i] as a `real`; elements of int16 are the bits of bfloat16."""
        target = real.instance_type

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = context.make_array(array)(context, builder, arguments[0]).data
            value = builder.load(builder.gep(data, [arguments[1]]))
            return _widened(context, builder, value, array.dtype, target)

        return target(array, index, real), generate

    @intrinsic
    def load4(typing_context: Any, array: Any, index: Any, real: Any) -> Any:
        """`load1` of i, ..., i + 3; array[i] is aligned to four elements."""
        target = real.instance_type

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer, align = _pointer(context, builder, array, *arguments[:2])
            vector = builder.load(pointer, align=align)
            lanes = [builder.extract_element(vector, ir.IntType(32)(k)) for k in range(4)]
            lanes = [_widened(context, builder, lane, array.dtype, target) for lane in lanes]
            return context.make_tuple(builder, signature.return_type, lanes)

        return types.UniTuple(target, 4)(array, index, real), generate

    @intrinsic
    def store4(typing_context: Any, array: Any, index: Any, values: Any) -> Any:
        """array[i], ..., array[i + 3] = values; array[i] is aligned to four elements."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer, align = _pointer(context, builder, array, *arguments[:2])
            vector = ir.Constant(pointer.type.pointee, ir.Undefined)
            for k in range(4):
                lane = builder.extract_value(arguments[2], k)
                vector = builder.insert_element(vector, lane, ir.IntType(32)(k))
            builder.store(vector, pointer, align=align)
            return context.get_dummy_value()

        return types.void(array, index, values), generate

    @intrinsic
    def multiply(typing_context: Any, left: Any, right: Any) -> Any:
        """left * right, rounded before it is added to anything."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            name = f"llvm.nvvm.mul.rn.{'f' if left.bitwidth == 32 else 'd'}"
            kind = arguments[0].type
            function_type = ir.FunctionType(kind, [kind, kind])
            function = cgutils.get_or_insert_function(builder.module, function_type, name)
            return builder.call(function, arguments)

        return left(left, right), generate
