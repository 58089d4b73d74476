"""A run in memory: the scores of `robe predict` from rows as they are in a log."""

import gc
import hashlib
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools import Dataset, Schema, ingest
from robe_numba.dlrm.embeddings.kinds import NUMBERED
from robe_numba.kernels.cpu.launch import num_threads
from robe_numba.quantization.storages import STORAGES
from robe_numba.serving import Scorer
from robe_numba.training import RunFolder, train
from tests.training.runs import as_earlier_version, die_at_call, small_config

CLOSE = 1e-6  # what sums that are rounded in another order may change


def raw_rows(count, scorer, seed=0):
    """Rows as in a log, some values missing."""
    generator = np.random.default_rng(seed)
    dense = generator.integers(-3, 1000, (count, scorer.num_dense)).astype(np.float32)
    dense[generator.random(dense.shape) < 0.2] = np.nan
    return dense, generator.integers(0, 2**32, (count, scorer.num_tables))


@pytest.fixture(scope="module", params=["robe", "full", "hashed", "qr"])
def run(request, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / request.param
    return train(dataset, small_config(request.param), folder).path


@pytest.fixture(scope="module")
def scorer(run):
    return Scorer(run)


def test_scores_are_those_of_predict(run, scorer, dataset):
    """The model sees what ingest makes of the rows: log(max(x, 0) + 1), 0 where missing."""
    dense, ids = raw_rows(100, scorer)
    known = next(iter(dataset.split("train").batches(50)))
    ids[:50] = known.indices
    ready = np.log1p(np.maximum(np.nan_to_num(dense.astype(np.float64)), 0)).astype(np.float32)
    expected = RunFolder(run).load_model().predict(ready, ids)
    found = scorer(dense, ids)
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)
    assert found.dtype == np.float32
    assert np.ptp(found) > 0.01


@pytest.mark.parametrize("storage", STORAGES)
def test_embeddings_in_fewer_bytes(run, scorer, storage):
    stored, model = Scorer(run, storage=storage), RunFolder(run).load_model(storage=storage)
    dense, ids = raw_rows(100, scorer)
    ready = np.log1p(np.maximum(np.nan_to_num(dense.astype(np.float64)), 0)).astype(np.float32)
    found = stored(dense, ids)
    np.testing.assert_allclose(found, model.predict(ready, ids), rtol=0, atol=CLOSE)
    assert (stored.num_bytes < scorer.num_bytes) == (storage != "float32")
    one_by_one = [stored(dense[row : row + 1], ids[row : row + 1]) for row in range(20)]
    assert np.concatenate(one_by_one).tobytes() == found[:20].tobytes()


@settings(max_examples=20)
@given(st.integers(0, 60), st.integers(1, 60))
def test_a_row_has_the_same_bits_in_every_batch(scorer, first, count):
    dense, ids = raw_rows(60, scorer)
    whole, rows = scorer(dense, ids), slice(first, first + count)
    assert scorer(dense[rows], ids[rows]).tobytes() == whole[rows].tobytes()


def test_batches_of_any_size(scorer, monkeypatch):
    dense, ids = raw_rows(60, scorer)
    whole = scorer(dense, ids)
    monkeypatch.setattr("robe_numba.serving.scorer.MOST_ROWS", 7)
    assert scorer(dense, ids).tobytes() == whole.tobytes()


def test_threads_do_not_disturb_each_other(scorer):
    rows = [raw_rows(count, scorer, seed=count) for count in range(1, 33)]
    expected = [scorer(*each).tobytes() for each in rows]
    with ThreadPoolExecutor(8) as pool:
        found = [scores.tobytes() for scores in pool.map(lambda each: scorer(*each), rows * 10)]
    assert found == expected * 10


@pytest.mark.usefixtures("threads_for_everything")
def test_a_call_keeps_to_its_threads(run, scorer, monkeypatch):
    """Also where it looks ids up; elsewhere kernels may have several workers on a thread."""
    used = []

    def launched(num_workers, kernel, *arguments):
        used.append(min(num_workers, num_threads()))
        return kernel(*arguments)

    monkeypatch.setattr("robe_numba.dlrm.embeddings.vocabulary.launch", launched)
    single = Scorer(run, threads=1)
    rows = raw_rows(60, scorer)
    used.clear()
    assert single(*rows).tobytes() == scorer(*rows).tobytes()
    numbered = RunFolder(run).config["embedding"]["kind"] in NUMBERED
    assert used == ([1, num_threads()] if numbered else [])


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64"])
def test_ids_of_every_dtype(scorer, dtype):
    dense, ids = raw_rows(30, scorer)
    ids %= 2**31
    assert scorer(dense, ids.astype(dtype)).tobytes() == scorer(dense, ids).tobytes()


def test_memory_and_names(run, scorer, dataset):
    model = RunFolder(run).load_model()
    arrays = [*model.parameters().values(), *model.embedding.tables().values()]
    assert scorer.num_bytes == sum(array.nbytes for array in arrays)
    assert (scorer.dense_names, scorer.id_names) == (
        list(dataset.schema.dense),
        list(dataset.schema.categorical),
    )
    assert RunFolder(run).config["digests"]["models"][-1].startswith(scorer.version)


