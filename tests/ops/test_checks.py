"""Bad input: a clear error that names the argument, and nothing written."""

import numpy as np
import pytest

import robe_numba as rn
from robe_numba import RobeSpec
from tests.support.strategies import HALF_DTYPES, dtype_of

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
    (Device(), TypeError, r" is a NumPy array but array is on a GPU"),
    (array().astype(np.longdouble), TypeError, "array has dtype"),
    (array().astype(">f4"), TypeError, "array has dtype >f4"),
    (array()[:99], ValueError, r"array has shape \(99,\); expected \(100,\)"),
    (array().reshape(10, 10), ValueError, "array has shape"),
    (strided(array()), ValueError, "array is not C-contiguous"),
    (unaligned(array()), ValueError, "array is not aligned"),
]
BAD_DENSE = [
    (np.ones((3, 8)), TypeError, "dense has dtype float64"),
    (np.ones((3, 8), np.float16), TypeError, "dense has dtype float16"),
    (np.ones((2, 8), np.float32), ValueError, r"dense has shape \(2, 8\); expected \(3, 8\)"),
    (np.ones((3, 16), np.float32)[:, ::2], ValueError, "dense is not C-contiguous"),
    (None, TypeError, "dense must be a NumPy array, got NoneType"),
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


@pytest.mark.parametrize(("bad", "error", "words"), BAD_DENSE)
def test_the_interaction_checks_the_dense_part(bad, error, words):
    with pytest.raises(error, match=words):
        rn.lookup_dot_interaction(array(), INDICES, bad, SPEC)


@pytest.mark.parametrize(("bad", "error", "words"), BAD_ARRAYS)
def test_every_function_checks_the_array(bad, error, words):
    calls = [
        lambda: rn.lookup(bad, INDICES, SPEC),
        lambda: rn.lookup_dot_interaction(bad, INDICES, np.ones((3, 8), np.float32), SPEC),
        lambda: rn.embedding_bag(bad, BAG_INDICES, OFFSETS, SPEC),
        lambda: rn.sgd_update(bad, GRAD, INDICES, SPEC),
        lambda: rn.adagrad_update(bad, array(), GRAD, INDICES, SPEC),
        lambda: rn.embedding_bag_sgd_update(bad, BAG_GRAD, BAG_INDICES, OFFSETS, SPEC),
        lambda: rn.embedding_bag_backward(BAG_GRAD, BAG_INDICES, OFFSETS, SPEC, "max", array=bad),
    ]
    for call in calls:
        with pytest.raises(error, match=words):
            call()


@pytest.mark.parametrize("dtype", HALF_DTYPES)
def test_halves_are_for_reading_alone(dtype):
    half = array().astype(dtype_of(dtype))
    ones = np.ones(100, np.float32)
    calls = [
        lambda: rn.sgd_update(half, GRAD, INDICES, SPEC),
        lambda: rn.adagrad_update(half, ones, GRAD, INDICES, SPEC),
        lambda: rn.adagrad_update(ones, half, GRAD, INDICES, SPEC),
        lambda: rn.lookup_backward(GRAD.astype(half.dtype), INDICES, SPEC),
        lambda: rn.embedding_bag_sgd_update(half, BAG_GRAD, BAG_INDICES, OFFSETS, SPEC),
        lambda: rn.embedding_bag_backward(BAG_GRAD, BAG_INDICES, OFFSETS, SPEC, "max", array=half),
        lambda: rn.lookup(half, INDICES, SPEC, out=np.empty((3, 2, 8), half.dtype)),
        lambda: rn.lookup_dot_interaction(half, INDICES, np.ones((3, 8), half.dtype), SPEC),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=f"has dtype {dtype}"):
            call()


def test_other_byte_orders_are_refused():
    half = array().astype(dtype_of("bfloat16"))
    swapped = half.view(half.dtype.newbyteorder(">"))
    with pytest.raises(TypeError, match="array has dtype"):
        rn.lookup(swapped, INDICES, SPEC)


def test_integers_are_no_halves():
    for dtype in (np.int16, np.uint16):
        with pytest.raises(TypeError, match=r"must be float32 or float64 or float16 or bfloat16"):
            rn.lookup(np.zeros(100, dtype), INDICES, SPEC)


def forward_calls():
    """Each function that reads: a call with `out` and `starts`, and the shapes of these two."""
    dense = np.ones((3, 8), np.float32)
    return [
        (lambda **o: rn.lookup(array(), INDICES, SPEC, **o), (3, 2, 8), (3, 2, 2)),
        (
            lambda **o: rn.embedding_bag(array(), BAG_INDICES, OFFSETS, SPEC, **o),
            (2, 2, 8),
            (5, 2),
        ),
        (
            lambda **o: rn.lookup_dot_interaction(array(), INDICES, dense, SPEC, **o),
            (3, 11),
            (3, 2, 2),
        ),
    ]


@pytest.mark.parametrize("name", ["out", "starts"])
@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda good: good.tolist(), TypeError, "must be a NumPy array, got list"),
        (masked, TypeError, "must be a NumPy array, got numpy.ma"),
        (lambda good: good.astype(np.float16), TypeError, "has dtype float16"),
        (lambda good: good.view(f"u{good.itemsize}"), TypeError, "has dtype uint"),
        (lambda good: good.astype(good.dtype.newbyteorder()), TypeError, "has dtype >"),
        (lambda good: good[:-1], ValueError, "has shape"),
        (lambda good: good.reshape(-1), ValueError, "has shape"),
        (lambda good: good[None], ValueError, "has shape"),
        (strided, ValueError, "is not C-contiguous"),
        (unaligned, ValueError, "is not aligned"),
        (lambda good: read_only(good.copy()), ValueError, "is read-only"),
    ],
)
def test_every_reading_function_checks_what_it_fills(name, spoil, error, words):
    for call, *shapes in forward_calls():
        good = {"out": np.zeros(shapes[0], np.float32), "starts": np.zeros(shapes[1], np.int64)}
        with pytest.raises(error, match=f"{name} {words}"):
            call(**{**good, name: spoil(good[name])})
        assert not any(given.any() for given in good.values())
        call(**good)
        assert all(given.any() for given in good.values())


