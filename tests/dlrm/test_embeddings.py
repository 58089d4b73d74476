"""The four kinds of embedding: what they read, how they learn, how they are saved."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import robe_numba
from robe_numba.dlrm import KINDS, embedding_from, make_embedding
from robe_numba.dlrm.embeddings.make_embedding import quotient_remainder_sizes
from tests.support import naive

VOCABULARY = [
    np.array([3, 7, 2**32 - 1], np.uint32),
    np.array([0, 5, 9, 11, 40, 41, 42, 50, 51, 60], np.uint32),
]
DIM = 4
KNOWN = np.array([[3, 60], [2**32 - 1, 0], [7, 41]], np.uint32)


def make(kind, **options):
    defaults = {
        "embedding_dim": DIM,
        "num_tables": 2,
        "num_parameters": 48,
        "vocabulary": VOCABULARY,
        "block_size": 3,
        "dtype": np.float64,
        "seed": 5,
    }
    return make_embedding(kind, **(defaults | options))


def quotient_row(embedding, table, row):
    """Row of `qr` by its definition, from the arrays and sizes alone."""
    specs = embedding.describe()["specs"]
    k = specs["remainder"]["num_embeddings"][table]
    vectors = []
    for name, part_row in (("quotient", row // k), ("remainder", row % k)):
        first = sum(specs[name]["num_embeddings"][:table])
        vectors.append(embedding.parameters()[name].reshape(-1, DIM)[first + part_row])
    return vectors[0] * vectors[1]


def test_full_reads_the_row_of_each_id():
    embedding = make("full")
    out, _ = embedding.lookup(KNOWN)
    array = embedding.parameters()["array"].reshape(-1, DIM)
    assert array.shape == (4 + 11, DIM)
    rows = np.array([[1, 4 + 10], [3, 4 + 1], [2, 4 + 6]])
    np.testing.assert_array_equal(out, array[rows])


def test_qr_multiplies_quotient_and_remainder_rows():
    embedding = make("qr")
    out, _ = embedding.lookup(KNOWN)
    rows = [[1, 10], [3, 1], [2, 6]]
    for sample, table in np.ndindex(3, 2):
        expected = quotient_row(embedding, table, rows[sample][table])
        np.testing.assert_array_equal(out[sample, table], expected)
    assert 0 < embedding.num_bytes <= 48 * 8


def test_hashed_reads_whole_rows_of_the_pool():
    embedding = make("hashed", num_parameters=5 * DIM + 3)
    pool = embedding.parameters()["array"].reshape(5, DIM)
    ids = np.arange(200, dtype=np.int64).reshape(100, 2)
    out, _ = embedding.lookup(ids)
    matches = (out[:, :, None, :] == pool).all(axis=3)
    assert (matches.sum(axis=2) == 1).all()
    assert matches.any(axis=(0, 1)).all()


def test_robe_reads_as_its_spec_says():
    embedding = make("robe", sign=True, alignment=2)
    spec = robe_numba.RobeSpec(48, 3, DIM, 2, seed=5, sign=True, alignment=2)
    out, _ = embedding.lookup(KNOWN)
    array = embedding.parameters()["array"]
    np.testing.assert_array_equal(out, robe_numba.lookup(array, KNOWN, spec))


@pytest.mark.parametrize("kind", ["full", "qr"])
def test_unknown_ids_share_row_zero(kind):
    embedding = make(kind)
    unknown = np.array([[4, 1], [0, 2**64 - 1], [8, 61]], np.uint64)
    out, _ = embedding.lookup(unknown)
    np.testing.assert_array_equal(out[1:], np.broadcast_to(out[0], (2, 2, DIM)))
    if kind == "full":
        array = embedding.parameters()["array"].reshape(-1, DIM)
        np.testing.assert_array_equal(out[0], array[[0, 4]])
    else:
        np.testing.assert_array_equal(out[0, 1], quotient_row(embedding, 1, 0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64])
def test_index_dtypes_read_the_same(kind, dtype):
    embedding = make(kind)
    ids = np.array([[3, 60], [7, 41], [12, 0]])
    expected, _ = embedding.lookup(ids)
    np.testing.assert_array_equal(embedding.lookup(ids.astype(dtype))[0], expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_update_is_the_optimizer_on_the_dense_gradient(kind, optimizer):
    embedding = make(kind, optimizer=optimizer, eps=1e-6)
    ids = np.array([[3, 60], [3, 60], [7, 41], [12, 0]])
    expected = {name: array.copy() for name, array in embedding.parameters().items()}
    sums = {name: np.zeros_like(array) for name, array in expected.items()}
    for seed in range(2):
        out, context = embedding.lookup(ids)
        grad_out = np.random.default_rng(seed).normal(size=out.shape)
        for name, gradient in embedding.gradients(grad_out, context).items():
            sums[name] += gradient**2
            divisor = np.sqrt(sums[name]) + 1e-6 if optimizer == "adagrad" else 1
            expected[name] -= 0.1 * gradient / divisor
        embedding.update(grad_out, context, 0.1)
    for name, array in embedding.parameters().items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-12, atol=1e-14)
    states = {f"{name}.state_sum": total for name, total in sums.items()}
    assert set(embedding.state()) == (set(states) if optimizer == "adagrad" else set())
    for name, state in embedding.state().items():
        np.testing.assert_allclose(state, states[name], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_rebuilt_from_its_description(kind, optimizer):
    embedding = make(kind, optimizer=optimizer, dtype=np.float32)
    for _ in range(2):
        out, context = embedding.lookup(KNOWN)
        embedding.update(out, context, 0.1)
    saved = embedding.parameters() | embedding.state() | embedding.tables()
    arrays = {name: array.copy() for name, array in saved.items()}
    again = embedding_from(json.loads(json.dumps(embedding.describe())), arrays)
    assert again.describe() == embedding.describe()
    assert again.num_bytes == embedding.num_bytes
    for one in (embedding, again):
        out, context = one.lookup(KNOWN)
        one.update(out, context, 0.1)
    for name, array in saved.items():
        np.testing.assert_array_equal(arrays[name], array)


@pytest.mark.parametrize(
    ("kind", "state_block"), [("robe", 2), ("hashed", 4), ("full", 4), ("qr", 4)]
)
def test_sums_of_blocks(kind, state_block):
    """Z is 3 and d is 4; a row-wise sum for whole rows."""
    embedding = make(kind, optimizer="adagrad", block_state=True, eps=1e-6)
    ids = np.array([[3, 60], [3, 60], [7, 41], [12, 0]])
    arrays = {k: a.copy() for k, a in (embedding.parameters() | embedding.tables()).items()}
    for seed in range(2):
        before = {k: a.copy() for k, a in (embedding.parameters() | embedding.state()).items()}
        out, context = embedding.lookup(ids)
        grad_out = np.random.default_rng(seed).normal(size=out.shape)
        gradients = embedding.gradients(grad_out, context)
        embedding.update(grad_out, context, 0.1)
        for name, array in embedding.parameters().items():
            sums = before[f"{name}.state_sum"]
            assert sums.shape == (-(-array.size // state_block),)
            state = (sums, gradients[name], 0.1, 1e-6, state_block)
            expected, expected_sums = naive.block_adagrad(before[name], *state)
            np.testing.assert_allclose(array, expected, rtol=1e-12, atol=1e-14)
            found = embedding.state()[f"{name}.state_sum"]
            np.testing.assert_allclose(found, expected_sums, rtol=1e-12)
    description = json.loads(json.dumps(embedding.describe()))
    assert description["state_block"] == state_block
    with pytest.raises(ValueError, match="state_sum has shape"):
        embedding_from(description | {"state_block": 1}, arrays | embedding.state())
    again = embedding_from(description, arrays | embedding.state()).to("cpu")
    assert again.describe() == description
    assert embedding_from(description, arrays).state().keys() == embedding.state().keys()


def test_descriptions_of_before_there_were_blocks_keep_a_sum_for_each_element():
    embedding = make("robe", optimizer="adagrad")
    description = embedding.describe()
    assert description.pop("state_block") == 1
    again = embedding_from(description, embedding.parameters() | embedding.state())
    assert again.state()["array.state_sum"].shape == (48,)


def test_sgd_has_no_sums_to_share():
    with pytest.raises(ValueError, match="block_state is True but SGD has no sums"):
        make("robe", block_state=True)
    embedding = make("robe")
    with pytest.raises(ValueError, match="state_block is 2 but SGD has no sums"):
        embedding_from(embedding.describe() | {"state_block": 2}, embedding.parameters())


@pytest.mark.parametrize("kind", ["full", "qr"])
def test_rebuilding_without_the_vocabulary_is_an_error(kind):
    embedding = make(kind)
    with pytest.raises(KeyError, match="vocabulary"):
        embedding_from(embedding.describe(), embedding.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_embedding(kind):
    one, same, other = (make(kind, seed=seed) for seed in (1, 1, 2))
    for name, array in one.parameters().items():
        np.testing.assert_array_equal(array, same.parameters()[name])
        assert (array != other.parameters()[name]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_empty_batch(kind):
    embedding = make(kind, optimizer="adagrad")
    before = {name: array.copy() for name, array in embedding.parameters().items()}
    out, context = embedding.lookup(np.empty((0, 2), np.uint32))
    assert out.shape == (0, 2, DIM)
    embedding.update(out, context, 0.1)
    for name, array in embedding.parameters().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("kind", KINDS)
def test_misfits_are_errors(kind):
    embedding = make(kind)
    before = {name: array.copy() for name, array in embedding.parameters().items()}
    with pytest.raises(ValueError, match="indices has shape"):
        embedding.lookup(np.zeros((2, 3), np.int64))
    with pytest.raises(TypeError, match="indices has dtype float64"):
        embedding.lookup(np.zeros((2, 2)))
    out, context = embedding.lookup(KNOWN)
    with pytest.raises(ValueError, match="grad_out"):
        embedding.update(out[:2], context, 0.1)
    with pytest.raises(TypeError, match="grad_out"):
        embedding.update(out.astype(np.float32), context, 0.1)
    for name, array in embedding.parameters().items():
        np.testing.assert_array_equal(array, before[name])


def test_missing_arguments_are_errors():
    for kind in ("full", "qr"):
        with pytest.raises(ValueError, match="give vocabulary"):
            make(kind, vocabulary=None)
        with pytest.raises(ValueError, match="one per table"):
            make(kind, vocabulary=VOCABULARY[:1])
    for kind in ("robe", "hashed", "qr"):
        with pytest.raises(ValueError, match="needs num_parameters"):
            make(kind, num_parameters=None)
    with pytest.raises(ValueError, match="kind is 'tt'"):
        make("tt")
    with pytest.raises(ValueError, match="optimizer is 'adam'"):
        make("robe", optimizer="adam")
    with pytest.raises(ValueError, match="raise num_parameters"):
        make("qr", num_parameters=8)


sizes = st.lists(st.integers(1, 10_000), min_size=1, max_size=5)


@given(sizes, st.floats(0, 1.2))
def test_quotient_remainder_sizes_fit_and_cover(num_embeddings, share):
    least = sum(2 * math.ceil(math.sqrt(n)) for n in num_embeddings)
    most = max(sum(num_embeddings) + len(num_embeddings), least)
    rows = int(least + share * (most - least))
    quotients, remainders = quotient_remainder_sizes(num_embeddings, rows)
    assert sum(quotients) + sum(remainders) <= rows
    for n, q, k in zip(num_embeddings, quotients, remainders, strict=True):
        assert k * q >= n  # every row has its pair
        assert k * (q - 1) < n  # and no quotient row is unused


def test_quotient_remainder_uses_the_room_it_is_given():
    quotients, remainders = quotient_remainder_sizes([1_000_000, 50_000, 3], 105_000)
    assert 104_000 < sum(quotients) + sum(remainders) <= 105_000
    quotients, remainders = quotient_remainder_sizes([100, 10], 112)
    assert (quotients, remainders) == ((1, 1), (100, 10))
