"""Bad input: a clear error that names the argument, and nothing written."""

import numpy as np
import pytest

import robe_numba as rn
from robe_numba import RobeSpec

SPEC = RobeSpec(100, 4, 8, 2, num_embeddings=(10, 20))
FREE = RobeSpec(100, 4, 8, 2)
INDICES = np.array([[1, 2], [3, 4], [5, 6]])
BAG_INDICES = np.array([1, 2, 3, 4, 15])
OFFSETS = np.array([0, 2, 2, 3, 5])  # two samples of two tables
GRAD = np.ones((3, 2, 8), np.float32)
BAG_GRAD = np.ones((2, 2, 8), np.float32)


def array():
    return np.linspace(-1, 1, 100, dtype=np.float32)


class Device:
    """Stands for an array of another device."""

    def __init__(self):
        self.__cuda_array_interface__ = {"shape": (100,), "typestr": "<f4"}


def strided(values):
    """The same values, not contiguous."""
    wide = np.empty((*values.shape, 2), values.dtype)
    wide[..., 0] = values
    return wide[..., 0]


def read_only(values):
    values.flags.writeable = False
    return values


def unaligned(values):
    raw = np.empty(values.nbytes + 1, np.uint8)
    view = raw[1:].view(values.dtype).reshape(values.shape)
    view[:] = values
    return view


class Subclass(np.ndarray):
    """Stands for numpy.matrix and its like."""


def masked(values):
    """A subclass whose comparisons skip elements that a kernel would read."""
    return np.ma.array(values, mask=np.ones(values.shape, bool))


BAD_ARRAYS = [
    (masked(array()), TypeError, "array must be a NumPy array, got numpy.ma"),
    ([0.0] * 100, TypeError, "array must be a NumPy array, got list"),
    (Device(), TypeError, "array must be a NumPy array"),
    (array().astype(np.float16), TypeError, "array has dtype float16"),
    (array().astype(">f4"), TypeError, "array has dtype >f4"),
    (array()[:99], ValueError, r"array has shape \(99,\); expected \(100,\)"),
    (array().reshape(10, 10), ValueError, "array has shape"),
    (strided(array()), ValueError, "array is not C-contiguous"),
    (unaligned(array()), ValueError, "array is not aligned"),
]
BAD_INDICES = [
    (masked(INDICES), TypeError, "indices must be a NumPy array, got numpy.ma"),
    (INDICES.view(Subclass), TypeError, "indices must be a NumPy array, got tests"),
    (INDICES.tolist(), TypeError, "indices must be a NumPy array, got list"),
    (INDICES.astype(np.float32), TypeError, "indices has dtype float32"),
    (INDICES.astype(np.int16), TypeError, "indices has dtype int16"),
    (INDICES[:, :1].copy(), ValueError, r"indices has shape \(3, 1\)"),
    (INDICES[0], ValueError, r"indices has shape \(2,\)"),
    (strided(INDICES), ValueError, "indices is not C-contiguous"),
    (np.array([[1, 2], [3, 20]]), ValueError, r"indices\[1, 1\] is 20, but table 1 .*= 20"),
    (np.array([[-1, 2]]), ValueError, r"indices\[0, 0\] is -1, but table 0"),
    (np.array([[0, 2**64 - 1]], np.uint64), ValueError, r"indices\[0, 1\] is 18446744073709551615"),
]


@pytest.mark.parametrize(("bad", "error", "words"), BAD_ARRAYS)
def test_every_function_checks_the_array(bad, error, words):
    calls = [
        lambda: rn.lookup(bad, INDICES, SPEC),
        lambda: rn.embedding_bag(bad, BAG_INDICES, OFFSETS, SPEC),
        lambda: rn.sgd_update(bad, GRAD, INDICES, SPEC),
        lambda: rn.adagrad_update(bad, array(), GRAD, INDICES, SPEC),
        lambda: rn.embedding_bag_sgd_update(bad, BAG_GRAD, BAG_INDICES, OFFSETS, SPEC),
        lambda: rn.embedding_bag_backward(BAG_GRAD, BAG_INDICES, OFFSETS, SPEC, "max", array=bad),
    ]
    for call in calls:
        with pytest.raises(error, match=words):
            call()