def test_what_is_filled_shares_no_memory_with_what_is_read():
    raw = np.zeros(4096, np.uint8)

    def part(begin, shape, dtype):
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return raw[begin : begin + count].view(dtype).reshape(shape)

    def bag(indices=BAG_INDICES, offsets=OFFSETS, values=None, weights=None, **filled):
        values = array() if values is None else values
        rn.embedding_bag(values, indices, offsets, SPEC, "sum", weights, **filled)

    def row(values=None, indices=INDICES, **filled):
        rn.lookup(array() if values is None else values, indices, SPEC, **filled)

    def dot(dense, values=None, indices=INDICES, **filled):
        values = array() if values is None else values
        rn.lookup_dot_interaction(values, indices, dense, SPEC, **filled)

    real, dense = np.float32, np.ones((3, 8), np.float32)
    out, bag_out, dot_out = (part(8, s, real) for s in ((3, 2, 8), (2, 2, 8), (3, 11)))
    starts, bag_starts = part(8, (3, 2, 2), int), part(8, (5, 2), int)
    values, ids = part(0, (100,), real), part(0, (3, 2), int)
    weights, bag_ids, offsets = part(0, (5,), real), part(0, (5,), int), part(0, (5,), int)
    calls = {
        "out and array": [
            lambda: row(values, out=out),
            lambda: bag(values=values, out=bag_out),
            lambda: dot(dense, values, out=dot_out),
        ],
        "out and indices": [
            lambda: row(indices=ids, out=out),
            lambda: bag(bag_ids, out=bag_out, offsets=np.array([0, 1, 2, 3, 5])),
            lambda: dot(dense, indices=ids, out=dot_out),
        ],
        "out and offsets": [lambda: bag(BAG_INDICES[:0].copy(), offsets, out=bag_out)],
        "out and per_sample_weights": [lambda: bag(weights=weights, out=bag_out)],
        "out and dense": [lambda: dot(part(0, (3, 8), real), out=dot_out)],
        "starts and array": [
            lambda: row(values, starts=starts),
            lambda: bag(values=values, starts=bag_starts),
            lambda: dot(dense, values, starts=starts),
        ],
        "starts and indices": [
            lambda: row(indices=ids, starts=starts),
            lambda: bag(bag_ids, starts=bag_starts),
            lambda: dot(dense, indices=ids, starts=starts),
        ],
        "starts and per_sample_weights": [lambda: bag(weights=weights, starts=bag_starts)],
        "starts and dense": [lambda: dot(part(0, (3, 8), real), starts=starts)],
        "starts and out": [
            lambda: row(out=out, starts=starts),
            lambda: bag(out=bag_out, starts=bag_starts),
            lambda: dot(dense, out=dot_out, starts=starts),
        ],
    }
    for words, group in calls.items():
        for call in group:
            with pytest.raises(ValueError, match=f"{words} share memory"):
                call()
    assert not raw.any()


