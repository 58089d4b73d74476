"""The kernels of the backward pass and the updates, which go through segments of the array.

See `driver.py` for which segments are heavy, and `partition.py` for how blocks are sorted.

A warp waits for memory, not for arithmetic. So it reads four blocks at a time, without branches,
and these reads are in flight together.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from robe_numba.kernels.gpu.compiler import SIMULATED, cuda, function, inlined, types
from robe_numba.kernels.gpu.intrinsics import syncwarp
from robe_numba.kernels.gpu.launch import THREADS, Kernel
from robe_numba.kernels.gpu.update.partition import SHIFT, lower_bound
from robe_numba.kernels.scalar import update_rules
from robe_numba.kernels.scalar.bags import EVERY_READ
from robe_numba.kernels.scalar.hashing import row_key, sign_window
from robe_numba.kernels.scalar.unsigned import ONE, THREE, TWO, U4, U32, ZERO

# A segment that more blocks may touch is heavy; also the blocks of a chunk.
HEAVY = np.uint64(8 if SIMULATED else 256)
FAR = np.uint64(1 << 63)  # a start that is far from every element
ADAGRAD, SGD = update_rules.ADAGRAD, update_rules.SGD


@function
def wrapping_blocks(segment, reads, spec):
    """The blocks [wrapping, end) that may touch a segment around the end of the array."""
    length = min(spec.block_size, spec.embedding_dim)
    low = segment << SHIFT
    if low + ONE >= length:
        return ZERO, ZERO
    end = lower_bound((spec.array_size - ONE >> SHIFT) + ONE, reads.starts)
    return lower_bound((low + spec.array_size - length + ONE) >> SHIFT, reads.starts), end


@function
def apply_rule(rule, element, total, array, state_sum, lr, eps):
    """Apply a rule to an element, given the sum of its gradients; the rate is lr[0]."""
    if rule == ADAGRAD:
        array[element], state_sum[element] = update_rules.adagrad(
            array[element], state_sum[element], total, lr[0], eps
        )
    elif rule == SGD:
        array[element] = update_rules.sgd(array[element], total, lr[0])
    else:
        array[element] = total


class UpdateVariant(NamedTuple):
    """What the kernels are compiled for. Anything more would cost registers and time."""

    sign: bool
    scaled: bool  # reads have factors
    argmax: bool  # only the reads of `argmax` count
    mixed: bool  # but all reads where it has `EVERY_READ`
    ragged: bool  # the last block of a row is shorter


@inlined
def stage_blocks(base, count, element, lane, thread, reads, spec, variant, slots):
    """Put `count` sorted blocks, from `base` on, into the slots of the warp's lanes."""
    sign, scaled, argmax, mixed, ragged = variant
    begins, sources, lengths, windows, scales, numbers = slots
    full = min(spec.block_size, spec.embedding_dim)
    begins[thread], sources[thread] = FAR, ZERO
    if ragged:
        lengths[thread] = full
    if lane < count:
        i = base + lane
        start = reads.starts[i]
        begins[thread], sources[thread] = start, reads.sources[i]
        if ragged or sign or scaled or argmax:
            number = np.uint64(reads.order[i])
            read, block = number // spec.num_blocks, number % spec.num_blocks
            column = block * spec.block_size
            if ragged:
                lengths[thread] = min(full, spec.embedding_dim - column)
            if sign:
                key = row_key(np.uint64(reads.indices[read]), spec)
                row = reads.sources[i] // spec.embedding_dim
                offset = element - lane - start
                late = ZERO - offset if start > element - lane else ZERO
                column += ZERO if late else offset
                if late < U32 and column < spec.embedding_dim:
                    window = sign_window(key, row % spec.num_tables, column, spec)
                    windows[thread] = window << late
            if scaled:
                scales[thread] = reads.scales[read]
            if argmax:
                numbers[thread] = read
                if mixed:
                    chosen = reads.argmax[reads.sources[i]]
                    if chosen == EVERY_READ:  # then so are the block's others
                        numbers[thread] = np.uint64(chosen)