@pytest.mark.parametrize(("bad", "error", "words"), BAD_INDICES)
def test_every_function_checks_the_indices_and_writes_nothing(bad, error, words):
    values, state = array(), np.zeros(100, np.float32)
    grad_out = np.ones((len(bad), 2, 8), np.float32)
    calls = [
        lambda: rn.block_starts(bad, SPEC),
        lambda: rn.lookup(values, bad, SPEC),
        lambda: rn.lookup_backward(grad_out, bad, SPEC),
        lambda: rn.sgd_update(values, grad_out, bad, SPEC),
        lambda: rn.adagrad_update(values, state, grad_out, bad, SPEC),
    ]
    for call in calls:
        with pytest.raises(error, match=words):
            call()
    np.testing.assert_array_equal(values, array())
    assert not state.any()


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ({"indices": BAG_INDICES.reshape(5, 1)}, ValueError, "one dimension"),
        ({"indices": np.array([1, 2, 20, 4, 15])}, ValueError, r"indices\[2\] is 20, but table 1"),
        ({"indices": np.array([1, 10, 3, 4, 15])}, ValueError, r"indices\[1\] is 10, but table 0"),
        ({"offsets": masked(OFFSETS)}, TypeError, "offsets must be a NumPy array, got numpy.ma"),
        (
            {"indices": masked(BAG_INDICES)},
            TypeError,
            "indices must be a NumPy array, got numpy.ma",
        ),
        ({"indices": [[1], [2, 3]]}, TypeError, "indices must be a NumPy array, got list"),
        ({"mode": np.array("sum")}, ValueError, "sum, mean, max"),
        ({"mode": ["sum"]}, ValueError, "sum, mean, max"),
        ({"padding_idx": np.array(3.7)}, TypeError, "padding_idx must be an integer"),
        (
            {"per_sample_weights": masked(np.ones(5, np.float32))},
            TypeError,
            "per_sample_weights must",
        ),
        ({"offsets": OFFSETS.astype(float)}, TypeError, "offsets has dtype float64"),
        ({"offsets": OFFSETS[:-1]}, ValueError, "offsets has shape"),
        ({"offsets": np.array([], np.int64)}, ValueError, "offsets has shape"),
        ({"offsets": np.array([1, 2, 2, 3, 5])}, ValueError, "first offset must be 0"),
        ({"offsets": np.array([0, 2, 1, 3, 5])}, ValueError, "falls from 2 to 1 at bag 1"),
        ({"offsets": np.array([0, 2, 2, 3, 6])}, ValueError, "ends at 6 but there are 5"),
        ({"offsets": np.array([0, 0, 0, 0, 2**64 - 1], np.uint64)}, ValueError, "offsets ends"),
        ({"mode": "median"}, ValueError, "sum, mean, max"),
        ({"padding_idx": 1.5}, TypeError, "padding_idx must be an integer"),
        ({"padding_idx": 2**64}, ValueError, "padding_idx is"),
        (
            {"per_sample_weights": np.ones(4, np.float32)},
            ValueError,
            "per_sample_weights has shape",
        ),
        ({"per_sample_weights": np.ones(5)}, TypeError, "per_sample_weights has dtype float64"),
        (
            {"per_sample_weights": np.ones(5, np.float32), "mode": "mean"},
            ValueError,
            "with mode 'sum' alone",
        ),
    ],
)
def test_every_bag_function_checks_the_bags_and_writes_nothing(bad, error, words):
    values, state = array(), np.zeros(100, np.float32)
    call = {"indices": BAG_INDICES, "offsets": OFFSETS, "spec": SPEC, **bad}
    batch = max(len(call["offsets"]) - 1, 0) // 2
    grad_out = np.ones((batch, 2, 8), np.float32)
    for function, arrays in (
        (rn.embedding_bag, {"array": values}),
        (rn.embedding_bag_backward, {"grad_out": grad_out, "array": values}),
        (rn.embedding_bag_sgd_update, {"array": values, "grad_out": grad_out}),
        (
            rn.embedding_bag_adagrad_update,
            {"array": values, "state_sum": state, "grad_out": grad_out},
        ),
    ):
        with pytest.raises(error, match=words):
            function(**arrays, **call)
    np.testing.assert_array_equal(values, array())
    assert not state.any()


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ({"array": read_only(array())}, ValueError, "array is read-only"),
        ({"state_sum": read_only(array())}, ValueError, "state_sum is read-only"),
        ({"state_sum": array().astype(np.float64)}, TypeError, "state_sum has dtype float64"),
        ({"state_sum": array()[:9]}, ValueError, "state_sum has shape"),
        ({"grad_out": GRAD[:2]}, ValueError, r"grad_out has shape \(2, 2, 8\)"),
        ({"grad_out": GRAD.astype(np.float64)}, TypeError, "grad_out has dtype float64"),
        ({"grad_out": GRAD.tolist()}, TypeError, "grad_out must be a NumPy array"),
        ({"grad_out": strided(GRAD)}, ValueError, "grad_out is not C-contiguous"),
        ({"state_sum": None}, TypeError, "state_sum must be a NumPy array, got NoneType"),
        ({"array": None}, TypeError, "array must be a NumPy array, got NoneType"),
        ({"grad_out": None}, TypeError, "grad_out must be a NumPy array, got NoneType"),
        ({"indices": None}, TypeError, "indices must be a NumPy array, got NoneType"),
        ({"grad_out": masked(GRAD)}, TypeError, "grad_out must be a NumPy array"),
        ({"state_sum": masked(array())}, TypeError, "state_sum must be a NumPy array"),
        ({"lr": float("nan")}, ValueError, "lr is nan"),
        ({"lr": -0.1}, ValueError, "lr is -0.1"),
        ({"lr": 1e39}, ValueError, r"lr is 1e\+39; .* to 3.4e\+38"),  # infinite in float32
        ({"lr": 10**400}, ValueError, "lr is inf"),
        ({"lr": "0.1"}, TypeError, "lr must be a number"),
        ({"lr": True}, TypeError, "lr must be a number"),
        ({"lr": np.array(0.1)}, TypeError, "lr must be a number"),
        ({"eps": float("inf")}, ValueError, "eps is inf"),
        ({"spec": "robe"}, TypeError, "spec must be a RobeSpec"),
    ],
)
@pytest.mark.parametrize("bags", [False, True])
@pytest.mark.parametrize("adagrad", [False, True])
def test_updates_check_what_they_write(bad, error, words, bags, adagrad):
    good = {"array": array(), "grad_out": GRAD, "indices": INDICES, "spec": SPEC, "lr": 0.1}
    if adagrad:
        good |= {"state_sum": np.zeros(100, np.float32), "eps": 0.0}
    elif not set(bad) <= set(good):
        return  # SGD has no such argument
    if bags:  # one id per bag, table-major
        good |= {"indices": INDICES.T.reshape(-1).copy(), "offsets": np.arange(7)}
    function = {
        (False, False): rn.sgd_update,
        (False, True): rn.adagrad_update,
        (True, False): rn.embedding_bag_sgd_update,
        (True, True): rn.embedding_bag_adagrad_update,
    }[bags, adagrad]
    with pytest.raises(error, match=words):
        function(**{**good, **bad})
    np.testing.assert_array_equal(good["array"], array())
    function(**good)
    assert (good["array"] != array()).any()


