"""What our results must equal before they are timed: NumPy arithmetic on `block_starts`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import robe_numba as rn
from perf.harness.places import here
from perf.harness.shapes import BenchBatch

SAMPLES = 2048  # most samples of a batch that are checked
LR = 2.0**-10  # a power of two: lr * gradient is exact for the gradients of a BenchBatch
EPS = 1e-10
# Steps may round once per read; the smallest wrong move, LR / 4, is 24 times as large.
STEP_ATOL = 1e-5


def positions(indices: np.ndarray, spec: rn.RobeSpec) -> np.ndarray:
    """The position in the array of each element of each row: int64 (n, num_tables, d)."""
    element = np.arange(spec.embedding_dim)
    starts = here().fetch(rn.block_starts(here().put(indices), spec))
    starts = starts[..., element // spec.block_size]
    return (starts + element % spec.block_size) % spec.array_size


def by_bags(batch: BenchBatch, weighted: bool) -> np.ndarray:
    """The factor of each id: (batch, bag, num_tables, 1), in the order of `BenchBatch.indices`."""
    shape = batch.shape
    weights = batch.weights if weighted else np.ones_like(batch.weights)
    in_order = weights.reshape(shape.num_tables, shape.batch, shape.bag)
    return in_order.transpose(1, 2, 0)[..., None]


def pooled(array: np.ndarray, batch: BenchBatch, spec: rn.RobeSpec, weighted: bool) -> np.ndarray:
    """The result of a forward pass: (batch, num_tables, d)."""
    shape = batch.shape
    rows = array[positions(batch.indices, spec)]
    rows = rows.reshape(shape.batch, shape.bag, shape.num_tables, shape.embedding_dim)
    return (rows * by_bags(batch, weighted)).sum(axis=1, dtype=rows.dtype)


def gradient(batch: BenchBatch, spec: rn.RobeSpec, weighted: bool) -> np.ndarray:
    """The dense gradient of the array: float64 (array_size,)."""
    values = batch.grad_out[:, None] * by_bags(batch, weighted)
    total = np.zeros(spec.array_size)
    np.add.at(total, positions(batch.indices, spec).ravel(), values.ravel())
    return total


def check_forward(
    out: Any, array: np.ndarray, batch: BenchBatch, spec: rn.RobeSpec, weighted: bool = False
) -> None:
    """Check the first samples of a forward pass; sums of bags may round in another order."""
    batch = batch.head(SAMPLES)
    out = here().fetch(out[: batch.shape.batch])
    expected = pooled(array, batch, spec, weighted)
    if batch.shape.bag == 1 and not weighted:
        np.testing.assert_array_equal(out, expected)
    else:
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def check_step(
    step: Callable[[Any, Any], object],
    array: np.ndarray,
    batch: BenchBatch,
    spec: rn.RobeSpec,
    adagrad: bool,
    weighted: bool = False,
) -> None:
    """Check a batch's first step, step(array, state_sum) with learning rate `LR`, on copies."""
    total = gradient(batch, spec, weighted)
    moved = here().put(array.copy())
    state = here().put(np.zeros_like(array)) if adagrad else None
    step(moved, state)
    moved = here().fetch(moved)
    if state is None:
        np.testing.assert_allclose(moved, array - LR * total, rtol=0, atol=STEP_ATOL)
    else:
        np.testing.assert_array_equal(here().fetch(state), total**2)
        expected = array - LR * total / (np.abs(total) + EPS)
        np.testing.assert_allclose(moved, expected, rtol=0, atol=STEP_ATOL)


def interaction(dense: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """The dense vector, then the dot product of each pair: (batch, d + (T + 1) T / 2)."""
    vectors = np.concatenate([dense[:, None], embeddings], axis=1)
    rows, columns = np.tril_indices(vectors.shape[1], -1)
    return np.hstack([dense, (vectors @ vectors.transpose(0, 2, 1))[:, rows, columns]])


def pooled_lists(array: np.ndarray, ids: Sequence[np.ndarray], spec: rn.RobeSpec) -> np.ndarray:
    """The sums of the rows of each table's ids (batch, ids in a row): (batch, num_tables, d)."""
    batch = len(ids[0])
    total = np.zeros((batch, len(ids), spec.embedding_dim), array.dtype)
    for place in range(max(part.shape[1] for part in ids)):
        has = np.array([part.shape[1] > place for part in ids])
        # Tables whose lists are shorter read an id too, which is not added.
        chosen = np.stack([part[:, min(place, part.shape[1] - 1)] for part in ids], axis=1)
        total += array[positions(chosen, spec)] * has[None, :, None]
    return total


def dlrm_logits(
    parameters: Mapping[str, np.ndarray],
    dense: np.ndarray,
    embeddings: np.ndarray,
    kind: str = "dot",
) -> np.ndarray:
    """Logits of a DLRM with the interaction "dot" or "dcn": (batch,), by `DLRM.parameters()`."""
    x = _mlp(dense, parameters, "bottom", final_relu=True)
    if kind == "dot":
        joined = interaction(x, embeddings)
    else:
        joined = _cross(np.hstack([x, embeddings.reshape(len(x), -1)]), parameters)
    return _mlp(joined, parameters, "top", final_relu=False)[:, 0]


def _cross(first: np.ndarray, parameters: Mapping[str, np.ndarray]) -> np.ndarray:
    x = first
    for layer in range(sum(name.startswith("cross.") for name in parameters) // 3):
        v, u, bias = (parameters[f"cross.{layer}.{part}"] for part in ("v", "u", "bias"))
        x = first * (x @ v.T @ u.T + bias) + x
    return x


def _mlp(
    x: np.ndarray, parameters: Mapping[str, np.ndarray], part: str, final_relu: bool
) -> np.ndarray:
    layers = sum(name.startswith(f"{part}.") and name.endswith("weight") for name in parameters)
    for layer in range(layers):
        x = x @ parameters[f"{part}.{layer}.weight"].T + parameters[f"{part}.{layer}.bias"]
        if final_relu or layer < layers - 1:
            x = np.maximum(x, 0)
    return x