@inlined
def add_staged(total, element, lane, warp, count, reads, spec, variant, slots):
    """Add to the lane's element what `count` blocks in the slots of the warp give it."""
    sign, scaled, argmax, _, ragged = variant
    begins, sources, lengths, windows, scales, numbers = slots
    full, zero = min(spec.block_size, spec.embedding_dim), reads.grad_out.dtype.type(0)
    for k in range(warp, warp + count, U4):
        k_0 = np.uint64(k)
        k_1, k_2, k_3 = k_0 + ONE, k_0 + TWO, k_0 + THREE
        o_0, o_1 = element - begins[k_0], element - begins[k_1]
        o_2, o_3 = element - begins[k_2], element - begins[k_3]
        n_0, n_1 = (lengths[k_0], lengths[k_1]) if ragged else (full, full)
        n_2, n_3 = (lengths[k_2], lengths[k_3]) if ragged else (full, full)
        p_0 = sources[k_0] + min(o_0, n_0 - ONE)
        p_1 = sources[k_1] + min(o_1, n_1 - ONE)
        p_2 = sources[k_2] + min(o_2, n_2 - ONE)
        p_3 = sources[k_3] + min(o_3, n_3 - ONE)
        g_0, g_1 = reads.grad_out[p_0], reads.grad_out[p_1]
        g_2, g_3 = reads.grad_out[p_2], reads.grad_out[p_3]
        if sign:
            g_0 = -g_0 if (windows[k_0] >> lane) & ONE else g_0
            g_1 = -g_1 if (windows[k_1] >> lane) & ONE else g_1
            g_2 = -g_2 if (windows[k_2] >> lane) & ONE else g_2
            g_3 = -g_3 if (windows[k_3] >> lane) & ONE else g_3
        if scaled:
            g_0, g_1 = g_0 * scales[k_0], g_1 * scales[k_1]
            g_2, g_3 = g_2 * scales[k_2], g_3 * scales[k_3]
        if argmax:
            g_0 = g_0 if np.uint64(reads.argmax[p_0]) == numbers[k_0] else zero
            g_1 = g_1 if np.uint64(reads.argmax[p_1]) == numbers[k_1] else zero
            g_2 = g_2 if np.uint64(reads.argmax[p_2]) == numbers[k_2] else zero
            g_3 = g_3 if np.uint64(reads.argmax[p_3]) == numbers[k_3] else zero
        total += g_0 if o_0 < n_0 else zero
        total += g_1 if o_1 < n_1 else zero
        total += g_2 if o_2 < n_2 else zero
        total += g_3 if o_3 < n_3 else zero
    return total


@inlined
def add_range(total, segment, begin, end, wrap, reads, spec, variant, slots):
    """Add to the lane's element what the blocks [begin, end) give it.

    `wrap` is m for blocks that wrap around the end of the array, else 0. `variant` is an
    `UpdateVariant`; `slots` are arrays in shared memory with a place for each thread.
    """
    thread = np.uint64(cuda.threadIdx.x)
    lane = thread % U32
    warp = thread - lane
    element = (segment << SHIFT) + lane + wrap
    for base in range(begin, end, U32):
        base = np.uint64(base)
        count = min(U32, end - base)
        syncwarp()
        stage_blocks(base, count, element, lane, thread, reads, spec, variant, slots)
        syncwarp()
        total = add_staged(total, element, lane, warp, count, reads, spec, variant, slots)
    return total


class SegmentKernels(NamedTuple):
    """The kernels that sum gradients: of light segments, and of the chunks of heavy ones."""

    update_light: Kernel
    add_chunks: Kernel


@cache
def segment_kernels(variant: UpdateVariant) -> SegmentKernels:
    """Make the kernels for a variant.

    They close over numbers only: Numba's cache on disk would not recognize a function.
    """
    # More warps are worth more than the registers that the compiler would take, where measured.
    most = None if variant.scaled or variant.argmax else 40 if variant.sign else 32
    return SegmentKernels(_light_kernel(variant, most), _chunks_kernel(variant, most))


def _light_kernel(variant: UpdateVariant, max_registers: int | None) -> Kernel:
    signs, factors, choices, _, endings = (THREADS if used else 1 for used in variant)

    def update_light(rule, reads, spec, ranges, heavy, array, state_sum, lr, eps):
        """A warp for each segment of `ranges`; heavy ones are only listed."""
        begins = cuda.shared.array(THREADS, types.uint64)
        sources = cuda.shared.array(THREADS, types.uint64)
        lengths = cuda.shared.array(endings, types.uint64)
        windows = cuda.shared.array(signs, types.uint64)
        scales = cuda.shared.array(factors, reads.grad_out.dtype)
        numbers = cuda.shared.array(choices, types.uint64)
        slots = begins, sources, lengths, windows, scales, numbers
        lane = np.uint64(cuda.threadIdx.x) % U32
        i = np.uint64(cuda.grid(1)) // U32
        if i < np.uint64(ranges.firsts.size):
            segment = ranges.listed[i] if ranges.listed.size else ranges.skipped + i
            first, last = ranges.firsts[i], ranges.lasts[i]
            wrapping, end = wrapping_blocks(segment, reads, spec)
            count = last - first + end - wrapping
            element = ((segment - ranges.skipped) << SHIFT) + lane
            if count > HEAVY:
                if lane == ZERO:
                    number = cuda.atomic.add(heavy.counts, 0, 1)
                    chunks = (count + HEAVY - ONE) // HEAVY
                    chunk = np.uint64(cuda.atomic.add(heavy.counts, 1, np.int64(chunks)))
                    heavy.segments[number] = i
                    heavy.chunks[number], heavy.sizes[number] = chunk, chunks
                    for k in range(ZERO, chunks):
                        heavy.owners[chunk + np.uint64(k)] = np.uint64(number)
            elif count > ZERO:
                total = reads.grad_out.dtype.type(0)
                total = add_range(total, segment, first, last, ZERO, reads, spec, variant, slots)
                if end > wrapping:
                    args = (wrapping, end, spec.array_size, reads, spec, variant, slots)
                    total = add_range(total, segment, *args)
                if element < np.uint64(array.size) and total != 0:
                    apply_rule(rule, element, total, array, state_sum, lr, eps)

    return Kernel(update_light, max_registers)


