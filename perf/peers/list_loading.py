"""Loading lists of ids: logs of them, ours, and the same batches by pyarrow and by tables."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools import Batch, Dataset, Schema, ingest
from data_tools.loader.expansion import Expansion
from data_tools.loader.shuffle import Shuffle

BATCH = 2048
LENGTHS = (10, 31)  # of the lists, 20 in the mean
Total = tuple[int, int, int]  # rows, ids, and the sum of the ids modulo 2**64


def make_dataset(folder: Path, rows: int, features: int) -> tuple[Path, Total]:
    """A dataset of lists of random 64-bit ids in mapped Arrow files, and what it must hold."""
    random, names = np.random.default_rng(0), [f"l{number}" for number in range(features)]
    ids, total, path = 0, 0, folder / "lists.parquet"
    kinds = {"label": pa.int8(), "x": pa.float32()} | dict.fromkeys(names, pa.list_(pa.uint64()))
    with pq.ParquetWriter(path, pa.schema(list(kinds.items()))) as writer:
        for begin in range(0, rows, 1 << 16):
            count = min(rows - begin, 1 << 16)
            columns = [pa.array(np.zeros(count, "i1")), pa.array(np.zeros(count, "f4"))]
            for _ in names:
                offsets = np.concatenate([[0], np.cumsum(random.integers(*LENGTHS, count))])
                values = random.integers(0, 2**64, offsets[-1], np.uint64)
                columns.append(pa.ListArray.from_arrays(offsets.astype("i4"), values))
                ids, total = ids + len(values), (total + int(values.sum())) % 2**64
            writer.write_table(pa.table(columns, schema=pa.schema(list(kinds.items()))))
    out = folder / f"lists-{features}"
    ingest(path, out, schema=Schema("label", ("x",), (), tuple(names)), overwrite=True)
    path.unlink()
    return out, (rows, ids, total)


def load(path: Path, seed: int | None) -> int:
    """Go through a dataset once; the number of ids."""
    batches = Dataset(path).split("all").batches(BATCH, shuffle_seed=seed, threads=1)
    return sum(ids_of(batch) for batch in batches)


def ids_of(batch: Batch) -> int:
    """Ids of a batch, single ones and those of lists."""
    return batch.indices.size + (0 if batch.values is None else len(batch.values))


def total_of(path: Path, seed: int | None) -> Total:
    """What the batches hold."""
    rows = ids = total = 0
    for batch in Dataset(path).split("all").batches(BATCH, shuffle_seed=seed):
        rows, ids = rows + len(batch.dense), ids + ids_of(batch)
        for values in (batch.indices, batch.values):
            total += 0 if values is None else int(values.sum(dtype=np.uint64))
    return rows, ids, total % 2**64


def load_by_pyarrow(path: Path, seed: int | None) -> int:
    """The same batches by `pyarrow.Table.take` on each window, read by the same thread."""
    dataset = Dataset(path)
    files = [path / dataset.manifest.folder / shard.name for shard in dataset.manifest.shards]
    readers = [pa.ipc.open_file(pa.memory_map(str(file))) for file in files]
    blocks = [(reader, n) for reader in readers for n in range(reader.num_record_batches)]
    if seed is None:
        windows = [np.array([number]) for number in range(len(blocks))]
    else:
        sizes = np.concatenate([reader.block_rows for reader in dataset._readers])
        shuffle = Shuffle(sizes, seed, 0)
        windows = shuffle.windows
    found = 0
    for number, window in enumerate(windows):
        read = [reader.get_batch(block) for reader, block in (blocks[n] for n in window)]
        table = pa.Table.from_batches(read)
        if seed is not None:
            table = table.take(pa.array(shuffle.order(number)))
        lists = [c.combine_chunks() for c in table.columns if pa.types.is_list(c.type)]
        for begin in range(0, table.num_rows, BATCH):
            parts = [each.slice(begin, BATCH).flatten().to_numpy() for each in lists]
            found += len(np.concatenate(parts))
    return found


class TableExpansion:
    """Lists of single ids from stored tables, as the published benchmark makes them.

    Parameters
    ----------
    path : path
        A dataset with `multi_hot_sizes`. Its lists are read once to fill the tables.
    """

    def __init__(self, path: Path) -> None:
        self._dataset = Dataset(path)
        expansion = self._dataset._expansion
        assert isinstance(expansion, Expansion)
        manifest = self._dataset.manifest
        sizes, dtype = manifest.options.multi_hot_sizes or (), manifest.index_dtype
        self._tables = {
            column: expansion.ids(np.arange(file.rows + 1, dtype=dtype), column)
            for column, file in enumerate(manifest.vocabulary)
            if sizes[column] > 1
        }
        self._single = [column for column, size in enumerate(sizes) if size == 1]

    def batches(self, single: Path, seed: int | None) -> int:
        """Go through the dataset of single ids once; the number of ids."""
        found = 0
        for batch in Dataset(single).split("all").batches(BATCH, shuffle_seed=seed, threads=1):
            lists = [table[batch.indices[:, column]] for column, table in self._tables.items()]
            values = np.concatenate([each.reshape(-1) for each in lists])
            lengths = np.concatenate([np.full(len(each), each.shape[1]) for each in lists])
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            indices = np.take(batch.indices, self._single, axis=1)
            found += ids_of(batch._replace(indices=indices, values=values, offsets=offsets))
        return found
