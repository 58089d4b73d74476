"""The hashes of `robe_numba.kernels.scalar.hashing`, in operators on uint64."""

import numpy as np

from robe_numba.kernels.coefficients import hash_spec
from robe_numba.kernels.scalar.hashing import MIX_1, MIX_2
from robe_numba.onnx.graph import Graph, Value
from robe_numba.spec import Spec

WORD_BITS, BYTE = 64, 8
LOW_WORD = np.uint64(0xFFFFFFFF)
# Row b has the signs of 8 elements, those of the bits of b from the lowest on; bit 1 is minus.
_BITS = np.arange(256)[:, None] >> np.arange(BYTE) & 1
SIGNS_OF_BYTE = np.where(_BITS == 1, np.float32(-1), np.float32(1))


def _shifted(graph: Graph, value: Value, bits: int) -> str:
    return graph.op("BitShift", value, np.uint64(bits), direction="RIGHT")


def mix(graph: Graph, value: Value) -> str:
    """A bijection of uint64 (MurmurHash3's finaliser)."""
    for factor in (MIX_1, MIX_2):
        value = graph.op("BitwiseXor", value, _shifted(graph, value, 33))
        value = graph.op("Mul", value, factor)
    return graph.op("BitwiseXor", value, _shifted(graph, value, 33))


def row_keys(graph: Graph, ids: Value, spec: Spec) -> str:
    """The uint64 keys (batch, num_tables) that the hashes of rows start from."""
    modulus = hash_spec(spec).modulus
    return mix(graph, ids) if modulus == 0 else graph.op("Mod", ids, modulus)


def block_starts(graph: Graph, keys: Value, spec: Spec, unit: int) -> str:
    """Where blocks begin in the array, uint64, in units of elements.

    Parameters
    ----------
    keys : (batch, num_tables) uint64
        From `row_keys`.
    unit : int
        A divisor of the alignment.

    Returns
    -------
    (batch, num_tables, blocks), or (batch, num_tables) if a row is one block: ONNX Runtime is slow
    where the last dimension has length 1.
    """
    constants = hash_spec(spec)
    many = spec.num_blocks > 1
    coefficients = constants.coefficients if many else constants.coefficients[:, :, 0]
    if constants.modulus != 0:
        multiplier, base = coefficients
        product = graph.op("Mul", keys, multiplier.flat[0])
        product = graph.unsqueeze(product, 2) if many else product
        start = graph.op("Mod", graph.op("Add", product, base), constants.modulus)
        start = graph.op("Mod", start, constants.num_starts)
    else:
        start = _multiply_shift(graph, keys, coefficients, int(constants.num_starts))
    units = int(constants.alignment) // unit
    return start if units == 1 else graph.op("Mul", start, np.uint64(units))


def _multiply_shift(graph: Graph, key: Value, coefficients: np.ndarray, num_starts: int) -> str:
    """Hashes in [0, num_starts)."""
    high: Value = _shifted(graph, key, 32)
    if coefficients.ndim == 3:
        key, high = graph.unsqueeze(key, 2), graph.unsqueeze(high, 2)
    words = []
    for first in range(0, len(coefficients), 3):
        a, a_high, b = coefficients[first : first + 3]
        # a * low + a_high * high, where low = key - (high << 32).
        of_high = graph.op("Mul", high, a_high - (a << np.uint64(32)))
        of_key = graph.op("Add", graph.op("Mul", key, a), b)
        words.append(_shifted(graph, graph.op("Add", of_key, of_high), 32))
    if len(words) == 1:
        return _shifted(graph, graph.op("Mul", words[0], np.uint64(num_starts)), 32)
    return _high_product(graph, words[0], words[1], num_starts)


def _high_product(graph: Graph, high: str, low: str, factor: int) -> str:
    """The upper 64 bits of (high << 32 | low) * factor, from 32-bit words."""
    factor_low, factor_high = np.uint64(factor) & LOW_WORD, np.uint64(factor >> 32)
    carried = _shifted(graph, graph.op("Mul", low, factor_low), 32)
    middle = graph.op("Add", graph.op("Mul", high, factor_low), carried)
    rest = graph.op("BitwiseAnd", middle, LOW_WORD)
    other = graph.op("Add", graph.op("Mul", low, factor_high), rest)
    carries = graph.op("Add", _shifted(graph, middle, 32), _shifted(graph, other, 32))
    return graph.op("Add", graph.op("Mul", high, factor_high), carries)


def signs(graph: Graph, keys: Value, spec: Spec) -> str:
    """The signs of rows, float32 (batch, num_tables, d), each 1 or -1."""
    sign_keys, dim = hash_spec(spec).sign_keys, spec.embedding_dim
    groups = sign_keys.shape[1]
    num_bytes = min(-(-dim // BYTE), WORD_BITS // BYTE)  # of each group's word
    if groups == 1:
        words = mix(graph, graph.op("BitwiseXor", keys, sign_keys[:, 0]))
    else:
        words = mix(graph, graph.op("BitwiseXor", graph.unsqueeze(keys, 2), sign_keys))
    words = graph.unsqueeze(words, 2 if groups == 1 else 3)
    shifts = np.arange(0, num_bytes * BYTE, BYTE, dtype=np.uint64)
    shifted = graph.op("BitShift", words, shifts, direction="RIGHT")
    values = graph.cast(graph.op("BitwiseAnd", shifted, np.uint64(255)), np.int32)
    found = graph.op("Gather", SIGNS_OF_BYTE, values)
    width = groups * num_bytes * BYTE
    rows = graph.reshape(found, 0, spec.num_tables, width)
    return rows if width == dim else graph.first(rows, dim, axis=2)
