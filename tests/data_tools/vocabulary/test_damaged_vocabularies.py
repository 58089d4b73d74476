"""Damaged files of counts and vocabularies, and wrong arguments: each is refused, with its name."""

import numpy as np
import pyarrow as pa
import pytest

from data_tools import DatasetError
from data_tools.vocabulary.build import build_vocabulary
from data_tools.vocabulary.counts import CountsFile, ShardCounter
from data_tools.vocabulary.id_map import IdMap
from tests.data_tools.vocabulary.test_vocabulary import build, count_files, counted


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="dtype is int64; ids are uint32 or uint64"):
        ShardCounter(2, np.int64)
    with pytest.raises(ValueError, match="num_columns is -1"):
        ShardCounter(-1, np.uint32)
    counter = ShardCounter(2, np.uint32)
    with pytest.raises(TypeError, match="indices is int64 but must be an array of uint32"):
        counter.add(np.zeros((3, 2), np.int64))
    with pytest.raises(ValueError, match=r"indices has the shape \(3, 1\) but must be \(rows, 2\)"):
        counter.add(np.zeros((3, 1), np.uint32))
    with pytest.raises(ValueError, match="num_multi_hot is -1"):
        ShardCounter(1, np.uint32, -1)
    with pytest.raises(ValueError, match="there are lists of 0 columns but must be of 1"):
        ShardCounter(2, np.uint32, 1).add(np.zeros((3, 2), np.uint32))
    with pytest.raises(TypeError, match="lists is int64 but must be an array of uint32"):
        ShardCounter(2, np.uint32, 1).add(np.zeros((3, 2), np.uint32), [np.zeros(3, np.int64)])
    files = count_files(tmp_path, [[(1,)]], 1)
    for options, rule in (
        ({"min_count": 0}, "min_count is 0; it must be at least 1"),
        ({"memory_bytes": 0}, "memory_bytes is 0; it must be at least 1"),
    ):
        with pytest.raises(ValueError, match=rule):
            build(tmp_path, files, **options)
    with pytest.raises(ValueError, match="there are no counts"):
        build(tmp_path, [])
    with pytest.raises(NotADirectoryError, match=r"the scratch folder .* is missing"):
        build_vocabulary(files, None, scratch_folder=tmp_path / "none")
    paths, _ = build(tmp_path, files)
    vocabulary = IdMap(paths)
    with pytest.raises(TypeError, match="indices is uint64 but must be an array of uint32"):
        vocabulary.map(np.zeros((1, 1), np.uint64))
    good = np.zeros((2, 1), np.uint32)
    with pytest.raises(ValueError, match=r"out has the shape \(1, 1\)"):
        vocabulary.map(good, out=good[:1])
    frozen = good.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        vocabulary.map(good, out=frozen)
    with pytest.raises(ValueError, match="there are no files"):
        IdMap([])
    with pytest.raises(ValueError, match="num_multi_hot is 2, but there are 1 files"):
        IdMap(paths, num_multi_hot=2)
    with pytest.raises(TypeError, match="values is int64 but must be an array of uint32"):
        IdMap(paths, num_multi_hot=1).map_list(0, np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="directory_bytes is 0"):
        IdMap(paths, directory_bytes=0)


def test_damaged_counts_leave_no_scratch(tmp_path):
    good, other = count_files(tmp_path, [[(1,), (2,)], [(1,)]], 1)
    whole = other.read_bytes()
    for damaged, reason in (
        (whole[:-20], "no readable file of counts"),
        (b"", "no readable file of counts"),
        (b"label\tdense\n" * 20, "no readable file of counts"),
        (whole.replace(b"rows", b"line"), "no readable file of counts"),
        (counted([(1, 2)], 2, "uint32"), "counts 2 columns of uint32, but .* 1 of uint32"),
        (counted([(1,)], 1, "uint64"), "counts 1 columns of uint64, but .* 1 of uint32"),
    ):
        other.write_bytes(damaged)
        with pytest.raises(DatasetError, match=reason):
            build(tmp_path, [good, other])
        assert list((tmp_path / "scratch").iterdir()) == []
    with pytest.raises(FileNotFoundError):
        build(tmp_path, [good, tmp_path / "none"])


def test_a_column_that_cannot_be_written_leaves_no_scratch(tmp_path):
    def full(_):
        raise OSError("No space left on device")

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "mine").write_text("stays")
    files = count_files(tmp_path, [[(1,)]], 1)
    with pytest.raises(OSError, match="No space left"):
        build_vocabulary(files, full, scratch_folder=scratch)
    assert [path.name for path in scratch.iterdir()] == ["mine"]


