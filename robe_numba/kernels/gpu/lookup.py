"""Reading blocks of the array into rows.

The blocks of all rows are numbered one after the other: block k of row r is r * num_blocks + k. A
warp takes up to 32 of them. First each of its lanes hashes one block into shared memory; then
groups of lanes copy them, four blocks at a time, so that a thread waits for four reads at once.
Neighbouring lanes read and write neighbouring elements.
"""

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from robe_numba.kernels.gpu import arrays
from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.compiler import SIMULATED, cuda, function, types
from robe_numba.kernels.gpu.device import Work, constants_on
from robe_numba.kernels.gpu.intrinsics import load1, load4, store1, store4, syncwarp
from robe_numba.kernels.gpu.launch import Kernel, Prepared
from robe_numba.kernels.scalar.hashing import block_start, row_key, sign_window, sign_word
from robe_numba.kernels.scalar.unsigned import ONE, THREE, TWO, U4, U32, U63, U64, ZERO
from robe_numba.spec import RobeSpec, Spec

LANES = 32  # of a warp
THREADS = 32 if SIMULATED else 128  # of a thread block
UNROLL = 4  # blocks of the array that a group of lanes copies at a time
# Fewer blocks for each warp than it has lanes, as long as there are not enough warps for a GPU.
WARPS_WANTED = 4 if SIMULATED else 8192


@function
def place(start, j, spec):
    """Where element j of a block is, in the circular array."""
    position = start + j
    return position - spec.array_size if position >= spec.array_size else position


@function
def signed(value, key, table, element, spec):
    """A value of a row's element, with the sign that the spec gives it."""
    if spec.sign and (sign_word(key, table, element, spec) >> (element & U63)) & ONE:
        return -value
    return value


@function
def with_sign(value, window, bit):
    """A value with the sign that a bit of a window of signs gives it."""
    return -value if (window >> bit) & ONE else value


@function
def with_signs(values, window, bit):
    """`with_sign` of four values, by neighbouring bits."""
    a, b, c, d = values
    return (
        with_sign(a, window, bit),
        with_sign(b, window, bit + ONE),
        with_sign(c, window, bit + TWO),
        with_sign(d, window, bit + THREE),
    )


@function
def hash_own(indices, number, spec, keep, starts):
    """Start of a block, where it goes in the output, its first element, the row's key and table."""
    row, block = number // spec.num_blocks, number % spec.num_blocks
    table = row % spec.num_tables
    key = row_key(np.uint64(indices[row]), spec)
    start = block_start(key, table, block, spec)
    if keep:
        starts[number] = start
    element = block * spec.block_size
    return start, row * spec.embedding_dim + element, element, key, table


