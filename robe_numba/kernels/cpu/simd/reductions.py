"""Sums and tests over the elements of a vector."""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from robe_numba.kernels.cpu.simd.types import Vector


def _pick(builder: Any, left: Any, right: Any, lanes: list[int]) -> Any:
    """Elements of two concatenated vectors, by their number."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    return builder.shuffle_vector(left, right, mask)


def _halved(builder: Any, total: Any, lanes: int) -> Any:
    """Add the upper half of a vector to its lower half until `lanes` elements are left."""
    while total.type.count > lanes:
        half = total.type.count // 2
        low, high = (_pick(builder, total, total, [*range(x, x + half)]) for x in (0, half))
        total = builder.fadd(low, high)
    return total


@intrinsic
def sums_of(typing_context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """A vector of the four sums of four vectors' elements, in one order on every machine.

    Two steps of adding every other element put the four sums of a quarter of each side by side;
    quarters of 16 bytes need no shuffle across them, which is slow.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def interleaved(left: Any, right: Any, pattern: tuple[int, ...]) -> Any:
            count = left.type.count  # a lane from 4 on is the other vector's
            groups = range(0, count, 4)
            lanes = [g + p % 4 + (count if p >= 4 else 0) for g in groups for p in pattern]
            return _pick(builder, left, right, lanes)

        def joined(left: Any, right: Any, low: tuple, high: tuple) -> Any:
            return builder.fadd(interleaved(left, right, low), interleaved(left, right, high))

        pairs = [
            joined(left, right, (0, 4, 1, 5), (2, 6, 3, 7))
            for left, right in (arguments[:2], arguments[2:])
        ]
        return _halved(builder, joined(pairs[0], pairs[1], (0, 1, 4, 5), (2, 3, 6, 7)), 4)

    return Vector(a.dtype, 4)(a, b, c, d), generate


@intrinsic
def sum_of(typing_context: Any, vector: Any) -> Any:
    """The sum of a vector's elements, in one order on every machine."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total = _halved(builder, arguments[0], 1)
        return builder.extract_element(total, ir.IntType(32)(0))

    return vector.dtype(vector), generate


@intrinsic
def any_moved(typing_context: Any, grad: Any) -> Any:
    """Whether an element of a vector of gradients is not 0, which is true of NaN."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        grad = arguments[0]
        moved = builder.fcmp_unordered("!=", grad, ir.Constant(grad.type, None))
        bits = ir.IntType(grad.type.count)
        return builder.icmp_unsigned("!=", builder.bitcast(moved, bits), bits(0))

    return types.boolean(grad), generate
