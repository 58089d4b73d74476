"""Reading the array one row per id, on the GPU.

The blocks of all rows are numbered: block k of row r is r * num_blocks + k. A warp takes up to 32
of them. First each of its lanes hashes one block into shared memory. Then groups of lanes copy
them, four blocks at a time, so that a thread waits for four reads at once. Neighbouring lanes read
and write neighbouring elements.
"""

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from robe_numba.kernels.gpu import arrays
from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.compiler import SIMULATED, cuda, function, inlined, types
from robe_numba.kernels.gpu.context import DeviceContext, constants_on
from robe_numba.kernels.gpu.intrinsics import load_x1, load_x4, stream_x1, stream_x4, syncwarp
from robe_numba.kernels.gpu.launch import LANES, THREADS, Kernel, Prepared
from robe_numba.kernels.scalar.hashing import block_start, row_key, sign_window
from robe_numba.kernels.scalar.unsigned import ONE, THREE, TWO, U4, U32, U64, ZERO
from robe_numba.spec import RobeSpec, Spec

LOOKUP_THREADS = min(THREADS, 128)
# A warp takes fewer blocks than it has lanes as long as there are fewer warps than these.
WARPS_WANTED = 4 if SIMULATED else 8192


@function
def place(start, j, spec):
    """Where element j of a block is in the circular array."""
    position = start + j
    return position - spec.array_size if position >= spec.array_size else position


@inlined
def last_of(j, length, ragged):
    """Element j of a block, or its last if a shorter block has none."""
    return min(j, length - ONE) if ragged else j


@function
def with_sign(value, window, bit):
    """The value, negated if a bit of the window of signs is set."""
    return -value if (window >> bit) & ONE else value


@function
def with_signs(values, window, bit):
    """`with_sign` for four values and neighbouring bits."""
    a, b, c, d = values
    return (
        with_sign(a, window, bit),
        with_sign(b, window, bit + ONE),
        with_sign(c, window, bit + TWO),
        with_sign(d, window, bit + THREE),
    )


@function
def hash_block(indices, number, spec, keep, starts):
    """The start of a block, where it goes in the output, its first element, and the key and table
    of its row.
    """
    row, block = number // spec.num_blocks, number % spec.num_blocks
    table = row % spec.num_tables
    key = row_key(np.uint64(indices[row]), spec)
    start = block_start(key, table, block, spec)
    if keep:
        starts[number] = start
    element = block * spec.block_size
    return start, row * spec.embedding_dim + element, element, key, table


