"""Products of tiles of a sample's vectors; a thread computes four by eight at a time."""

from robe_numba.kernels.gpu.compiler import cuda, function, inlined
from robe_numba.kernels.gpu.interaction.tiles import pairs_below, word
from robe_numba.kernels.gpu.intrinsics import load_x4
from robe_numba.kernels.scalar.unsigned import ONE, THREE, TWO, U4, U5, U6, U7, ZERO


@function
def add_product(total, x, y):
    """total + x @ y, over four columns."""
    a, b, c, d = x
    e, f, g, h = y
    return total + a * e + b * f + c * g + d * h


@function
def add_products(sums, x_0, x_1, x_2, x_3, y):
    """Add the products of four vectors with another, over four columns, to four sums."""
    return (
        add_product(sums[0], x_0, y),
        add_product(sums[1], x_1, y),
        add_product(sums[2], x_2, y),
        add_product(sums[3], x_3, y),
    )


@function
def put(target, o, value, low, high, add):
    """Write the product of two vectors, or add to it, if low < high."""
    if low < high:
        target[o] = target[o] + value if add else value


@function
def put_row(target, o, high, low, values, num_vectors, add):
    """`put` the products of a vector with eight from `low` on."""
    if high < num_vectors:
        o += pairs_below(high) + low
        put(target, o, values[0], low, high, add)
        put(target, o + ONE, values[1], low + ONE, high, add)
        put(target, o + TWO, values[2], low + TWO, high, add)
        put(target, o + THREE, values[3], low + THREE, high, add)
        put(target, o + U4, values[4], low + U4, high, add)
        put(target, o + U5, values[5], low + U5, high, add)
        put(target, o + U6, values[6], low + U6, high, add)
        put(target, o + U7, values[7], low + U7, high, add)


@function
def tile_of(number):
    """The tiles (i, j) with a number: i is multiplied with j and j + 1.

    Tile i is multiplied with tiles 0 to i; the first two of these have number (i + 1) ** 2 // 4.
    """
    i = ZERO
    while ((i + TWO) * (i + TWO)) >> TWO <= number:
        i += ONE
    return i, (number - (((i + ONE) * (i + ONE)) >> TWO)) << ONE


@function
def multiply_tiles(vectors, i, j, begin, step, columns, width):
    """Products of the vectors of tile i with those of tiles j and j + 1, one row for each of the
    latter, over every `step`-th four columns.
    """
    real, zero, tile = vectors.dtype.type, vectors.dtype.type(0), U4 * width + U4
    x, y, z = word(i * tile), word(j * tile), word(min(j + ONE, i) * tile)
    t_0 = t_1 = t_2 = t_3 = t_4 = t_5 = t_6 = t_7 = (zero, zero, zero, zero)
    two, three, step, end = word(TWO * width), word(THREE * width), word(U4 * step), word(columns)
    width, c = word(width), word(U4 * begin)
    while c < end:
        x_0, x_1 = load_x4(vectors, x + c, real), load_x4(vectors, x + c + width, real)
        x_2, x_3 = load_x4(vectors, x + c + two, real), load_x4(vectors, x + c + three, real)
        t_0 = add_products(t_0, x_0, x_1, x_2, x_3, load_x4(vectors, y + c, real))
        t_1 = add_products(t_1, x_0, x_1, x_2, x_3, load_x4(vectors, y + c + width, real))
        t_2 = add_products(t_2, x_0, x_1, x_2, x_3, load_x4(vectors, y + c + two, real))
        t_3 = add_products(t_3, x_0, x_1, x_2, x_3, load_x4(vectors, y + c + three, real))
        t_4 = add_products(t_4, x_0, x_1, x_2, x_3, load_x4(vectors, z + c, real))
        t_5 = add_products(t_5, x_0, x_1, x_2, x_3, load_x4(vectors, z + c + width, real))
        t_6 = add_products(t_6, x_0, x_1, x_2, x_3, load_x4(vectors, z + c + two, real))
        t_7 = add_products(t_7, x_0, x_1, x_2, x_3, load_x4(vectors, z + c + three, real))
        c = word(c + step)
    return t_0, t_1, t_2, t_3, t_4, t_5, t_6, t_7


@function
def put_tiles(target, o, i, j, rows, num_vectors, add):
    """Write the products of `multiply_tiles` to their places in target[o:]."""
    a, b, c, d, e, f, g, h = rows
    low, high = U4 * j, U4 * i
    row_0 = (a[0], b[0], c[0], d[0], e[0], f[0], g[0], h[0])
    row_1 = (a[1], b[1], c[1], d[1], e[1], f[1], g[1], h[1])
    row_2 = (a[2], b[2], c[2], d[2], e[2], f[2], g[2], h[2])
    row_3 = (a[3], b[3], c[3], d[3], e[3], f[3], g[3], h[3])
    put_row(target, o, high, low, row_0, num_vectors, add)
    put_row(target, o, high + ONE, low, row_1, num_vectors, add)
    put_row(target, o, high + TWO, low, row_2, num_vectors, add)
    put_row(target, o, high + THREE, low, row_3, num_vectors, add)


@function
def add_slices(sums, slices, pairs, out, o, add, thread, threads):
    """out[o:] = the sums of the slices in their order, added to what is there if `add`."""
    p = thread
    while p < pairs:
        total = sums[p]
        k = p + pairs
        while k < slices * pairs:
            total += sums[k]
            k += pairs
        out[o + p] = out[o + p] + total if add else total
        p += threads


@function
def num_numbers(num_vectors):
    """How many tiles `tile_of` numbers, for all pairs of this many vectors."""
    whole = (num_vectors + THREE) >> TWO
    return ((whole + ONE) * (whole + ONE)) >> TWO


@inlined
def multiply_split(vectors, out, o, shape, columns, tile_bits, add, thread, threads):
    """out[o:] = the products of all pairs, or added to what is there.

    1 << tile_bits threads have different tiles. The others share these, each with some of the
    columns.
    """
    pairs, slices = pairs_below(shape.num_vectors), threads >> tile_bits
    numbers = num_numbers(shape.num_vectors)
    number = thread & ((ONE << tile_bits) - ONE)
    i, j = tile_of(min(number, numbers - ONE))
    begin = thread >> tile_bits
    rows = multiply_tiles(vectors, i, j, begin, slices, columns, shape.width)
    cuda.syncthreads()
    if number < numbers:
        i, j = tile_of(number)
        put_tiles(vectors, begin * pairs, i, j, rows, shape.num_vectors, False)
    cuda.syncthreads()
    add_slices(vectors, slices, pairs, out, o, add, thread, threads)


@inlined
def multiply_whole(vectors, out, o, shape, columns, add, thread, threads):
    """As `multiply_split`, but each thread has tiles of its own, with all columns."""
    number, numbers = thread, num_numbers(shape.num_vectors)
    while number < numbers:
        i, j = tile_of(number)
        rows = multiply_tiles(vectors, i, j, ZERO, ONE, columns, shape.width)
        put_tiles(out, o, i, j, rows, shape.num_vectors, add)
        number += threads
