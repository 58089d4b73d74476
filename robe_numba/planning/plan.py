"""What a ROBE array of a given size will be like, worked out before anything is trained.

Everything here is arithmetic on sizes: nothing is simulated, and no array is made. Symbols are
those of docs/design.md: N rows of d elements in all tables together, read in B = ceil(d / Z) blocks
from m shared elements. Starts of blocks are taken as uniform over the n = ceil(m / alignment)
multiples of the alignment and as independent between blocks, which is what the hash
"multiply-shift" provides for any two rows ("paper" and "uma" do not).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from robe_numba.checks.scalars import check_scalar
from robe_numba.spec import MAX_SIZE, RobeSpec, Spec, TableSpec, check_int
from robe_numba.state_blocks import num_sums, state_block_of

FLOAT_BYTES = 4
CPU_LINE, GPU_LINE = 64, 128  # bytes of a cache line
IDENTICAL_SHARE = 0.001  # of the rows: if more share all elements with another, signs are advised


@dataclass(frozen=True)
class Lines:
    """Cache lines that reading one row touches, summed over its blocks: on average, and at most."""

    average: float
    most: int


@dataclass(frozen=True)
class Memory:
    """Bytes of embedding weights (float32) and of their optimizer's state, of which SGD has none.

    `adagrad_state` is that of Adagrad with a sum per element, `adagrad_block_state` with one per
    block of Z elements, or of the power of two below.
    """

    weights: int
    sgd_state: int
    adagrad_state: int
    adagrad_block_state: int


@dataclass(frozen=True)
class Choice:
    """One way of reading rows from the array, and what it entails.

    Attributes
    ----------
    block_size, alignment : Z and the alignment, elements.
    num_blocks : B, hashes per row.
    num_starts : n, places where a block can begin.
    cpu_lines, gpu_lines : lines of 64 and of 128 bytes per row, see `lines_touched`.
    identical_rows : expected rows that equal another row, see `expected_identical_rows`.
    identical_share : the same over all rows, in [0, 1].
    noise : of a row, see `row_noise`.
    own_noise : the part of it that comes from the other blocks of the row itself.
    memory : of the array.
    """

    block_size: int
    alignment: int
    num_blocks: int
    num_starts: int
    cpu_lines: Lines
    gpu_lines: Lines
    identical_rows: float
    identical_share: float
    noise: float
    own_noise: float
    memory: Memory


@dataclass(frozen=True)
class Recommendation:
    """The choice to begin with, whether to use hashed signs, and why in a sentence or two."""

    choice: Choice
    sign: bool
    reason: str


@dataclass(frozen=True)
class Plan:
    """What `plan` worked out.

    Attributes
    ----------
    num_embeddings, num_rows : rows of each table, and N, of all.
    embedding_dim, array_size : d and m, elements.
    compression : elements of the uncompressed tables per element of the array.
    tables, tables_cpu_lines, tables_gpu_lines : of the uncompressed tables; a block is a row.
    choices : by rising Z, without and then with alignment.
    recommendation : see `recommend`.
    """

    num_embeddings: tuple[int, ...]
    num_rows: int
    embedding_dim: int
    array_size: int
    compression: float
    tables: Memory
    tables_cpu_lines: Lines
    tables_gpu_lines: Lines
    choices: tuple[Choice, ...]
    recommendation: Recommendation


def plan(
    num_embeddings: Iterable[int],
    embedding_dim: int,
    *,
    array_size: int | None = None,
    compression: float | None = None,
) -> Plan:
    """What each block size would give for tables of these sizes, and which one to begin with.

    Parameters
    ----------
    num_embeddings : rows of each table.
    embedding_dim : d, elements of one embedding.
    array_size : m, elements of the array, or
    compression : elements of the uncompressed tables per element of the array, at least 1.

    Returns
    -------
    Plan, with Z = 1, 2, 4, ... and d, as far as Z <= m, and beside each power of two the same with
    starts that are multiples of Z.

    Raises
    ------
    TypeError, ValueError : a value is no number or out of range, both or neither of array_size and
        compression are given, or the array is larger than the tables; the message names it.
    """
    tables = TableSpec(tuple(num_embeddings), embedding_dim)
    dim, num_rows = tables.embedding_dim, sum(tables.num_embeddings)
    size = _array_size(tables.array_size, array_size, compression)
    choices = tuple(_choice(num_rows, dim, size, *pair) for pair in _pairs(dim, size))
    return Plan(
        num_embeddings=tables.num_embeddings,
        num_rows=num_rows,
        embedding_dim=dim,
        array_size=size,
        compression=tables.array_size / size,
        tables=_memory(tables),
        tables_cpu_lines=lines_touched(dim, dim, dim, CPU_LINE),
        tables_gpu_lines=lines_touched(dim, dim, dim, GPU_LINE),
        choices=choices,
        recommendation=recommend(choices),
    )


def recommend(choices: Sequence[Choice]) -> Recommendation:
    """The choice to begin with: the rule, in one place.

    Z = d has one hash, the fewest lines and no noise of its own, and measured AUC does not depend
    on Z (docs/accuracy.md). One hash is all that tells a row from the others, so rows share all
    their elements with others; hashed signs tell those apart. Starts are not aligned, because rows
    would share all elements more often still; what alignment would save, the reason says.
    """
    longest = choices[-1].block_size
    best = next(c for c in choices if (c.block_size, c.alignment) == (longest, 1))
    sign = best.identical_share > IDENTICAL_SHARE
    reason = f"Z = {longest} reads the fewest cache lines, and measured AUC does not depend on Z."
    if sign:
        share = _percent(best.identical_share).capitalize()
        reason += f" {share} of the rows share all their elements with others; hashed signs tell "
        reason += "them apart."
    for aligned in (c for c in choices if c.block_size == longest and c.alignment > 1):
        reason += (
            f" Alignment {aligned.alignment} would read {aligned.cpu_lines.average:.4g} lines "
        )
        reason += f"of {CPU_LINE} bytes per row instead of {best.cpu_lines.average:.4g}."
    return Recommendation(best, sign, reason)


def lines_touched(embedding_dim: int, block_size: int, alignment: int, line_bytes: int) -> Lines:
    """Cache lines that reading a row of float32 touches, summed over its blocks.

    A block of z floats that begins o floats into a line of L touches floor((o + z - 1) / L) + 1.
    Starts that are multiples of the alignment a put o on the multiples of g = gcd(a, L), all alike
    often, and the average over them is 1 + g floor((z - 1) / g) / L (Hermite's identity). Exact for
    an array that begins a line and whose m is a multiple of L and of a, wrapping blocks included;
    for others to within a share (a + L) / m of the blocks.

    Parameters
    ----------
    embedding_dim, block_size, alignment : d, Z and a, elements; a = Z = d is a plain table.
    line_bytes : 64 on CPUs, 128 on NVIDIA GPUs; a multiple of 4.
    """
    line = line_bytes // FLOAT_BYTES
    step = math.gcd(alignment, line)
    sizes = _block_lengths(embedding_dim, block_size)
    further = sum(count * (step * ((size - 1) // step)) for size, count in sizes)
    most = sum(count * (1 + (line - step + size - 1) // line) for size, count in sizes)
    return Lines(sum(count for _, count in sizes) + further / line, most)


def expected_identical_rows(num_rows: int, num_starts: int, num_blocks: int) -> float:
    """Expected number of rows that read the same elements as another row, of any table.

    Two rows are alike if all their blocks begin alike, with probability p = n^-B. So a row has a
    twin among the other N - 1 with probability 1 - (1 - p)^(N - 1). (Signs may still differ.)

    Parameters
    ----------
    num_rows : N, rows of all tables.
    num_starts : n, places where a block can begin.
    num_blocks : B, blocks of a row.
    """
    if num_starts == 1:
        return float(num_rows if num_rows > 1 else 0)
    alike = float(num_starts) ** -num_blocks
    return num_rows * -math.expm1((num_rows - 1) * math.log1p(-alike))


def row_noise(
    num_rows: int, embedding_dim: int, array_size: int, block_size: int, alignment: int = 1
) -> float:
    """Error of a row that is stored in the array with all others, over the length of the row.

    Precisely: the N rows are independent vectors of length 1 in random directions. Their N d
    elements are projected onto the array by the transposed read (each adds itself, times its sign,
    where it would be read), and one row is read back. This is the root of the expected squared
    length of what is wrong with it. Over sqrt(d) it is the standard deviation of its inner product
    with a random vector of length 1, which is that of docs/design.md ("Signs"), with x all N d
    elements and y the vector. Random rows have no need of signs; for given rows signs make it hold.

    An element meets those of other blocks that are at its position. Let c[r] of a row's elements be
    at places r modulo a of their blocks, s[b, r] of them in block b. The square is

        sum over r of (N c[r]^2 - sum over b of s[b, r]^2) / (n d)

    which is (N d - Z) / m where a = 1 or Z, and Z divides d: about the compression, whatever Z. Of
    one row alone (N = 1) it is (d - Z) / m, and 0 from Z = d on.

    Parameters
    ----------
    num_rows : N, rows of all tables.
    embedding_dim, array_size, block_size, alignment : d, m, Z and a <= min(Z, d), elements; exact
        where a divides m, else to about a / m.
    """
    starts = -(-array_size // alignment)
    lengths = _block_lengths(embedding_dim, block_size)
    # Residues between these edges have as many elements as each other in every block.
    edges = sorted({0, alignment, *(size % alignment for size, _ in lengths)})
    square = 0
    for residue, end in pairwise(edges):
        here = [(-(-(size - residue) // alignment), count) for size, count in lengths]
        in_row = sum(elements * count for elements, count in here)
        in_block = sum(elements**2 * count for elements, count in here)
        square += (end - residue) * (num_rows * in_row**2 - in_block)
    return math.sqrt(square / (starts * embedding_dim))


def _array_size(full: int, array_size: int | None, compression: float | None) -> int:
    """The elements to keep of `full`, counted as `robe train` counts them."""
    if (array_size is None) == (compression is None):
        were = "neither is given" if array_size is None else "both are given"
        raise ValueError(f"a plan needs its size, by array_size or by compression; {were}")
    if compression is not None:
        size = round(full / check_scalar("compression", compression, 1))
        if size < 1:
            raise ValueError(
                f"compression is {compression:g} but the tables have only {full:,} elements, so "
                f"that none is left; use at most {full:,}"
            )
        return size
    size = check_int("array_size", array_size, 1, MAX_SIZE)
    if size > full:
        raise ValueError(
            f"array_size (m) is {size:,} but the uncompressed tables have only {full:,} elements; "
            f"use the tables themselves, or a smaller array"
        )
    return size


def _pairs(dim: int, array_size: int) -> Iterator[tuple[int, int]]:
    """The (Z, alignment) to compare: 1, 2, 4, ... below d, and d, as far as a block fits."""
    for block_size in (*(1 << k for k in range((dim - 1).bit_length())), dim):
        if block_size <= array_size:
            yield block_size, 1
            if block_size > 1 and block_size.bit_count() == 1:
                yield block_size, block_size


def _block_lengths(dim: int, block_size: int) -> list[tuple[int, int]]:
    """Lengths of the blocks of a row, each with how many there are: full ones and the last."""
    full, rest = divmod(dim, block_size)
    return [(size, count) for size, count in ((block_size, full), (rest, 1)) if size and count]


def _choice(num_rows: int, dim: int, size: int, block_size: int, alignment: int) -> Choice:
    num_blocks, num_starts = -(-dim // block_size), -(-size // alignment)
    identical = expected_identical_rows(num_rows, num_starts, num_blocks)
    return Choice(
        block_size=block_size,
        alignment=alignment,
        num_blocks=num_blocks,
        num_starts=num_starts,
        cpu_lines=lines_touched(dim, block_size, alignment, CPU_LINE),
        gpu_lines=lines_touched(dim, block_size, alignment, GPU_LINE),
        identical_rows=identical,
        identical_share=identical / num_rows,
        noise=row_noise(num_rows, dim, size, block_size, alignment),
        own_noise=row_noise(1, dim, size, block_size, alignment),
        memory=_memory(RobeSpec(size, block_size, dim, 1)),
    )


def _memory(spec: Spec) -> Memory:
    weights, sums = spec.num_bytes, num_sums(spec.array_size, state_block_of(spec))
    return Memory(weights, 0, weights, FLOAT_BYTES * sums)


def _percent(share: float) -> str:
    """For a sentence; never rounds to none or to all."""
    if share in (0, 1):
        return "all" if share else "none"
    if not 1e-5 <= share <= 0.9995:
        return "nearly all" if share > 0.5 else "less than 0.001 %"
    return f"{100 * share:.3g} %"
