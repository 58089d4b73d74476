"""Lists of ids as Arrow columns of shards: values and offsets, which a mapped file holds as memory.

Of each multi-hot column a shard has a list of unsigned integers and, where the ids have weights, a
list of float32 of the same lengths. Offsets are int32, so a block has at most 2**31 - 1 ids of a
column.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from data_tools.batch import Lists
from data_tools.schema import Schema

MOST_IDS = 2**31 - 1  # of a column in a block
Names = Sequence[tuple[str, str | None]]  # of each list of ids, and of its weights


def arrow_names(schema: Schema) -> Names:
    """Names of the columns in an Arrow shard, whatever those of the log are."""
    return [
        (f"lists.{number}", None if weights is None else f"weights.{number}")
        for number, (_, weights) in enumerate(schema.lists)
    ]


def fields(names: Names, ids: pa.DataType) -> list[pa.Field]:
    """The columns of lists of ids, of type `ids`, and of their weights."""
    columns = []
    for name, weights in names:
        columns.append(_field(name, ids))
        if weights is not None:
            columns.append(_field(weights, pa.float32()))
    return columns


def _field(name: str, values: pa.DataType) -> pa.Field:
    items = pa.field("item", values, nullable=False)
    return pa.field(name, pa.list_(items), nullable=False)


def to_arrays(names: Names, lists: Sequence[Lists]) -> dict[str, pa.Array]:
    """Columns of some rows, by name.

    Raises
    ------
    ValueError
        A column has more ids than int32 offsets can count.
    """
    arrays = {}
    for (name, weights), each in zip(names, lists, strict=True):
        if int(each.offsets[-1]) > MOST_IDS:
            raise ValueError(
                f"a block of {len(each.offsets) - 1} rows has {each.offsets[-1]:,} ids of a "
                f"column, but {MOST_IDS:,} is the most; keep fewer with max_length"
            )
        offsets = pa.array(each.offsets.astype(np.int32, copy=False))
        arrays[name] = _array(offsets, each.values)
        if weights is not None:
            assert each.weights is not None
            arrays[weights] = _array(offsets, each.weights)
    return arrays


def _array(offsets: pa.Array, values: np.ndarray) -> pa.Array:
    items = pa.array(values)
    kind = _field("", items.type).type
    return pa.ListArray.from_arrays(offsets, items, type=kind)


def from_arrays(names: Names, columns: Mapping[str, pa.Array]) -> tuple[Lists, ...]:
    """Views of the columns of a block, which are safe to index.

    Raises
    ------
    ArrowInvalid
        Offsets fall or leave the values, a list or an id is null, or the offsets of weights are
        not those of their ids.
    """
    lists = []
    for name, named_weights in names:
        values, offsets = _checked(name, columns[name])
        weights = None
        if named_weights is not None:
            weights, others = _checked(named_weights, columns[named_weights])
            if not np.array_equal(offsets, others):
                raise pa.ArrowInvalid(f"{named_weights} has lists of other lengths than {name}")
        lists.append(Lists(values, offsets, weights))
    return tuple(lists)


def _checked(name: str, column: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """Values and offsets of a column, of which `validate` checks the first and last offset only."""
    values, offsets = column.values.to_numpy(), column.offsets.to_numpy()
    if column.null_count:
        raise pa.ArrowInvalid(f"{name} has {column.null_count} nulls")
    rising = (offsets[1:] >= offsets[:-1]).all()
    if not rising or offsets[0] < 0 or offsets[-1] > len(values):
        raise pa.ArrowInvalid(f"the offsets of {name} fall or leave its {len(values)} values")
    return values, offsets
