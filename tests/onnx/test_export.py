"""`robe export` of real runs, in ONNX Runtime beside `robe predict`."""

import json
import shutil
import sys

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest

from data_tools import Dataset, ingest
from robe_numba import RobeSpec, block_starts
from robe_numba.onnx import export_repository, export_run
from robe_numba.training import RunFolder, train
from tests.onnx.sessions import session, tensor_of
from tests.support.commands import assert_refused
from tests.training.runs import as_earlier_version, die_at_call, small_config

TOLERANCE = 1e-6
EXTRA_BYTES = 18_000  # of nodes, constants of the hash, tables of signs and pairs, metadata


def raw_rows(dataset, rows=300):
    """Raw features of the first lines of the log that a dataset was made of."""
    text = (dataset.path.parent / "clicks.tsv").read_text()
    lines = [line.split("\t") for line in text.splitlines()[:rows]]
    dense = np.array([[float(x or "nan") for x in line[1:14]] for line in lines], np.float32)
    ids = np.array([[int(x or "0", 16) for x in line[14:]] for line in lines], np.int64)
    return {"dense": dense, "ids": ids}


def probabilities(path, inputs):
    return session(path).run(["probability"], inputs)[0]


@pytest.fixture
def predicted(robe, tmp_path):
    def predict(run, data):
        status, text = robe("predict", run, data, "-o", tmp_path / "scores.parquet")
        assert status == 0, text
        return pq.read_table(tmp_path / "scores.parquet")["probability"].to_numpy()[:300]

    return predict


@pytest.mark.parametrize("kind", ["robe", "full", "hashed", "qr"])
def test_scores_of_raw_rows_are_those_of_predict(kind, runs, dataset, robe, predicted, tmp_path):
    path = tmp_path / "model.onnx"
    status, text = robe("export", runs[kind], "-o", path)
    assert status == 0, text
    assert "dense float32 (rows, 13) and ids int64 (rows, 26)" in text
    assert "Hexadecimal ids" in text
    onnx.checker.check_model(path, full_check=True)
    found, inputs = predicted(runs[kind], dataset.path), raw_rows(dataset)
    np.testing.assert_allclose(probabilities(path, inputs), found, rtol=0, atol=TOLERANCE)
    for rows in (0, 1, 7):
        few = {name: values[:rows] for name, values in inputs.items()}
        np.testing.assert_allclose(probabilities(path, few), found[:rows], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("preset", ["default", "kaggle", "mlperf"])
def test_presets(preset, dataset, predicted, tmp_path):
    settings = small_config(preset=preset, compression=None, num_parameters=30_000, sign=True,
                            batch_size=1000, lr=0.01)  # fmt: skip
    if preset == "mlperf":
        settings = small_config(preset=preset, compression=None, num_parameters=30_000,
                                batch_size=1000, lr=0.01, bottom=None, top=None, alignment=32,
                                block_size=64)  # fmt: skip
    run = train(dataset, settings, tmp_path / "run")
    exported = export_run(run, tmp_path / "model.onnx")
    found, wanted = (
        probabilities(exported.path, raw_rows(dataset)),
        predicted(run.path, dataset.path),
    )
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("dtype", "array_bytes"),
    [("float32", 4), ("float16", 2), ("bfloat16", 2), ("int8", 1 + 4 / 128)],
)
def test_a_file_is_as_large_as_the_array_and_the_layers(dtype, array_bytes, runs, tmp_path):
    exported = export_run(runs["robe"], tmp_path / "model.onnx", dtype)
    sizes = RunFolder(runs["robe"]).config["sizes"]
    least = sizes["embedding_bytes"] / 4 * array_bytes + sizes["dense_bytes"]
    assert exported.num_bytes == exported.path.stat().st_size
    assert least < exported.num_bytes < least + EXTRA_BYTES


def test_starts_can_be_read(runs, dataset, tmp_path):
    """In units that the metadata has."""
    run = train(dataset, small_config(block_size=8, alignment=8), tmp_path / "run")
    for path, unit in ((runs["robe"], 1), (run.path, 8)):
        exported = export_run(path, tmp_path / "model.onnx")
        inputs = raw_rows(dataset, 50)
        meta = session(exported.path).get_modelmeta().custom_metadata_map
        fields = json.loads(meta["embedding"])["specs"]["array"]
        spec = RobeSpec.from_json(json.dumps(fields))
        assert json.loads(meta["start_unit"]) == unit
        starts = tensor_of(exported.path, "starts", **inputs).astype(np.int64) * unit
        np.testing.assert_array_equal(starts, block_starts(inputs["ids"], spec))


