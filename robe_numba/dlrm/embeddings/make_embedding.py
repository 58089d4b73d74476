"""Make an embedding of a kind within a number of parameters."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from robe_numba.dlrm.embeddings.base import Embedding
from robe_numba.dlrm.embeddings.kinds import KINDS, NUMBERED, check_kind
from robe_numba.dlrm.embeddings.trained_array import TrainedArray
from robe_numba.dlrm.embeddings.vocabulary import Vocabulary
from robe_numba.dlrm.optimizers import check_optimizer
from robe_numba.ops.arrays import init_array
from robe_numba.spec import RobeSpec, Spec, TableSpec
from robe_numba.state_blocks import state_block_of


def make_embedding(
    kind: str,
    *,
    embedding_dim: int,
    num_tables: int,
    num_parameters: int | None = None,
    vocabulary: Sequence[np.ndarray] | None = None,
    num_embeddings: Sequence[int] | None = None,
    block_size: int = 32,
    hash: str = "multiply-shift",
    seed: int = 0,
    sign: bool = False,
    alignment: int = 1,
    optimizer: str = "sgd",
    eps: float = 1e-10,
    block_state: bool = False,
    scale: float | None = None,
    dtype: Any = np.float32,
    pooling: Sequence[str] = (),
) -> Embedding:
    """Make a freshly initialised embedding.

    Parameters
    ----------
    kind : str
        "robe", "full", "hashed" or "qr".
    embedding_dim : int
        d, elements of one embedding.
    num_tables : int
        Categorical features.
    num_parameters : int, optional
        Most elements that robe, hashed and qr may use; `full` takes what it needs.
    vocabulary : sequence of ndarray, optional
        Sorted unique ids of each table, for full and qr.
    num_embeddings : sequence of int, optional
        Rows of each table, for `robe` with hash "uma", which needs them.
    block_size, alignment : int
        Of `robe` (see `RobeSpec`).
    hash : str
        Of robe and hashed (see `RobeSpec`).
    seed : int
        Of the hash and of the initial values.
    sign : bool
        Of robe and hashed (see `RobeSpec`).
    optimizer : str
        "sgd" or "adagrad".
    eps : float
        Added to Adagrad's divisor.
    block_state : bool
        Adagrad keeps one sum per block of Z elements, of d for full and qr, which divides its
        memory by Z. Z is rounded down to a power of two (see `state_block_of`).
    scale : float, optional
        Half-width of the uniform initial values. The default is that of `init_array`:
        sqrt(1 / rows of the largest table) where sizes are known (full, qr) and 1 / sqrt(d) where
        not (robe, hashed). To compare kinds, pass the same scale to all. The quotient's factors of
        `qr` are that close to 1, so that its rows begin like those of a plain table.
    dtype : dtype
        float32 or float64.
    pooling : sequence of str
        "sum", "mean" or "max" for each multi-hot feature, which are the last tables; see
        `Embedding`.

    Returns
    -------
    Embedding

    Raises
    ------
    TypeError, ValueError
        An argument is missing for the kind or out of range.
    """
    check_kind(kind)
    check_optimizer(optimizer)
    if block_state and optimizer == "sgd":
        raise ValueError(
            "block_state is True but SGD has no sums; use optimizer='adagrad', or block_state=False"
        )
    known = _vocabulary(kind, vocabulary, num_tables) if kind in NUMBERED else None
    specs: dict[str, Spec]
    if known is not None:
        specs = _table_specs(kind, known.num_embeddings, embedding_dim, num_parameters)
    else:
        budget = _budget(kind, num_parameters)
        if kind == "hashed":
            block_size = alignment = embedding_dim
        least = embedding_dim if kind == "hashed" else block_size
        if budget < least:
            unit = "embedding_dim" if kind == "hashed" else "block_size"
            raise ValueError(f"num_parameters is {budget}; {kind} needs at least {unit} = {least}")
        if kind == "hashed":
            budget -= budget % embedding_dim  # whole rows
        sizes = None if num_embeddings is None else tuple(num_embeddings)
        shape = (budget, block_size, embedding_dim, num_tables)
        specs = {"array": RobeSpec(*shape, sizes, hash, seed, sign, alignment)}
    parts = {}
    for part, (name, spec) in enumerate(specs.items()):
        array = init_array(spec, scale, seed + part, dtype)
        if name == "quotient":
            array += 1
        state_block = state_block_of(spec) if block_state else 1
        parts[name] = TrainedArray(spec, array, optimizer, eps, state_block=state_block)
    return KINDS[kind](kind, parts, known, pooling)


def _table_specs(
    kind: str, num_embeddings: Sequence[int], embedding_dim: int, num_parameters: int | None
) -> dict[str, Spec]:
    """Specs of full and qr, whose tables have known sizes."""
    if kind == "full":
        return {"array": TableSpec(tuple(num_embeddings), embedding_dim)}
    rows = _budget(kind, num_parameters) // embedding_dim
    quotients, remainders = quotient_remainder_sizes(num_embeddings, rows)
    return {
        "quotient": TableSpec(quotients, embedding_dim),
        "remainder": TableSpec(remainders, embedding_dim),
    }


def quotient_remainder_sizes(
    num_embeddings: Sequence[int], rows: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Choose quotient and remainder rows of each table, with the least compression that fits.

    All tables are shrunk by one ratio c: K = ceil(n / c) remainder rows and ceil(n / K) quotient
    rows. K is never below sqrt(n), where the sum of both is least.

    Parameters
    ----------
    num_embeddings : sequence of int
        n, rows of each uncompressed table.
    rows : int
        Most rows of all quotient and remainder tables together.

    Returns
    -------
    quotients, remainders : tuple of int
        Rows of each table, in the order of `num_embeddings`.

    Raises
    ------
    ValueError
        `rows` is too small even for K = sqrt(n).
    """

    def sizes(ratio: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
        remainders = [max(math.ceil(n / ratio), math.isqrt(n - 1) + 1) for n in num_embeddings]
        quotients = [-(-n // k) for n, k in zip(num_embeddings, remainders, strict=True)]
        return tuple(quotients), tuple(remainders)

    def total(ratio: float) -> int:
        return sum(map(sum, sizes(ratio)))

    low, high = 1.0, math.sqrt(max(num_embeddings)) + 1
    if total(high) > rows:
        raise ValueError(
            f"qr needs at least {total(high)} rows for tables of these sizes but num_parameters "
            f"gives {rows}; raise num_parameters or use kind 'robe'"
        )
    if total(low) <= rows:
        return sizes(low)
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if total(middle) <= rows else (middle, high)
    return sizes(high)


def _vocabulary(kind: str, columns: Sequence[np.ndarray] | None, num_tables: int) -> Vocabulary:
    if columns is None:
        raise ValueError(
            f"kind {kind!r} numbers the known ids; give vocabulary, one array of sorted unique "
            f"ids per table, or use kind 'robe', which needs none"
        )
    if len(columns) != num_tables:
        raise ValueError(
            f"vocabulary has {len(columns)} columns for {num_tables} tables; give one per table"
        )
    return Vocabulary.from_columns(columns)


def _budget(kind: str, num_parameters: int | None) -> int:
    if num_parameters is None:
        raise ValueError(f"kind {kind!r} needs num_parameters, the elements it may use")
    return num_parameters
