"""A program that ends by a segmentation fault where a kernel leaves an array.

Arguments, outputs, scratch and coefficients lie against pages that may not be touched; new memory
is full of NaNs and of what is no index. Results must be those of ordinary memory.
"""

import ctypes
import mmap
from itertools import pairwise
from types import ModuleType

import numpy as np

import robe_numba as rn
from robe_numba.checks.arrays import check_stored_array
from robe_numba.dlrm.embeddings.vocabulary import known_bag_rows
from robe_numba.dlrm.layers import cross, packed
from robe_numba.kernels import coefficients
from robe_numba.kernels.cpu.update import driver
from robe_numba.ops import bags, interaction, rows, updating
from robe_numba.serving import list_kernels
from robe_numba.serving.kernel import kernel_model, score_rows
from robe_numba.serving.lists import RowLists
from tests.support.strategies import HALF_DTYPES, dtype_of

C_LIBRARY = ctypes.CDLL(None, use_errno=True)
NO_ACCESS = 0
MODULES: tuple[ModuleType, ...] = (bags, interaction, rows, updating, driver, packed, cross)


class Guard:
    """Makes arrays that end where a forbidden page begins, or the other way round."""

    def __init__(self, at_end):
        self.at_end = at_end

    def empty(self, shape, dtype):
        """An array full of ones bits: NaN, -1 or 2**64 - 1."""
        dtype = np.dtype(dtype)
        size, page = int(np.prod(shape)) * dtype.itemsize, mmap.PAGESIZE
        room = -(-size // page) * page
        pages = mmap.mmap(-1, room + 2 * page)
        whole = np.frombuffer(pages, np.uint8)
        begin = whole.__array_interface__["data"][0]
        for forbidden in (begin, begin + page + room):
            address = ctypes.c_void_p(forbidden)
            if C_LIBRARY.mprotect(address, ctypes.c_size_t(page), NO_ACCESS):
                raise OSError(ctypes.get_errno(), "mprotect")
        first = page + (room - size if self.at_end else 0)
        array = whole[first : first + size]
        array[:] = 0xFF
        return array.view(dtype).reshape(shape)

    def copy(self, values):
        """The same values, guarded."""
        array = self.empty(values.shape, values.dtype)
        array[...] = values
        return array

    def hash_spec(self, spec):
        """The constants of a spec, guarded."""
        constants = coefficients.hash_spec(spec)
        guarded = {name: self.copy(getattr(constants, name)) for name in ("coefficients",
                                                                         "sign_keys")}  # fmt: skip
        for array in guarded.values():
            array.flags.writeable = False
        return constants._replace(**guarded)


def calls(spec, batch, copy, empty):
    """The results of every function for one batch, of arrays made by `copy` and `empty`."""
    generator = np.random.default_rng(batch)
    size, tables, dim, blocks = (
        spec.array_size, spec.num_tables, spec.embedding_dim, spec.num_blocks,
    )  # fmt: skip
    array = generator.standard_normal(size).astype(np.float32)
    ids = copy(generator.integers(0, 2**62, (batch, tables)))
    grad_out = copy(generator.standard_normal((batch, tables, dim)).astype(np.float32))
    dense = copy(generator.standard_normal((batch, dim)).astype(np.float32))
    sizes = generator.integers(0, 4, tables * batch)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    bag_ids = copy(generator.integers(0, 9, sizes.sum()))
    weights = copy(generator.standard_normal(sizes.sum()).astype(np.float32))
    mixed, own = modes_by_table(sizes.reshape(tables, batch), weights)
    modes = (("sum", weights), ("mean", None), ("max", None), (mixed, copy(own)))
    shape = (batch, tables, blocks)
    stored = [copy(array.astype(dtype_of(name))) for name in ("float32", *HALF_DTYPES)]
    quantized = rn.quantize(array, 16)
    stored.append(quantized._replace(values=copy(quantized.values), scales=copy(quantized.scales)))
    for values in stored:
        starts, out = empty(shape, np.int64), empty((batch, tables, dim), np.float32)
        yield rn.lookup(values, ids, spec, out, starts)
        yield starts
        out = empty((batch, dim + tables * (tables + 1) // 2), np.float32)
        yield rn.lookup_dot_interaction(values, ids, dense, spec, out, empty(shape, np.int64))
        yield rn.lookup_dot_interaction(values, ids, dense, spec)
        for mode, factors in modes:
            out = empty((batch, tables, dim), np.float32)
            yield rn.embedding_bag(values, bag_ids, offsets, spec, mode, factors, 3, out)
    values, state = copy(array), copy(np.ones(size, np.float32))
    blocks = copy(np.ones(-(-size // 16), np.float32))
    for given in (None, starts):
        yield rn.lookup_backward(grad_out, ids, spec, given)
        rn.sgd_update(values, grad_out, ids, spec, 0.1, given)
        rn.adagrad_update(values, state, grad_out, ids, spec, 0.1, starts=given)
        rn.adagrad_update(values, blocks, grad_out, ids, spec, starts=given, state_block=16)
    for mode, factors in modes:
        arguments = (bag_ids, offsets, spec, mode, factors, 3)
        yield rn.embedding_bag_backward(grad_out, *arguments, array=values)
        rn.embedding_bag_sgd_update(values, grad_out, *arguments)
        rn.embedding_bag_adagrad_update(values, state, grad_out, *arguments)
    yield from (values, state, blocks)
    yield known_bag_rows(*known(tables, generator, copy), bag_ids, offsets)
    yield from mlps(batch, copy, empty)
    yield from table_major(batch, copy, empty)
    yield from cross_layers(batch, copy, empty)
    for values in stored:
        for num_dense in (3, 0):
            yield scores(spec, values, num_dense, 3 * batch, copy, empty)


def modes_by_table(sizes, weights):
    """Another mode for each table, and the weights that go with them."""
    modes = [("max", "sum", "mean")[table % 3] for table in range(len(sizes))]
    summed = np.repeat([mode == "sum" for mode in modes], sizes.sum(axis=1))
    return modes, np.where(summed, weights, np.float32(1))


def scores(spec, stored, num_dense, batch, copy, empty):
    """Probabilities of a small model with this embedding."""
    generator, tables, dim = np.random.default_rng(batch), spec.num_tables, spec.embedding_dim
    columns = dim + tables * (tables + 1) // 2
    bottom, top = (
        packed.PackedMLP(random_layers(widths, generator), final_relu=final).layers
        for widths, final in (((num_dense, 20, dim), True), ((columns, 9, 1), False))
    )
    bottom, top = (
        layers._replace(**{name: copy(getattr(layers, name)) for name in layers._fields})
        for layers in (bottom, top)
    )
    array = check_stored_array(stored, spec)
    dense = copy(generator.integers(-2, 99, num_dense * batch).astype(np.float64))
    ids = copy(generator.integers(0, 2**62, batch * tables).astype(np.uint64))
    model = kernel_model(0, num_dense, array, rows.hash_spec(spec), bottom, top)
    out = empty((batch,), np.float32)
    score_rows(dense, ids, 0, batch, model, empty((model.memory,), np.float32), out)
    return out


def random_layers(widths, generator):
    draw = generator.standard_normal
    return [
        (draw((n, m)).astype(np.float32), draw(n).astype(np.float32)) for m, n in pairwise(widths)
    ]


def mlps(batch, copy, empty):
    """Outputs of packed MLPs, with and without inputs."""
    generator = np.random.default_rng(batch)
    for widths in ((13, 70, 16), (0, 5), (33, 130, 1)):
        layers = random_layers(widths, generator)
        mlp = packed.PackedMLP([tuple(map(copy, layer)) for layer in layers], final_relu=False)
        x, out = mlp.input(batch), empty((batch, widths[-1]), np.float32)
        x[:batch, : widths[0]] = generator.standard_normal((batch, widths[0]))
        mlp(x, out, 2)
        yield out


def known(tables, generator, copy):
    """Ids and offsets of a vocabulary, of some tables no ids."""
    columns = [np.flatnonzero(generator.random(9) < share) for share in np.linspace(0, 1, tables)]
    offsets = np.cumsum([0, *map(len, columns)])
    return copy(np.concatenate(columns).astype(np.uint64)), copy(offsets)


def cross_layers(batch, copy, empty):
    """The output of a cross network, its gradient and those of its parameters."""
    draw = np.random.default_rng(batch).standard_normal
    width, ranks = 37, (1, 5, 50)
    shapes = [((rank, width), (width, rank), (width,)) for rank in ranks]
    layers = [tuple(copy(draw(shape).astype(np.float32)) for shape in three) for three in shapes]
    x, grad_y = (copy(draw((batch, width)).astype(np.float32)) for _ in range(2))
    outs = [
        tuple(empty((batch, columns), np.float32) for columns in (rank, width, width))
        for rank in ranks
    ]
    grads = [tuple(empty(shape, np.float32) for shape in three) for three in shapes]
    y, backward = cross.cross_network(x, layers, outs=outs)
    yield y
    yield backward(grad_y, grads)[0]
    yield from (array for three in grads for array in three)


SPECS = (
    rn.RobeSpec(50, 8, 16, 3),
    rn.RobeSpec(67, 3, 8, 9, sign=True),
    rn.RobeSpec(97, 96, 90, 2, hash="paper", sign=True),
    rn.RobeSpec(300, 16, 131, 1, alignment=16),
    rn.RobeSpec(1100, 1, 5, 26),
    rn.RobeSpec(40, 40, 37, 8),
    rn.RobeSpec(2000, 67, 287, 2),
    rn.RobeSpec(129, 4, 12, 7, num_embeddings=(2**62,) * 7, hash="uma", seed=1),
)


def table_major(batch, copy, empty):
    """Bags of rows with lists, of which the last two ids count."""
    generator, singles, features = np.random.default_rng(batch), 3, 2
    lengths = copy(generator.integers(0, 5, batch * features))
    count = int(lengths.sum())
    values = copy(generator.integers(0, 9, count).astype(np.uint64))
    weights = copy(np.ones(count, np.float32))
    ends, kept = (empty(lengths.shape, np.int64) for _ in range(2))
    assert list_kernels.read_lengths(lengths, count, 2, ends, kept) == -1
    limits, weighted = copy(np.full(features, 9, np.uint64)), copy(np.array([False, True]))
    assert list_kernels.find_outside(values, ends, kept, limits) == -1
    assert list_kernels.find_wrong_weight(weights, ends, weighted) == -1
    ids, lists = (
        copy(np.arange(batch * singles).astype(np.uint64)),
        RowLists(values, weights, ends, kept),
    )
    for first, last in ((0, batch), (batch // 3, batch // 2)):
        rows = last - first
        size = rows * singles + int(kept[first * features : last * features].sum())
        outs = empty((size,), np.uint64), empty((size,), np.float32)
        outs += (empty((rows * (singles + features) + 1,), np.int64),)
        list_kernels.table_major(ids, lists, first, last, (singles, features), *outs)
        yield from outs


def main():
    """Compare ordinary memory with guarded memory."""
    expected = [
        [part.tobytes() for part in calls(spec, batch, np.copy, np.empty)]
        for spec in SPECS
        for batch in (0, 1, 9, 35)
    ]
    for at_end in (True, False):
        guard = Guard(at_end)
        for module in MODULES:
            if hasattr(module, "scratch"):
                module.scratch = lambda name, *rest: guard.empty(*rest)  # noqa: B023
            if hasattr(module, "aligned_empty"):
                module.aligned_empty = guard.empty
            if hasattr(module, "hash_spec"):
                module.hash_spec = guard.hash_spec
        for max_scans in (0, 8):
            driver.MAX_SCANS, driver.SUMS_PER_OUTPUT = max_scans, 1e12
            found = [
                [part.tobytes() for part in calls(spec, batch, guard.copy, guard.empty)]
                for spec in SPECS
                for batch in (0, 1, 9, 35)
            ]
            assert found == expected
    print("done")


if __name__ == "__main__":
    main()