def test_arrays_that_share_memory_are_refused():
    values = array()
    with pytest.raises(ValueError, match="array and state_sum share memory"):
        rn.adagrad_update(values, values, GRAD, INDICES, SPEC)
    spec = RobeSpec(48, 4, 8, 2)
    values = np.ones(48, np.float32)
    with pytest.raises(ValueError, match="array and grad_out share memory"):
        rn.sgd_update(values, values.reshape(3, 2, 8), INDICES, spec)
    wide = np.ones(100)
    ids = wide[:6].view(np.int64).reshape(3, 2)
    with pytest.raises(ValueError, match="array and indices share memory"):
        rn.sgd_update(wide, GRAD.astype(np.float64), ids, FREE)
    with pytest.raises(ValueError, match="state_sum and indices share memory"):
        rn.adagrad_update(wide.copy(), wide, GRAD.astype(np.float64), ids, FREE)
    with pytest.raises(ValueError, match="state_sum and grad_out share memory"):
        rn.adagrad_update(np.ones(48, np.float32), values, values.reshape(3, 2, 8), INDICES, spec)


def test_max_backward_needs_the_array():
    with pytest.raises(ValueError, match="pass array="):
        rn.embedding_bag_backward(BAG_GRAD, BAG_INDICES, OFFSETS, SPEC, "max")


