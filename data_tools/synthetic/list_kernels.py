"""Compiled lists of ids: their lengths, their ids, and what these add to a row's logit."""

from typing import NamedTuple

import numpy as np

from data_tools.hashing import U64, below, word_of
from data_tools.synthetic.kernels import (
    Flags,
    Floats,
    Ids,
    Integers,
    Singles,
    common_rank,
    id_of,
    key_of_row,
    normal,
    sigmoid,
    uniform,
)
from robe_numba._jit import jit

# Beyond those of the other columns, in a row's stream of hash words and among the columns.
LENGTH_DRAW = 200
LIST_DRAW = 300
FIRST_COLUMN = 64


class ListParams(NamedTuple):
    """Constants of the lists: all features have the same law of ids."""

    row_key: np.uint64  # seeds every draw of a row
    id_key: np.uint64  # seeds every per-id effect
    longest: Integers  # (F,) ids of a feature's longest list
    cardinality: int
    head: float
    shift: float
    span: float
    inverse_power: float


@jit
def lengths(first: int, feature: int, p: ListParams, out: Integers) -> None:
    """Lengths of a feature's lists in rows first, first + 1, ..., int64 (rows,)."""
    for i in range(out.shape[0]):
        word = word_of(key_of_row(first + i, p.row_key), LENGTH_DRAW + feature)
        out[i] = below(word, U64(p.longest[feature]) + U64(1))


@jit
def draw(
    first: int, feature: int, p: ListParams, offsets: Integers, ids: Ids, sums: Floats, own: Floats
) -> None:
    """Ids of a feature's lists, the sum of their effects, and the effect of the first, (rows,)."""
    effects = word_of(p.id_key, FIRST_COLUMN + feature)
    for i in range(sums.shape[0]):
        key = word_of(key_of_row(first + i, p.row_key), LIST_DRAW + feature)
        sums[i] = own[i] = 0.0
        for place in range(offsets[i + 1] - offsets[i]):
            u = uniform(word_of(key, place))
            rank = common_rank(u, p.cardinality, p.head, p.shift, p.span, p.inverse_power)
            effect = normal(word_of(effects, rank))
            ids[offsets[i] + place] = id_of(FIRST_COLUMN + feature, rank)
            sums[i] += effect
            if place == 0:
                own[i] = effect


@jit
def marginal(
    logits: Floats, own: Floats, filled: Flags, rest: Floats, share: Floats, out: Singles
) -> None:
    """Mean probability of each row over sampled lists that begin with the row's first ids.

    `logits` (rows,) are without lists, `own` (rows, F) are the effects of first ids, and `filled`
    says where there is one. Of each sample, `rest` (samples, F) is the effect of the other ids, and
    `share` what an effect is multiplied by.
    """
    for i in range(out.shape[0]):
        total = 0.0
        for sample in range(rest.shape[0]):
            logit = logits[i]
            for feature in range(rest.shape[1]):
                if filled[i, feature]:
                    effect = own[i, feature] + rest[sample, feature]
                    logit += effect * share[sample, feature]
            total += sigmoid(logit)
        out[i] = total / rest.shape[0]