def step_calls(starts, bag_starts):
    """Each function that takes starts, and what it may write."""
    values, state = array(), np.zeros(100, np.float32)
    bags = (BAG_GRAD, BAG_INDICES, OFFSETS, SPEC)
    written = (values, state)
    return [
        (lambda: rn.lookup_backward(GRAD, INDICES, SPEC, starts=starts), written),
        (lambda: rn.sgd_update(values, GRAD, INDICES, SPEC, starts=starts), written),
        (lambda: rn.adagrad_update(values, state, GRAD, INDICES, SPEC, starts=starts), written),
        (lambda: rn.embedding_bag_backward(*bags, starts=bag_starts), written),
        (
            lambda: rn.embedding_bag_backward(*bags, "max", array=values, starts=bag_starts),
            written,
        ),
        (lambda: rn.embedding_bag_sgd_update(values, *bags, starts=bag_starts), written),
        (
            lambda: rn.embedding_bag_adagrad_update(values, state, *bags, starts=bag_starts),
            written,
        ),
    ]


@pytest.mark.parametrize("bad", [100, -2, -100, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("place", [0, -1])
def test_starts_outside_the_array_are_refused(bad, place):
    starts, bag_starts = np.zeros((3, 2, 2), np.int64), np.zeros((5, 2), np.int64)
    starts.reshape(-1)[place] = bag_starts.reshape(-1)[place] = bad
    for call, (values, state) in step_calls(starts, bag_starts):
        with pytest.raises(ValueError, match="starts has a value outside the array, which has 100"):
            call()
        np.testing.assert_array_equal(values, array())
        assert not state.any()


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda good: good.tolist(), TypeError, "must be a NumPy array, got list"),
        (lambda good: good.astype(np.int32), TypeError, "has dtype int32"),
        (lambda good: good.view(np.uint64), TypeError, "has dtype uint64"),
        (lambda good: good[..., :1].copy(), ValueError, "has shape"),
        (lambda good: good.reshape(-1), ValueError, "has shape"),
        (strided, ValueError, "is not C-contiguous"),
        (unaligned, ValueError, "is not aligned"),
    ],
)
def test_starts_are_checked(spoil, error, words):
    spoiled = (spoil(np.zeros((3, 2, 2), np.int64)), spoil(np.zeros((5, 2), np.int64)))
    for call, (values, state) in step_calls(*spoiled):
        with pytest.raises(error, match=f"starts {words}"):
            call()
        np.testing.assert_array_equal(values, array())
        assert not state.any()


def test_starts_at_the_ends_of_the_array_are_taken():
    """Whatever lies in the array is safe, and -1 stands for no read."""
    starts = np.array([[[0, 99], [-1, -1]]])
    gradient = rn.lookup_backward(np.ones((1, 2, 8), np.float32), INDICES[:1], SPEC, starts=starts)
    np.testing.assert_array_equal(np.flatnonzero(gradient), [0, 1, 2, 3, 99])
    np.testing.assert_array_equal(gradient[[0, 1, 2, 3, 99]], [2, 2, 2, 1, 1])
    read_only(starts)
    again = rn.lookup_backward(np.ones((1, 2, 8), np.float32), INDICES[:1], SPEC, starts=starts)
    np.testing.assert_array_equal(again, gradient)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda good: good.tolist(), TypeError, "out must be a NumPy array, got list"),
        (lambda good: good.astype(np.float64), TypeError, "out has dtype float64"),
        (lambda good: good[:-1], ValueError, "out has shape"),
        (strided, ValueError, "out is not C-contiguous"),
        (read_only, ValueError, "out is read-only"),
    ],
)
def test_a_backward_pass_checks_what_it_fills(spoil, error, words):
    with pytest.raises(error, match=words):
        rn.lookup_backward(GRAD, INDICES, SPEC, out=spoil(np.ones(100, np.float32)))


def test_a_backward_pass_fills_memory_apart_from_what_it_reads():
    raw = np.ones(100, np.float32)
    grad_out = raw[:48].reshape(3, 2, 8)
    with pytest.raises(ValueError, match="out and grad_out share memory"):
        rn.lookup_backward(grad_out, INDICES, SPEC, out=raw)
    starts = np.full((3, 2, 2), 100)
    with pytest.raises(ValueError, match="starts has a value outside"):
        rn.lookup_backward(GRAD, INDICES, SPEC, starts, out=raw)
    assert raw.all()


