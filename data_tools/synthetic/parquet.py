"""Rows of the generator as Parquet, which has lists."""

from typing import IO, TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.schema import CRITEO
from data_tools.synthetic import kernels

if TYPE_CHECKING:
    from data_tools.synthetic.generator import Generator


def table_schema(generator: "Generator", labelled: bool) -> pa.Schema:
    """Columns of the file: those of Criteo's logs by their names, then the lists."""
    label = [pa.field(CRITEO.label, pa.int8())] if labelled else []
    dense = [pa.field(name, pa.int32()) for name in CRITEO.dense]
    ids = [pa.field(name, pa.uint32()) for name in CRITEO.categorical]
    lists = [pa.field(name, pa.list_(pa.uint32())) for name in generator.multi_hot]
    return pa.schema([*label, *dense, *ids, *lists])


def table_writer(file: IO[bytes], generator: "Generator", labelled: bool) -> pq.ParquetWriter:
    """Writes tables as row groups of a file."""
    return pq.ParquetWriter(file, table_schema(generator, labelled))


def table(generator: "Generator", start: int, stop: int, labelled: bool) -> pa.Table:
    """Rows [start, stop); a missing number or id is null."""
    preset, rows = generator.preset, stop - start
    values = np.empty((rows, len(preset.dense)), np.int64)
    ids = np.empty((rows, len(preset.categorical)), np.uint32)
    empty = np.empty(ids.shape, bool)
    kernels.fields(start, generator.params, values, ids, empty)
    columns = []
    if labelled:
        columns.append(pa.array(generator.truth(start, stop)[1].astype(np.int8)))
    columns += [
        pa.array(column.astype(np.int32), mask=column == kernels.EMPTY_VALUE) for column in values.T
    ]
    columns += [pa.array(i, mask=m) for i, m in zip(ids.T, empty.T, strict=True)]
    if generator.lists is not None:
        for each in generator.lists.draw(start, stop).lists:
            offsets = pa.array(each.offsets.astype(np.int32))
            columns.append(pa.ListArray.from_arrays(offsets, pa.array(each.values)))
    return pa.table(columns, schema=table_schema(generator, labelled))