def test_metadata_names_the_run_and_its_columns(runs, tmp_path):
    exported = export_run(runs["robe"], tmp_path / "model.onnx", "int8")
    model, config = session(exported.path), RunFolder(runs["robe"]).config
    meta = model.get_modelmeta()
    assert meta.producer_name == "robe_numba"
    facts = meta.custom_metadata_map
    assert facts["digest"] == config["digests"]["models"][-1]
    assert json.loads(facts["dense"]) == config["dataset"]["dense"]
    assert json.loads(facts["ids"]) == config["dataset"]["categorical"]
    kind_and_specs = {name: config["embedding"][name] for name in ("kind", "specs")}
    assert json.loads(facts["embedding"]) == kind_and_specs
    assert facts["dtype"] == "int8"
    assert facts["outside"] == " ".join(exported.outside)
    shapes = {value.name: (value.type, value.shape) for value in model.get_inputs()}
    assert shapes == {
        "dense": ("tensor(float)", ["batch", 13]),
        "ids": ("tensor(int64)", ["batch", 26]),
    }
    (output,) = model.get_outputs()
    assert (output.name, output.type, output.shape) == ("probability", "tensor(float)", ["batch"])


def test_only_standard_operators(runs, tmp_path):
    for kind, run in runs.items():
        model = onnx.load(export_run(run, tmp_path / f"{kind}.onnx").path)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
        assert {node.domain for node in model.graph.node} == {""}


def test_ids_reduced_and_dense_features_transformed(dataset, predicted, tmp_path):
    prepared = {"max_ind_range": 50, "dense_transform": "log3"}
    ingest(dataset.path.parent / "clicks.tsv", tmp_path / "data", **prepared)
    run = train(Dataset(tmp_path / "data"), small_config(), tmp_path / "run")
    exported = export_run(run.path, tmp_path / "model.onnx")
    wanted = predicted(run.path, tmp_path / "data")
    found = probabilities(exported.path, raw_rows(dataset))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


def test_numbers_of_ids_stay_outside(dataset, predicted, tmp_path):
    """They are those of the dataset, which the model takes."""
    ingest(dataset.path.parent / "clicks.tsv", tmp_path / "data", ids="appearance", min_count=2)
    numbered = Dataset(tmp_path / "data")
    run = train(numbered, small_config(), tmp_path / "run")
    exported = export_run(run.path, tmp_path / "model.onnx")
    assert any("vocabulary" in sentence for sentence in exported.outside)
    ids = next(iter(numbered.split("all").batches(300))).indices.astype(np.int64)
    found = probabilities(exported.path, {**raw_rows(dataset), "ids": ids})
    wanted = predicted(run.path, tmp_path / "data")
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "options",
    [
        {"ids": "appearance"},
        {"min_count": 3},
        {"ids": "appearance", "min_count": 2, "max_ind_range": 40},
        {"min_count": 2, "max_ind_range": 40},
    ],
)
@pytest.mark.parametrize("kind", ["robe", "full"])
def test_a_vocabulary_in_the_model(options, kind, dataset, robe, predicted, tmp_path):
    """Then it takes raw ids, of which some are not known."""
    ingest(dataset.path.parent / "clicks.tsv", tmp_path / "data", **options)
    run = train(Dataset(tmp_path / "data"), small_config(kind), tmp_path / "run")
    path = tmp_path / "model.onnx"
    status, text = robe("export", run.path, "-o", path, "--data", tmp_path / "data")
    assert status == 0, text
    assert "mapped by the vocabulary" not in text
    wanted = predicted(run.path, tmp_path / "data")
    found = probabilities(path, raw_rows(dataset))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