def _chunks_kernel(variant: UpdateVariant, max_registers: int | None) -> Kernel:
    signs, factors, choices, _, endings = (THREADS if used else 1 for used in variant)

    def add_chunks(reads, spec, ranges, heavy):
        """A warp for each chunk of the heavy segments, in turns."""
        begins = cuda.shared.array(THREADS, types.uint64)
        sources = cuda.shared.array(THREADS, types.uint64)
        lengths = cuda.shared.array(endings, types.uint64)
        windows = cuda.shared.array(signs, types.uint64)
        scales = cuda.shared.array(factors, reads.grad_out.dtype)
        numbers = cuda.shared.array(choices, types.uint64)
        slots = begins, sources, lengths, windows, scales, numbers
        lane = np.uint64(cuda.threadIdx.x) % U32
        begin, step = np.uint64(cuda.grid(1)) // U32, np.uint64(cuda.gridsize(1)) // U32
        for chunk in range(begin, np.uint64(heavy.counts[1]), step):
            chunk = np.uint64(chunk)
            number = heavy.owners[chunk]
            i = heavy.segments[number]
            segment = ranges.listed[i] if ranges.listed.size else ranges.skipped + i
            first, last = ranges.firsts[i], ranges.lasts[i]
            wrapping, end = wrapping_blocks(segment, reads, spec)
            # A segment's blocks are those that begin before its end, then those that wrap around.
            low = (chunk - heavy.chunks[number]) * HEAVY
            high, size = low + HEAVY, last - first
            total = reads.grad_out.dtype.type(0)
            if low < size:
                args = (first + low, min(first + high, last), ZERO, reads, spec, variant, slots)
                total = add_range(total, segment, *args)
            if high > size and end > wrapping:
                low = wrapping + max(low, size) - size
                end = min(wrapping + high - size, end)
                args = (low, end, spec.array_size, reads, spec, variant, slots)
                total = add_range(total, segment, *args)
            heavy.sums[(chunk << SHIFT) + lane] = total

    return Kernel(add_chunks, max_registers)


@Kernel
def apply_heavy(rule, heavy, ranges, array, state_sum, lr, eps):
    """A warp for each heavy segment, in turns: the sum of its chunks, in their order."""
    lane = np.uint64(cuda.threadIdx.x) % U32
    begin, step = np.uint64(cuda.grid(1)) // U32, np.uint64(cuda.gridsize(1)) // U32
    for number in range(begin, np.uint64(heavy.counts[0]), step):
        number = np.uint64(number)
        i, chunk, end = heavy.segments[number], heavy.chunks[number], heavy.sizes[number] - ONE
        segment = ranges.listed[i] if ranges.listed.size else ranges.skipped + i
        place, zero = (chunk << SHIFT) + lane, array.dtype.type(0)
        total = zero
        for k in range(ZERO, end + ONE, U4):
            k_0 = np.uint64(k)
            k_1, k_2, k_3 = k_0 + ONE, k_0 + TWO, k_0 + THREE
            s_0 = heavy.sums[place + (k_0 << SHIFT)]
            s_1 = heavy.sums[place + (min(k_1, end) << SHIFT)]
            s_2 = heavy.sums[place + (min(k_2, end) << SHIFT)]
            s_3 = heavy.sums[place + (min(k_3, end) << SHIFT)]
            total += s_0
            total += s_1 if k_1 <= end else zero
            total += s_2 if k_2 <= end else zero
            total += s_3 if k_3 <= end else zero
        element = ((segment - ranges.skipped) << SHIFT) + lane
        if element < np.uint64(array.size) and total != 0:
            apply_rule(rule, element, total, array, state_sum, lr, eps)
