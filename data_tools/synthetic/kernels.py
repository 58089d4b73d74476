"""Compiled rows of the generator: draw one row, its logit and its text.

A row is a function of its number alone. `draw_row` fills the row's values and ranks from a
counter-based hash, `row_components` gives the parts of its logit.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_tools.hashing import GOLDEN, U64, mix, word_of
from robe_numba._jit import jit

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ids = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]

# Where each kind of draw starts in a row's stream of hash words.
LABEL_DRAW = 0
STREAM_DRAW = 1
FACTOR_DRAW = 40
NORMAL_DRAW = 50
NEGATIVE_DRAW = 70
RANK_DRAW = 90

EMPTY_VALUE = -(2**40)  # a dense field without a number
EMPTY_RANK = -1  # a categorical field without an id
GREATEST_VALUE = 2**31 - 1
NUM_FACTORS = 3  # hidden normal numbers of a row that its dense columns share
PAIR_RANK = 4  # elements of an id's interaction factor: the 16-bit quarters of one hash word
RARE_SHARE = 1e-6  # of the lines: ids of a saturated column that 10,000 lines do not show


class Params(NamedTuple):
    """Constants of one generator: one element per dense (D) or categorical (C) column."""

    row_key: np.uint64  # seeds every draw of a row
    id_key: np.uint64  # seeds every per-id effect
    dense_empty: Floats  # (D,) share of lines
    dense_stream: Integers  # (D,) columns of one stream are empty together
    factor: Integers  # (D,) which hidden number the column shares
    loading: Floats  # (D,) its correlation with that number
    mu: Floats  # (D,)
    sigma: Floats  # (D,)
    least: Floats  # (D,) least value that is not negative
    minus_one: Floats  # (D,) share of -1 among the non-empty
    below: Floats  # (D,) share of -2
    mean_log: Floats  # (D,)
    std_log: Floats  # (D,)
    effect: Floats  # (D,) on the logit, per standard deviation of log(1 + x)
    empty_effect: Floats  # (D,)
    cat_empty: Floats  # (C,)
    cat_stream: Integers  # (C,)
    chain: Integers  # (C,) columns of one chain get their ranks from one draw
    cat_effect: Floats  # (C,) scale of the effects of the column's ids
    cardinality: Integers  # (C,)
    common: Integers  # (C,) ranks from here on are rare
    head: Floats  # (C,) probability of rank 0
    shift: Floats  # (C,)
    span: Floats  # (C,) (1 + (common - 1) / shift) ** (1 - exponent) - 1
    inverse_power: Floats  # (C,) 1 / (1 - exponent)
    logit_scale: Floats  # (3,) of the dense, linear and pair components
    bias: float


@jit
def uniform(word: np.uint64) -> float:
    """Float64 in [0, 1) from the upper 53 bits."""
    return float(word >> U64(11)) * 2.0**-53


@jit
def _quarter(word: np.uint64, index: int) -> float:
    """Uniform number of mean 0 and variance 1 from 16 of the 64 bits."""
    bits = int(word >> U64(16 * index)) & 0xFFFF
    return (float(bits) + 0.5 - 32768.0) * (math.sqrt(12.0) / 65536.0)


@jit
def normal(word: np.uint64) -> float:
    """Nearly normal number of mean 0 and variance 1, at most 3.5: a sum of four uniforms."""
    total = 0.0
    for index in range(4):
        total += _quarter(word, index)
    return 0.5 * total


@jit
def id_of(column: int, rank: int) -> np.uint64:
    """32-bit id of a rank: a bijection for each column (the finalizer of MurmurHash3)."""
    word = (U64(rank) + U64(column + 1) * U64(0x9E3779B9)) & U64(0xFFFFFFFF)
    word = ((word ^ (word >> U64(16))) * U64(0x85EBCA6B)) & U64(0xFFFFFFFF)
    word = ((word ^ (word >> U64(13))) * U64(0xC2B2AE35)) & U64(0xFFFFFFFF)
    return word ^ (word >> U64(16))


@jit
def _draw_value(key: np.uint64, column: int, p: Params) -> int:
    """Integer of a dense field that is not empty."""
    if p.minus_one[column] > 0.0:
        u = uniform(word_of(key, NEGATIVE_DRAW + column))
        if u < p.minus_one[column] + p.below[column]:
            return -2 if u < p.below[column] else -1
    own = normal(word_of(key, NORMAL_DRAW + column))
    shared = normal(word_of(key, FACTOR_DRAW + p.factor[column]))
    loading = p.loading[column]
    z = loading * shared + math.sqrt(1.0 - loading * loading) * own
    value = math.floor(math.exp(p.mu[column] + p.sigma[column] * z))
    return int(min(max(value, p.least[column]), float(GREATEST_VALUE)))


@jit
def common_rank(
    u: float, common: int, head: float, shift: float, span: float, inverse_power: float
) -> int:
    """The rank below `common` at a uniform number in [0, 1), by Zipf and Mandelbrot's law."""
    if u < head or common == 1:
        return 0
    u = (u - head) / (1.0 - head)
    x = shift * ((1.0 + u * span) ** inverse_power - 1.0)
    # Rounding can push x past an end by a unit in the last place.
    return 1 + min(max(int(x), 0), common - 2)


