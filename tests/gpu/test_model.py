"""Embeddings and the whole model on a GPU: as plain NumPy in float64, and as on the host."""

import numpy as np
import pytest

from robe_numba.dlrm import DLRM, KINDS, DLRMConfig
from robe_numba.dlrm.backends import to_numpy
from robe_numba.dlrm.embeddings.vocabulary import Vocabulary
from tests.dlrm.test_embeddings import KNOWN, make
from tests.dlrm.test_layers import numerical_gradient
from tests.dlrm.test_model import TINY, VOCABULARY, batch_of, tiny_model
from tests.gpu.conftest import to_cpu, to_gpu
from tests.support import naive


def to_host(arrays):
    return {name: to_numpy(array).copy() for name, array in arrays.items()}


def model_on_gpu(kind="robe", **options):
    host = tiny_model(kind, **options)
    options.pop("seed", None)
    return DLRM(
        host.config,
        host.embedding.to("cuda"),
        dtype=host.dtype,
        optimizer=options.get("optimizer", "sgd"),
    )


def rows_of(embedding, parameters, indices):
    """The embeddings by the oracle, of whatever kind."""
    specs = {name: part.spec for name, part in embedding._parts.items()}
    if embedding.kind in ("robe", "hashed"):
        return naive.lookup(parameters["embedding.array"], indices, specs["array"])
    known = [{int(x): row for row, x in enumerate(ids, start=1)} for ids in VOCABULARY]
    rows = np.array([[known[t].get(int(x), 0) for t, x in enumerate(ids)] for ids in indices])
    if embedding.kind == "full":
        return naive.lookup(parameters["embedding.array"], rows, specs["array"])
    counts = np.array(specs["remainder"].num_embeddings)
    high = naive.lookup(parameters["embedding.quotient"], rows // counts, specs["quotient"])
    low = naive.lookup(parameters["embedding.remainder"], rows % counts, specs["remainder"])
    return high * low


def loss_of(model, parameters, batch):
    dense, indices, labels = batch
    embeddings = rows_of(model.embedding, parameters, indices)
    logits = naive.dlrm_logits(parameters, embeddings, dense, model.config.interaction)
    return naive.cross_entropy(logits, labels)


@pytest.mark.parametrize(
    ("kind", "interaction"), [*((kind, "dot") for kind in KINDS), ("robe", "cat"), ("robe", "dcn")]
)
def test_gradient_of_the_whole_model(kind, interaction):
    config = DLRMConfig(3, 3, 4, (5,), (6,), interaction)
    model = model_on_gpu(kind, dtype=np.float64, config=config)
    assert model.device == "cuda"
    batch = batch_of(3, np.float64, config)
    loss, gradients = model.loss_and_gradients(*map(to_gpu, batch))
    parameters = to_host(model.parameters())
    assert float(loss) == pytest.approx(loss_of(model, parameters, batch), rel=1e-12)
    assert list(gradients) == list(parameters)
    for name, parameter in parameters.items():
        expected = numerical_gradient(lambda: loss_of(model, parameters, batch), parameter)
        found = to_cpu(gradients[name])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_steps_move_by_the_gradients(kind, optimizer):
    model = model_on_gpu(kind, optimizer=optimizer, dtype=np.float64)
    dense, indices, labels = map(to_gpu, batch_of(4, np.float64))
    for _ in range(2):
        before, sums = to_host(model.parameters()), to_host(model.state())
        loss, gradients = model.loss_and_gradients(dense, indices, labels)
        assert float(model.train_step(dense, indices, labels, 0.1)) == float(loss)
        after, sums_after = to_host(model.parameters()), to_host(model.state())
        assert bool(sums) == (optimizer == "adagrad")
        for name, gradient in to_host(gradients).items():
            if optimizer == "sgd":
                expected = naive.sgd(before[name], gradient, 0.1)
            else:
                key = f"{name}.state_sum"
                expected, state = naive.adagrad(before[name], sums[key], gradient, 0.1, 1e-10)
                np.testing.assert_allclose(sums_after[key], state, rtol=1e-12)
            np.testing.assert_allclose(after[name], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("kind", "state_block"), [("robe", 2), ("qr", 4)])
def test_sums_of_blocks_go_to_the_gpu_and_back(kind, state_block):
    embedding = make(kind, optimizer="adagrad", block_state=True).to("cuda")
    out, context = embedding.lookup(to_gpu(KNOWN))
    before, sums = to_host(embedding.parameters()), to_host(embedding.state())
    grad_out = to_gpu(np.random.default_rng(0).normal(size=out.shape))
    gradients = to_host(embedding.gradients(grad_out, context))
    embedding.update(grad_out, context, 0.1)
    back = embedding.to("cpu")
    assert back.describe() == embedding.describe()
    assert back.describe()["state_block"] == state_block
    after = to_host(back.parameters() | back.state())
    for name, gradient in gradients.items():
        key = f"{name}.state_sum"
        step = (sums[key], gradient, 0.1, 1e-10, state_block)
        expected, state = naive.block_adagrad(before[name], *step)
        np.testing.assert_allclose(after[name], expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(after[key], state, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("interaction", ["dot", "cat", "dcn"])
def test_scores(kind, interaction):
    config = DLRMConfig(3, 3, 4, (5,), (6,), interaction)
    model = model_on_gpu(kind, config=config)
    dense, indices, _ = batch_of(5, config=config)
    parameters = {n: a.astype(np.float64) for n, a in to_host(model.parameters()).items()}
    embeddings = rows_of(model.embedding, parameters, indices)
    expected = naive.dlrm_logits(parameters, embeddings, dense.astype(np.float64), interaction)
    logits = to_cpu(model.logits(to_gpu(dense), to_gpu(indices)))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    probabilities = to_cpu(model.predict(to_gpu(dense), to_gpu(indices)))
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-expected)), rtol=1e-5)


