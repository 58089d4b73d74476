"""Vocabularies against dictionaries in plain Python, and the memory that building one takes."""

import io
import tracemalloc
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.vocabulary.build import build_vocabulary
from data_tools.vocabulary.counts import CountsFile, ShardCounter, write_counts
from data_tools.vocabulary.id_map import IdMap

LARGEST = {"uint32": 2**32 - 1, "uint64": 2**64 - 1}


# The oracle: a log is a list of shards, a shard a list of rows, a row a tuple of ids.


def naive_counts(shard, column):
    """(id, count, first row) of the ids of one column, sorted."""
    counts, first = Counter(row[column] for row in shard), {}
    for number, row in enumerate(shard):
        first.setdefault(row[column], number)
    return [(value, counts[value], first[value]) for value in sorted(counts)]


def naive_vocabulary(log, column, min_count, by_appearance):
    """Dictionary of the kept ids of one column, in the order of their appearance."""
    values = [row[column] for shard in log for row in shard]
    counts = Counter(values)
    kept = [value for value in dict.fromkeys(values) if counts[value] >= min_count]
    return {value: number if by_appearance else value for number, value in enumerate(kept)}


def naive_map(vocabulary, values, rare):
    return [vocabulary.get(value, rare) for value in values]


def as_indices(rows, num_columns, dtype):
    return np.array(rows, dtype).reshape(len(rows), num_columns)


def counted(shard, num_columns, dtype, block_rows=3):
    """Bytes of a shard's file of counts."""
    counter = ShardCounter(num_columns, dtype)
    for begin in range(0, len(shard), block_rows):
        counter.add(as_indices(shard[begin : begin + block_rows], num_columns, dtype))
    sink = io.BytesIO()
    write_counts(sink, counter)
    return sink.getvalue()


def count_files(folder, log, num_columns, dtype="uint32"):
    """Files of counts of all shards, as paths in their order."""
    paths = [folder / f"shard-{number}.counts" for number in range(len(log))]
    for path, shard in zip(paths, log, strict=True):
        path.write_bytes(counted(shard, num_columns, dtype))
    return paths


def build(folder, files, scratch_bytes=None, **options):
    """Build a vocabulary in a folder; returns the vocabulary's paths and the sizes of its columns.

    The list `scratch_bytes` gets the bytes in the scratch folder when each column is written.
    """
    paths = []

    def open_column(number):
        assert number == len(paths)
        paths.append(folder / f"column-{number}.arrow")
        if scratch_bytes is not None:
            files_there = [path for path in scratch.rglob("*") if path.is_file()]
            scratch_bytes.append(sum(path.stat().st_size for path in files_there))
        return open(paths[-1], "wb")

    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    built = build_vocabulary(files, open_column, scratch_folder=scratch, **options)
    assert list(scratch.iterdir()) == []
    return paths, built


@st.composite
def logs(draw):
    """A dtype, a number of columns and a log with many repeated and some extreme ids."""
    dtype = draw(st.sampled_from(sorted(LARGEST)))
    largest = LARGEST[dtype]
    few = draw(st.integers(0, 60))
    extremes = st.sampled_from([0, 1, 2**31, 2**32 - 1, largest - 1, largest])
    ids = st.one_of(st.integers(0, few), extremes, st.integers(0, largest))
    num_columns = draw(st.integers(1, 3))
    rows = st.lists(st.tuples(*[ids] * num_columns), max_size=25)
    return dtype, num_columns, draw(st.lists(rows, min_size=1, max_size=9))


@given(logs(), st.integers(1, 30))
def test_counts_of_a_shard(drawn, block_rows):
    dtype, num_columns, log = drawn
    for shard in log:
        counts = CountsFile(io.BytesIO(counted(shard, num_columns, dtype, block_rows)))
        assert (counts.rows, counts.num_columns, counts.dtype) == (len(shard), num_columns, dtype)
        for column in range(num_columns):
            found = counts.column(column)
            assert list(zip(*found, strict=True)) == naive_counts(shard, column)
            assert [values.dtype for values in found] == [dtype, np.uint32, np.uint32]


