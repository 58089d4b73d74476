"""Tiles of a matrix product, whose sums stay in registers."""

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from robe_numba.kernels.cpu.simd.elements import machine_features, splat_of

LANES = 16  # elements of a vector
TILE_ROWS = 6  # enough sums that an addition never waits for the one before it
WORD, VECTOR = ir.IntType(64), ir.VectorType(ir.FloatType(), LANES)


# Vectors side by side in a wide tile: AVX-512 has 32 registers of 16 floats. Where registers are
# shorter or fewer, more would not fit.
TILE_VECTORS = 4 if "+avx512f" in machine_features() else 1


class Steps(NamedTuple):
    """The steps of a sum: the first `count`, at least one, or those whose numbers are chosen."""

    count: Any
    chosen: Any = None  # a pointer


def _load(builder: Any, data: Any, index: Any, kind: Any) -> Any:
    pointer = builder.bitcast(builder.gep(data, [index]), kind.as_pointer())
    return builder.load(pointer, align=4)


def _sums(builder: Any, x: Any, x_rows: list[Any], w: Any, w_first: Any, steps: Steps) -> list[Any]:
    """The loop over the depth: the sums of a tile, row by row."""
    vectors = len(w_first)
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(VECTOR, [VECTOR] * 3), "llvm.fmuladd.v16f32"
    )
    before, loop = builder.block, builder.append_basic_block("depth")
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(WORD)
    sums = [builder.phi(VECTOR) for _ in range(len(x_rows) * vectors)]
    k = step if steps.chosen is None else builder.load(builder.gep(steps.chosen, [step]))
    offset = builder.mul(k, WORD(LANES * vectors))
    factors = [_load(builder, w, builder.add(first, offset), VECTOR) for first in w_first]
    new = []
    for row, x_first in enumerate(x_rows):
        element = _load(builder, x, builder.add(x_first, k), ir.FloatType())
        value = splat_of(builder, element, LANES)
        for v, factor in enumerate(factors):
            new.append(builder.call(fma, [value, factor, sums[row * vectors + v]]))
    following = builder.add(step, WORD(1))
    for phi, initial, value in zip(
        [step, *sums],
        [WORD(0), *[ir.Constant(VECTOR, None)] * len(sums)],
        [following, *new],
        strict=True,
    ):
        phi.add_incoming(initial, before)
        phi.add_incoming(value, loop)
    after = builder.append_basic_block("done")
    builder.cbranch(builder.icmp_unsigned("<", following, steps.count), loop, after)
    builder.position_at_end(after)
    return new


def _multiply(rows: int, vectors: int) -> Any:
    @intrinsic
    def multiply(typing_context: Any, x: Any, w: Any, count: Any, chosen: Any, y: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            def unpacked(kind: Any, value: Any) -> tuple[Any, ...]:
                array, *places = cgutils.unpack_tuple(builder, value)
                return context.make_array(kind[0])(context, builder, array).data, *places

            def row_places(first: Any, stride: Any) -> list[Any]:
                return [builder.add(first, builder.mul(WORD(r), stride)) for r in range(rows)]

            x_data, *x_place = unpacked(x, arguments[0])
            w_data, w_first = unpacked(w, arguments[1])
            y_data, *y_place = unpacked(y, arguments[4])
            numbers = None
            if isinstance(chosen, types.Array):
                numbers = context.make_array(chosen)(context, builder, arguments[3]).data
            columns = [WORD(LANES * v) for v in range(vectors)]
            panel = [builder.add(w_first, column) for column in columns]
            steps = Steps(arguments[2], numbers)
            sums = iter(_sums(builder, x_data, row_places(*x_place), w_data, panel, steps))
            for first in row_places(*y_place):
                for column in columns:
                    target = builder.gep(y_data, [builder.add(first, column)])
                    pointer = builder.bitcast(target, VECTOR.as_pointer())
                    builder.store(next(sums), pointer, align=4)
            return context.get_dummy_value()

        return types.void(x, w, count, chosen, y), generate

    return multiply


# multiply((x, first, stride), (w, first), count, chosen, (y, first, stride)): a tile of y = x @ w,
# of flat float32 arrays; a panel of w is (depth, columns of the tile). Sums take the first `count`
# products, at least one, or, if `chosen` is an array and not None, those of its first `count`
# numbers. They begin at 0 and add in order: a row of y does not depend on the tile it is in.
multiply_wide = _multiply(TILE_ROWS, TILE_VECTORS)
multiply_narrow = _multiply(TILE_ROWS, 1)
multiply_row_wide = _multiply(1, TILE_VECTORS)
multiply_row_narrow = _multiply(1, 1)


@intrinsic
def rectified(typing_context: Any, value: Any) -> Any:
    """max(value, 0) of a vector. A NaN stays, so that a broken model shows it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zero = ir.Constant(arguments[0].type, None)
        return builder.select(builder.fcmp_ordered("<=", arguments[0], zero), zero, arguments[0])

    return value(value), generate