def test_a_backward_pass_does_not_write_to_the_starts_that_it_is_given():
    starts = np.zeros((5, 2), np.int64)
    for call, _ in step_calls(np.zeros((3, 2, 2), np.int64), starts):
        call()
        assert not starts.any()


@pytest.mark.parametrize(("bad", "error", "words"), BAD_INDICES)
def test_every_function_checks_the_indices_and_writes_nothing(bad, error, words):
    values, state = array(), np.zeros(100, np.float32)
    grad_out = np.ones((len(bad), 2, 8), np.float32)
    calls = [
        lambda: rn.block_starts(bad, SPEC),
        lambda: rn.lookup(values, bad, SPEC),
        lambda: rn.lookup_dot_interaction(values, bad, np.ones((len(bad), 8), np.float32), SPEC),
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
    weights = values[:5]
    bags = (BAG_GRAD, BAG_INDICES, OFFSETS, RobeSpec(48, 4, 8, 2), "sum", weights)
    with pytest.raises(ValueError, match="array and per_sample_weights share memory"):
        rn.embedding_bag_sgd_update(values, *bags)
    with pytest.raises(ValueError, match="state_sum and per_sample_weights share memory"):
        rn.embedding_bag_adagrad_update(values.copy(), values, *bags)
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

    def copy(name, values):
        values.tofile(tmp_path / name)
        return np.memmap(tmp_path / name, values.dtype, "r+", shape=values.shape)

    starts = np.zeros((3, 2, 2), np.int64)
    arguments = (array(), np.zeros(100, np.float32), GRAD, INDICES)
    plain = [values.copy() for values in arguments]
    out = rn.lookup(plain[0], INDICES, SPEC, starts=starts)
    rn.adagrad_update(*plain, SPEC, starts=starts)
    files = [copy(str(i), values) for i, values in enumerate(arguments)]
    out_file, starts_file = copy("out", np.zeros_like(out)), copy("starts", np.zeros_like(starts))
    rn.lookup(files[0], files[3], SPEC, out=out_file, starts=starts_file)
    rn.adagrad_update(*files, SPEC, starts=starts_file)
    for in_file, expected in zip((*files, out_file, starts_file), (*plain, out, starts),
                                 strict=True):  # fmt: skip
        np.testing.assert_array_equal(in_file, expected)


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


def advised(name, values, refuse):
    """The array that a message says to use instead of one of a wrong dtype."""
    with pytest.raises(TypeError, match=f"{name} has dtype") as caught:
        refuse(values)
    _, advice = str(caught.value).split(": use ")
    return eval(advice, {name: values, "numpy": np})


@pytest.mark.parametrize(
    ("dtype", "ids"),
    [
        (np.float64, [3_000_000_000, -1, 2**53]),
        (np.longdouble, [3_000_000_000, -1, 2**62]),
        (object, [3_000_000_000, -1, 2**62]),
        (">i8", [3_000_000_000, -1, 2**62]),
        (">u8", [3_000_000_000, 2**64 - 1]),
        (">u4", [3_000_000_000, 1]),
        (np.uint16, [65_535, 1]),
        (np.int8, [-128, 127]),
        (np.bool_, [False, True]),
    ],
)
def test_ids_stay_the_same_as_advised(dtype, ids):
    spec, wrong = RobeSpec(100, 4, 8, 1), np.array(ids, dtype)[:, None]
    words = np.array([[value % 2**64] for value in ids], np.uint64)
    right = advised("indices", wrong, lambda indices: rn.lookup(array(), indices, spec))
    np.testing.assert_array_equal(rn.block_starts(right, spec), rn.block_starts(words, spec))
    bags = wrong[:, 0], np.array([0, len(ids)]), spec
    right = advised("indices", bags[0], lambda ids: rn.embedding_bag(array(), ids, *bags[1:]))
    assert [value % 2**64 for value in right.tolist()] == words[:, 0].tolist()
    offsets = np.array([0.0, len(ids)])
    right = advised("offsets", offsets, lambda b: rn.embedding_bag(array(), right, b, spec))
    assert right.tolist() == [0, len(ids)]


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.int32])
def test_values_stay_the_same_as_advised(dtype):
    wrong = (np.arange(100) / 7).astype(dtype)
    right = advised("array", wrong, lambda array: rn.lookup(array, INDICES, SPEC))
    np.testing.assert_array_equal(right, wrong)
    rn.lookup(right, INDICES, SPEC)