@given(
    logs(),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([1, 500, 1 << 28]),
    st.sampled_from([1, 64, 1 << 20]),
    st.booleans(),
)
def test_a_vocabulary_is_that_of_a_dictionary(
    tmp_path_factory, drawn, min_count, by_appearance, memory_bytes, directory_bytes, as_paths
):
    """A memory of 1 merges two runs at a time, and numbers 64 rows and one id at a time."""
    dtype, num_columns, log = drawn
    folder = tmp_path_factory.mktemp("vocabulary")
    files = count_files(folder, log, num_columns, dtype)
    if not as_paths:
        files = (io.BytesIO(path.read_bytes()) for path in files)
    options = {"min_count": min_count, "by_appearance": by_appearance, "memory_bytes": memory_bytes}
    paths, built = build(folder, files, **options)
    vocabulary = IdMap(paths, directory_bytes=directory_bytes)
    assert (vocabulary.dtype, vocabulary.num_columns) == (dtype, num_columns)
    rows = [row for shard in log for row in shard]
    strangers = [(value,) * num_columns for value in (0, 3, 77, 2**32 - 1, LARGEST[dtype])]
    asked = rows + strangers
    result = vocabulary.map(as_indices(asked, num_columns, dtype))
    assert result.dtype == dtype
    for column in range(num_columns):
        naive = naive_vocabulary(log, column, min_count, by_appearance)
        rare = len(naive) if by_appearance else LARGEST[dtype]
        distinct = len({row[column] for row in rows})
        assert built[column] == (distinct, len(naive))
        assert (vocabulary.kept[column], vocabulary.rare_ids[column]) == (len(naive), rare)
        assert result[:, column].tolist() == naive_map(naive, [row[column] for row in asked], rare)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 5), max_size=6), st.lists(st.integers(0, 3), max_size=6)),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([1, 1 << 20]),
)
def test_a_vocabulary_of_lists_is_that_of_their_ids(
    tmp_path_factory, log, min_count, by_appearance, memory_bytes
):
    """A shard has any number of ids of each multi-hot column, and one row of a categorical one."""
    folder = tmp_path_factory.mktemp("vocabulary")
    files = []
    for number, lists in enumerate(log):
        counter = ShardCounter(1, np.uint64, 2)
        for part, rows in ((slice(0, 2), [[number]]), (slice(2, None), [])):  # blocks
            rows = np.array(rows, np.uint64).reshape(-1, 1)
            counter.add(rows, [np.array(each[part], np.uint64) for each in lists])
        sink = io.BytesIO()
        write_counts(sink, counter)
        files.append(io.BytesIO(sink.getvalue()))
        counts = CountsFile(io.BytesIO(sink.getvalue()))
        assert (counts.rows, counts.sizes) == (1, (1, *map(len, lists)))
    options = {"min_count": min_count, "by_appearance": by_appearance, "memory_bytes": memory_bytes}
    paths, _ = build(folder, files, **options)
    vocabulary = IdMap(paths, num_multi_hot=2)
    assert (vocabulary.num_columns, vocabulary.num_single) == (3, 1)
    for column in range(2):
        # Each id is a row of a log with this column alone.
        rows = [[(value,) for value in lists[column]] for lists in log]
        naive = naive_vocabulary(rows, 0, min_count, by_appearance)
        rare = len(naive) if by_appearance else LARGEST["uint64"]
        asked = list(range(8))
        found = vocabulary.map_list(column, np.array(asked, np.uint64))
        assert found.tolist() == naive_map(naive, asked, rare)
    assert vocabulary.map(np.zeros((0, 1), np.uint64)).shape == (0, 1)


def test_many_runs_and_many_passes_over_the_rows(tmp_path):
    """64 runs two at a time are six levels; ids of other runs appear first in later rows."""
    rng = np.random.default_rng(0)
    log = [[(int(value),) for value in rng.zipf(1.3, 40) % 5000] for _ in range(64)]
    files = count_files(tmp_path, log, 1)
    small_bytes, large_bytes = [], []
    (small,), small_built = build(tmp_path, files, small_bytes, memory_bytes=1)
    vocabulary = IdMap([small])
    naive = naive_vocabulary(log, 0, 1, True)
    values = [value for shard in log for (value,) in shard]
    result = vocabulary.map(as_indices(values, 1, "uint32"))[:, 0].tolist()
    assert result == naive_map(naive, values, None)
    content = small.read_bytes()
    (large,), large_built = build(tmp_path, files, large_bytes)
    assert large.read_bytes() == content
    assert small_built == large_built
    # Kept ids, first rows and numbers take 16 bytes each; every level is written besides.
    assert large_bytes == [16 * len(naive)]
    assert small_bytes[0] > 16 * len(naive) + 5 * 20 * len(naive)


def test_unequal_runs_are_merged_in_pieces(tmp_path):
    """Ids that rise with time, so that a range of ids lies in one run alone, and one long run."""
    log = [[(1000 * shard + row,) for row in range(300)] for shard in range(20)]
    log.append([(value,) for value in range(19_300, -1, -1)])
    paths, _ = build(tmp_path, count_files(tmp_path, log, 1), memory_bytes=200_000, min_count=2)
    naive = naive_vocabulary(log, 0, 2, True)
    asked = list(range(20_000))
    result = IdMap(paths).map(as_indices(asked, 1, "uint32"))[:, 0].tolist()
    assert result == naive_map(naive, asked, len(naive))
    assert len(naive) == 6000


