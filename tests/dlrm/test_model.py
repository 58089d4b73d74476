"""The whole model: gradients, steps, learning, and the same bits for any number of threads."""

import copy
import json
import pickle

import numba
import numpy as np
import pytest

from robe_numba.dlrm import DLRM, KINDS, PRESETS, DLRMConfig, bce_with_logits, make_embedding
from robe_numba.dlrm.thread_pool import micro_batches
from tests.dlrm.test_layers import numerical_gradient

TINY = DLRMConfig(num_dense=3, num_tables=3, embedding_dim=4, bottom=(5,), top=(6,))
VOCABULARY = [np.arange(7), np.arange(3), np.arange(20)]


@pytest.fixture(autouse=True)
def set_threads():
    """Sets the threads of the embedding kernels: one, unless a test asks for more."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield lambda threads: numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    numba.set_num_threads(before)


def batch_of(rows, dtype=np.float32, config=TINY, seed=0):
    generator = np.random.default_rng(seed)
    dense = generator.normal(size=(rows, config.num_dense)).astype(dtype)
    indices = generator.integers(0, 25, (rows, config.num_tables), dtype=np.uint32)
    labels = generator.integers(0, 2, rows).astype(dtype)
    return dense, indices, labels


def tiny_model(kind="robe", optimizer="sgd", dtype=np.float32, config=TINY, **options):
    embedding = make_embedding(
        kind,
        embedding_dim=config.embedding_dim,
        num_tables=config.num_tables,
        num_parameters=80,
        vocabulary=VOCABULARY,
        block_size=3,
        sign=kind == "robe",
        optimizer=optimizer,
        dtype=dtype,
        seed=3,
    )
    return DLRM(config, embedding, dtype=dtype, optimizer=optimizer, **options)


def copies(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def test_preset_widths():
    kaggle, mlperf = PRESETS["kaggle"], PRESETS["mlperf"]
    assert kaggle.config.bottom_widths == (13, 512, 256, 64, 16)
    assert kaggle.config.top_widths == (367, 512, 256, 1)
    assert mlperf.config.bottom_widths == (13, 512, 256, 128)
    assert mlperf.config.top_widths == (479, 1024, 1024, 512, 256, 1)
    dcn = PRESETS["mlperf-dcnv2"]
    assert dcn.config.bottom_widths == (13, 512, 256, 128)
    assert dcn.config.top_widths == (27 * 128, 1024, 1024, 512, 256, 1)
    assert dcn.config.cross_ranks == (512, 512, 512)
    assert (dcn.optimizer, dcn.batch_size, dcn.lr) == ("adagrad", 65_536, 0.005)
    assert (kaggle.optimizer, kaggle.batch_size, kaggle.lr) == ("sgd", 128, 0.1)
    assert (mlperf.optimizer, mlperf.batch_size, mlperf.lr) == ("sgd", 2048, 1.0)


def test_config_goes_through_json():
    config = DLRMConfig(num_dense=4, num_tables=2, top=(9,), interaction="cat")
    assert DLRMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.top_widths == (3 * 16, 9, 1)


def test_config_of_a_cross_network():
    config = DLRMConfig(num_tables=2, interaction="dcn", cross_layers=2, cross_rank=5)
    assert DLRMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    shapes = config.parameter_shapes()
    assert shapes["cross.1.v"] == (5, 48)
    assert shapes["cross.1.u"] == (48, 5)
    assert shapes["cross.1.bias"] == (48,)
    assert "cross.2.v" not in shapes
    # Runs without one have the fields that they always had.
    assert not {"cross_layers", "cross_rank", "pooling"} & set(DLRMConfig().to_dict())


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"bottom": (512, 0)}, ValueError, "bottom is 0"),
        ({"num_tables": 0}, ValueError, "num_tables is 0"),
        ({"num_dense": -1}, ValueError, "num_dense is -1"),
        ({"top": (1.5,)}, TypeError, "top must be an integer"),
        ({"interaction": "sum"}, ValueError, "interaction is 'sum'"),
        ({"cross_layers": 0}, ValueError, "cross_layers is 0"),
        ({"cross_rank": 0}, ValueError, "cross_rank is 0"),
        ({"pooling": ("sum", "first")}, ValueError, "mode is 'first'"),
        ({"num_tables": 1, "pooling": ("sum", "sum")}, ValueError, "2 modes for 1 tables"),
    ],
)
def test_bad_configurations(fields, error, message):
    with pytest.raises(error, match=message):
        DLRMConfig(**fields)


def test_initial_parameters_have_their_spread():
    config = PRESETS["kaggle"].config
    embedding = make_embedding("robe", embedding_dim=16, num_tables=26, num_parameters=100)
    parameters = DLRM(config, embedding, seed=1, threads=1).parameters()
    weight, bias = parameters["top.0.weight"], parameters["top.0.bias"]
    assert weight.shape == (512, 367)
    assert weight.std() == pytest.approx(np.sqrt(2 / (512 + 367)), rel=0.02)
    assert bias.std() == pytest.approx(np.sqrt(1 / 512), rel=0.2)
    assert abs(weight.mean()) < 1e-3
    again = DLRM(config, embedding, seed=1, threads=1).parameters()
    np.testing.assert_array_equal(again["top.0.weight"], weight)


@pytest.mark.parametrize(
    ("kind", "interaction", "rows"),
    [
        *((kind, "dot", 4) for kind in KINDS),
        *(("robe", "cat", 4), ("robe", "dcn", 4), ("robe", "dot", 1)),
    ],
)
def test_gradient_of_the_whole_model(kind, interaction, rows):
    config = DLRMConfig(3, 3, 4, (5,), (6,), interaction)
    model = tiny_model(kind, dtype=np.float64, config=config, threads=1)
    batch = batch_of(rows, np.float64)
    dense, indices, labels = batch
    loss, gradients = model.loss_and_gradients(*batch)

    def loss_of_logits():
        return bce_with_logits(model.logits(dense, indices), labels)[0]

    assert loss == loss_of_logits()
    parameters = model.parameters()
    assert list(gradients) == list(parameters)
    for name, parameter in parameters.items():
        expected = numerical_gradient(loss_of_logits, parameter)
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-5, atol=1e-8, err_msg=name)


def test_gradient_of_several_micro_batches():
    rows = 300
    assert len(micro_batches(rows)) > 1
    model = tiny_model(dtype=np.float64, threads=2)
    dense, indices, labels = batch_of(rows, np.float64)
    loss, gradients = model.loss_and_gradients(dense, indices, labels)
    singles = [
        model.loss_and_gradients(dense[i : i + 1], indices[i : i + 1], labels[i : i + 1])
        for i in range(rows)
    ]
    assert loss == pytest.approx(np.mean([single for single, _ in singles]))
    for name, gradient in gradients.items():
        mean = np.mean([single[name] for _, single in singles], axis=0)
        np.testing.assert_allclose(gradient, mean, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_step_is_the_update_by_the_gradients(kind, optimizer):
    model = tiny_model(kind, optimizer, np.float64, threads=1)
    for seed in range(2):
        batch = batch_of(6, np.float64, seed=seed)
        loss, gradients = model.loss_and_gradients(*batch)
        parameters, state = copies(model.parameters()), copies(model.state())
        assert model.train_step(*batch, lr=0.2, embedding_lr=0.05) == loss
        for name, moved in model.parameters().items():
            lr = 0.05 if name.startswith("embedding.") else 0.2
            divisor = np.float64(1)
            if optimizer == "adagrad":
                divisor = np.sqrt(state[f"{name}.state_sum"] + gradients[name] ** 2) + 1e-10
            expected = parameters[name] - lr * gradients[name] / divisor
            np.testing.assert_allclose(moved, expected, rtol=1e-12, atol=1e-15, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 300, 1001])
def test_any_number_of_threads_gives_the_same_bits(kind, rows, set_threads):
    config = DLRMConfig(num_dense=3, num_tables=3, embedding_dim=4, bottom=(70,), top=(90, 33))
    batch = batch_of(rows, config=config)
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        model = tiny_model(kind, "adagrad", config=config, threads=threads)
        losses = [model.train_step(*batch, lr=0.05) for _ in range(3)]
        results.append((losses, model.predict(*batch[:2]), model.parameters() | model.state()))
    for losses, predictions, arrays in results[1:]:
        assert losses == results[0][0]
        np.testing.assert_array_equal(predictions, results[0][1])
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, results[0][2][name], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tiny_model_learns_a_planted_rule(kind):
    """Click if and only if the ids of two tables agree modulo 2, whatever the rest says."""
    dense, indices, _ = batch_of(120)
    indices[:, 1] %= 3
    labels = ((indices[:, 0] % 7 + indices[:, 1]) % 2 == 0).astype(np.float32)
    indices[:, 0] %= 7
    model = tiny_model(kind, "adagrad", threads=1)
    first = model.train_step(dense, indices, labels, lr=0.1)
    for _ in range(300):
        last = model.train_step(dense, indices, labels, lr=0.1)
    assert first > 0.5
    assert last < 0.1
    right = (model.predict(dense, indices) > 0.5) == (labels == 1)
    assert right.mean() > 0.97


def test_predictions_are_probabilities_of_the_logits():
    model = tiny_model(threads=2)
    dense, indices, _ = batch_of(9000)
    logits = model.logits(dense, indices)
    p = model.predict(dense, indices)
    assert p.shape == logits.shape == (9000,)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-logits.astype(np.float64))), rtol=1e-5)
    # A long call scores its rows as short calls do.
    for start in (0, 8100, 8999):
        rows = slice(start, start + 900)
        np.testing.assert_allclose(p[rows], model.predict(dense[rows], indices[rows]), rtol=1e-5)


def test_empty_batch_changes_nothing():
    model = tiny_model(optimizer="adagrad")
    before = copies(model.parameters())
    batch = batch_of(0)
    assert model.predict(*batch[:2]).shape == (0,)
    assert model.train_step(*batch, lr=0.1) == 0.0
    for name, array in model.parameters().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_model_without_dense_features():
    config = DLRMConfig(num_dense=0, num_tables=3, embedding_dim=4, bottom=(5,), top=(6,))
    model = tiny_model(config=config)
    batch = batch_of(8, config=config)
    assert np.isfinite(model.train_step(*batch, lr=0.1))


def test_load_restores_and_training_continues():
    source, target = tiny_model("qr", "adagrad"), tiny_model("qr", "adagrad", seed=9)
    batch = batch_of(50)
    source.train_step(*batch, lr=0.1)
    target.load(copies(source.parameters() | source.state()))
    assert source.train_step(*batch, lr=0.1) == target.train_step(*batch, lr=0.1)
    for name, array in source.parameters().items():
        np.testing.assert_array_equal(array, target.parameters()[name])


def test_load_of_misfits_writes_nothing():
    model = tiny_model()
    before = copies(model.parameters())
    arrays = {name: array + 1 for name, array in before.items()}
    with pytest.raises(ValueError, match=r"arrays lack embedding\.array"):
        model.load({name: a for name, a in arrays.items() if name != "embedding.array"})
    with pytest.raises(ValueError, match=r"embedding\.array has shape"):
        model.load(arrays | {"embedding.array": np.zeros(3, np.float32)})
    for name, array in model.parameters().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dense": np.zeros((4, 2), np.float32)}, ValueError, "dense has shape"),
        ({"dense": np.zeros((4, 3))}, TypeError, "dense has dtype float64"),
        ({"dense": [[1.0] * 3] * 4}, TypeError, "dense must be a NumPy array"),
        ({"indices": np.zeros((3, 3), np.int64)}, ValueError, "indices has shape"),
        ({"indices": np.zeros((4, 3), np.int16)}, TypeError, "indices has dtype int16"),
        ({"labels": np.zeros(4, np.int64)}, TypeError, "labels has dtype int64"),
        ({"labels": np.zeros(3, np.float32)}, ValueError, "labels has shape"),
        ({"labels": np.full(4, -1, np.float32)}, ValueError, "labels must be 0 or 1"),
        ({"lr": float("inf")}, ValueError, "lr is inf"),
        ({"embedding_lr": -1.0}, ValueError, "embedding_lr is -1.0"),
    ],
)
def test_bad_batches_change_nothing(change, error, message):
    model = tiny_model()
    before = copies(model.parameters())
    dense, indices, labels = batch_of(4)
    arguments = {"dense": dense, "indices": indices, "labels": labels, "lr": 0.1} | change
    with pytest.raises(error, match=message):
        model.train_step(**arguments)
    for name, array in model.parameters().items():
        np.testing.assert_array_equal(array, before[name])


def test_an_embedding_that_does_not_fit_is_an_error():
    embedding = make_embedding("robe", embedding_dim=4, num_tables=3, num_parameters=80)
    with pytest.raises(ValueError, match="num_tables is 3 in the embedding"):
        DLRM(DLRMConfig(num_tables=4, embedding_dim=4), embedding)
    with pytest.raises(ValueError, match="embedding_dim is 4 in the embedding"):
        DLRM(DLRMConfig(num_tables=3), embedding)
    with pytest.raises(ValueError, match="the embedding is float32"):
        DLRM(TINY, embedding, dtype=np.float64)
    with pytest.raises(ValueError, match="threads is 0"):
        DLRM(TINY, embedding, threads=0)


@pytest.mark.parametrize("make", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_learns_as_the_original_does(kind, optimizer, make):
    model, batch = tiny_model(kind, optimizer, threads=1), batch_of(300)
    model.train_step(*batch, 0.1)
    other = make(model)
    losses = [model.train_step(*batch, 0.1) for _ in range(3)]
    assert [other.train_step(*batch, 0.1) for _ in range(3)] == losses
    left, right = (m.parameters() | m.state() for m in (model, other))
    for name, array in left.items():
        assert array is not right[name]
        np.testing.assert_array_equal(array, right[name], err_msg=name)
