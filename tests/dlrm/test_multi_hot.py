"""Models with lists of ids: embeddings, gradients, steps, bits and scores, against an oracle."""

import copy
import json
import pickle

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robe_numba.dlrm import DLRM, KINDS, DLRMConfig, bce_with_logits, embedding_from
from robe_numba.dlrm.bags import Bags, bags_of
from tests.dlrm.multi_hot import (
    POOLINGS,
    Oracle,
    batch_of,
    config_of,
    embedding_of,
    lists_of,
    model_of,
    rows_of,
)
from tests.dlrm.test_layers import numerical_gradient
from tests.support import naive

WEIGHTED = {"weighted": (0,), "lists alone": (2, 3)}


@pytest.fixture(autouse=True)
def set_threads():
    """Sets the threads of the embedding kernels: one, unless a test asks for more."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield lambda threads: numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    numba.set_num_threads(before)


def copies(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def assert_pooled(out, embedding, indices, multi_hot):
    """Within the rounding of sums: n products and n - 1 additions, or a division, each by eps."""
    expected, sizes = Oracle(embedding).embeddings(indices, multi_hot, embedding.pooling)
    longest = max([1, *np.diff(multi_hot[1]).tolist()])
    bound = (longest + 2) * np.finfo(out.dtype).eps * sizes
    assert (np.abs(out - expected) <= bound).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_those_of_the_oracle(kind, pooling, dtype):
    embedding = embedding_of(kind, POOLINGS[pooling], dtype=dtype)
    weighted = WEIGHTED.get(pooling, ())
    _, indices, _, lists = batch_of(6, POOLINGS[pooling], weighted=weighted)
    weights = None if lists[2] is None else lists[2].astype(dtype)
    ids = bags_of(np, indices, (*lists[:2], weights), POOLINGS[pooling])
    out, _ = embedding.lookup(ids)
    assert out.dtype == dtype
    assert_pooled(out, embedding, indices, lists)
    kept = np.empty_like(out)
    assert embedding.lookup(ids, keep=False, out=kept)[0] is kept
    np.testing.assert_array_equal(kept, out)


SHAPES = {
    "all empty": [0] * 12,
    "one of 10,000": [0, 1, 10_000, 0, *[2] * 8],
    "the first and the last empty": [0, 3, 1, 4, 0, 2, 5, 1, 1, 2, 3, 0],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_ragged_batches(kind, shape):
    pooling = POOLINGS["mixed"]
    model = model_of(kind, pooling, np.float64, "adagrad", threads=1)
    batch = batch_of(4, pooling, np.float64, lengths=np.array(SHAPES[shape]))
    dense, indices, labels, lists = batch
    embeddings, _ = Oracle(model.embedding).embeddings(indices, lists, pooling)
    expected = naive.dlrm_logits(model.parameters(), embeddings, dense, "dot")
    np.testing.assert_allclose(model.logits(dense, indices, lists), expected, rtol=1e-9)
    loss = model.train_step(dense, indices, labels, 0.1, multi_hot=lists)
    assert loss == pytest.approx(naive.cross_entropy(expected, labels), rel=1e-9)


@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=5).map(lambda x: x * 3),
    kind=st.sampled_from(sorted(KINDS)),
    modes=st.tuples(*[st.sampled_from(["sum", "mean", "max"])] * 3),
    seed=st.integers(0, 2**16),
)
def test_any_lengths_and_modes(lengths, kind, modes, seed):
    embedding, rows = embedding_of(kind, modes), len(lengths) // 3
    _, indices, _, lists = batch_of(rows, modes, seed=seed, lengths=np.array(lengths))
    out, context = embedding.lookup(bags_of(np, indices, lists, modes))
    assert_pooled(out, embedding, indices, lists)
    embedding.update(out, context, 0.1)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_the_whole_model(kind, pooling):
    model = model_of(kind, POOLINGS[pooling], np.float64, threads=1)
    weighted = WEIGHTED.get(pooling, ())
    batch = batch_of(4, POOLINGS[pooling], np.float64, weighted=weighted)
    dense, indices, labels, lists = batch
    loss, gradients = model.loss_and_gradients(*batch)

    def loss_of_logits():
        return bce_with_logits(model.logits(dense, indices, lists), labels)[0]

    assert loss == loss_of_logits()
    parameters = model.parameters()
    assert list(gradients) == list(parameters)
    for name, parameter in parameters.items():
        expected = numerical_gradient(loss_of_logits, parameter)
        assert expected.any(), name
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-5, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_update_by_the_gradients(kind, optimizer):
    model = model_of(kind, POOLINGS["mixed"], np.float64, optimizer, threads=1)
    for seed in range(2):
        batch = batch_of(6, POOLINGS["mixed"], np.float64, seed)
        loss, gradients = model.loss_and_gradients(*batch)
        parameters, state = copies(model.parameters()), copies(model.state())
        *inputs, lists = batch
        assert model.train_step(*inputs, 0.2, 0.05, multi_hot=lists) == loss
        for name, moved in model.parameters().items():
            lr = 0.05 if name.startswith("embedding.") else 0.2
            divisor = np.float64(1)
            if optimizer == "adagrad":
                divisor = np.sqrt(state[f"{name}.state_sum"] + gradients[name] ** 2) + 1e-10
            expected = parameters[name] - lr * gradients[name] / divisor
            np.testing.assert_allclose(moved, expected, rtol=1e-12, atol=1e-15, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_clipping_measures_pooled_embeddings(kind):
    """Once, however many ids were pooled."""
    pooling = POOLINGS["weighted"]
    clipped, free = (model_of(kind, pooling, np.float64, threads=1) for _ in range(2))
    *inputs, lists = batch = batch_of(6, pooling, np.float64, weighted=(0,))
    found = free.backpropagate(*inputs, multi_hot=lists)
    norm = np.sqrt(sum((array**2).sum() for array in (found.dense, found.embeddings)))
    _, gradients = free.loss_and_gradients(*batch)
    before = copies(clipped.parameters())
    clipped.train_step(*inputs, 0.1, clip_norm=norm / 8, multi_hot=lists)
    for name, moved in clipped.parameters().items():
        expected = before[name] - 0.1 * gradients[name] / 8
        np.testing.assert_allclose(moved, expected, rtol=1e-12, atol=1e-15, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_threads_gives_the_same_bits(kind, set_threads):
    pooling, rows = POOLINGS["mixed"], 600
    lengths = np.random.default_rng(1).integers(0, 60, 3 * rows)
    *inputs, lists = batch_of(rows, pooling, lengths=lengths)
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        model = model_of(kind, pooling, optimizer="adagrad", threads=threads)
        losses = [model.train_step(*inputs, 0.05, multi_hot=lists) for _ in range(3)]
        scores = model.predict(*inputs[:2], lists)
        results.append((losses, scores, copies(model.parameters() | model.state())))
    for losses, scores, arrays in results[1:]:
        assert losses == results[0][0]
        np.testing.assert_array_equal(scores, results[0][1])
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, results[0][2][name], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_lists_of_one_id_are_single_ids(kind):
    """Forwards to the bit; backwards the sums over rows have another order."""
    pooling = ("sum", "mean", "max")
    dense, indices, labels, _ = batch_of(300, (), np.float64)
    values = np.ascontiguousarray(indices[:, 1:].T).reshape(-1)
    lists = values, np.arange(len(values) + 1), None
    plain = DLRM(config_of(()), embedding_of(kind, dtype=np.float64), dtype=np.float64)
    model = model_of(kind, pooling, np.float64)
    firsts = np.ascontiguousarray(indices[:, :1])
    np.testing.assert_array_equal(model.logits(dense, firsts, lists), plain.logits(dense, indices))
    loss, expected = plain.loss_and_gradients(dense, indices, labels)
    found_loss, found = model.loss_and_gradients(dense, firsts, labels, lists)
    assert found_loss == loss
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-9, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("interaction", ["dot", "cat"])
def test_a_long_call_scores_its_rows_as_short_ones_do(interaction):
    pooling, rows = POOLINGS["mixed"], 8192 + 700
    config = config_of(pooling, interaction=interaction)
    model = DLRM(config, embedding_of("robe", pooling), threads=2)
    dense, indices, _, lists = batch_of(rows, pooling)
    scores = model.predict(dense, indices, lists)
    assert scores.shape == (rows,)
    for first in (0, 8100, rows - 90):
        part = slice(first, first + 90)
        some = model.predict(dense[part], indices[part], rows_of(lists, 3, first, first + 90))
        np.testing.assert_allclose(scores[part], some, rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_bags_of_some_rows(weighted):
    _, indices, _, lists = batch_of(9, ("sum", "sum"), weighted=(0, 1) if weighted else ())
    whole = bags_of(np, indices, lists, ("sum", "sum"))
    assert whole.of_rows(slice(0, 20)) is whole
    for first, last in ((0, 4), (3, 9), (5, 6), (2, 8)):
        values, offsets, weights, modes = whole.of_rows(slice(first, last))
        some = rows_of(lists, 2, first, last)
        expected = bags_of(np, indices[first:last], some, ("sum", "sum"))
        assert modes == expected.modes
        np.testing.assert_array_equal(values, expected.values)
        np.testing.assert_array_equal(offsets, expected.offsets)
        if weighted:
            np.testing.assert_array_equal(weights, expected.weights)
        else:
            assert weights is None


@pytest.mark.parametrize("kind", KINDS)
def test_empty_batch_changes_nothing(kind):
    model = model_of(kind, POOLINGS["mixed"], optimizer="adagrad")
    before = copies(model.parameters())
    *inputs, lists = batch_of(0, POOLINGS["mixed"], lengths=np.zeros(0, np.int64))
    assert model.predict(*inputs[:2], lists).shape == (0,)
    assert model.train_step(*inputs, 0.1, multi_hot=lists) == 0.0
    for name, array in model.parameters().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("storage", ["float16", "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_a_stored_embedding(kind, storage):
    pooling = POOLINGS["weighted"]
    embedding = embedding_of(kind, pooling).stored_as(storage)
    assert embedding.pooling == pooling
    model = DLRM(config_of(pooling), embedding)
    dense, indices, labels, lists = batch_of(30, pooling, weighted=(0,))
    arrays = {n: np.asarray(part.array.dequantize() if storage == "int8" else part.array)
              for n, part in embedding._parts.items()}  # fmt: skip
    embeddings, _ = Oracle(embedding, arrays).embeddings(indices, lists, pooling)
    parameters = {n: np.asarray(a, np.float64) for n, a in model.parameters().items()}
    expected = naive.dlrm_logits(parameters, embeddings, dense.astype(np.float64), "dot")
    found = model.logits(dense, indices, lists)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="stored for scoring alone"):
        model.train_step(dense, indices, labels, 0.1, multi_hot=lists)


@pytest.mark.parametrize("kind", KINDS)
def test_rebuilt_from_its_description(kind):
    pooling = POOLINGS["mixed"]
    embedding = embedding_of(kind, pooling, optimizer="adagrad")
    description = json.loads(json.dumps(embedding.describe()))
    assert description["pooling"] == list(pooling)
    assert "pooling" not in embedding_of(kind).describe()
    arrays = copies(embedding.parameters() | embedding.state() | embedding.tables())
    again = embedding_from(description, arrays).to("cpu")
    assert again.pooling == pooling
    assert again.describe() == embedding.describe()
    _, indices, _, lists = batch_of(5, pooling)
    for one in (embedding, again):
        out, context = one.lookup(bags_of(np, indices, lists, pooling))
        one.update(out, context, 0.1)
    for name, array in embedding.parameters().items():
        np.testing.assert_array_equal(again.parameters()[name], array)


@pytest.mark.parametrize("make", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_learns_as_the_original_does(kind, make):
    model = model_of(kind, POOLINGS["mixed"], optimizer="adagrad", threads=1)
    *inputs, lists = batch_of(30, POOLINGS["mixed"])
    model.train_step(*inputs, 0.1, multi_hot=lists)
    other = make(model)
    assert other.train_step(*inputs, 0.1, multi_hot=lists) == model.train_step(
        *inputs, 0.1, multi_hot=lists
    )
    for name, array in model.parameters().items():
        np.testing.assert_array_equal(array, other.parameters()[name], err_msg=name)


def test_the_context_of_ids_that_were_looked_up_elsewhere():
    for kind in KINDS:
        one, other = (embedding_of(kind, POOLINGS["mixed"]) for _ in range(2))
        _, indices, _, lists = batch_of(5, POOLINGS["mixed"])
        ids = bags_of(np, indices, lists, POOLINGS["mixed"])
        out, context = one.lookup(ids)
        one.update(out, context, 0.1)
        other.update(out, other.context(ids), 0.1)
        for name, array in one.parameters().items():
            np.testing.assert_array_equal(other.parameters()[name], array)


def test_gradients_into_given_memory():
    for kind in KINDS:
        embedding = embedding_of(kind, POOLINGS["mixed"])
        _, indices, _, lists = batch_of(5, POOLINGS["mixed"])
        out, context = embedding.lookup(bags_of(np, indices, lists, POOLINGS["mixed"]))
        expected = embedding.gradients(out, context)
        kept = {name: np.full_like(array, 7) for name, array in expected.items()}
        found = embedding.gradients(out, context, kept)
        for name, array in expected.items():
            assert found[name] is kept[name]
            np.testing.assert_array_equal(kept[name], array)


def with_lists(change):
    """A batch of four rows with other lists."""
    dense, indices, labels, lists = batch_of(4, ("sum", "mean"), weighted=(0,))
    named = dict(zip(("values", "offsets", "weights"), lists, strict=True))
    changed = named | {name: function(named[name]) for name, function in change.items()}
    return dense, indices, labels, tuple(changed.values())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"values": lambda v: v.astype(np.int64)}, TypeError, "values has dtype int64"),
        ({"values": lambda v: v[:-1]}, ValueError, r"end at \d+, the number of values"),
        ({"values": lambda v: v[:, None]}, ValueError, "values has shape"),
        ({"values": lambda v: np.array(v[0])}, ValueError, r"values has shape \(\); expected"),
        ({"values": lambda v: v.tolist()}, TypeError, "values must be a NumPy array"),
        ({"offsets": lambda o: o[:-1]}, ValueError, "offsets has shape"),
        ({"offsets": lambda o: o + 1}, ValueError, "these begin at 1 and end"),
        (
            {"offsets": lambda o: o[[0, 2, 1, *range(3, len(o))]]},
            ValueError,
            r"and fall at offsets\[2\]",
        ),
        ({"offsets": lambda o: o.astype(float)}, TypeError, "offsets has dtype float64"),
        ({"weights": lambda w: w[:-1]}, ValueError, "weights has shape"),
        ({"weights": lambda w: w.astype(int)}, TypeError, "int64; it must be float32: use"),
        ({"weights": lambda w: w * 0 + 2}, ValueError, "take weights of 1"),
    ],
)
@pytest.mark.parametrize("kind", ["robe", "qr"])
def test_bad_lists_change_nothing(kind, change, error, message):
    model = model_of(kind, ("sum", "mean"))
    before = copies(model.parameters())
    *inputs, lists = with_lists(change)
    with pytest.raises(error, match=message):
        model.train_step(*inputs, 0.1, multi_hot=lists)
    with pytest.raises(error, match=message):
        model.predict(*inputs[:2], lists)
    for name, array in model.parameters().items():
        np.testing.assert_array_equal(array, before[name])


def test_lists_that_are_missing_or_not_expected():
    dense, indices, labels, lists = batch_of(4, ("sum", "mean"))
    model = model_of("robe", ("sum", "mean"))
    with pytest.raises(ValueError, match="2 multi-hot features, but multi_hot is None; give"):
        model.logits(dense, indices)
    with pytest.raises(ValueError, match="multi_hot is a list; give the tuple"):
        model.train_step(dense, indices, labels, 0.1, multi_hot=list(lists))
    with pytest.raises(ValueError, match="multi_hot is a tuple of 2; give the tuple"):
        model.logits(dense, indices, lists[:2])
    with pytest.raises(ValueError, match=r"indices has shape \(4, 4\)"):
        model.logits(dense, np.zeros((4, 4), np.uint32), lists)
    single = DLRM(config_of(()), embedding_of("robe"))
    with pytest.raises(ValueError, match="every feature of the model has a single id; leave it"):
        single.predict(dense, np.zeros((4, 4), np.uint32), lists)


def test_a_pooling_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="mode is 'median'; choose one of sum, mean, max"):
        embedding_of("robe", ("median",))
    with pytest.raises(ValueError, match="pooling has 5 modes for 4 tables"):
        embedding_of("robe", ("sum",) * 5)
    with pytest.raises(ValueError, match=r"pooling is \('sum',\) in the embedding but \('mean',\)"):
        DLRM(config_of(("mean",)), embedding_of("robe", ("sum",)))
    assert DLRMConfig(num_tables=3, pooling=["max"]).num_single == 2


def test_offsets_of_other_dtypes_and_lists_of_the_end():
    """Offsets may be int32; a feature's values need not be contiguous with those of others."""
    pooling = ("sum", "max")
    model = model_of("robe", pooling)
    dense, indices, _, (values, offsets, _) = batch_of(5, pooling)
    expected = model.logits(dense, indices, (values, offsets, None))
    for dtype in (np.int32, np.uint64):
        found = model.logits(dense, indices, (values, offsets.astype(dtype), None))
        np.testing.assert_array_equal(found, expected)


def test_bags_share_the_memory_of_lists_alone():
    values, offsets, _ = lists = lists_of(5, 2)
    bags = bags_of(np, np.empty((5, 0), np.uint32), lists, ("sum", "mean"))
    assert isinstance(bags, Bags)
    assert bags.values is values
    assert bags.offsets is offsets
    assert bags.batch == 5
