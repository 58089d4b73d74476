"""What a user states about an array of embeddings: immutable, hashable, JSON in and out.

A spec holds choices, not numbers derived from them; `robe_numba.kernels.coefficients` turns it into
the constants that kernels read.
"""

import json
import operator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np

HASHES = ("multiply-shift", "paper", "uma")
PAPER_PRIME = 2**31 - 1
UMA_PRIME = 2038074743
MAX_SIZE = 2**62  # elements; beyond it a position plus a block length would leave 64 bits


def check_int(name: str, value: Any, low: int, high: int) -> int:
    """Require an integer in [low, high]; returned as Python's own.

    Raises
    ------
    TypeError, ValueError
        The value is not an integer, or out of range.
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{name} must be an integer, got {value!r} of type {kind}") from None
    if not low <= number <= high:
        raise ValueError(f"{name} is {number}; it must be in [{low}, {high}]")
    return number


def _check_num_embeddings(value: Any) -> tuple[int, ...]:
    is_array = isinstance(value, np.ndarray) and value.ndim == 1
    if not is_array and not isinstance(value, list | tuple):
        raise TypeError(
            f"num_embeddings must be a list, tuple or array with one size per table, got {value!r}"
        )
    return tuple(check_int(f"num_embeddings[{t}]", n, 1, MAX_SIZE) for t, n in enumerate(value))


class _Json:
    """JSON form shared by the specs: the fields, and the kind they belong to."""

    kind: ClassVar[str]

    def to_json(self) -> str:
        """JSON text from which `from_json` makes an equal spec."""
        return json.dumps({"kind": self.kind, **asdict(self)})  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The spec that `to_json` wrote.

        Raises
        ------
        ValueError
            The text is not a JSON object of this kind of spec, or a value is out of range.
        TypeError
            A field is missing, unknown or of the wrong type.
        """
        wrong = f"expected the JSON of a {cls.kind} spec, got {text[:80]!r}"
        try:
            fields = json.loads(text)
            if not isinstance(fields, dict) or fields.pop("kind", cls.kind) != cls.kind:
                raise ValueError(wrong)
            return cls(**fields)
        except RecursionError:
            raise ValueError(f"{wrong}, which is nested too deeply") from None


