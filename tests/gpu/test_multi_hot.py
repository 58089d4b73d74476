"""Models with lists of ids on a GPU, against the oracle in float64."""

import numpy as np
import pytest

from robe_numba.dlrm import DLRM, KINDS, capture_logits, capture_train_step
from robe_numba.dlrm.backends import backend_for, to_numpy
from robe_numba.dlrm.bags import bags_of
from robe_numba.ops.gpu import feeding
from tests.dlrm.multi_hot import POOLINGS, Oracle, batch_of, lists_of, model_of, rows_of
from tests.dlrm.test_layers import numerical_gradient
from tests.gpu.conftest import to_cpu, to_gpu
from tests.support import naive


def lists_on_gpu(lists):
    return tuple(None if array is None else to_gpu(array) for array in lists)


def model_on_gpu(kind, pooling, optimizer="sgd", dtype=np.float64):
    host = model_of(kind, pooling, dtype, optimizer)
    there = host.embedding.to("cuda")
    assert there.pooling == pooling
    return DLRM(host.config, there, dtype=dtype, optimizer=optimizer)


def to_host(arrays):
    return {name: to_numpy(array).copy() for name, array in arrays.items()}


def logits_of(model, parameters, dense, indices, lists):
    arrays = {n.removeprefix("embedding."): a for n, a in parameters.items()}
    oracle = Oracle(model.embedding, arrays)
    embeddings, _ = oracle.embeddings(indices, lists, model.config.pooling)
    return naive.dlrm_logits(parameters, embeddings, dense, "dot")


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [*((kind, "weighted") for kind in KINDS), ("robe", "mixed"), ("qr", "mixed"), ("full", "max")],
)
def test_gradient_of_the_whole_model(kind, pooling):
    modes, weighted = POOLINGS[pooling], (0,) if pooling == "weighted" else ()
    model = model_on_gpu(kind, modes)
    *inputs, lists = batch_of(3, modes, np.float64, weighted=weighted)
    dense, indices, labels = inputs
    loss, gradients = model.loss_and_gradients(*map(to_gpu, inputs), lists_on_gpu(lists))
    parameters = to_host(model.parameters())

    def loss_of_oracle():
        return naive.cross_entropy(logits_of(model, parameters, dense, indices, lists), labels)

    assert float(loss) == pytest.approx(loss_of_oracle(), rel=1e-12)
    for name, parameter in parameters.items():
        expected = numerical_gradient(loss_of_oracle, parameter)
        found = to_cpu(gradients[name])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("kind", ["robe", "qr"])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_steps_move_by_the_gradients(kind, optimizer):
    modes = POOLINGS["mixed"]
    model = model_on_gpu(kind, modes, optimizer)
    *inputs, lists = batch_of(3, modes, np.float64)
    inputs, lists = [*map(to_gpu, inputs)], lists_on_gpu(lists)
    for _ in range(2):
        before, sums = to_host(model.parameters()), to_host(model.state())
        loss, gradients = model.loss_and_gradients(*inputs, lists)
        assert float(model.train_step(*inputs, 0.1, multi_hot=lists)) == float(loss)
        after = to_host(model.parameters())
        for name, gradient in to_host(gradients).items():
            if optimizer == "sgd":
                expected = naive.sgd(before[name], gradient, 0.1)
            else:
                state = sums[f"{name}.state_sum"], gradient, 0.1, 1e-10
                expected, _ = naive.adagrad(before[name], *state)
            np.testing.assert_allclose(after[name], expected, rtol=1e-12, atol=1e-14)


def test_gradients_into_given_memory():
    """Of bags; of rows they are tested with the rows."""
    embedding = model_on_gpu("robe", POOLINGS["mixed"]).embedding
    _, indices, _, lists = batch_of(3, embedding.pooling, np.float64)
    xp = backend_for("cuda").xp
    bags = bags_of(xp, to_gpu(indices), lists_on_gpu(lists), embedding.pooling)
    out, context = embedding.lookup(bags)
    expected = embedding.gradients(out, context)["array"]
    kept = {"array": expected * 0 + 7}
    assert embedding.gradients(out, context, kept)["array"] is kept["array"]
    np.testing.assert_array_equal(to_cpu(kept["array"]), to_cpu(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_oracle(kind):
    modes = POOLINGS["mixed"]
    model = model_on_gpu(kind, modes)
    dense, indices, _, lists = batch_of(4, modes, np.float64)
    expected = logits_of(model, to_host(model.parameters()), dense, indices, lists)
    found = model.logits(to_gpu(dense), to_gpu(indices), lists_on_gpu(lists))
    np.testing.assert_allclose(to_cpu(found), expected, rtol=1e-12)


def test_a_long_call_is_scored_in_parts(monkeypatch):
    modes = POOLINGS["mixed"]
    model = model_on_gpu("robe", modes)
    dense, indices, _, lists = batch_of(7, modes, np.float64)
    there = to_gpu(dense), to_gpu(indices), lists_on_gpu(lists)
    expected = to_cpu(model.logits(*there))
    monkeypatch.setattr(type(model.backend), "scoring_rows", 3)
    np.testing.assert_allclose(to_cpu(model.logits(*there)), expected, rtol=1e-12)


def test_bags_of_some_rows():
    modes, backend = POOLINGS["sum"], model_on_gpu("robe", POOLINGS["sum"]).backend
    _, indices, _, lists = batch_of(6, modes, weighted=(0,))
    whole = bags_of(backend.xp, to_gpu(indices), lists_on_gpu(lists), modes)
    some = whole.of_rows(slice(2, 5))
    expected = bags_of(np, indices[2:5], rows_of(lists, 2, 2, 5), modes)
    for found, wanted in zip(some[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(to_cpu(found), wanted)


def test_lists_of_any_length_are_fed():
    """Also none, after some, and more than before."""
    from data_tools.batch import Batch

    lengths = (5, 0, 9, 30, 2, 30)
    batches = []
    for seed, length in enumerate(lengths):
        dense, indices, labels, lists = batch_of(
            4, ("sum", "sum"), weighted=(0,), seed=seed, lengths=np.full(8, length)
        )
        batches.append(Batch(labels, dense, indices, *lists))
    for expected, found in zip(batches, feeding.feed(batches), strict=True):
        for wanted, array in zip(expected, found, strict=True):
            np.testing.assert_array_equal(to_cpu(array), wanted)
        assert found.multi_hot[0] is found.values


def test_work_on_lists_is_not_captured():
    model = model_on_gpu("robe", ("sum",))
    for capture in (capture_logits, capture_train_step):
        with pytest.raises(ValueError, match="multi-hot features, and work on batches with any nu"):
            capture(model, 8)


def test_lists_of_the_host_are_refused():
    modes = ("sum", "mean")
    model = model_on_gpu("robe", modes)
    dense, indices, _, lists = batch_of(3, modes, np.float64)
    with pytest.raises(TypeError, match="values must be an array on a GPU"):
        model.logits(to_gpu(dense), to_gpu(indices), lists)
    with pytest.raises(ValueError, match="but multi_hot is None"):
        model.logits(to_gpu(dense), to_gpu(indices))
    other = lists_on_gpu(lists_of(4, 2))
    with pytest.raises(ValueError, match="offsets has shape"):
        model.logits(to_gpu(dense), to_gpu(indices), other)