def rewrite(path, change):
    """Write an Arrow file again with columns that `change` got as a list and returned."""
    batch = pa.ipc.open_file(path.read_bytes()).get_batch(0)
    columns = change([column.to_numpy() for column in batch.columns])
    with pa.ipc.new_file(str(path), batch.schema) as writer:
        writer.write_batch(pa.record_batch([pa.array(c) for c in columns], batch.schema))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda c: [c[0], c[1] + np.uint32(1), c[2]],
            "has 3 rows or ids of lists, but the counts .* add up to 5",
        ),
        (lambda c: [c[0], c[1], c[2] * np.uint32(0)], "has 2 ids, but 1 first places of them"),
        (lambda c: [c[0], c[1], c[2] + np.uint32(9)], "has 2 ids, but 0 first places of them"),
    ],
)
def test_counts_that_contradict_each_other(tmp_path, change, reason):
    (path,) = count_files(tmp_path, [[(1,), (2,), (1,)]], 1)
    rewrite(path, change)
    with pytest.raises(DatasetError, match=reason):
        build(tmp_path, [path])
    assert list((tmp_path / "scratch").iterdir()) == []


def test_damaged_vocabularies(tmp_path):
    paths, _ = build(tmp_path, count_files(tmp_path, [[(1, 5), (2, 6)]], 2))
    with pytest.raises(DatasetError, match=r"column 1 of 2 .* is given as column 0 of 2"):
        IdMap(paths[::-1])
    with pytest.raises(DatasetError, match=r"column 0 of 2 .* is given as column 0 of 1"):
        IdMap(paths[:1])
    whole = paths[1].read_bytes()
    for damaged in (whole[:-20], b"", b"label\tdense\n" * 20, counted([(1,)], 1, "uint32")):
        paths[1].write_bytes(damaged)
        with pytest.raises(DatasetError, match="is not a vocabulary"):
            IdMap(paths)
    paths[1].write_bytes(whole)
    (tmp_path / "other").mkdir()
    others, _ = build(tmp_path / "other", count_files(tmp_path, [[(1, 5)]], 2), by_appearance=False)
    with pytest.raises(DatasetError, match="are of two vocabularies"):
        IdMap([paths[0], others[1]])
    for disorder in ([6, 5], [5, 5]):
        rewrite(paths[1], lambda c, ids=disorder: [np.array(ids, np.uint32), c[1]])
        with pytest.raises(DatasetError, match="are not strictly increasing"):
            IdMap(paths)
    paths[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"column-1\.arrow is missing"):
        IdMap(paths)


def rewritten(path, metadata=None, nulls=False):
    """The same columns with other metadata, or without their first value."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
    fields = batches[0].schema
    fields = fields.with_metadata({**fields.metadata, **(metadata or {})})
    if nulls:
        arrays = [pa.array([None, *c.to_pylist()[1:]], c.type) for c in batches[0].columns]
        batches[0] = pa.record_batch(arrays, pa.schema(fields, metadata=fields.metadata))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, fields) as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(fields.metadata))


@pytest.mark.parametrize("rows", [b"", b"x", b"-1", b"4294967296", b"9" * 5000, b"\xff", b"1.0"])
def test_counts_of_rows_that_cannot_be(tmp_path, rows):
    (path,) = count_files(tmp_path, [[(1,), (2,)]], 1)
    rewritten(path)
    assert CountsFile(path).rows == 2
    rewritten(path, {b"rows": rows})
    with pytest.raises(DatasetError, match=r"shard-0\.counts is no readable file of counts"):
        CountsFile(path)


@pytest.mark.parametrize("sizes", [b"1 1", b"x", b"-1", b"4294967296", b"\xff"])
def test_counts_of_ids_of_lists_that_cannot_be(tmp_path, sizes):
    (path,) = count_files(tmp_path, [[(1,), (2,)]], 1)
    rewritten(path, {b"list_sizes": b"2"})
    assert CountsFile(path).sizes == (2,)
    rewritten(path, {b"list_sizes": sizes})
    with pytest.raises(DatasetError, match=r"shard-0\.counts is no readable file of counts"):
        CountsFile(path)


@pytest.mark.parametrize(
    "harm",
    [{"metadata": {b"column": b"\xff"}}, {"metadata": {b"digest": b"\xff"}}, {"nulls": True}],
)
def test_a_vocabulary_with_damaged_metadata_or_nulls(tmp_path, harm):
    files = count_files(tmp_path, [[(1,), (2,)]], 1)
    paths, _ = build(tmp_path, files)
    rewritten(paths[0])
    assert IdMap(paths).kept == (2,)
    rewritten(paths[0], **harm)
    with pytest.raises(DatasetError, match=r"column-0\.arrow is not a vocabulary"):
        IdMap(paths)


def test_counts_with_nulls(tmp_path):
    (path,) = count_files(tmp_path, [[(1,), (2,)]], 1)
    rewritten(path, nulls=True)
    with pytest.raises(DatasetError, match=r"shard-0\.counts is no readable file of counts"):
        CountsFile(path).column(0)