@pytest.mark.parametrize("calls", [0, 1, 2, 3])
def test_the_version_is_that_of_the_file(run, tmp_path, monkeypatch, calls):
    """Also where a process was killed while it replaced the model, and without digests."""
    shutil.copytree(run, tmp_path / "run")
    folder, model = RunFolder(tmp_path / "run"), RunFolder(run).load_model()
    model.parameters()["top.0.bias"][:] += 1
    with monkeypatch.context() as patch, suppress(SystemExit):
        die_at_call(patch, calls, ["replace"])
        folder.save_model(model)
    digest = hashlib.blake2b(folder.model_path.read_bytes()).hexdigest()
    version = Scorer(folder.path).version
    assert len(version) == 16
    assert digest.startswith(version)
    as_earlier_version(folder.path)
    assert Scorer(folder.path).version == version


def test_wrong_rows_are_refused(scorer):
    dense, ids = raw_rows(4, scorer)
    with pytest.raises(ValueError, match="dense has shape"):
        scorer(dense[:, 1:].copy(), ids)
    with pytest.raises(ValueError, match="ids has shape"):
        scorer(dense, ids[:3])
    with pytest.raises(TypeError, match="ids has dtype float64"):
        scorer(dense, ids.astype(np.float64))
    dense[2, 1] = -np.inf
    with pytest.raises(ValueError, match=r"dense\[2, 1\] is -inf; it must be finite"):
        scorer(dense, ids)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_model_that_diverged_is_refused(run, dataset, robe, tmp_path, value):
    """Where a rectifier gives 0, a weight that is not finite would not be seen."""
    shutil.copytree(run, tmp_path / "run")
    damaged = RunFolder(tmp_path / "run")
    for name in damaged.load_model().parameters():
        model = RunFolder(run).load_model()
        model.parameters()[name].flat[-1] = value
        damaged.save_model(model)
        with pytest.raises(ValueError, match=rf"{name} has values that are not finite"):
            Scorer(damaged.path)
    status, text = robe("predict", damaged.path, dataset.path, "-o", tmp_path / "out.parquet")
    assert status != 0
    assert "training has diverged" in text


@pytest.mark.parametrize("preset", ["kaggle", "default"])
def test_an_illegal_row_is_found_before_it_is_scored(preset, dataset, tmp_path):
    """Wherever it is in a large batch; ids of uma are numbers of 32 bits."""
    settings = small_config(hash="uma", preset=preset, sign=False)
    scorer = Scorer(train(dataset, settings, tmp_path / "run").path)
    dense, ids = np.zeros((9000, scorer.num_dense)), np.full((9000, scorer.num_tables), 2**32 - 1)
    scorer.check(dense, ids)
    for value in (2**32, -1):
        ids[8900, 2] = value
        for call in (scorer, scorer.check):
            with pytest.raises(
                ValueError, match=rf"^ids\[8900, 2\] is {value % 2**64}, .* legal ids"
            ):
                call(dense, ids)
    with pytest.raises(ValueError, match="ids has shape"):
        scorer.check(dense, ids[1:])


def test_threads_must_be_positive(run):
    with pytest.raises(ValueError, match="threads is 0; it must be at least 1"):
        Scorer(run, threads=0)


@pytest.mark.parametrize("transform", ["none", "log3", "log-squared"])
def test_logs_of_other_columns_and_transforms(tmp_path, transform):
    """CSV with few columns, ids modulo 50, and every transform."""
    generator = np.random.default_rng(1)
    columns = (generator.integers(*ends, 600) for ends in ((0, 2), (-5, 99), (0, 999)))
    rows = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    (tmp_path / "log.csv").write_text("\n".join(["clicked,price,item", *rows]))
    schema = Schema("clicked", ("price",), ("item",))
    options = {"dense_transform": transform, "max_ind_range": 50}
    ingest(tmp_path / "log.csv", tmp_path / "data", schema=schema, **options)
    data = Dataset(tmp_path / "data")
    run = train(data, small_config(batch_size=64), tmp_path / "run")
    scorer, batch = Scorer(run.path), next(iter(data.split("all").batches(600)))
    raw = np.array([row.split(",") for row in rows], np.float64)
    found = scorer(raw[:, 1:2].astype(np.float32), raw[:, 2:].astype(np.int64))
    expected = run.load_model().predict(batch.dense, batch.indices)
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)
    options["overwrite"] = True
    for value in (3.4e38, -3.4e38, 3.5e38, -3.5e38, 1e300, -1e300, np.inf, -np.inf):
        (tmp_path / "huge.csv").write_text(f"clicked,price,item\n0,{value},1\n")
        dense, ids = np.array([[value]]), np.ones((1, 1), np.int64)
        try:
            ingest(tmp_path / "huge.csv", tmp_path / "huge", schema=schema, **options)
        except ValueError:
            with pytest.raises(ValueError, match=r"dense\[0, 0\] is .* must be finite, in float32"):
                scorer(dense, ids)
        else:
            assert scorer(dense, ids).shape == (1,)


def test_calls_keep_no_memory(scorer):
    rows = [raw_rows(count, scorer, seed=count) for count in (1, 7, 40)]

    def call():
        for each in rows * 50:
            scorer(*each)

    call()
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(4):  # Python keeps some freed memory for later, up to a bound
            call()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(8):  # 1,200 calls; an object that each of them keeps has 24 bytes or more
            call()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1200 * 16
