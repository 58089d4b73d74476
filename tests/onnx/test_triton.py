"""The model repository that Triton loads."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format

from robe_numba.onnx import export_repository, export_run
from robe_numba.onnx.triton import config_text
from tests.onnx.sessions import session
from tests.support.commands import assert_refused
from tests.support.needs import need

need("tritonclient")


def parsed(path):
    """config.pbtxt by NVIDIA's own definition, loaded without gRPC, which its package imports."""
    client = Path(importlib.util.find_spec("tritonclient").origin).parent
    spec = importlib.util.spec_from_file_location(
        "model_config_pb2", client / "grpc" / "model_config_pb2.py"
    )
    definition = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(definition)
    return text_format.Parse(path.read_text(), definition.ModelConfig()), definition


def test_a_repository(runs, robe, tmp_path):
    status, text = robe("export", runs["robe"], "--triton", tmp_path / "models", "--name", "clicks")
    assert status == 0, text
    place = tmp_path / "models" / "clicks"
    found = sorted(str(file.relative_to(tmp_path / "models")) for file in place.rglob("*.*"))
    assert found == ["clicks/1/model.onnx", "clicks/config.pbtxt"]
    config, definition = parsed(place / "config.pbtxt")
    assert (config.name, config.backend) == ("clicks", "onnxruntime")
    assert config.max_batch_size == 4096
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    fp32, int64 = definition.TYPE_FP32, definition.TYPE_INT64
    inputs = [(t.name, t.data_type, [*t.dims]) for t in config.input]
    assert inputs == [("dense", fp32, [13]), ("ids", int64, [26])]
    (output,) = config.output
    assert (output.name, output.data_type, [*output.dims]) == ("probability", fp32, [1])
    assert output.HasField("reshape")
    assert [*output.reshape.shape] == []


def test_the_configuration_fits_the_model(runs, tmp_path):
    """By the ONNX backend's rule: the batch, then the dimensions or what they are reshaped to."""
    exported = export_repository(runs["full"], tmp_path, "clicks")
    config, definition = parsed(tmp_path / "clicks" / "config.pbtxt")
    model = session(exported.path)
    types = {"tensor(float)": definition.TYPE_FP32, "tensor(int64)": definition.TYPE_INT64}
    for tensors, stated in (
        (model.get_inputs(), config.input),
        (model.get_outputs(), config.output),
    ):
        assert [t.name for t in tensors] == [t.name for t in stated]
        for tensor, told in zip(tensors, stated, strict=True):
            assert types[tensor.type] == told.data_type
            dims = told.reshape.shape if told.HasField("reshape") else told.dims
            assert tensor.shape == ["batch", *dims]


def test_the_model_is_that_of_a_file(runs, tmp_path):
    """Named as the run's folder."""
    exported = export_repository(runs["robe"], tmp_path / "models", dtype="int8")
    assert exported.path == tmp_path / "models" / "robe" / "1" / "model.onnx"
    alone = export_run(runs["robe"], tmp_path / "model.onnx", "int8")
    assert exported.path.read_bytes() == alone.path.read_bytes()


def test_what_is_there_is_replaced_only_if_told(runs, robe, tmp_path):
    place, command = tmp_path / "robe", ("export", runs["robe"], "--triton", tmp_path)
    place.mkdir()
    assert_refused(robe(*command), place, "--overwrite", "--name")
    assert list(place.iterdir()) == []
    assert robe(*command, "--overwrite")[0] == 0
    onnx.checker.check_model(place / "1" / "model.onnx")


def test_a_later_version_is_refused(runs, robe, tmp_path):
    """Triton would serve it, and not what was exported."""
    place, command = tmp_path / "robe", ("export", runs["robe"], "--triton", tmp_path)
    for name in ("0", "01", "old", "2old", "1"):  # none is a later version
        (place / name).mkdir(parents=True)
    assert robe(*command, "--overwrite")[0] == 0
    (place / "1" / "model.onnx").write_text("mine")
    (place / "12").mkdir()
    assert_refused(robe(*command, "--overwrite"), place / "12", "remove it")
    assert (place / "1" / "model.onnx").read_text() == "mine"


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", 'a"b', "a b", "ä"])
def test_names_that_are_refused(name, runs, robe, tmp_path):
    assert_refused(robe("export", runs["robe"], "--triton", tmp_path, "--name", name), "--name")
    assert list(tmp_path.iterdir()) == []


def test_no_dense_features():
    with pytest.raises(ValueError, match="no dense features"):
        config_text("clicks", 0, 3)
    assert "dims: [ 1 ]" in config_text("clicks", 1, np.int64(3))


def test_a_file_and_a_repository_at_once(robe, runs, tmp_path):
    alone = tmp_path / "alone.onnx"
    status, text = robe("export", runs["robe"], "-o", alone, "--triton", tmp_path / "models")
    assert status == 0, text
    placed = tmp_path / "models" / runs["robe"].name / "1" / "model.onnx"
    assert placed.read_bytes() == alone.read_bytes()
    again = robe("export", runs["robe"], "-o", tmp_path / "b.onnx", "--triton", tmp_path / "models")
    assert_refused(again, "already exists")
    assert not (tmp_path / "b.onnx").exists()
