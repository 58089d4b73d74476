"""From halves to floats. Numba cannot handle halves, so their arrays are read as 16-bit words."""

from typing import Any

from llvmlite import binding as llvm
from llvmlite import ir

from robe_numba.kernels.cpu.simd.elements import machine_features


def _converts_halves() -> bool:
    """Whether the target machine has an instruction for it, as x86 has since 2012."""
    return not llvm.get_process_triple().startswith("x86") or "+f16c" in machine_features()


def _kind(element: Any, lanes: int) -> Any:
    return ir.VectorType(element, lanes) if lanes > 1 else element


def _constant(element: Any, value: Any, lanes: int) -> Any:
    return ir.Constant(_kind(element, lanes), [value] * lanes if lanes > 1 else value)


def widen_bfloat16(builder: Any, bits: Any, lanes: int) -> Any:
    """The floats whose upper halves are these bits of bfloat16."""
    word = ir.IntType(32)
    high = builder.shl(builder.zext(bits, _kind(word, lanes)), _constant(word, 16, lanes))
    return builder.bitcast(high, _kind(ir.FloatType(), lanes))


def widen_float16(builder: Any, bits: Any, lanes: int) -> Any:
    """The floats that these bits of float16 mean."""

    def kind(element: Any) -> Any:
        return _kind(element, lanes)

    def constant(element: Any, value: Any) -> Any:
        return _constant(element, value, lanes)

    real, word = ir.FloatType(), ir.IntType(32)
    if _converts_halves():
        return builder.fpext(builder.bitcast(bits, kind(ir.HalfType())), kind(real))
    # By hand: LLVM would call a function that does not exist, and end the process.
    bits = builder.zext(bits, kind(word))
    sign = builder.shl(builder.and_(bits, constant(word, 0x8000)), constant(word, 16))
    size = builder.shl(builder.and_(bits, constant(word, 0x7FFF)), constant(word, 13))
    # The exponents of halves are biased by 112 less; the product is exact for subnormals too.
    number = builder.fmul(builder.bitcast(size, kind(real)), constant(real, 2.0**112))
    special = builder.icmp_unsigned(">=", size, constant(word, 0x7C00 << 13))  # infinity or NaN
    size = builder.select(
        special,
        builder.or_(size, constant(word, 0x7F800000)),
        builder.bitcast(number, kind(word)),
    )
    return builder.bitcast(builder.or_(size, sign), kind(real))
