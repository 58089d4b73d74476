"""Pooling bags on the GPU.

A stretch is some neighbouring columns of one block of a bag's row of the output. A group of lanes
pools it, each lane the same few columns of all the bag's reads. First each lane hashes one of the
next reads into shared memory; then all go through these, several at a time, so that a thread waits
for all their elements at once. What is added up, and in which order, is what the CPU adds up, so
the bits are equal.
"""

from functools import cache

import numpy as np

from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.bag_reads import LANES, THREADS
from robe_numba.kernels.gpu.bag_stretches import (
    BLOCK,
    COUNT,
    TABLE,
    Form,
    Slots,
    hash_read,
    load,
    most_reads,
    pool_read,
    stretch_of,
    write,
)
from robe_numba.kernels.gpu.compiler import SIMULATED, cuda, types
from robe_numba.kernels.gpu.device import Work, device_spec
from robe_numba.kernels.gpu.intrinsics import syncwarp
from robe_numba.kernels.gpu.launch import Kernel
from robe_numba.kernels.gpu.lookup import in_vectors
from robe_numba.kernels.scalar.bags import MAX, Bags
from robe_numba.kernels.scalar.hashing import NO_START
from robe_numba.spec import Spec


@cache
def pool_kernel(form: Form) -> Kernel:
    """`pool_bags` of a form.

    The kernel's closure holds no device functions: Numba would not find it in its cache again.
    """
    largest, vectors, padded = form.largest, form.vectors, form.padded
    word, word_type = (np.uint32, types.uint32) if form.narrow else (np.uint64, types.uint64)
    zero, one = word(0), word(1)
    lanes, columns, step, reads = map(word, (form.lanes, form.columns, form.step, form.reads))
    window = word(form.window)
    num_columns, num_values = form.columns, form.columns * form.reads
    num_slots = THREADS // form.lanes * form.window
    num_windows, num_scales = num_slots if form.sign else 1, num_slots if form.weighted else 1
    num_winners = form.columns if largest else 1

    def pool_bags(array, bags, spec, starts, out, chosen):
        """A group of lanes for each stretch of out (batch * num_tables * d,); starts and, for
        maxima, the chosen reads are written unless (0,).

        Of equal maxima the first is chosen; an empty bag gives 0 and the read -1. A NaN wins over
        numbers, and nothing over it.
        """
        begins = cuda.shared.array(num_slots, word_type)
        windows = cuda.shared.array(num_windows, types.uint64)
        scales = cuda.shared.array(num_scales, out.dtype)
        slots = Slots(begins, windows, scales)
        notes = cuda.shared.array((3, THREADS), word_type)
        values = cuda.local.array(num_values, out.dtype)
        totals = cuda.local.array(num_columns, out.dtype)
        winners = cuda.local.array(num_winners, types.int64)
        places = cuda.local.array(num_columns, word_type)
        thread = word(cuda.threadIdx.x)
        lane, slot = word(thread % lanes), word(thread // lanes * window)
        number = word((np.uint64(cuda.blockIdx.x) * np.uint64(THREADS) + thread) // lanes)
        stretch, size = stretch_of(number, bags, spec, form, word), word(spec.array_size)
        own = word(lane * columns) if vectors else lane
        last, c = word(stretch.length - (columns if vectors else one)), zero
        while c < columns:
            # A column that the block lacks is read as its last, and not written.
            places[c] = min(word(stretch.column + own + c * step), last)
            totals[c] = 0
            if largest:
                winners[c] = -1
            c = word(c + one)
        # Only hashing needs these, and in registers they would be in the way of loads.
        notes[TABLE, thread], notes[BLOCK, thread] = stretch.table, stretch.block
        notes[COUNT, thread] = stretch.count
        syncwarp()
        most, kept, done = most_reads(thread, notes, form, word), zero, zero
        while done < most:
            syncwarp()
            k = lane
            table, block = np.uint64(notes[TABLE, thread]), np.uint64(notes[BLOCK, thread])
            while k < window:
                read, i = word(done + k), word(slot + k)
                hash_read(read, stretch, table, block, bags, spec, starts, slots, i, form, word)
                k = word(k + lanes)
            syncwarp()
            k, count = zero, zero
            if done < stretch.count:
                count = min(window, word(stretch.count - done))
            while k < count:
                r = zero
                while r < reads:
                    load(array, begins[slot + k + r], places, size, values, r * columns, form, word)
                    r = word(r + one)
                r = zero
                while r < reads:
                    read, i = stretch.first + done + k + r, slot + k + r
                    pool_read(slots, i, read, own, values, r * columns, totals, winners, form, word)
                    if padded and begins[i] != word(NO_START):
                        kept = word(kept + one)
                    r = word(r + one)
                k = word(k + reads)
            done = word(done + window)
        count = kept if padded else stretch.count
        write(totals, winners, count, own, stretch, bags, out, chosen, form, word)

    return Kernel(pool_bags)


def form_of(array: DeviceArray, bags: Bags, spec: Spec, out: DeviceArray) -> Form:
    """What the kernel of a call is compiled for."""
    length, vectors = min(spec.block_size, spec.embedding_dim), in_vectors(spec, array, out)
    if vectors:  # a window of signs has 64 columns
        lanes, columns = min(length // 4, 16 if spec.sign else LANES), 4
    else:
        lanes, columns = min(length, LANES), 2 if length > LANES else 1
    if SIMULATED:  # a lane is a thread of Python's, which takes milliseconds
        lanes, columns = min(lanes, 4), 4
    largest = max(spec.array_size + length, bags.indices.size, 2 * out.size)
    lanes = 1 << (lanes - 1).bit_length()
    return Form(
        largest=bags.mode == MAX,
        vectors=vectors,
        sign=spec.sign,
        weighted=bags.weights.size > 0,
        padded=bags.padded,
        narrow=largest < (1 << 32) - 2 * LANES,
        lanes=lanes,
        columns=columns,
        step=1 if vectors else lanes,
    )


def pool(
    work: Work,
    array: DeviceArray,
    bags: Bags,
    spec: Spec,
    starts: DeviceArray,
    out: DeviceArray,
    chosen: DeviceArray,
) -> None:
    """Fill out (batch * num_tables * d,), the starts of all reads unless (0,), and for MAX the read
    that gave each element unless (0,).
    """
    if out.size == 0:
        return
    form = form_of(array, bags, spec, out)
    per_block = -(-min(spec.block_size, spec.embedding_dim) // (form.lanes * form.columns))
    stretches = (bags.offsets.size - 1) * spec.num_blocks * per_block
    grid = -(-stretches * form.lanes // THREADS)
    arguments = (array, bags, device_spec(spec, work), starts, out, chosen)
    pool_kernel(form).launch(work, grid, THREADS, *arguments)