@jit
def _draw_rank(key: np.uint64, column: int, p: Params) -> int:
    """Rank of a categorical field that is not empty, by the inverse of its distribution."""
    u = uniform(word_of(key, RANK_DRAW + p.chain[column]))
    cardinality, common = p.cardinality[column], p.common[column]
    usual = 1.0 - RARE_SHARE if common < cardinality else 1.0
    if u >= usual:
        rare = int((u - usual) / (1.0 - usual) * (cardinality - common))
        return common + min(rare, cardinality - common - 1)
    shift, span, power = p.shift[column], p.span[column], p.inverse_power[column]
    return common_rank(u / usual, common, p.head[column], shift, span, power)


@jit
def key_of_row(row: int, key: np.uint64) -> np.uint64:
    """What all draws of a row depend on."""
    return mix(key + GOLDEN * U64(row))


@jit
def draw_row(row: int, p: Params, values: Integers, ranks: Integers) -> np.uint64:
    """Fill `values` int64 (D,) and `ranks` int64 (C,); return the key of the row."""
    key = key_of_row(row, p.row_key)
    for column in range(values.shape[0]):
        empty = uniform(word_of(key, STREAM_DRAW + p.dense_stream[column]))
        if empty < p.dense_empty[column]:
            values[column] = EMPTY_VALUE
        else:
            values[column] = _draw_value(key, column, p)
    for column in range(ranks.shape[0]):
        empty = uniform(word_of(key, STREAM_DRAW + p.cat_stream[column]))
        if empty < p.cat_empty[column]:
            ranks[column] = EMPTY_RANK
        else:
            ranks[column] = _draw_rank(key, column, p)
    return key


@jit
def row_components(values: Integers, ranks: Integers, p: Params) -> tuple[float, float, float]:
    """Dense, linear and pair part of the row's logit, each before its scale."""
    dense = 0.0
    for column in range(values.shape[0]):
        if values[column] == EMPTY_VALUE:
            dense += p.empty_effect[column]
        else:
            log = math.log1p(float(max(values[column], 0)))
            dense += p.effect[column] * (log - p.mean_log[column]) / p.std_log[column]
    linear = 0.0
    sum0 = sum1 = sum2 = sum3 = squares = 0.0
    for column in range(ranks.shape[0]):
        key = mix(word_of(p.id_key, column) + GOLDEN * U64(ranks[column] + 2))
        effect = p.cat_effect[column]
        linear += effect * normal(word_of(key, 0))
        word = word_of(key, 1)
        v0, v1 = effect * _quarter(word, 0), effect * _quarter(word, 1)
        v2, v3 = effect * _quarter(word, 2), effect * _quarter(word, 3)
        sum0, sum1, sum2, sum3 = sum0 + v0, sum1 + v1, sum2 + v2, sum3 + v3
        squares += v0 * v0 + v1 * v1 + v2 * v2 + v3 * v3
    # The sum of <v, v'> over all pairs of columns, as in a factorization machine.
    pair = 0.5 * (sum0 * sum0 + sum1 * sum1 + sum2 * sum2 + sum3 * sum3 - squares)
    return dense, linear, pair


@jit
def logit_of(values: Integers, ranks: Integers, p: Params) -> float:
    """Logit of a row, without that of lists."""
    dense, linear, pair = row_components(values, ranks, p)
    scale = p.logit_scale
    return p.bias + scale[0] * dense + scale[1] * linear + scale[2] * pair


@jit
def sigmoid(logit: float) -> float:
    """Probability of a click."""
    return 1.0 / (1.0 + math.exp(-logit))


@jit
def components(first: int, p: Params, out: Floats) -> None:
    """Components of rows first, first + 1, ... into `out` float64 (rows, 3)."""
    values = np.empty(p.mu.shape[0], np.int64)
    ranks = np.empty(p.head.shape[0], np.int64)
    for i in range(out.shape[0]):
        draw_row(first + i, p, values, ranks)
        out[i, 0], out[i, 1], out[i, 2] = row_components(values, ranks, p)


@jit
def logits(first: int, p: Params, out: Floats) -> None:
    """Logits of rows first, first + 1, ..., without that of lists, float64 (rows,)."""
    values = np.empty(p.mu.shape[0], np.int64)
    ranks = np.empty(p.head.shape[0], np.int64)
    for i in range(out.shape[0]):
        draw_row(first + i, p, values, ranks)
        out[i] = logit_of(values, ranks, p)


@jit
def truth(first: int, p: Params, logits: Floats, probabilities: Singles, labels: Singles) -> None:
    """Probabilities of the logits of rows first, first + 1, ..., and drawn labels, (rows,)."""
    for i in range(labels.shape[0]):
        probability = sigmoid(logits[i])
        drawn = uniform(word_of(key_of_row(first + i, p.row_key), LABEL_DRAW))
        probabilities[i] = probability
        labels[i] = 1.0 if drawn < probability else 0.0


@jit
def fields(first: int, p: Params, values: Integers, ids: Ids, empty: Flags) -> None:
    """Dense values (rows, D), ids uint32 (rows, C), and where there is no id, bool (rows, C)."""
    ranks = np.empty(p.head.shape[0], np.int64)
    for i in range(values.shape[0]):
        draw_row(first + i, p, values[i], ranks)
        for column in range(ranks.shape[0]):
            empty[i, column] = ranks[column] == EMPTY_RANK
            ids[i, column] = id_of(column, ranks[column])
