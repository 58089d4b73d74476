"""What reading rows from an array costs: cache lines, rows that are alike, noise and memory.

Symbols are those of docs/design.md: N rows of d elements in all tables together, read in
B = ceil(d / Z) blocks from m shared elements. Starts of blocks are taken as uniform over the
n = ceil(m / alignment) multiples of the alignment, and as independent between blocks. The hash
"multiply-shift" provides this for any two rows; "paper" and "uma" do not.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from robe_numba.spec import Spec
from robe_numba.state_blocks import num_sums, state_block_for, state_block_of

FLOAT_BYTES = 4
CPU_LINE, GPU_LINE = 64, 128  # bytes of a cache line


@dataclass(frozen=True)
class Lines:
    """Cache lines that reading one row touches, summed over its blocks: on average, and at most."""

    average: float
    most: int


@dataclass(frozen=True)
class Memory:
    """Bytes of embedding weights (float32) and of their optimizer's state; SGD has none.

    Adagrad's state has one sum per element, or (`adagrad_block_state`) one per block of Z elements
    rounded down to a power of two.
    """

    weights: int
    sgd_state: int
    adagrad_state: int
    adagrad_block_state: int


@dataclass(frozen=True)
class SampleCosts:
    """What one sample, a row of the log, takes on average, in float32.

    Every id is counted, also where it repeats or shares cache lines with another.

    Attributes
    ----------
    reads : rows of tables that are read, one for each id.
    blocks : blocks of these rows, each with a hash.
    read_bytes : 4 d for each read.
    pooled_bytes : 4 d for each table; the gradient that comes back has as many.
    cpu_lines, gpu_lines : lines of 64 and of 128 bytes that are read, and that SGD writes.
    adagrad_cpu_lines, adagrad_gpu_lines : the same with those of Adagrad's sums, one per element.
    adagrad_block_cpu_lines, adagrad_block_gpu_lines : with one sum per block, see `Memory`.
    """

    reads: float
    blocks: float
    read_bytes: float
    pooled_bytes: int
    cpu_lines: float
    gpu_lines: float
    adagrad_cpu_lines: float
    adagrad_gpu_lines: float
    adagrad_block_cpu_lines: float
    adagrad_block_gpu_lines: float


def lines_touched(embedding_dim: int, block_size: int, alignment: int, line_bytes: int) -> Lines:
    """Cache lines that reading a row of float32 touches, summed over its blocks.

    A block of z floats that begins o floats into a line of L touches floor((o + z - 1) / L) + 1.
    With starts that are multiples of a, o takes the multiples of g = gcd(a, L) equally often,
    and the average is 1 + g floor((z - 1) / g) / L (Hermite's identity). This is exact for an array
    that begins a line and whose m is a multiple of L and of a, wrapping blocks included; for others
    it is within a share (a + L) / m of the blocks.

    Parameters
    ----------
    embedding_dim, block_size, alignment : int
        d, Z and a, elements; a = Z = d is a plain table.
    line_bytes : int
        64 on CPUs, 128 on NVIDIA GPUs; a multiple of 4.
    """
    line = line_bytes // FLOAT_BYTES
    step = math.gcd(alignment, line)
    sizes = _block_lengths(embedding_dim, block_size)
    further = sum(count * (step * ((size - 1) // step)) for size, count in sizes)
    most = sum(count * (1 + (line - step + size - 1) // line) for size, count in sizes)
    return Lines(sum(count for _, count in sizes) + further / line, most)


def sample_costs(
    reads: float, num_tables: int, embedding_dim: int, block_size: int, alignment: int
) -> SampleCosts:
    """What the reads of one sample cost.

    Parameters
    ----------
    reads : float
        Ids of all tables in one sample, on average.
    num_tables : int
        Each gives one pooled vector, however many ids it has.
    embedding_dim, block_size, alignment : int
        d, Z and a, elements; a = Z = d is a plain table.
    """
    state_block = state_block_for(min(block_size, embedding_dim))

    def lines(line_bytes: int) -> float:
        return lines_touched(embedding_dim, block_size, alignment, line_bytes).average

    cpu, gpu = lines(CPU_LINE), lines(GPU_LINE)
    return SampleCosts(
        reads=reads,
        blocks=reads * -(-embedding_dim // block_size),
        read_bytes=reads * FLOAT_BYTES * embedding_dim,
        pooled_bytes=num_tables * FLOAT_BYTES * embedding_dim,
        cpu_lines=reads * cpu,
        gpu_lines=reads * gpu,
        adagrad_cpu_lines=reads * 2 * cpu,
        adagrad_gpu_lines=reads * 2 * gpu,
        # A line holds the sums of as many more elements as share one.
        adagrad_block_cpu_lines=reads * (cpu + lines(CPU_LINE * state_block)),
        adagrad_block_gpu_lines=reads * (gpu + lines(GPU_LINE * state_block)),
    )


def expected_identical_rows(num_rows: int, num_starts: int, num_blocks: int) -> float:
    """Expected number of rows that read the same elements as another row, of any table.

    Two rows are equal if all their blocks begin alike, with probability p = n^-B. So a row equals
    one of the other N - 1 with probability 1 - (1 - p)^(N - 1). (Signs may still differ.)

    Parameters
    ----------
    num_rows : int
        N, rows of all tables.
    num_starts : int
        n, places where a block can begin.
    num_blocks : int
        B, blocks of a row.
    """
    if num_starts == 1:
        return float(num_rows if num_rows > 1 else 0)
    alike = float(num_starts) ** -num_blocks
    return num_rows * -math.expm1((num_rows - 1) * math.log1p(-alike))


def row_noise(
    num_rows: int, embedding_dim: int, array_size: int, block_size: int, alignment: int = 1
) -> float:
    """Error of a row that shares the array with all others, relative to the length of the row.

    Precisely: the N rows are independent vectors of length 1 in random directions. Their N d
    elements are projected onto the array by the transposed read (each adds itself, times its sign,
    where it would be read), and one row is read back. The noise is the root of the expected squared
    length of its error. Divided by sqrt(d) it is the standard deviation of the row's inner product
    with a random vector of length 1, as in docs/design.md ("Signs"), with x all N d elements and y
    the vector. Random rows need no signs; for given rows signs make it hold.

    An element meets those of other blocks at its position. Let c[r] of a row's elements be at
    places r modulo a of their blocks, s[b, r] of them in block b. The square is

        sum over r of (N c[r]^2 - sum over b of s[b, r]^2) / (n d)

    which is (N d - Z) / m where a = 1 or Z, and Z divides d: about the compression, for any Z. Of
    one row alone (N = 1) it is (d - Z) / m, and 0 for Z >= d.

    Parameters
    ----------
    num_rows : int
        N, rows of all tables.
    embedding_dim, array_size, block_size, alignment : int
        d, m, Z and a <= min(Z, d), elements; exact where a divides m, else to about a / m.
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


def _block_lengths(dim: int, block_size: int) -> list[tuple[int, int]]:
    """Lengths of the blocks of a row, each with its number: of full ones and of the last."""
    full, rest = divmod(dim, block_size)
    return [(size, count) for size, count in ((block_size, full), (rest, 1)) if size and count]


def memory_of(spec: Spec) -> Memory:
    """Memory of the array of a spec and of its optimizer."""
    weights, sums = spec.num_bytes, num_sums(spec.array_size, state_block_of(spec))
    return Memory(weights, 0, weights, FLOAT_BYTES * sums)
