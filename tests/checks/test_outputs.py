"""What calls fill: checked like what they read, and apart from it."""

import numpy as np
import pytest

import robe_numba as rn
from tests.support.inputs import (
    BAG_GRAD,
    BAG_INDICES,
    GRAD,
    INDICES,
    OFFSETS,
    SPEC,
    array,
    masked,
    read_only,
    strided,
    unaligned,
)


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
    for backward in (
        lambda out: rn.lookup_backward(GRAD, INDICES, SPEC, out=out),
        lambda out: rn.embedding_bag_backward(BAG_GRAD, BAG_INDICES, OFFSETS, SPEC, out=out),
    ):
        with pytest.raises(error, match=words):
            backward(spoil(np.ones(100, np.float32)))


def test_a_backward_pass_fills_memory_apart_from_what_it_reads():
    raw = np.ones(100, np.float32)
    grad_out = raw[:48].reshape(3, 2, 8)
    with pytest.raises(ValueError, match="out and grad_out share memory"):
        rn.lookup_backward(grad_out, INDICES, SPEC, out=raw)
    bags = BAG_INDICES, OFFSETS, SPEC
    with pytest.raises(ValueError, match="out and grad_out share memory"):
        rn.embedding_bag_backward(raw[:32].reshape(2, 2, 8), *bags, out=raw)
    with pytest.raises(ValueError, match="out and array share memory"):
        rn.embedding_bag_backward(BAG_GRAD, *bags, "max", array=raw, out=raw)
    starts = np.full((3, 2, 2), 100)
    with pytest.raises(ValueError, match="starts has a value outside"):
        rn.lookup_backward(GRAD, INDICES, SPEC, starts, out=raw)
    assert raw.all()