def test_unknown_ids_of_a_reduced_log(tmp_path):
    log = [[(5,), (7,), (5,), (9,)]]
    paths, _ = build(tmp_path, count_files(tmp_path, log, 1), by_appearance=False, min_count=2)
    vocabulary = IdMap(paths, max_ind_range=10)
    asked = np.array([[5], [7], [8], [9]], np.uint32)
    assert vocabulary.map(asked).tolist() == [[5], [10], [10], [10]]
    with pytest.raises(ValueError, match=r"max_ind_range is 5, but column 0 .* has the id 5"):
        IdMap(paths, max_ind_range=5)
    for wrong in (0, 2**32):
        with pytest.raises(ValueError, match=f"max_ind_range is {wrong}; it must be from 1"):
            IdMap(paths, max_ind_range=wrong)


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
def test_a_block_of_many_rows_in_place_and_from_read_only_memory(tmp_path, dtype):
    """More rows than are mapped at a time, spread over all ids, with outliers at both ends."""
    rng = np.random.default_rng(1)
    known = rng.choice(10**6, 3000, replace=False) + 10**9
    known = [0, LARGEST[dtype], *known.tolist()]
    log = [[(value, value % 7) for value in known]]
    paths, _ = build(tmp_path, count_files(tmp_path, log, 2, dtype))
    vocabulary = IdMap(paths)
    asked = rng.choice(np.array([*known, 5, 10**9 - 1, 10**9 + 10**6], dtype), 20_001)
    indices = np.stack([asked, asked % np.asarray(9, dtype)], axis=1)
    indices.flags.writeable = False
    expected = [
        naive_map(naive_vocabulary(log, column, 1, True), indices[:, column].tolist(), rare)
        for column, rare in enumerate(vocabulary.rare_ids)
    ]
    copy = indices.copy()
    assert vocabulary.map(copy, out=copy) is copy
    for result in (vocabulary.map(indices), copy):
        assert result.T.tolist() == expected


def test_a_vocabulary_without_rows_or_columns(tmp_path):
    paths, built = build(tmp_path, count_files(tmp_path, [[], []], 2))
    assert built == ((0, 0), (0, 0))
    vocabulary = IdMap(paths)
    assert vocabulary.map(np.array([[0, 9]], np.uint32)).tolist() == [[0, 0]]
    assert vocabulary.map(np.empty((0, 2), np.uint32)).shape == (0, 2)
    paths, built = build(tmp_path, count_files(tmp_path, [[]], 0))
    assert (paths, built) == ([], ())


@pytest.fixture
def traced():
    """Call it to get the most bytes that Python and NumPy, and that Arrow held at one time."""
    old = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(old)  # counts from now on
    pa.set_memory_pool(pool)
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1] + pool.max_memory()
    tracemalloc.stop()
    pa.set_memory_pool(old)


@pytest.mark.parametrize("by_appearance", [True, False])
@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
def test_memory_is_bounded_whatever_the_number_of_ids(tmp_path, traced, dtype, by_appearance):
    """Three million distinct ids, 72 MB of records, in 8 MB."""
    shards, rows, memory = 30, 100_000, 8_000_000
    mix = 0x9E3779B1 if dtype == "uint32" else 0x9E3779B97F4A7C15  # odd, so ids stay distinct
    paths = [tmp_path / f"{number}.counts" for number in range(shards)]
    for number, path in enumerate(paths):
        counter = ShardCounter(1, dtype)
        values = np.arange(number * rows, (number + 1) * rows, dtype=np.uint64) * np.uint64(mix)
        counter.add(values.astype(dtype)[:, None])
        with open(path, "wb") as sink:
            write_counts(sink, counter)
    del counter, values
    tracemalloc.reset_peak()
    files, built = build(tmp_path, paths, memory_bytes=memory, by_appearance=by_appearance)
    assert traced() < memory + 2_000_000
    assert built == ((shards * rows, shards * rows),)
    tracemalloc.reset_peak()
    vocabulary = IdMap(files, directory_bytes=1_000_000)
    asked = (np.arange(3, shards * rows, 1000, dtype=np.uint64) * np.uint64(mix)).astype(dtype)
    result = vocabulary.map(asked[:, None])[:, 0]
    assert traced() < 10_000_000  # compiling is in it
    expected = np.arange(3, shards * rows, 1000) if by_appearance else asked
    np.testing.assert_array_equal(result, expected.astype(dtype))
