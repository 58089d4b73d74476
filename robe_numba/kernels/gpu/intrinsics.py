"""What the compiler would not do itself: widen bfloat16, access four elements in one instruction,
store past the cache, and round a product before it is added.
"""

import threading
from typing import Any

import numpy as np

from robe_numba.kernels.gpu.compiler import SIMULATED, cuda, function

if SIMULATED:

    def load_x1(array: Any, i: Any, real: Any) -> Any:
        """array[i] as a `real`; elements of int16 are the bits of bfloat16."""
        if array.dtype == np.int16:
            return (np.uint32(np.uint16(array[i])) << np.uint32(16)).view(np.float32)
        return real(array[i])

    def load_x4(array: Any, i: Any, real: Any) -> Any:
        """`load1` of i, ..., i + 3; array[i] is aligned to four elements."""
        return tuple(load_x1(array, i + lane, real) for lane in range(4))

    def stream_x1(array: Any, i: Any, value: Any) -> None:
        """array[i] = value, which is not read soon, so it is the first to leave the cache."""
        array[i] = value

    def stream_x4(array: Any, i: Any, values: Any) -> None:
        """`store1` of i, ..., i + 3; array[i] is aligned to four elements."""
        for lane in range(4):
            array[i + lane] = values[lane]

    def store_x4(array: Any, i: Any, values: Any) -> None:
        """array[i], ..., array[i + 3] = values, to be read soon; aligned as for `store4`."""
        stream_x4(array, i, values)

    def multiply_rounded(left: Any, right: Any) -> Any:
        """left * right, rounded before it is added to anything."""
        return left * right

    def syncwarp() -> None:
        """Let a warp's lanes see what the others wrote; a simulated block is one warp."""
        threading.current_thread().syncthreads()  # type: ignore[attr-defined]

else:
    from llvmlite import ir

    from robe_numba.kernels.gpu.compiler import cgutils, intrinsic, types

    def _place(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
        data = context.make_array(array_type)(context, builder, array).data
        return builder.gep(data, [index])

    def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
        element = context.get_data_type(array_type.dtype)
        vector = ir.VectorType(element, 4).as_pointer()
        align = 4 * context.get_abi_sizeof(element)
        place = _place(context, builder, array_type, array, index)
        return builder.bitcast(place, vector), align

    def _widened(context: Any, builder: Any, value: Any, stored: Any, real: Any) -> Any:
        if stored != types.int16:
            return context.cast(builder, value, stored, real)
        word = ir.IntType(32)
        return builder.bitcast(builder.shl(builder.zext(value, word), word(16)), ir.FloatType())

    def _store_streaming(builder: Any, place: Any, values: list[Any]) -> None:
        """Store 1, 2 or 4 values of one type with the hint that they are not read soon."""
        kind, letter = values[0].type, {"float": "f", "double": "d"}[str(values[0].type)]
        letters = ",".join([letter] * len(values))
        bits = {"f": 32, "d": 64}[letter]
        names = ", ".join(f"${k + 1}" for k in range(len(values)))
        vector = f".v{len(values)}" if len(values) > 1 else ""
        text = f"st.global.cs{vector}.f{bits} [$0], {{{names}}};"
        if not vector:
            text = text.replace("{", "").replace("}", "")
        address = builder.ptrtoint(place, ir.IntType(64))
        function = ir.FunctionType(ir.VoidType(), [ir.IntType(64), *[kind] * len(values)])
        builder.asm(function, text, f"l,{letters},~{{memory}}", [address, *values], True)

    @intrinsic
    def load_x1(typing_context: Any, array: Any, index: Any, real: Any) -> Any:
        """array[i] as a `real`; elements of int16 are the bits of bfloat16."""
        target = real.instance_type

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.load(_place(context, builder, array, *arguments[:2]))
            return _widened(context, builder, value, array.dtype, target)

        return target(array, index, real), generate

    @intrinsic
    def load_x4(typing_context: Any, array: Any, index: Any, real: Any) -> Any:
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
    def stream_x1(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
        """array[i] = value, which is not read soon, so it is the first to leave the cache."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = _place(context, builder, array, *arguments[:2])
            _store_streaming(builder, place, [arguments[2]])
            return context.get_dummy_value()

        return types.void(array, index, value), generate

    @intrinsic
    def stream_x4(typing_context: Any, array: Any, index: Any, values: Any) -> Any:
        """`store1` of i, ..., i + 3; array[i] is aligned to four elements."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = _place(context, builder, array, *arguments[:2])
            lanes = [builder.extract_value(arguments[2], k) for k in range(4)]
            if array.dtype == types.float64:  # the most that an instruction stores is 16 bytes
                _store_streaming(builder, place, lanes[:2])
                place = builder.gep(place, [ir.IntType(64)(2)])
                lanes = lanes[2:]
            _store_streaming(builder, place, lanes)
            return context.get_dummy_value()

        return types.void(array, index, values), generate

    @intrinsic
    def store_x4(typing_context: Any, array: Any, index: Any, values: Any) -> Any:
        """array[i], ..., array[i + 3] = values, to be read soon; aligned as for `store4`."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer, align = _pointer(context, builder, array, *arguments[:2])
            vector = pointer.type.pointee(ir.Undefined)
            for k in range(4):
                lane = builder.extract_value(arguments[2], k)
                vector = builder.insert_element(vector, lane, ir.IntType(32)(k))
            builder.store(vector, pointer, align=align)
            return context.get_dummy_value()

        return types.void(array, index, values), generate

    @intrinsic
    def multiply_rounded(typing_context: Any, left: Any, right: Any) -> Any:
        """left * right, rounded before it is added to anything."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            name = f"llvm.nvvm.mul.rn.{'f' if left.bitwidth == 32 else 'd'}"
            kind = arguments[0].type
            function_type = ir.FunctionType(kind, [kind, kind])
            function = cgutils.get_or_insert_function(builder.module, function_type, name)
            return builder.call(function, arguments)

        return left(left, right), generate

    @function
    def syncwarp():
        """Let a warp's lanes see what the others wrote."""
        cuda.syncwarp()