@cache
def gather_kernel(sign: bool, ragged: bool, shared_by: int) -> Kernel:
    """`gather` with or without signs, for rows whose last block is shorter or not, and for blocks
    shared by a power of two of lanes: what is not needed would cost registers, and what is not
    constant divisions.
    """
    slots, endings = THREADS if sign else 1, THREADS if ragged else 1
    lanes, groups = np.uint64(shared_by), np.uint64(LANES // shared_by)

    def gather(array, indices, spec, keep, starts, out, per_warp):
        """out (n * d,) of indices (n,); a warp takes `per_warp` blocks."""
        begins = cuda.shared.array(THREADS, types.uint64)
        targets = cuda.shared.array(THREADS, types.uint64)
        lengths = cuda.shared.array(endings, types.uint64)
        windows = cuda.shared.array(slots, types.uint64)
        thread, real = np.uint64(cuda.threadIdx.x), out.dtype.type
        lane = thread % U32
        warp = thread - lane
        total = np.uint64(indices.size) * spec.num_blocks
        first = (np.uint64(cuda.blockIdx.x) * np.uint64(THREADS) + warp) // U32 * per_warp
        count = min(per_warp, total - first) if first < total else ZERO
        key = table = element = ZERO
        if lane < count:
            start, target, element, key, table = hash_own(indices, first + lane, spec, keep, starts)
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
                j = chunk + lane % lanes
                while j < end:
                    # Without branches, which would keep the reads apart.
                    v_0 = load1(array, place(begins[i_0], min(j, n_0 - ONE), spec), real)
                    v_1 = load1(array, place(begins[i_1], min(j, n_1 - ONE), spec), real)
                    v_2 = load1(array, place(begins[i_2], min(j, n_2 - ONE), spec), real)
                    v_3 = load1(array, place(begins[i_3], min(j, n_3 - ONE), spec), real)
                    if sign:
                        bit = j - chunk
                        v_0 = with_sign(v_0, windows[i_0], bit)
                        v_1 = with_sign(v_1, windows[i_1], bit)
                        v_2 = with_sign(v_2, windows[i_2], bit)
                        v_3 = with_sign(v_3, windows[i_3], bit)
                    if j < n_0:
                        store1(out, targets[i_0] + j, v_0)
                    if b_1 < count and j < n_1:
                        store1(out, targets[i_1] + j, v_1)
                    if b_2 < count and j < n_2:
                        store1(out, targets[i_2] + j, v_2)
                    if b_3 < count and j < n_3:
                        store1(out, targets[i_3] + j, v_3)
                    j += lanes
                b_0 += U4 * groups
            chunk = end

    return Kernel(gather)


@cache
def gather_vectors_kernel(sign: bool, shared_by: int) -> Kernel:
    """As `gather_kernel`, of `gather_vectors`."""
    slots = THREADS if sign else 1
    lanes, groups = np.uint64(shared_by), np.uint64(LANES // shared_by)

    def gather_vectors(array, indices, spec, keep, starts, out, per_warp):
        """As `gather`, where all is read and written in aligned vectors of four.

        It is if alignment, Z, d and m are multiples of four, and equal blocks fill the rows.
        """
        begins = cuda.shared.array(THREADS, types.uint64)
        targets = cuda.shared.array(THREADS, types.uint64)
        windows = cuda.shared.array(slots, types.uint64)
        thread, real = np.uint64(cuda.threadIdx.x), out.dtype.type
        lane = thread % U32
        warp = thread - lane
        total = np.uint64(indices.size) * spec.num_blocks
        first = (np.uint64(cuda.blockIdx.x) * np.uint64(THREADS) + warp) // U32 * per_warp
        count = min(per_warp, total - first) if first < total else ZERO
        key = table = element = ZERO
        if lane < count:
            start, target, element, key, table = hash_own(indices, first + lane, spec, keep, starts)
            begins[thread], targets[thread] = start, target
        longest = min(spec.block_size, spec.embedding_dim)
        step = U64 if sign else longest
        chunk = ZERO
        while chunk < longest:
            end = min(chunk + step, longest)
            if sign:
                syncwarp()
                if lane < count:
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
                j = chunk + U4 * (lane % lanes)
                while j < end:
                    v_0 = load4(array, place(begins[i_0], j, spec), real)
                    v_1 = load4(array, place(begins[i_1], j, spec), real)
                    v_2 = load4(array, place(begins[i_2], j, spec), real)
                    v_3 = load4(array, place(begins[i_3], j, spec), real)
                    if sign:
                        bit = j - chunk
                        v_0 = with_signs(v_0, windows[i_0], bit)
                        v_1 = with_signs(v_1, windows[i_1], bit)
                        v_2 = with_signs(v_2, windows[i_2], bit)
                        v_3 = with_signs(v_3, windows[i_3], bit)
                    store4(out, targets[i_0] + j, v_0)
                    if b_1 < count:
                        store4(out, targets[i_1] + j, v_1)
                    if b_2 < count:
                        store4(out, targets[i_2] + j, v_2)
                    if b_3 < count:
                        store4(out, targets[i_3] + j, v_3)
                    j += U4 * lanes
                b_0 += U4 * groups
            chunk = end

    return Kernel(gather_vectors)


def launch(
    work: Work,
    array: DeviceArray,
    ids: DeviceArray,
    spec: Spec,
    starts: DeviceArray | None,
    out: DeviceArray,
) -> None:
    """Fill out (n * d,) with the rows of ids (n,), and starts unless None."""
    if out.size == 0:
        return
    plan = _plan(spec, work)
    kernel, lanes = plan.by_elements
    if plan.by_vectors is not None and start_vectors(array, out):
        kernel, lanes = plan.by_vectors
    total = ids.size * spec.num_blocks
    per_warp = LANES
    while per_warp > LANES // lanes and total < per_warp * WARPS_WANTED:
        per_warp //= 2
    grid = -(-total // (per_warp * (THREADS // LANES)))
    keep = starts is not None
    kept = starts if keep else arrays.nothing(np.uint64)
    arguments = (array, ids, plan.constants, keep, kept, out, np.uint64(per_warp))
    kernel.launch(work, grid, THREADS, *arguments)


class Plan(NamedTuple):
    """What a launch needs of a spec, found out once: the kernels, and how many lanes share a block
    in each.
    """

    constants: Prepared
    by_elements: tuple[Kernel, int]
    by_vectors: tuple[Kernel, int] | None  # where blocks are made of vectors


def _plan(spec: Spec, work: Work) -> Plan:
    return _plan_on(spec, work.device)


@lru_cache(maxsize=64)
def _plan_on(spec: Spec, device: int) -> Plan:
    length = min(spec.block_size, spec.embedding_dim)
    ragged = spec.embedding_dim % length > 0
    lanes = _lanes(length, 64, spec.sign)
    vectors = None
    if made_of_vectors(spec):
        fewer = _lanes(length // 4, 16, spec.sign)
        vectors = gather_vectors_kernel(spec.sign, fewer), fewer
    elements = gather_kernel(spec.sign, ragged, lanes), lanes
    return Plan(constants_on(spec, device), elements, vectors)


def _lanes(moves: int, window: int, sign: bool) -> int:
    """How many lanes share a block of so many moves, or with signs a window of them."""
    moves = min(moves, window) if sign else moves
    return min(1 << (moves - 1).bit_length(), LANES)


def in_vectors(spec: Spec, array: DeviceArray, out: DeviceArray) -> bool:
    """Whether blocks are made of vectors of four that are aligned wherever they are."""
    return made_of_vectors(spec) and start_vectors(array, out)


def made_of_vectors(spec: Spec) -> bool:
    """As `in_vectors`, where array and output begin with a vector."""
    length, dim = min(spec.block_size, spec.embedding_dim), spec.embedding_dim
    alignment = spec.alignment if isinstance(spec, RobeSpec) else dim
    return not (dim % length or length % 4 or spec.array_size % 4 or alignment % 4)


def start_vectors(*memories: DeviceArray) -> bool:
    """Whether arrays begin at multiples of four elements."""
    return all(m.pointer % (4 * m.dtype.itemsize) == 0 for m in memories)