def test_a_padded_id_may_lie_outside_its_table():
    indices = np.array([1, -1, 3, -1, 15])
    out = rn.embedding_bag(array(), indices, OFFSETS, SPEC, padding_idx=-1)
    without = rn.embedding_bag(array(), np.array([1, 3, 15]), np.array([0, 1, 1, 2, 3]), SPEC)
    np.testing.assert_array_equal(out, without)


@pytest.mark.parametrize("kind", [int, np.int64, np.int32, np.uint64])
def test_padding_idx_may_be_any_integer(kind):
    out = rn.embedding_bag(array(), BAG_INDICES, OFFSETS, SPEC, padding_idx=kind(3))
    without = rn.embedding_bag(array(), np.array([1, 2, 4, 15]), np.array([0, 2, 2, 2, 4]), SPEC)
    np.testing.assert_array_equal(out, without)


def test_a_memory_mapped_array_is_a_numpy_array(tmp_path):
    array().tofile(tmp_path / "array")
    mapped = np.memmap(tmp_path / "array", np.float32, "r")
    np.testing.assert_array_equal(rn.lookup(mapped, INDICES, SPEC),
                                  rn.lookup(array(), INDICES, SPEC))  # fmt: skip


def test_without_sizes_every_64_bit_id_is_legal():
    ids = np.array([[0, 2**64 - 1], [2**63, 2**32]], np.uint64)
    signed = ids.view(np.int64)
    out = rn.lookup(array(), ids, FREE)
    np.testing.assert_array_equal(out, rn.lookup(array(), signed, FREE))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ({"scale": -1.0}, ValueError, "scale is -1"),
        ({"scale": np.nan}, ValueError, "scale is nan"),
        ({"scale": 1e39}, ValueError, "scale is 1e"),
        ({"scale": 1e308, "dtype": np.float64}, ValueError, "2 \\* scale, is inf"),
        ({"scale": "1"}, TypeError, "scale must be a number"),
        ({"seed": None}, TypeError, "seed must be an integer"),
        ({"seed": True}, TypeError, "seed must be an integer"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"dtype": None}, TypeError, "float32 or float64"),
    ],
)
def test_init_array_checks_its_arguments(call, error, words):
    with pytest.raises(error, match=words):
        rn.init_array(SPEC, **call)


def test_init_array_is_seeded_uniform_and_scaled():
    spec = RobeSpec(100_000, 4, 16, 1, num_embeddings=(400,))
    values = rn.init_array(spec, seed=3)
    assert values.dtype == np.float32
    assert values.shape == (100_000,)
    assert values.tobytes() == rn.init_array(spec, seed=3).tobytes()
    assert values.tobytes() != rn.init_array(spec, seed=4).tobytes()
    bound = np.sqrt(1 / 400)  # the published choice for DLRM
    assert bound * 0.999 < np.abs(values).max() <= bound
    # The standard deviation of a uniform value is bound / sqrt(3); of its estimate, far below 2 %.
    assert abs(values.std() * np.sqrt(3) / bound - 1) < 0.02
    assert np.abs(rn.init_array(spec, scale=7.0)).max() > 6.9
    assert rn.init_array(spec, dtype=np.float64).dtype == np.float64
    with pytest.raises(TypeError, match="float32 or float64"):
        rn.init_array(spec, dtype=np.float16)