@cache
def gather_kernel(sign: bool, ragged: bool, vectors: bool, shared_by: int) -> Kernel:
    """Make `gather`, with or without signs, for rows whose last block is shorter or not, and for
    blocks that a power of two of lanes copy together.

    With `vectors` it reads and writes only aligned vectors of four. This needs an alignment, Z, d
    and m that are multiples of four, and rows of equal blocks.

    Code that is not needed would cost registers, and numbers that are not constant, divisions.
    """
    num_windows, num_lengths = LOOKUP_THREADS if sign else 1, LOOKUP_THREADS if ragged else 1
    lanes, groups = np.uint64(shared_by), np.uint64(LANES // shared_by)
    size = np.uint64(4 if vectors else 1)

    def gather(array, indices, spec, keep, starts, out, per_warp):
        """out (n * d,) of indices (n,); a warp copies `per_warp` blocks."""
        begins = cuda.shared.array(LOOKUP_THREADS, types.uint64)
        targets = cuda.shared.array(LOOKUP_THREADS, types.uint64)
        lengths = cuda.shared.array(num_lengths, types.uint64)
        windows = cuda.shared.array(num_windows, types.uint64)
        if vectors:
            load, stream, negate = load_x4, stream_x4, with_signs
        else:
            load, stream, negate = load_x1, stream_x1, with_sign
        thread, real = np.uint64(cuda.threadIdx.x), out.dtype.type
        lane = thread % U32
        warp = thread - lane
        total = np.uint64(indices.size) * spec.num_blocks
        first = (np.uint64(cuda.blockIdx.x) * np.uint64(LOOKUP_THREADS) + warp) // U32 * per_warp
        count = min(per_warp, total - first) if first < total else ZERO
        key = table = element = ZERO
        if lane < count:
            start, target, element, key, table = hash_block(
                indices, first + lane, spec, keep, starts
            )
            begins[thread], targets[thread] = start, target
            if ragged:
                lengths[thread] = min(spec.block_size, spec.embedding_dim - element)
        longest = min(spec.block_size, spec.embedding_dim)
        step = U64 if sign else longest
        chunk = ZERO
        while chunk < longest:
            end = min(chunk + step, longest)
            if sign:
                syncwarp()
                if lane < count and element + chunk < spec.embedding_dim:
                    windows[thread] = sign_window(key, table, element + chunk, spec)
            syncwarp()
            b_0 = lane // lanes
            while b_0 < count:
                b_1, b_2, b_3 = b_0 + groups, b_0 + TWO * groups, b_0 + THREE * groups
                i_0, i_1 = warp + b_0, warp + (b_1 if b_1 < count else b_0)
                i_2, i_3 = (
                    warp + (b_2 if b_2 < count else b_0),
                    warp + (b_3 if b_3 < count else b_0),
                )
                n_0, n_1 = (lengths[i_0], lengths[i_1]) if ragged else (longest, longest)
                n_2, n_3 = (lengths[i_2], lengths[i_3]) if ragged else (longest, longest)
                j = chunk + size * (lane % lanes)
                while j < end:
                    # Without branches, so that the reads are in flight together.
                    v_0 = load(array, place(begins[i_0], last_of(j, n_0, ragged), spec), real)
                    v_1 = load(array, place(begins[i_1], last_of(j, n_1, ragged), spec), real)
                    v_2 = load(array, place(begins[i_2], last_of(j, n_2, ragged), spec), real)
                    v_3 = load(array, place(begins[i_3], last_of(j, n_3, ragged), spec), real)
                    if sign:
                        bit = j - chunk
                        v_0 = negate(v_0, windows[i_0], bit)
                        v_1 = negate(v_1, windows[i_1], bit)
                        v_2 = negate(v_2, windows[i_2], bit)
                        v_3 = negate(v_3, windows[i_3], bit)
                    if not ragged or j < n_0:
                        stream(out, targets[i_0] + j, v_0)
                    if b_1 < count and (not ragged or j < n_1):
                        stream(out, targets[i_1] + j, v_1)
                    if b_2 < count and (not ragged or j < n_2):
                        stream(out, targets[i_2] + j, v_2)
                    if b_3 < count and (not ragged or j < n_3):
                        stream(out, targets[i_3] + j, v_3)
                    j += size * lanes
                b_0 += U4 * groups
            chunk = end

    return Kernel(gather)


def lookup_rows(
    context: DeviceContext,
    array: DeviceArray,
    ids: DeviceArray,
    spec: Spec,
    starts: DeviceArray | None,
    out: DeviceArray,
) -> None:
    """Fill out (n * d,) with the rows of ids (n,), and starts unless None."""
    if out.size == 0:
        return
    kernels = _kernels_on(spec, context.device)
    kernel, lanes = kernels.by_elements
    if kernels.by_vectors is not None and start_vectors(array, out):
        kernel, lanes = kernels.by_vectors
    total = ids.size * spec.num_blocks
    per_warp = LANES
    while per_warp > LANES // lanes and total < per_warp * WARPS_WANTED:
        per_warp //= 2
    grid = -(-total // (per_warp * (LOOKUP_THREADS // LANES)))
    keep = starts is not None
    kept = starts if keep else arrays.nothing(np.uint64)
    arguments = (array, ids, kernels.constants, keep, kept, out, np.uint64(per_warp))
    kernel.launch(context, grid, LOOKUP_THREADS, *arguments)


class LookupKernels(NamedTuple):
    """The kernels of a spec, each with the number of lanes that copy a block together."""

    constants: Prepared
    by_elements: tuple[Kernel, int]
    by_vectors: tuple[Kernel, int] | None  # where blocks are made of vectors


@lru_cache(maxsize=64)
def _kernels_on(spec: Spec, device: int) -> LookupKernels:
    length = min(spec.block_size, spec.embedding_dim)
    ragged = spec.embedding_dim % length > 0
    lanes = _lanes(length, 64, spec.sign)
    vectors = None
    if made_of_vectors(spec):
        fewer = _lanes(length // 4, 16, spec.sign)
        vectors = gather_kernel(spec.sign, False, True, fewer), fewer
    elements = gather_kernel(spec.sign, ragged, False, lanes), lanes
    return LookupKernels(constants_on(spec, device), elements, vectors)


def _lanes(copies: int, window: int, sign: bool) -> int:
    """Lanes that make the copies of a block together, or with signs those of a window of signs."""
    copies = min(copies, window) if sign else copies
    return min(1 << (copies - 1).bit_length(), LANES)


def in_vectors(spec: Spec, array: DeviceArray, out: DeviceArray) -> bool:
    """Whether blocks consist of vectors of four elements, all aligned."""
    return made_of_vectors(spec) and start_vectors(array, out)


def made_of_vectors(spec: Spec) -> bool:
    """As `in_vectors`, if the array and the output begin at a multiple of four elements."""
    length, dim = min(spec.block_size, spec.embedding_dim), spec.embedding_dim
    alignment = spec.alignment if isinstance(spec, RobeSpec) else dim
    return not (dim % length or length % 4 or spec.array_size % 4 or alignment % 4)


def start_vectors(*memories: DeviceArray) -> bool:
    """Whether all arrays begin at a multiple of four elements."""
    return all(m.pointer % (4 * m.dtype.itemsize) == 0 for m in memories)
