"""Whole models in ONNX Runtime, beside `DLRM.predict`."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.options import DENSE_TRANSFORMS
from data_tools.sources.criteo.parser import transform_dense
from robe_numba.dlrm import DLRM, DLRMConfig, embedding_from, make_embedding
from robe_numba.onnx.model import build_model
from robe_numba.onnx.model_file import write_model
from tests.onnx.sessions import any_ids, session
from tests.support.strategies import array_for, robe_specs

TOLERANCE = 1e-6  # of a probability: sums in another order


def facts(config, **changes):
    return {
        "dense": [f"I{k}" for k in range(config.num_dense)],
        "categorical": [f"C{k}" for k in range(config.num_tables)],
        "dense_transform": "log1p",
        "index_dtype": "uint32",
    } | changes


def saved(model, path, dtype="float32", **changes):
    export = build_model(model, facts(model.config, **changes), "0" * 64, dtype)
    write_model(export.model, export.constants, path)
    onnx.checker.check_model(path, full_check=True)
    return path


def dense_features(rows, columns, seed=0):
    generator = np.random.default_rng(seed)
    values = np.exp(generator.uniform(-2, 20, (rows, columns))).round() - 3
    values[generator.random(values.shape) < 0.2] = np.nan
    return values.astype(np.float32)


def small_model(spec, interaction, seed, num_dense=3):
    widths = {"bottom": (5,), "top": (6, 4), "interaction": interaction, "cross_rank": 3}
    config = DLRMConfig(num_dense, spec.num_tables, spec.embedding_dim, **widths)
    description = {"kind": "robe", "specs": {"array": {"kind": "robe", **vars(spec)}},
                   "optimizer": "sgd", "eps": 1e-10}  # fmt: skip
    array = array_for(spec, "float32", seed) * np.float32(0.1)
    return DLRM(config, embedding_from(description, {"array": array}), seed=seed)


@settings(max_examples=40)
@given(
    robe_specs(),
    st.sampled_from(["dot", "cat", "dcn"]),
    st.sampled_from(DENSE_TRANSFORMS),
    st.sampled_from([0, 1, 7]),
    st.integers(0, 99),
)
def test_probabilities_of_every_spec(tmp_path_factory, spec, interaction, transform, rows, seed):
    model = small_model(spec, interaction, seed)
    path = tmp_path_factory.getbasetemp() / "every_spec.onnx"
    dense, ids = dense_features(rows, 3, seed), any_ids(seed, rows, spec.num_tables)
    if spec.num_embeddings is not None:  # others are not legal for the kernels
        ids = (ids.view(np.uint64) % np.array(spec.num_embeddings, np.uint64)).view(np.int64)
    if transform == "none":
        dense /= 2**20  # so that the layers' sums stay small
    runs = session(saved(model, path, dense_transform=transform))
    (found,) = runs.run(["probability"], {"dense": dense, "ids": ids})
    wanted = model.predict(transform_dense(dense.astype(np.float64), transform), ids)
    assert found.shape == (rows,)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


def columns(seed):
    generator = np.random.default_rng(seed)
    return [np.unique(generator.integers(0, 2**32, n, np.uint64)) for n in (40, 1, 300)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("kind", ["robe", "full", "hashed", "qr"])
def test_kinds_and_any_id(kind, dtype, tmp_path):
    sizes = {} if kind == "full" else {"num_parameters": 800}
    known = {"vocabulary": columns(1)} if kind in ("full", "qr") else {}
    embedding = make_embedding(kind, embedding_dim=8, num_tables=3, scale=0.5, **sizes, **known)
    model = DLRM(DLRMConfig(4, 3, 8, (8,), (8,)), embedding)
    ids = any_ids(3, 400, 3)
    ids[:100] = np.stack([np.resize(column, 100) for column in columns(1)], axis=1).astype(np.int64)
    dense = dense_features(400, 4)
    runs = session(saved(model, tmp_path / "model.onnx", dtype))
    (found,) = runs.run(None, {"dense": dense, "ids": ids})
    wanted = model.predict(transform_dense(dense.astype(np.float64), "log1p"), ids)
    # An element changes by a 2^-12th, a 2^-9th, or a 254th of the largest of its block.
    tolerance = {"float32": TOLERANCE, "float16": 2e-4, "bfloat16": 2e-3, "int8": 5e-3}[dtype]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)
    assert dtype == "float32" or (found != wanted).any()


@pytest.mark.parametrize("modulus", [1, 1000, 2**32 - 1])
def test_ids_are_reduced_as_unsigned_words(modulus, tmp_path):
    embedding = make_embedding("robe", embedding_dim=8, num_tables=2, num_parameters=900, scale=0.5)
    model = DLRM(DLRMConfig(1, 2, 8, (4,), (4,)), embedding)
    ids, dense = any_ids(5, 50, 2), np.zeros((50, 1), np.float32)
    runs = session(saved(model, tmp_path / "model.onnx", max_ind_range=modulus))
    (found,) = runs.run(None, {"dense": dense, "ids": ids})
    reduced = [[int(x) % 2**64 % modulus for x in row] for row in ids]
    wanted = model.predict(dense, np.array(reduced, np.uint64))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


def test_ids_of_a_vocabulary_are_not_reduced(tmp_path):
    """They were before they were looked up; the number of unknown ids may be the modulus."""
    embedding = make_embedding("robe", embedding_dim=8, num_tables=2, num_parameters=900, scale=0.5)
    model = DLRM(DLRMConfig(1, 2, 8, (4,), (4,)), embedding)
    changes = {"max_ind_range": 10, "vocabulary": ["0" * 8] * 2, "ids": "raw", "min_count": 2}
    runs = session(saved(model, tmp_path / "model.onnx", **changes))
    ids, dense = np.array([[10, 3], [0, 10]]), np.zeros((2, 1), np.float32)
    (found,) = runs.run(None, {"dense": dense, "ids": ids})
    np.testing.assert_allclose(found, model.predict(dense, ids), rtol=0, atol=TOLERANCE)
    outside = runs.get_modelmeta().custom_metadata_map["outside"]
    assert "modulo 10" in outside
    assert "min_count 2" in outside


def test_without_dense_features(tmp_path):
    spec = make_embedding("robe", embedding_dim=8, num_tables=2, num_parameters=900)
    model = DLRM(DLRMConfig(0, 2, 8, (4,), (4,)), spec)
    runs = session(saved(model, tmp_path / "model.onnx"))
    dense, ids = np.zeros((5, 0), np.float32), any_ids(1, 5, 2)
    (found,) = runs.run(None, {"dense": dense, "ids": ids})
    np.testing.assert_allclose(found, model.predict(dense, ids), rtol=0, atol=TOLERANCE)
