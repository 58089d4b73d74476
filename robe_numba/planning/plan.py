"""What a ROBE array of a given size will be like, worked out before anything is trained.

Everything here is arithmetic on sizes: nothing is simulated, and no array is made. Symbols and
formulas are those of `robe_numba.planning.costs`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from robe_numba.checks.scalars import check_scalar
from robe_numba.planning.costs import (
    CPU_LINE,
    GPU_LINE,
    Lines,
    Memory,
    SampleCosts,
    expected_identical_rows,
    lines_touched,
    memory_of,
    row_noise,
    sample_costs,
)
from robe_numba.spec import MAX_SIZE, RobeSpec, TableSpec, check_int

IDENTICAL_SHARE = 0.001  # of the rows; where more of them equal another row, signs are advised


@dataclass(frozen=True)
class Choice:
    """One way of reading rows from the array, and what it costs.

    Attributes
    ----------
    block_size, alignment : Z and the alignment, elements.
    num_blocks : B, hashes per row.
    num_starts : n, places where a block can begin.
    cpu_lines, gpu_lines : lines of 64 and of 128 bytes per row, see `lines_touched`.
    identical_rows : expected rows that equal another row, see `expected_identical_rows`.
    identical_share : the same over all rows, in [0, 1].
    noise : of a row, see `row_noise`.
    own_noise : the part of it that comes from the other blocks of the row itself.
    memory : of the array.
    sample : what one sample costs.
    """

    block_size: int
    alignment: int
    num_blocks: int
    num_starts: int
    cpu_lines: Lines
    gpu_lines: Lines
    identical_rows: float
    identical_share: float
    noise: float
    own_noise: float
    memory: Memory
    sample: SampleCosts


@dataclass(frozen=True)
class Recommendation:
    """The choice to begin with, whether to use hashed signs, and why in a sentence or two."""

    choice: Choice
    sign: bool
    reason: str


@dataclass(frozen=True)
class Plan:
    """What `plan` worked out.

    Attributes
    ----------
    num_embeddings, num_rows : rows of each table, and N, of all.
    ids_per_row : mean number of ids of each table in a sample, a row of the log.
    embedding_dim, array_size : d and m, elements.
    compression : elements of the uncompressed tables per element of the array.
    tables, tables_cpu_lines, tables_gpu_lines, tables_sample : of the uncompressed tables; a block
        is a row.
    choices : by rising Z, without and then with alignment.
    recommendation : see `recommend`.
    """

    num_embeddings: tuple[int, ...]
    num_rows: int
    ids_per_row: tuple[float, ...]
    embedding_dim: int
    array_size: int
    compression: float
    tables: Memory
    tables_cpu_lines: Lines
    tables_gpu_lines: Lines
    tables_sample: SampleCosts
    choices: tuple[Choice, ...]
    recommendation: Recommendation


def plan(
    num_embeddings: Iterable[int],
    embedding_dim: int,
    *,
    array_size: int | None = None,
    compression: float | None = None,
    ids_per_row: Iterable[float] | None = None,
) -> Plan:
    """What each block size would give for tables of these sizes, and which one to begin with.

    Parameters
    ----------
    num_embeddings : iterable of int
        Rows of each table.
    embedding_dim : int
        d, elements of one embedding.
    array_size : int, optional
        m, elements of the array; give this or `compression`.
    compression : float, optional
        Elements of the uncompressed tables per element of the array, at least 1.
    ids_per_row : iterable of float, optional
        Mean number of ids of each table in a row of the log; 1 for all tables if None.

    Returns
    -------
    Plan
        With Z = 1, 2, 4, ... and d, as far as Z <= m, and for each power of two the same with
        starts that are multiples of Z.

    Raises
    ------
    TypeError, ValueError
        A value is not a number or out of range, both or neither of array_size and compression are
        given, the array is larger than the tables, or ids_per_row has another length than
        num_embeddings; the message names it.
    """
    tables = TableSpec(tuple(num_embeddings), embedding_dim)
    dim, num_rows = tables.embedding_dim, sum(tables.num_embeddings)
    size = _array_size(tables.array_size, array_size, compression)
    ids = _ids_per_row(ids_per_row, tables.num_tables)
    reads = sum(ids), tables.num_tables
    choices = tuple(_choice(num_rows, reads, dim, size, *pair) for pair in _pairs(dim, size))
    return Plan(
        num_embeddings=tables.num_embeddings,
        num_rows=num_rows,
        ids_per_row=ids,
        embedding_dim=dim,
        array_size=size,
        compression=tables.array_size / size,
        tables=memory_of(tables),
        tables_cpu_lines=lines_touched(dim, dim, dim, CPU_LINE),
        tables_gpu_lines=lines_touched(dim, dim, dim, GPU_LINE),
        tables_sample=sample_costs(*reads, dim, dim, dim),
        choices=choices,
        recommendation=recommend(choices),
    )


def recommend(choices: Sequence[Choice]) -> Recommendation:
    """The choice to begin with: the rule, in one place.

    Z = d has one hash, the fewest lines and no noise of its own, and measured AUC does not depend
    on Z (docs/accuracy.md). But with a single hash per row, rows may share all their elements with
    others; hashed signs tell those apart. Starts are not aligned, because rows would share all
    elements even more often; the reason says what alignment would save.
    """
    longest = choices[-1].block_size
    best = next(c for c in choices if (c.block_size, c.alignment) == (longest, 1))
    sign = best.identical_share > IDENTICAL_SHARE
    reason = f"Z = {longest} reads the fewest cache lines, and measured AUC does not depend on Z."
    if sign:
        share = _percent(best.identical_share).capitalize()
        reason += f" {share} of the rows share all their elements with others; hashed signs tell "
        reason += "them apart."
    for aligned in (c for c in choices if c.block_size == longest and c.alignment > 1):
        reason += (
            f" Alignment {aligned.alignment} would read {aligned.cpu_lines.average:.4g} lines "
        )
        reason += f"of {CPU_LINE} bytes per row instead of {best.cpu_lines.average:.4g}."
    return Recommendation(best, sign, reason)


def _array_size(full: int, array_size: int | None, compression: float | None) -> int:
    """Elements of the array, of at most the `full` tables; as `robe train` computes them."""
    if (array_size is None) == (compression is None):
        were = "neither is given" if array_size is None else "both are given"
        raise ValueError(f"a plan needs its size, by array_size or by compression; {were}")
    if compression is not None:
        size = round(full / check_scalar("compression", compression, 1))
        if size < 1:
            raise ValueError(
                f"compression is {compression:g} but the tables have only {full:,} elements, so "
                f"that none is left; use at most {full:,}"
            )
        return size
    size = check_int("array_size", array_size, 1, MAX_SIZE)
    if size > full:
        raise ValueError(
            f"array_size (m) is {size:,} but the uncompressed tables have only {full:,} elements; "
            f"use the tables themselves, or a smaller array"
        )
    return size


def _ids_per_row(given: Iterable[float] | None, num_tables: int) -> tuple[float, ...]:
    """Ids of each table in a sample."""
    if given is None:
        return (1.0,) * num_tables
    ids = tuple(check_scalar(f"ids_per_row[{k}]", each, 0) for k, each in enumerate(given))
    if len(ids) != num_tables:
        raise ValueError(
            f"ids_per_row has {len(ids)} values but there are {num_tables} tables; give one for "
            f"each table"
        )
    return ids


def _pairs(dim: int, array_size: int) -> Iterator[tuple[int, int]]:
    """The (Z, alignment) to compare: 1, 2, 4, ... below d, and d, as far as a block fits."""
    for block_size in (*(1 << k for k in range((dim - 1).bit_length())), dim):
        if block_size <= array_size:
            yield block_size, 1
            if block_size > 1 and block_size.bit_count() == 1:
                yield block_size, block_size


def _choice(
    num_rows: int,
    reads: tuple[float, int],
    dim: int,
    size: int,
    block_size: int,
    alignment: int,
) -> Choice:
    """A way of reading; `reads` has the ids of a sample and the number of tables."""
    num_blocks, num_starts = -(-dim // block_size), -(-size // alignment)
    identical = expected_identical_rows(num_rows, num_starts, num_blocks)
    return Choice(
        block_size=block_size,
        alignment=alignment,
        num_blocks=num_blocks,
        num_starts=num_starts,
        cpu_lines=lines_touched(dim, block_size, alignment, CPU_LINE),
        gpu_lines=lines_touched(dim, block_size, alignment, GPU_LINE),
        identical_rows=identical,
        identical_share=identical / num_rows,
        noise=row_noise(num_rows, dim, size, block_size, alignment),
        own_noise=row_noise(1, dim, size, block_size, alignment),
        memory=memory_of(RobeSpec(size, block_size, dim, 1)),
        sample=sample_costs(*reads, dim, block_size, alignment),
    )


def _percent(share: float) -> str:
    """A share for a sentence; never rounded to none or to all."""
    if share in (0, 1):
        return "all" if share else "none"
    if not 1e-5 <= share <= 0.9995:
        return "nearly all" if share > 0.5 else "less than 0.001 %"
    return f"{100 * share:.3g} %"
