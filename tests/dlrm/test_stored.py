"""Embeddings stored in fewer bytes: they score as their values do, and do not learn."""

import copy
import pickle

import numpy as np
import pytest

from robe_numba import QuantizedArray
from robe_numba.dlrm import DLRM, KINDS, DLRMConfig
from robe_numba.quantization.storages import STORAGES, store
from tests.dlrm.test_model import TINY, batch_of, copies, tiny_model
from tests.support import naive
from tests.support.strategies import widened

FEWER = STORAGES[1:]
CAT = DLRMConfig(3, 3, 4, (5,), (6,), "cat")


def stored_twin(model, storage):
    """The model with its embedding stored so."""
    twin = DLRM(model.config, model.embedding.stored_as(storage))
    twin.load({**model.parameters(), **twin.parameters(), **dense_of(model)})
    return twin


def dense_of(model):
    return {name: a for name, a in model.parameters().items() if not name.startswith("embedding.")}


def rounded(array, storage):
    """float32 values of what is stored."""
    stored = store(array, storage)
    quantized = isinstance(stored, QuantizedArray)
    return naive.dequantized(*stored) if quantized else widened(stored)


@pytest.mark.parametrize("config", [TINY, CAT])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("storage", STORAGES)
def test_scores_are_those_of_the_stored_values(kind, storage, config):
    model = tiny_model(kind, config=config)
    twin = stored_twin(model, storage)
    dense, indices, _ = batch_of(300, config=config)
    for array in model.embedding.parameters().values():
        array[...] = rounded(array, storage)
    np.testing.assert_array_equal(twin.logits(dense, indices), model.logits(dense, indices))
    np.testing.assert_array_equal(twin.predict(dense, indices), model.predict(dense, indices))
    found, expected = (m.embedding.lookup(indices)[0] for m in (twin, model))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_and_counted(kind):
    embedding = tiny_model(kind).embedding
    sizes = {name: array.size for name, array in embedding.parameters().items()}
    assert embedding.stored_as("float32") is embedding
    for storage in ("float16", "bfloat16"):
        stored = embedding.stored_as(storage)
        assert {n: a.size for n, a in stored.parameters().items()} == sizes
        assert {str(a.dtype) for a in stored.parameters().values()} == {storage}
        assert stored.num_bytes == 2 * sum(sizes.values())
    stored = embedding.stored_as("int8")
    parameters = stored.parameters()
    assert set(parameters) == {f"{name}.{part}" for name in sizes for part in ("values", "scales")}
    for name, size in sizes.items():
        assert (parameters[f"{name}.values"].dtype, parameters[f"{name}.scales"].dtype) == (
            np.int8,
            np.float32,
        )
        assert parameters[f"{name}.values"].size == size
    assert stored.num_bytes == sum(size + 4 * -(-size // 128) for size in sizes.values())
    assert (stored.dtype, stored.device, stored.state()) == (np.float32, "cpu", {})
    assert stored.tables().keys() == embedding.tables().keys()
    for own in stored.parameters().values():
        assert not any(np.may_share_memory(own, a) for a in embedding.parameters().values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("storage", FEWER)
def test_they_do_not_learn(kind, storage):
    model = stored_twin(tiny_model(kind), storage)
    before, embedding = copies(model.parameters()), model.embedding
    dense, indices, labels = batch_of(10)
    out, context = embedding.lookup(indices)
    calls = [
        lambda: model.train_step(dense, indices, labels, 0.1),
        lambda: model.loss_and_gradients(dense, indices, labels),
        lambda: model.backpropagate(dense, indices, labels, keep=False),
        lambda: embedding.gradients(out, context),
        lambda: embedding.update(out, context, 0.1),
        lambda: embedding.apply({}, 0.1),
        lambda: embedding.describe(),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="the embedding is stored for scoring alone"):
            call()
    for name, array in model.parameters().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("storage", FEWER)
def test_copies_score_the_same(storage):
    model = stored_twin(tiny_model("qr"), storage)
    dense, indices, _ = batch_of(20)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.logits(dense, indices), model.logits(dense, indices))


def test_what_cannot_be_stored_is_refused():
    embedding = tiny_model().embedding
    with pytest.raises(ValueError, match=r"storage is 'int4'; choose one of float32"):
        embedding.stored_as("int4")
    for storage in STORAGES:
        with pytest.raises(TypeError, match="the array is float64; only float32 can be stored"):
            tiny_model(dtype=np.float64).embedding.stored_as(storage)
    for storage in FEWER:
        with pytest.raises(TypeError, match="only float32 can be stored as int8"):
            embedding.stored_as(storage).stored_as("int8")
    embedding.parameters()["array"][7] = 1e5
    with pytest.raises(ValueError, match=r"has the value 100000.0, but float16 holds"):
        embedding.stored_as("float16")
