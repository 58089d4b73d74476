"""A whole DLRM as one kernel: from rows as they are in a log to their probabilities.

Rows pass through the model in chunks, so that everything between two layers stays in the
second-level cache. A row's result does not depend on the rows beside it.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from data_tools.sources.criteo.kernels import transform_value
from robe_numba._jit import inlined, jit
from robe_numba.kernels.cpu.blocks import BlockSource
from robe_numba.kernels.cpu.interaction import (
    RowBuffers,
    gather_dot,
    padded,
    padded_width,
    products_size,
)
from robe_numba.kernels.cpu.mlp import CHUNK, PackedLayers, mlp_rows, sigmoid
from robe_numba.kernels.scalar.hashing import HashSpec
from robe_numba.kernels.scalar.unsigned import ONE, U15, ZERO

MOST = float(np.finfo(np.float32).max)
# Where `KernelModel.numbers` has what; it begins with the numbers of the spec.
SIGN, TRANSFORM, NUM_DENSE, ENDS = 8, 9, 10, 11


class KernelModel(NamedTuple):
    """A model as the kernel reads it.

    Numba takes 0.1 us at each call for every array and every number. So all numbers are in one
    array: those of the spec, then the number of the dense transform and of the dense features, then
    `Ends`.
    """

    numbers: np.ndarray  # uint64
    array: Any  # as kernels take it
    coefficients: np.ndarray  # of the spec
    sign_keys: np.ndarray  # of the spec
    bottom: PackedLayers
    top: PackedLayers

    @property
    def memory(self) -> int:
        """Elements of float32 that a worker needs."""
        return int(self.numbers[-1])


class Ends(NamedTuple):
    """Where the parts of a worker's memory end; each begins where the one before it ends."""

    dense: Any  # input of the bottom MLP
    layers: Any  # outputs of layers, in two halves
    features: Any  # output of the bottom MLP
    joined: Any  # output of the interaction
    vectors: Any  # vectors of one row
    products: Any  # and their products
    words: Any  # uint64: block starts, or numbers of elements


def kernel_model(
    transform: int,
    num_dense: int,
    array: Any,
    spec: HashSpec,
    bottom: PackedLayers,
    top: PackedLayers,
) -> KernelModel:
    """Bring a model into the form that the kernel reads; `array` is as kernels take it."""
    rows, tables, dim = int(CHUNK), int(spec.num_tables), int(spec.embedding_dim)
    shapes = np.concatenate([bottom.shapes, top.shapes]).astype(int)
    sizes = Ends(
        dense=rows * int(bottom.shapes[0, 0]),
        layers=2 * rows * shapes[:, 1].max(),
        features=rows * dim,
        joined=rows * int(top.shapes[0, 0]),
        vectors=padded(tables + 1) * padded_width(dim),
        products=products_size(tables + 1),
        words=2 * max(2 * tables * int(spec.num_blocks), shapes[:, 0].max()),
    )
    sizes = Ends(*(size + size % 2 for size in sizes))  # words are two elements each
    *scalars, coefficients, sign_keys = spec
    numbers = np.array([*scalars, transform, num_dense, *np.cumsum(sizes)], np.uint64)
    return KernelModel(numbers, array, coefficients, sign_keys, bottom, top)


@jit
def find_infinite(dense, transform):
    """The position of the first value that is infinite or becomes so in float32, or -1."""
    for i in range(dense.size):
        value = dense[i]
        if abs(value) > MOST and math.isinf(value + transform_value(value, transform)):
            return i
    return -1


@jit  # it returns arrays, so their references must be counted
def spec_of(model):
    """The spec of a model."""
    n = model.numbers
    scalars = (n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[SIGN] != ZERO)
    return HashSpec(*scalars, model.coefficients, model.sign_keys)


@inlined
def transform_rows(dense, first, count, transform, x):
    """x = dense features from `first` on as `robe ingest` writes them; NaN is a missing value."""
    for i in range(count):
        value = np.float64(dense[first + i])
        x[i] = transform_value(0.0 if math.isnan(value) else value, transform)


@jit
def score_rows(dense, ids, first, last, model, memory, out):
    """Score rows [first, last) with the memory of one worker; all arrays are flat."""
    first, last = np.uint64(first), np.uint64(last)
    spec, n = spec_of(model), model.numbers
    transform, num_dense, e = n[TRANSFORM], n[NUM_DENSE], ENDS
    end = Ends(n[e], n[e + 1], n[e + 2], n[e + 3], n[e + 4], n[e + 5], n[e + 6])
    x, layers = memory[: end.dense], memory[end.dense : end.layers]
    features, joined = memory[end.layers : end.features], memory[end.features : end.joined]
    vectors, products = memory[end.joined : end.vectors], memory[end.vectors : end.products]
    words = memory[end.products : end.words].view(np.uint64)
    # A model without dense features has one that is 0, and vectors are padded with zeros.
    x[:] = 0
    vectors[:] = 0
    tables, dim, half = spec.num_tables, spec.embedding_dim, (end.layers - end.dense) >> ONE
    width, top_width = model.bottom.shapes[-1, 1], model.top.shapes[-1, 1]
    buffers = RowBuffers(vectors, (dim + U15) & ~U15, products)
    source = BlockSource(model.array, words, spec)
    for row in range(first, last, CHUNK):
        count = min(CHUNK, last - row)
        transform_rows(dense, row * num_dense, count * num_dense, transform, x)
        place = mlp_rows(x, ZERO, count, model.bottom, True, layers, ZERO, half, words)
        for r in range(count):
            for column in range(dim):
                features[r * dim + column] = layers[place + r * width + column]
        own = ids[row * tables : (row + count) * tables]
        gather_dot(source, own, features, ZERO, count, ZERO, False, buffers, joined)
        place = mlp_rows(joined, ZERO, count, model.top, False, layers, ZERO, half, words)
        for r in range(count):
            out[row + r] = sigmoid(layers[place + r * top_width])