def test_the_same_bits_from_run_to_run():
    batch = [to_gpu(array) for array in batch_of(6)]
    runs = []
    for _ in range(2):
        model = model_on_gpu(optimizer="adagrad")
        losses = [float(model.train_step(*batch, 0.1)) for _ in range(3)]
        runs.append((losses, to_host(model.parameters() | model.state())))
    assert runs[0][0] == runs[1][0]
    for name, array in runs[0][1].items():
        assert array.tobytes() == runs[1][1][name].tobytes(), name


def test_weights_go_to_the_gpu_and_back():
    model = model_on_gpu("qr", optimizer="adagrad")
    model.train_step(*map(to_gpu, batch_of(4)), 0.1)
    saved = to_host(model.parameters() | model.state())
    host = tiny_model("qr", optimizer="adagrad", seed=9)
    host.load(model.parameters() | model.state())  # from the GPU
    other = model_on_gpu("qr", optimizer="adagrad")
    other.load(saved)  # from the host
    for copy in (host, other):
        for name, array in to_host(copy.parameters() | copy.state()).items():
            np.testing.assert_array_equal(array, saved[name], err_msg=name)
    there, back = model.embedding.parameters(), model.embedding.to("cpu")
    assert back.device == "cpu"
    for name, array in back.parameters().items():
        np.testing.assert_array_equal(array, saved[f"embedding.{name}"])
    assert back.to("cpu").parameters()["quotient"] is back.parameters()["quotient"]
    assert model.embedding.to("cuda").parameters()["quotient"] is there["quotient"]
    with pytest.raises(ValueError, match="device is 'tpu'"):
        back.to("tpu")


def test_arrays_of_the_host_are_refused():
    model = model_on_gpu()
    dense, indices, labels = batch_of(2)
    before = to_host(model.parameters())
    with pytest.raises(TypeError, match="dense must be an array on a GPU"):
        model.logits(dense, to_gpu(indices))
    with pytest.raises(TypeError, match=r"labels must be an array on a GPU .* cupy.asarray"):
        model.train_step(to_gpu(dense), to_gpu(indices), labels, 0.1)
    for name, array in to_host(model.parameters()).items():
        np.testing.assert_array_equal(array, before[name])


def test_rows_of_known_ids():
    ids = [np.array([5, 2**63, 2**64 - 2], np.uint64), np.array([0, 7], np.uint64)]
    vocabulary = Vocabulary.from_columns(ids).to("cuda")
    wanted = np.array([[-2, 7], [5, 1], [4, 0], [-(2**63), -1]])
    np.testing.assert_array_equal(
        to_cpu(vocabulary.rows(to_gpu(wanted))), [[3, 2], [1, 0], [0, 1], [2, 0]]
    )
    with pytest.raises(ValueError, match=r"indices has shape \(4, 3\)"):
        vocabulary.rows(to_gpu(np.zeros((4, 3), np.int64)))
    assert TINY.num_tables == len(VOCABULARY)


def test_rows_of_known_ids_of_bags():
    ids = [np.array([5, 2**63, 2**64 - 2], np.uint64), np.array([0, 7], np.uint64)]
    vocabulary = Vocabulary.from_columns(ids).to("cuda")
    values, offsets = np.array([-2, 5, 5, -1, 7, 0, 0]), np.array([0, 2, 2, 4, 4, 6, 7])
    for of_ids, of_offsets in ((np.int64, np.int64), (np.int32, np.uint32)):
        wanted, bounds = values.astype(of_ids), offsets.astype(of_offsets)
        rows = vocabulary.bag_rows(to_gpu(wanted), to_gpu(bounds))
        np.testing.assert_array_equal(to_cpu(rows), [3, 1, 1, 0, 2, 1, 1])
    none = vocabulary.bag_rows(to_gpu(values[:0]), to_gpu(offsets[:1]))
    assert to_cpu(none).shape == (0,)
    with pytest.raises(ValueError, match=r"offsets has shape \(6,\)"):
        vocabulary.bag_rows(to_gpu(values), to_gpu(offsets[1:]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("interaction", ["dot", "cat", "dcn"])
def test_scores_of_a_stored_embedding(kind, interaction):
    config = DLRMConfig(3, 3, 4, (5,), (6,), interaction)
    host = tiny_model(kind, config=config).embedding
    model = DLRM(config, host.stored_as("float16").to("cuda"))
    dense, indices, labels = batch_of(5, config=config)
    stored = to_host(model.parameters())
    assert {a.dtype for n, a in stored.items() if n.startswith("embedding")} == {np.dtype("f2")}
    parameters = {name: array.astype(np.float64) for name, array in stored.items()}
    embeddings = rows_of(model.embedding, parameters, indices)
    expected = naive.dlrm_logits(parameters, embeddings, dense.astype(np.float64), interaction)
    batch = [to_gpu(array) for array in (dense, indices, labels)]
    np.testing.assert_allclose(to_cpu(model.logits(*batch[:2])), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match="stored for scoring alone"):
        model.train_step(*batch, 0.1)


def test_storages_that_are_for_the_cpu():
    host = tiny_model().embedding
    with pytest.raises(TypeError, match=r"is on a GPU; use to\('cpu'\).stored_as\('int8'\)"):
        host.to("cuda").stored_as("int8")
    for storage in ("bfloat16", "int8"):
        with pytest.raises(ValueError, match="int8 and bfloat16 are for the CPU; use float16"):
            host.stored_as(storage).to("cuda")
        assert host.stored_as(storage).to("cpu").num_bytes < host.num_bytes