def test_vocabularies_that_are_refused(runs, dataset, robe, tmp_path):
    output = ("-o", tmp_path / "model.onnx")
    log = dataset.path.parent / "clicks.tsv"
    refused = robe("export", runs["robe"], *output, "--data", dataset.path)
    assert_refused(refused, "raw ids", "leave it out")
    ingest(log, tmp_path / "data", min_count=3)
    run = train(Dataset(tmp_path / "data"), small_config(), tmp_path / "run").path
    ingest(log, tmp_path / "other", min_count=2)
    refused = robe("export", run, *output, "--data", tmp_path / "other")
    assert_refused(refused, "min_count = 3", "this dataset has 2")
    file = next((tmp_path / "data").glob("*/vocabulary-003.arrow"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert_refused(robe("export", run, *output, "--data", tmp_path / "data"), file)
    assert not (tmp_path / "model.onnx").exists()


def test_the_extra_is_named(runs, robe, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "robe_numba.onnx")
    refused = robe("export", runs["robe"], "-o", tmp_path / "model.onnx")
    assert_refused(refused, "robe-numba[onnx]")


@pytest.fixture
def two_files(monkeypatch):
    """Large arrays are those of a small model."""
    monkeypatch.setattr("robe_numba.onnx.model_file.MOST_BYTES", 100_000)
    monkeypatch.setattr("robe_numba.onnx.model_file.LARGE_BYTES", 2_000)


@pytest.mark.usefixtures("two_files")
def test_large_arrays_are_in_a_second_file(runs, dataset, tmp_path):
    whole = export_run(runs["robe"], tmp_path / "whole.onnx")
    exported = export_run(runs["full"], tmp_path / "model.onnx")
    assert not (tmp_path / "whole.onnx.data").exists()
    files = [exported.path, tmp_path / "model.onnx.data"]
    assert exported.num_bytes == sum(file.stat().st_size for file in files)
    assert files[0].stat().st_size < whole.path.stat().st_size < files[1].stat().st_size
    onnx.checker.check_model(exported.path, full_check=True)
    inputs = raw_rows(dataset)
    found = probabilities(exported.path, inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robe_numba.onnx.model_file.MOST_BYTES", 10**9)
        one = export_run(runs["full"], exported.path)
    np.testing.assert_array_equal(found, probabilities(one.path, inputs))
    assert not files[1].exists()


@pytest.mark.usefixtures("two_files")
@pytest.mark.parametrize("folder", ["model.onnx", "model.onnx.data"])
@pytest.mark.parametrize("kind", ["robe", "full"])
def test_folders_are_never_replaced(kind, folder, runs, robe, tmp_path):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "mine").touch()
    with pytest.raises(IsADirectoryError, match=rf"{folder} is a folder; name a file"):
        export_run(runs[kind], tmp_path / "model.onnx")
    refused = robe("export", runs[kind], "-o", tmp_path / "model.onnx", "--overwrite")
    assert_refused(refused, "is a folder; name a file")
    assert (tmp_path / folder / "mine").exists()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.usefixtures("two_files")
@pytest.mark.parametrize("calls", [0, 1])
def test_no_model_is_left_with_the_constants_of_another(calls, runs, monkeypatch, tmp_path):
    """If an export is killed before either of its files has its name."""
    export_run(runs["full"], tmp_path / "model.onnx")
    die_at_call(monkeypatch, calls, ["replace"])
    with pytest.raises(SystemExit):
        export_run(runs["full"], tmp_path / "model.onnx", "float16")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx.data"]


def test_what_is_there_is_replaced_only_if_told(runs, robe, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("mine")
    assert_refused(robe("export", runs["robe"], "-o", path), path, "--overwrite")
    assert path.read_text() == "mine"
    status, text = robe("export", runs["robe"], "-o", path, "--overwrite")
    assert status == 0, text
    onnx.checker.check_model(path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_damaged_runs_are_refused(runs, robe, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs["robe"], run)
    weights = bytearray((run / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (run / "model.safetensors").write_bytes(weights)
    assert_refused(robe("export", run, "-o", tmp_path / "model.onnx"), "digest", "damaged")
    assert_refused(robe("export", run, "--triton", tmp_path / "models"), "digest", "damaged")
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_runs_without_digests(runs, dataset, robe, tmp_path):
    shutil.copytree(runs["robe"], tmp_path / "run")
    as_earlier_version(tmp_path / "run")
    status, text = robe("export", tmp_path / "run", "-o", tmp_path / "model.onnx")
    assert status == 0, text
    assert "no digests" in text
    meta = session(tmp_path / "model.onnx").get_modelmeta().custom_metadata_map
    assert meta["digest"] == RunFolder(runs["robe"]).config["digests"]["models"][-1]


def test_refused(runs, robe, tmp_path):
    output = ("-o", tmp_path / "model.onnx")
    assert_refused(robe("export", runs["robe"]), "--output", "--triton")
    assert_refused(robe("export", runs["robe"], *output, "--name", "a"), "--triton")
    assert_refused(robe("export", runs["robe"], *output, "--dtype", "int4"), "int4", "float16")
    assert_refused(robe("export", tmp_path, *output), tmp_path, "not the folder of a run")
    assert_refused(robe("export", runs["robe"], "-o", "."), "is a folder; name a file")
    assert_refused(robe("export", runs["robe"], "-o", tmp_path / "no" / "model.onnx"), "no")
    with pytest.raises(ValueError, match="use one of float32"):
        export_repository(runs["robe"], tmp_path, dtype="float64")
    assert list(tmp_path.iterdir()) == []