@dataclass(frozen=True, repr=True)
class RobeSpec(_Json):
    """How the rows of `num_tables` embedding tables are read from one shared array.

    Parameters
    ----------
    array_size : int
        m, elements of the shared array.
    block_size : int
        Z, contiguous elements read per hash; Z <= m. Z > d means one block per row.
    embedding_dim : int
        d, elements of one embedding.
    num_tables : int
        Categorical features, each with its own coefficients.
    num_embeddings : sequence of int, optional
        Rows of each table. With sizes, an index outside its table is an error; with None every
        64-bit id is legal (a signed id is read as two's complement).
    hash : {"multiply-shift", "paper", "uma"}
        2-universal and independent per table and block, the formula as published, or bit for bit
        the authors' release, whose default seed is 1024.
    seed : int
        Key of the coefficients, in [0, 2**64); below 2**32 for "uma".
    sign : bool
        Multiply each element by a hashed +1 or -1, which makes inner products unbiased.
    alignment : int
        Starts are multiples of this many elements; at most min(Z, d), so that every element can be
        read.

    Raises
    ------
    TypeError, ValueError
        A value breaks the rules above; the message names it.

    Notes
    -----
    Source: Desai, Chou, Shrivastava, ROBE, MLSys 2022; symbols in docs/design.md.
    """

    array_size: int
    block_size: int
    embedding_dim: int
    num_tables: int
    num_embeddings: tuple[int, ...] | None = None
    hash: str = "multiply-shift"
    seed: int = 0
    sign: bool = False
    alignment: int = 1

    kind: ClassVar[str] = "robe"

    def __post_init__(self) -> None:
        for name in ("array_size", "block_size", "embedding_dim"):
            self._set(name, check_int(name, getattr(self, name), 1, MAX_SIZE))
        self._set("num_tables", check_int("num_tables", self.num_tables, 1, 2**31 - 1))
        if self.block_size > self.array_size:
            raise ValueError(
                f"block_size (Z) is {self.block_size} but array_size (m) is only "
                f"{self.array_size}; use Z <= m"
            )
        self._set("alignment", check_int("alignment", self.alignment, 1, 2**31))
        if self.alignment > min(self.block_size, self.embedding_dim):
            raise ValueError(
                f"alignment is {self.alignment} but a block reads only "
                f"{min(self.block_size, self.embedding_dim)} elements, min(block_size, "
                f"embedding_dim): the others would never be read; lower alignment"
            )
        if not isinstance(self.sign, bool):
            raise TypeError(f"sign must be True or False, got {self.sign!r}")
        if self.num_embeddings is not None:
            self._set("num_embeddings", _check_num_embeddings(self.num_embeddings))
            if len(self.num_embeddings) != self.num_tables:
                raise ValueError(
                    f"num_embeddings has {len(self.num_embeddings)} sizes for "
                    f"{self.num_tables} tables; give one size per table, or None"
                )
        self._check_hash()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the one place that fills a frozen field

    def _check_hash(self) -> None:
        if not isinstance(self.hash, str) or self.hash not in HASHES:
            raise ValueError(f"hash is {self.hash!r}; choose one of {', '.join(HASHES)}")
        self._set("hash", str(self.hash))
        seeds = 2**32 if self.hash == "uma" else 2**64
        self._set("seed", check_int("seed", self.seed, 0, seeds - 1))
        prime = {"paper": PAPER_PRIME, "uma": UMA_PRIME}.get(self.hash)
        if prime is not None and self.array_size > prime:
            raise ValueError(
                f"array_size is {self.array_size} but hash {self.hash!r} reaches only the first "
                f"{prime} elements; use hash='multiply-shift'"
            )
        if self.hash == "uma" and (self.sign or self.alignment != 1):
            raise ValueError(
                "hash 'uma' reproduces the authors' release, which has neither sign nor "
                "alignment; use sign=False and alignment=1, or hash='multiply-shift'"
            )
        if self.hash == "uma" and self.num_tables > 1 and self.num_embeddings is None:
            raise ValueError(
                "hash 'uma' numbers the rows of all tables one after the other and needs their "
                "sizes; give num_embeddings"
            )

    @property
    def num_blocks(self) -> int:
        """Blocks of one row, ceil(d / Z); the last may be partial."""
        return -(-self.embedding_dim // self.block_size)

    @property
    def num_bytes(self) -> int:
        """Bytes of the float32 array."""
        return 4 * self.array_size

    @property
    def compression(self) -> float | None:
        """Elements of the uncompressed tables per element of the array, if sizes are known."""
        if self.num_embeddings is None:
            return None
        return sum(self.num_embeddings) * self.embedding_dim / self.array_size

    def __str__(self) -> str:
        """One line for people; `repr` is the constructor call."""
        ratio = f", {self.compression:,.1f}x smaller" if self.compression else ""
        options = f"{', signed' if self.sign else ''}" + (
            f", aligned to {self.alignment}" if self.alignment > 1 else ""
        )
        return (
            f"ROBE-{self.block_size}: {self.num_tables} tables of d={self.embedding_dim} in "
            f"{self.array_size:,} float32 ({self.num_bytes / 1e6:,.4g} MB{ratio}), "
            f"{self.hash} hash, seed {self.seed}{options}"
        )


@dataclass(frozen=True)
class TableSpec(_Json):
    """Plain, uncompressed tables, one after the other in one flat array.

    The baseline to compare with: every function that takes a `RobeSpec` takes this too, and row x
    of table t is `array.reshape(-1, d)[sum(num_embeddings[:t]) + x]`.

    Parameters
    ----------
    num_embeddings : sequence of int
        Rows of each table; an index outside its table is an error.
    embedding_dim : int
        d, elements of one embedding.

    Raises
    ------
    TypeError, ValueError
        A value is not a positive integer, or there are no tables.
    """

    num_embeddings: tuple[int, ...]
    embedding_dim: int

    kind: ClassVar[str] = "table"
    sign: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_embeddings", _check_num_embeddings(self.num_embeddings))
        dim = check_int("embedding_dim", self.embedding_dim, 1, MAX_SIZE)
        object.__setattr__(self, "embedding_dim", dim)
        if not self.num_embeddings:
            raise ValueError("num_embeddings is empty; give at least one table")
        check_int("array_size, sum(num_embeddings) * embedding_dim,", self.array_size, 1, MAX_SIZE)

    @property
    def num_tables(self) -> int:
        """Number of tables."""
        return len(self.num_embeddings)

    @property
    def array_size(self) -> int:
        """Elements of all tables."""
        return sum(self.num_embeddings) * self.embedding_dim

    @property
    def block_size(self) -> int:
        """A row is one block."""
        return self.embedding_dim

    num_blocks: ClassVar[int] = 1

    @property
    def num_bytes(self) -> int:
        """Bytes of the float32 array."""
        return 4 * self.array_size


Spec = RobeSpec | TableSpec
