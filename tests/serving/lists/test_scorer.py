"""Lists of ids, row after row: the scores of `robe predict`, in any batch."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools import Dataset, Schema, ingest
from data_tools.synthetic.generator import Generator
from robe_numba.quantization.storages import STORAGES
from robe_numba.serving import Scorer
from robe_numba.training import RunFolder, score, train
from tests.serving.lists.rows import joined, raw_rows, row_major
from tests.training.list_logs import PLAIN, columns, make_dataset
from tests.training.runs import small_config

CLOSE = 1e-6  # what sums that are rounded in another order may change
KINDS = {
    "robe": {"compression": 5, "sign": True},
    "full": {"interaction": "cat", "pooling": "genres=mean"},
    "hashed": {"compression": 5, "interaction": "dcn", "pooling": "genres=max"},
    "qr": {"compression": 2, "pooling": "genres=mean"},
}


def config(kind="robe", **changes):
    options = {"batch_size": 50, "lr": 0.1, "epochs": 3, "compression": None}
    options |= KINDS[kind] | changes
    return small_config(kind, **options)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """With weights for the second of two features."""
    return make_dataset(tmp_path_factory.mktemp("lists"))


@pytest.fixture(scope="module", params=KINDS)
def run(request, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / request.param
    return train(dataset, config(request.param), folder)


@pytest.fixture(scope="module")
def scorer(run):
    return Scorer(run.path)


def test_scores_are_those_of_predict(run, scorer, dataset):
    found = scorer(*raw_rows())
    expected = score(run.load_model(), dataset.split("all"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)
    assert found.dtype == np.float32
    assert np.ptp(found) > 0.2
    assert (scorer.id_names, scorer.num_tables) == (["site"], 1)
    assert (scorer.multi_hot_names, scorer.num_multi_hot) == (["genres", "seen"], 2)
    assert scorer.weight_names == [None, "seen_weights"]


@pytest.mark.parametrize("storage", STORAGES)
def test_embeddings_in_fewer_bytes(run, dataset, storage):
    model, rows = run.load_model(storage=storage), raw_rows(range(100))
    expected = score(model, dataset.split("all"))[:100]
    stored = Scorer(run.path, storage=storage)
    np.testing.assert_allclose(stored(*rows), expected, rtol=0, atol=CLOSE)
    assert stored(*raw_rows([7])).tobytes() == stored(*rows)[7:8].tobytes()


ids = st.integers(0, 30) | st.integers(0, 2**64 - 1)
fractions = st.floats(-4, 4, width=32)
row = st.tuples(ids, st.lists(ids, max_size=5), st.lists(st.tuples(ids, fractions), max_size=5))
empty = st.tuples(ids, st.just([]), st.just([]))


@settings(max_examples=30)
@given(
    st.lists(row | empty, max_size=12) | st.lists(empty, max_size=4),
    st.sets(st.integers(0, 12)),
    st.sampled_from(["int64", "uint64"]),
    st.sampled_from(["int32", "uint32", "int64", "uint64"]),
)
def test_any_rows_in_any_batches(run, scorer, rows, cuts, id_dtype, length_dtype):
    """As the model scores plain table-major lists, and with the bits of rows that are alone."""
    lists = [[genres, [k for k, _ in seen]] for _, genres, seen in rows]
    weights = [[[1] * len(genres), [w for _, w in seen]] for _, genres, seen in rows]
    arguments = row_major([number for number, *_ in rows], lists, weights, id_dtype, length_dtype)
    found = scorer(*arguments)
    assert found.shape == (len(rows),)
    scorer.check(*arguments)
    if rows:
        dense, numbers, _ = arguments
        table_major = [[row[feature] for row in lists] for feature in (0, 1)]
        lengths = [len(one) for part in table_major for one in part]
        multi_hot = (
            np.array([k for part in table_major for one in part for k in one], np.uint64),
            np.concatenate([[0], np.cumsum(lengths)]),
            np.array([w for part in (0, 1) for row in weights for w in row[part]], np.float32),
        )
        expected = run.load_model().predict(dense, numbers.astype(np.uint64), multi_hot)
        np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)
    ends = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    parts = [
        row_major([number for number, *_ in rows[a:b]], lists[a:b], weights[a:b], id_dtype)
        for a, b in pairwise(ends)
    ]
    assert b"".join(scorer(*part).tobytes() for part in parts) == found.tobytes()
    assert scorer(*joined(parts)).tobytes() == found.tobytes()


@pytest.mark.usefixtures("threads_for_everything")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads(run, scorer, threads):
    rows = raw_rows(range(200))
    assert Scorer(run.path, threads=threads)(*rows).tobytes() == scorer(*rows).tobytes()


@pytest.mark.parametrize(("most_rows", "most_ids"), [(7, 10**6), (10**6, 10), (1, 10), (50, 83)])
def test_batches_of_any_size(scorer, monkeypatch, most_rows, most_ids):
    rows = raw_rows(range(200))
    whole, pipeline, sizes = scorer(*rows), scorer._score, []

    def noting(dense, bags, out):
        sizes.append((len(out), len(bags.values) - len(out)))  # but for single ids
        pipeline(dense, bags, out)

    monkeypatch.setattr(scorer, "_score", noting)
    monkeypatch.setattr("robe_numba.serving.lists.MOST_ROWS", most_rows)
    monkeypatch.setattr("robe_numba.serving.lists.MOST_IDS", most_ids)
    assert scorer(*rows).tobytes() == whole.tobytes()
    assert max(count for count, _ in sizes) <= most_rows
    assert max(count for _, count in sizes) <= most_ids
    full = [count == most_rows or listed > most_ids - 10 for count, listed in sizes[:-1]]
    assert all(full)  # a row has up to 10 ids


@pytest.mark.parametrize("kind", ["robe", "full"])
@pytest.mark.parametrize("ids", ["raw", "appearance"])
def test_lists_are_prepared_as_by_ingest(tmp_path, kind, ids):
    """The last two ids of each list count, modulo 20; or the numbers of known ids."""
    options = {"max_length": 2, "max_ind_range": 20, "ids": ids}
    data = make_dataset(tmp_path, **options)
    run = train(data, config(kind), tmp_path / "run")
    log = columns()
    if ids == "appearance":
        log = {name: numbers_of(name, values) for name, values in log.items()}
    expected = score(run.load_model(), data.split("all"))
    np.testing.assert_allclose(Scorer(run.path)(*raw_rows(log=log)), expected, rtol=0, atol=CLOSE)


def numbers_of(name, values):
    """The numbers from 0 of ids modulo 20 in the order in which they appear among the last two."""
    if name not in ("site", "genres", "seen"):
        return values
    single = name == "site"
    rows = [[value] if single else value for value in values]
    known = dict.fromkeys(x % 20 for row in rows for x in row[-2:])
    numbers = {x: number for number, x in enumerate(known)}
    found = [[numbers.get(x % 20, 0) for x in row] for row in rows]  # those before are not read
    return np.array(found)[:, 0] if single else found


def test_lists_alone(tmp_path):
    """Without dense columns, single ids and weights."""
    schema = Schema("click", (), (), ("genres", "seen"))
    data = make_dataset(tmp_path, schema)
    run = train(data, config("full", pooling="mean"), tmp_path / "run")
    dense, ids, (values, lengths, _) = raw_rows(schema=schema)
    scorer = Scorer(run.path)
    found = scorer(dense, ids, (values, lengths, None))
    assert ids.shape == (1500, 0)
    expected = score(run.load_model(), data.split("all"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)


def wrong(values, lengths, weights):
    """What is not legal in two rows of lengths [[1, 2], [0, 1]], and words of the message."""
    yield None, ValueError, r"has lists \(genres, seen\), but multi_hot is None; give the tuple"
    yield (values, lengths), ValueError, "but multi_hot is a tuple; give the tuple"
    yield [values, lengths, weights], ValueError, "but multi_hot is a list"
    for array in (values.tolist(), None, np.ma.array(values)):
        yield (array, lengths, weights), TypeError, "values must be a NumPy array"
    yield (values.astype(float), lengths, weights), TypeError, "values has dtype float64"
    yield (values[None], lengths, weights), ValueError, "values has shape"
    yield (np.int64(3), lengths, weights), TypeError, "values must be a NumPy array"
    yield (values[::2], lengths, weights), ValueError, "values is not C-contiguous"
    yield (values, lengths.ravel(), weights), ValueError, r"lengths has shape \(4,\)"
    yield (values, lengths[:1], weights), ValueError, r"lengths has shape \(1, 2\)"
    yield (values, lengths.astype(float), weights), TypeError, "lengths has dtype float64"
    yield (values, lengths.T, weights), ValueError, "lengths is not C-contiguous"
    for place, length, words in [
        (0, -1, r"lengths\[0, 0\] is -1, but a list has 0 ids or more"),
        (1, -(2**63), r"lengths\[0, 1\] is -9223372036854775808, but a list"),
        (3, 2, r"lengths\[1, 1\] is 2, but only 1 of the 4 values are left"),
        (1, 2**63 - 1, r"lengths\[0, 1\] is 9223372036854775807, but only 3 of the 4"),
        (3, 0, "lengths add up to 3, but there are 4 values"),
    ]:
        changed = lengths.copy()
        changed.flat[place] = length
        yield (values, changed, weights), ValueError, words
    unsigned = lengths.astype(np.uint64)
    unsigned[0, 0] = 2**64 - 1
    words = r"lengths\[0, 0\] is 18446744073709551615, but only 4 of the 4 values"
    yield (values, unsigned, weights), ValueError, words
    yield (values[:0], lengths, weights[:0]), ValueError, r"lengths\[0, 0\] is 1, but only 0"
    yield (values, lengths, None), ValueError, r"weights are missing, .* \(seen_weights\)"
    yield (values, lengths, weights[:3].copy()), ValueError, r"weights has shape \(3,\)"
    yield (values, lengths, weights.astype(float)), TypeError, "weights has dtype float64"
    for place, weight, words in [
        (0, 0.5, r"weights\[0\] is 0.5, of genres; it must be 1, as this feature has no"),
        (0, np.nan, r"weights\[0\] is nan, of genres; it must be 1"),
        (3, np.nan, r"weights\[3\] is nan, of seen; it must be finite"),
        (2, -np.inf, r"weights\[2\] is -inf, of seen; it must be finite"),
    ]:
        changed = weights.copy()
        changed[place] = weight
        yield (values, lengths, changed), ValueError, words


def test_wrong_lists_are_refused(scorer):
    lists, weights = [[[1], [2, 3]], [[], [4]]], [[[1], [0.5, 2]], [[], [3]]]
    dense, ids, multi_hot = row_major([0, 1], lists, weights)
    assert scorer(dense, ids, multi_hot).shape == (2,)
    for given_lists, error, words in wrong(*multi_hot):
        for call in (scorer, scorer.check):
            with pytest.raises(error, match=words):
                call(dense, ids, given_lists)
    for array in multi_hot:
        array.flags.writeable = False
    assert scorer(dense, ids, multi_hot).shape == (2,)


def test_a_row_has_at_most_so_many_ids_as_are_scored_at_once(scorer):
    """Which bounds the memory of a call."""
    most = 1 << 17
    weights = [[[1] * most, []], [[1], [1.0]]]
    rows = row_major([1, 2], [[[5] * most, []], [[1], [2]]], weights)
    assert np.isfinite(scorer(*rows)).all()
    rows = row_major([1, 2], [[[1], [2]], [[5] * most, [6]]], [weights[1], [[1] * most, [1.0]]])
    words = f"the lists of row 1 have {most + 1} ids; the most is {most}"
    with pytest.raises(ValueError, match=words):
        scorer.check(*rows)


def test_ids_outside_of_their_tables_are_found_wherever_they_are(tmp_path, monkeypatch):
    """Ids of uma are numbers below a limit; those that `--max-length` drops are not read."""
    limits = [9, 30, 200]
    monkeypatch.setattr("robe_numba.training.model_builder._id_ranges", lambda dataset: limits)
    data = make_dataset(tmp_path, PLAIN, max_length=2)
    run = train(data, config(hash="uma", sign=False), tmp_path / "run")
    scorer = Scorer(run.path)
    expected = score(run.load_model(), data.split("all"))
    found = scorer(*raw_rows(schema=PLAIN))
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)
    for site, lists, words in [
        (8, [[29], [199]], None),
        (9, [[29], [199]], r"ids\[1, 0\] is 9, but table 0 .* 0 to 8"),
        (8, [[2, 30], [199]], r"values\[1\] is 30, but table 1 .* 0 to 29"),
        (8, [[29], [1, 200]], r"values\[2\] is 200, but table 2 .* 0 to 199"),
        (8, [[29], [-1]], r"values\[1\] is -1, but table 2"),
        (8, [[30, 29, 1], [2**40, 199, 0]], None),
    ]:
        rows = row_major([1, site], [[[], []], lists])
        for call in (scorer, scorer.check):
            if words is None:
                call(*rows)
                continue
            with pytest.raises(ValueError, match=words):
                call(*rows)


def test_runs_without_lists_take_none(run, tmp_path):
    (tmp_path / "log.csv").write_text("clicked,site\n" + "0,1\n1,2\n" * 50)
    ingest(tmp_path / "log.csv", tmp_path / "data", schema=Schema("clicked", (), ("site",)))
    settings = small_config(batch_size=20, compression=None, num_parameters=4096)
    scorer = Scorer(train(Dataset(tmp_path / "data"), settings, tmp_path / "run").path)
    dense, ids, multi_hot = row_major([1], [[[], []]], num_dense=0)
    with pytest.raises(ValueError, match="multi_hot was given, but the run takes no lists"):
        scorer(dense, ids, multi_hot)
    assert scorer.multi_hot_names == scorer.weight_names == []


def test_weights_that_the_run_had_not_are_refused(tmp_path):
    run = train(make_dataset(tmp_path, PLAIN), config(), tmp_path / "run")
    dense, ids, (values, lengths, _) = raw_rows(range(9), PLAIN)
    weights = np.ones(len(values), np.float32)
    with pytest.raises(ValueError, match="weights were given, but the run had none; give None"):
        Scorer(run.path)(dense, ids, (values, lengths, weights))


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    """Criteo's text."""
    path = tmp_path_factory.mktemp("clicks") / "clicks.tsv"
    Generator(seed=5, scale=0.001).write(path, 2500)
    return path


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A log whose ids are numbered, and its numbers (rows, 3), by its folder and a list of ids."""
    folder = tmp_path_factory.mktemp("numbered")
    rows = np.random.default_rng(0).integers(0, 1000, (600, 3)) % [7, 40, 90]
    clicks = (rows[:, 1] % 3 == 0) ^ (np.arange(600) % 5 == 0)
    lines = [f"{click:d},{a},{b},{c}" for click, (a, b, c) in zip(clicks, rows, strict=True)]
    (folder / "log.csv").write_text("\n".join(["clicked,a,b,c", *lines]))
    numbers = [list(dict.fromkeys(column)) for column in rows.T.tolist()]
    found = [[known.index(x) for known, x in zip(numbers, row, strict=True)] for row in rows]
    return folder, np.array(found)


def made_run(numbered, folder, sizes, kind="robe"):
    """A run on this log, in `folder`, whose dataset makes lists of these sizes."""
    options = {"ids": "appearance", "multi_hot_sizes": sizes, "multi_hot_seed": 5}
    schema, pooling = Schema("clicked", (), ("a", "b", "c")), "b=mean" if sizes[1] > 1 else "sum"
    ingest(numbered[0] / "log.csv", folder / "data", schema=schema, **options)
    return train(Dataset(folder / "data"), config(kind, pooling=pooling), folder / "run")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(1, 3, 1), (4, 5, 2)])
def test_lists_are_made_of_single_ids_as_by_the_loader(numbered, tmp_path, kind, sizes):
    run = made_run(numbered, tmp_path, sizes, kind)
    scorer, ids = Scorer(run.path), numbered[1]
    assert (scorer.id_names, scorer.num_tables, scorer.num_multi_hot) == (["a", "b", "c"], 3, 0)
    dense = np.empty((len(ids), 0), np.float32)
    found = scorer(dense, ids)
    expected = score(run.load_model(), Dataset(tmp_path / "data").split("all"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)
    assert np.ptp(found) > 0.1
    for cut in (slice(0, 1), slice(3, 40)):
        part = ids[cut].astype(np.uint32)
        assert scorer(dense[cut], part).tobytes() == found[cut].tobytes()
    assert scorer(dense[:0], ids[:0]).shape == (0,)
    with pytest.raises(ValueError, match="multi_hot was given, but the run takes no lists"):
        scorer(dense, ids, row_major([0], [[[], []]])[2])


def test_lists_of_criteo_s_columns_are_made_too(clicks, tmp_path, monkeypatch):
    """Whose numbers have 32 bits, and may be hashed by uma; every second column stays single."""
    options = {"ids": "appearance", "multi_hot_sizes": (1, 3) * 13, "multi_hot_seed": 5}
    ingest(clicks, tmp_path / "data", **options)
    ingest(clicks, tmp_path / "plain", ids="appearance")
    data, settings = Dataset(tmp_path / "data"), {"hash": "uma", "sign": False, "batch_size": 250}
    run = train(data, config(**settings), tmp_path / "run")
    made, ids = next(data.batches(2500)), next(Dataset(tmp_path / "plain").batches(2500)).indices
    dense = np.zeros((2500, 13), np.float32)
    found = Scorer(run.path)(dense, ids)
    expected = run.load_model().predict(dense, made.indices, made.multi_hot)
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)
    assert np.ptp(found) > 0.1
    assert Scorer(run.path).id_names == [f"C{k}" for k in range(1, 27)]
    with pytest.raises(ValueError, match=r"ids\[1, 2\] is 4294967296, but table 2"):
        Scorer(run.path).check(np.zeros((2, 13)), np.array([[0] * 26, [0, 0, 2**32] + [0] * 23]))
    limits = [2**31] * 26
    monkeypatch.setattr("robe_numba.training.model_builder._id_ranges", lambda dataset: limits)
    run = train(data, config(**settings), tmp_path / "small")
    with pytest.raises(ValueError, match="small may draw ids outside of its tables; score"):
        Scorer(run.path)


def test_made_lists_in_batches_of_any_size(numbered, tmp_path, monkeypatch):
    run, ids = made_run(numbered, tmp_path, (4, 5, 2)).path, numbered[1]
    dense = np.empty((len(ids), 0), np.float32)
    whole = Scorer(run)(dense, ids)
    for most in (1, 40):
        monkeypatch.setattr("robe_numba.serving.made_lists.MOST_IDS", most)
        assert Scorer(run)(dense, ids).tobytes() == whole.tobytes()


def test_sizes_of_1_make_no_lists(numbered, tmp_path):
    run = made_run(numbered, tmp_path, (1, 1, 1)).path
    assert Scorer(run)(np.empty((4, 0)), numbered[1][:4]).shape == (4,)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"known_ids": []}, "run does not record how many ids its dataset knew; score datasets"),
        ({"known_ids": [7, 40]}, "there are 2 numbers of known ids for 3 columns"),
        ({"known_ids": [7, 40, 2**32 + 1]}, "known_ids"),
        ({"multi_hot_sizes": [1, 3]}, "multi_hot_sizes are 2, of other columns"),
        ({"multi_hot_sizes": [1, 3, 2]}, "multi_hot_sizes are 3, of other columns"),
        ({"multi_hot_sizes": [1, 0, 2]}, "a size of multi_hot_sizes is 0"),
    ],
)
def test_made_lists_that_are_not_as_recorded_are_refused(numbered, tmp_path, changes, words):
    from robe_numba.training.run.config_file import read_config, write_config

    run = made_run(numbered, tmp_path, (1, 3, 1)).path
    facts = read_config(run / "config.json")
    assert facts["dataset"]["known_ids"] == [7, 40, 90]
    facts["dataset"] |= changes
    write_config(run / "config.json", facts)
    with pytest.raises(ValueError, match=words):
        Scorer(run)


def test_made_lists_beside_others_are_refused(tmp_path):
    options = {"ids": "appearance", "multi_hot_sizes": (3,), "multi_hot_seed": 1}
    run = train(make_dataset(tmp_path, PLAIN, **options), config(), tmp_path / "run").path
    words = "has lists besides those that were made of single ids; score datasets with robe predict"
    with pytest.raises(ValueError, match=words):
        Scorer(run)


def test_a_run_with_other_weights_than_lists_is_damaged(run, tmp_path):
    from robe_numba.training.run.config_file import read_config, write_config

    config = read_config(run.path / "config.json")
    for name, value, words in [
        ("weights", ["seen_weights"], "1 weights for 2 multi-hot columns"),
        ("max_length", 0, "max_length is 0"),
    ]:
        changed = {**config, "dataset": {**config["dataset"], name: value}}
        write_config(tmp_path / "config.json", changed)
        with pytest.raises(ValueError, match=words):
            RunFolder(tmp_path)
