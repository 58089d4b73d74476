"""Lists made of single ids while they are read, against a hash of Python's integers."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data_tools
from data_tools.loader.expansion import Expansion
from data_tools.loader.split import Split
from data_tools.options import MLPERF_SIZES
from data_tools.schema import Schema
from tests.data_tools.loader.test_batches import UNEVEN, make, row_numbers
from tests.data_tools.loader.test_peers import assert_same, on_ranks

pytestmark = pytest.mark.usefixtures("small_windows", "no_thread_stays")

SCHEMA = Schema("y", ("a",), ("p", "q", "r"))
SIZES = (3, 1, 5)


def word(key, index):
    """Word `index` of a stream of SplitMix64."""
    state = (key + 0x9E3779B97F4A7C15 * (index + 1)) % 2**64
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    return state ^ state >> 31


def list_of(own, column, size, known, seed):
    """The ids that one id becomes."""
    own = int(own)
    stream = word(word(seed, column), own)
    return [own, *(word(stream, place) * max(known, 1) >> 64 for place in range(1, size))]


@given(
    st.integers(1, 40),
    st.one_of(st.integers(0, 50), st.just(2**32)),
    st.integers(0, 2**63 - 1),
    st.sampled_from([np.uint32, np.uint64]),
    st.data(),
)
def test_lists_are_those_of_the_rule(size, known, seed, dtype, data):
    own = data.draw(st.lists(st.integers(0, np.iinfo(dtype).max), max_size=9))
    expansion = Expansion((1, 1, size), (0, 0, known), seed)
    found = expansion.ids(np.array(own, dtype), 2)
    assert found.dtype == dtype
    assert found.shape == (len(own), size)
    assert found.tolist() == [list_of(i, 2, size, known, seed) for i in own]


def test_draws_are_uniform_and_of_their_column_and_seed():
    ids = np.arange(10_000, dtype=np.uint32)
    draws = [
        Expansion((2, 2), (7, 7), seed).ids(ids, column)[:, 1]
        for seed, column in [(0, 0), (0, 1), (1, 0), (2**62, 0)]
    ]
    for number, drawn in enumerate(draws):
        # 1,428.6 of each in the mean, with a standard deviation of 35.
        assert np.abs(np.bincount(drawn, minlength=7) - 10_000 / 7).max() < 6 * 35
        for other in draws[:number]:
            # Equal in 1 of 7 places, with a standard deviation of 35 in 10,000.
            assert abs((drawn == other).sum() - 10_000 / 7) < 6 * 35


def log(folder, rows=90):
    """A CSV whose columns have 90, 9 and 4 ids."""
    lines = [f"{r % 2},{r},{r * 7},{r // 10},{r % 4}" for r in range(rows)]
    (folder / "log.csv").write_text("\n".join(["y,a,p,q,r", *lines, ""]))
    return folder / "log.csv"


def ingest(folder, name, **options):
    given = {"schema": SCHEMA, "ids": "appearance", "shard_bytes": 200} | options
    data_tools.ingest(log(folder), folder / name, **given)
    return data_tools.Dataset(folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("expansion")


@pytest.fixture(scope="module")
def single(folder):
    return ingest(folder, "single", min_count=2)


@pytest.fixture(scope="module")
def dataset(folder):
    return ingest(folder, "lists", min_count=2, multi_hot_sizes=SIZES, multi_hot_seed=5)


def expanded(batch, known):
    """The columns of a batch of single ids as they must be in one with lists."""
    rows = batch.indices.tolist()
    lists = [list_of(row[c], c, SIZES[c], known[c], 5) for c in (0, 2) for row in rows]
    offsets = np.cumsum([0, *map(len, lists)])
    return batch.indices[:, [1]], [i for ids in lists for i in ids], offsets


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("threads", [0, 1, 2])
@pytest.mark.parametrize("by", ["order", "random", "day"])
def test_batches_are_those_of_single_ids_expanded(dataset, single, seed, threads, by):
    known = [file.rows for file in single.manifest.vocabulary]
    assert known == [0, 9, 4]  # no id of the first column occurs twice, so all are unknown
    options = {"shuffle_seed": seed, "threads": threads, "first": 1, "drop_last": True}
    splits = [each.split("train", by=by) for each in (dataset, single)]
    pairs = list(zip(*(s.batches(11, **options) for s in splits), strict=True))
    assert len(pairs) > 3
    for found, plain in pairs:
        indices, values, offsets = expanded(plain, known)
        np.testing.assert_array_equal(found.indices, indices)
        assert found.indices.flags.c_contiguous
        assert found.values.tolist() == values
        assert found.values.dtype == found.indices.dtype == plain.indices.dtype
        np.testing.assert_array_equal(found.offsets, offsets)
        assert found.weights is None
        assert (found.labels.tobytes(), found.dense.tobytes()) == (
            plain.labels.tobytes(),
            plain.dense.tobytes(),
        )


def test_what_an_expanded_dataset_tells(dataset, single):
    assert dataset.manifest.schema == single.schema == SCHEMA
    assert dataset.schema == Schema("y", ("a",), ("q",), ("p", "r"))
    assert dataset.ids_per_row == (3.0, 5.0)
    assert single.ids_per_row == ()
    part, plain = dataset.split("train"), single.split("train")
    np.testing.assert_array_equal(part.labels(), plain.labels())
    np.testing.assert_array_equal(part.unique_ids(0), plain.unique_ids(1))
    for feature, column in ((1, 0), (2, 2)):
        known = single.manifest.vocabulary[column].rows
        lists = [list_of(i, column, SIZES[column], known, 5) for i in plain.unique_ids(column)]
        found = part.unique_ids(feature)
        assert found.tolist() == sorted({int(i) for ids in lists for i in ids})
        assert found.dtype == plain.unique_ids(column).dtype
    with pytest.raises(IndexError):
        part.unique_ids(3)


def test_the_stored_rows_are_single_ids(dataset, single):
    """And of the manifest only the options differ."""
    assert [s.crc32 for s in dataset.manifest.shards] == [s.crc32 for s in single.manifest.shards]
    assert data_tools.verify(dataset.path) == []
    with_lists, without = (
        json.loads((each.path / "manifest.json").read_text()) for each in (dataset, single)
    )
    options = with_lists["options"]
    assert (options.pop("multi_hot_sizes"), options.pop("multi_hot_seed")) == ([3, 1, 5], 5)
    assert with_lists == without


def test_ranks_send_single_ids_and_get_the_same_batches(dataset):
    part = dataset.split("train", by="random")
    widths = []

    def work(peers):
        send = peers.exchange
        peers.exchange = lambda parts: widths.append(parts[0].indices.shape[1]) or send(parts)
        return list(part.batches(10, 1, peers=peers))

    assert_same(on_ranks(3, work), list(part.batches(10, 1)))
    assert set(widths) == {3}


def test_lists_of_the_log_come_after_those_that_are_made():
    plain = make(UNEVEN, lists=2)
    expansion = Expansion((1, 2, 1), (72, 8, 72), 0)
    part = Split(plain._blocks, plain._rows, plain._empty, expansion)
    for found, batch in zip(part.batches(9, 1), plain.batches(9, 1), strict=True):
        rows = len(batch.dense)
        np.testing.assert_array_equal(found.indices, batch.indices[:, [0, 2]])
        made = [i for own in batch.indices[:, 1] for i in list_of(int(own), 1, 2, 8, 0)]
        assert found.values.tolist() == made + batch.values.tolist()
        np.testing.assert_array_equal(found.offsets[: rows + 1], np.arange(rows + 1) * 2)
        np.testing.assert_array_equal(found.offsets[rows:], batch.offsets + 2 * rows)
        np.testing.assert_array_equal(found.weights, [1.0] * len(made) + batch.weights.tolist())
    schema = Schema("y", (), ("p", "q", "r"), ("s", "t"), (None, "w"))
    assert expansion.schema(schema) == Schema(
        "y", (), ("p", "r"), ("q", "s", "t"), (None, None, "w")
    )
    np.testing.assert_array_equal(part.unique_ids(3), plain.unique_ids(3))
    assert row_numbers(plain.batches(9, 1))  # which checks the lists themselves


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ids": "raw"}, "ids is 'raw', which knows none; use ids=\"appearance\""),
        ({"multi_hot_sizes": (1, 2)}, "multi_hot_sizes has 2 numbers for 3 categorical columns"),
        ({"multi_hot_sizes": (1, 0, 2)}, "a size of multi_hot_sizes is 0; it must be a whole"),
        ({"multi_hot_sizes": (1, 2.0, 2)}, "a size of multi_hot_sizes is 2.0; it must be a whole"),
        ({"multi_hot_sizes": "criteo"}, "multi_hot_sizes is 'criteo'; use a tuple of numbers, or"),
        ({"multi_hot_sizes": "mlperf"}, "has 26 numbers for 3 categorical columns"),
        ({"multi_hot_sizes": None, "multi_hot_seed": 1}, "but there are no multi_hot_sizes"),
        ({"multi_hot_seed": -1}, "multi_hot_seed is -1; it must be a whole number from 0"),
    ],
)
def test_wrong_sizes(tmp_path, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        ingest(tmp_path, "out", **{"multi_hot_sizes": SIZES, **options})


def test_a_manifest_of_sizes_without_known_ids_is_damaged(tmp_path):
    path = ingest(tmp_path, "out", multi_hot_sizes=SIZES).path / "manifest.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "vocabulary": []}))
    with pytest.raises(data_tools.DatasetError, match="no known ids to draw from"):
        data_tools.Dataset(path.parent)


def test_rows_to_be_scored_get_the_lists_of_the_model(tmp_path, dataset):
    """They must ask for the same draws, and have the same known ids."""
    same = {"min_count": 2, "vocabulary": dataset.path, "multi_hot_seed": 5}
    later = ingest(tmp_path, "later", multi_hot_sizes=SIZES, **same)
    for found, expected in zip(later.batches(20), dataset.batches(20), strict=True):
        np.testing.assert_array_equal(found.values, expected.values)
    for wrong, name in (
        ({"multi_hot_sizes": (2, 1, 5)}, "multi_hot_sizes"),
        ({"multi_hot_sizes": None, "multi_hot_seed": 0}, "multi_hot_sizes"),
        ({"multi_hot_seed": 4}, "multi_hot_seed"),
    ):
        with pytest.raises(ValueError, match=f"made with {name} = .*, but this ingest has"):
            ingest(tmp_path, "other", **{"multi_hot_sizes": SIZES, **same, **wrong})


def test_mlperf_sizes_from_the_command_line(tmp_path, robe):
    assert robe("synth", tmp_path / "log.tsv", "--rows", 300, "--scale", 0.001)[0] == 0
    out = tmp_path / "data"
    status, text = robe("ingest", tmp_path / "log.tsv", "-o", out, "--multi-hot-sizes", "mlperf")
    assert status == 1
    assert "--ids appearance" in text
    status, text = robe(
        *("ingest", tmp_path / "log.tsv", "-o", out, "--ids", "appearance"),
        *("--multi-hot-sizes", "mlperf", "--multi-hot-seed", 2),
    )
    assert status == 0, text
    dataset = data_tools.Dataset(out)
    assert (sum(MLPERF_SIZES), len(MLPERF_SIZES)) == (214, 26)
    assert dataset.schema.num_categorical == MLPERF_SIZES.count(1)
    assert dataset.ids_per_row == tuple(size for size in MLPERF_SIZES if size > 1)
    (batch,) = dataset.batches(300)
    assert batch.indices.size + batch.values.size == 214 * 300
    status, text = robe("ingest", tmp_path / "log.tsv", "-o", out, "--multi-hot-sizes", "1,x")
    assert status == 2
    assert "has no whole numbers, a,b,c" in text
