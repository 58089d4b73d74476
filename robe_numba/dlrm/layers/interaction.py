"""The interaction of a row's dense vector with its embeddings: dot products or concatenation.

Source: Naumov et al., Deep Learning Recommendation Model, 2019, arXiv 1906.00091.
"""

from collections.abc import Callable

import numpy as np

from robe_numba.checks.arrays import ARRAY_DTYPES, check_array
from robe_numba.kernels.cpu.interaction import (
    dot_backward,
    dot_forward,
    padded,
    padded_width,
    products_size,
)
from robe_numba.ops.devices import on_any_device

InteractionBackward = Callable[..., tuple[np.ndarray, np.ndarray]]


def _check_inputs(dense: np.ndarray, embeddings: np.ndarray) -> tuple[int, int, int]:
    check_array("embeddings", embeddings, None, ARRAY_DTYPES)
    if embeddings.ndim != 3:
        raise ValueError(
            f"embeddings has shape {embeddings.shape}; expected (batch, num_tables, d)"
        )
    batch, num_tables, dim = embeddings.shape
    check_array("dense", dense, (batch, dim), (embeddings.dtype,))
    return batch, num_tables, dim


def _into(
    name: str, given: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    if given is None:
        return np.empty(shape, dtype)
    return check_array(name, given, shape, (dtype,))


def dot_width(num_tables: int, embedding_dim: int) -> int:
    """Columns of `dot_interaction`: d + (T + 1) T / 2."""
    return embedding_dim + (num_tables + 1) * num_tables // 2


def cat_width(num_tables: int, embedding_dim: int) -> int:
    """Columns of `cat_interaction`: (T + 1) d."""
    return (num_tables + 1) * embedding_dim


@on_any_device("layers")
def dot_interaction(
    dense: np.ndarray, embeddings: np.ndarray, out: np.ndarray | None = None
) -> tuple[np.ndarray, InteractionBackward]:
    """The dense vector, then the dot product of each pair of the row's T + 1 vectors.

    With v_0 the dense vector and v_1 ... v_T the embeddings, the pairs follow as the strictly
    lower triangle in rows: <v_1, v_0>, <v_2, v_0>, <v_2, v_1>, <v_3, v_0>, ...

    Parameters
    ----------
    dense : ndarray, (batch, d) float32 or float64
        Output of the bottom MLP.
    embeddings : ndarray, (batch, num_tables, d), dtype of `dense`
        Embeddings of each row.
    out : ndarray, (batch, d + (T + 1) T / 2), dtype of `dense`, optional
        Receives the result and is returned.

    Returns
    -------
    out : ndarray, (batch, d + (T + 1) T / 2), dtype of `dense`
        The interaction.
    backward : function
        backward(grad_out, grad_embeddings=None) -> (grad_dense, grad_embeddings); the second
        argument receives that gradient.

    Raises
    ------
    TypeError, ValueError
        Shapes or dtypes do not fit each other.
    """
    batch, num_tables, dim = _check_inputs(dense, embeddings)
    rows = padded(num_tables + 1)
    vectors = np.zeros((rows, padded_width(dim)), dense.dtype)
    out = _into("out", out, (batch, dot_width(num_tables, dim)), dense.dtype)
    products = np.empty(products_size(num_tables + 1), dense.dtype)
    dot_forward(dense, embeddings, vectors, products, out)

    def backward(
        grad_out: np.ndarray, grad_embeddings: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        check_array("grad_out", grad_out, out.shape, (out.dtype,))
        grad_dense = np.empty_like(dense)
        grad_embeddings = _into("grad_embeddings", grad_embeddings, embeddings.shape, dense.dtype)
        grads, weights = np.zeros_like(vectors), np.zeros((rows, rows), dense.dtype)
        inputs = (dense, embeddings, grad_out)
        dot_backward(*inputs, vectors, grads, weights, grad_dense, grad_embeddings)
        return grad_dense, grad_embeddings

    return out, backward


@on_any_device("layers")
def cat_interaction(
    dense: np.ndarray, embeddings: np.ndarray, out: np.ndarray | None = None
) -> tuple[np.ndarray, InteractionBackward]:
    """The dense vector and the embeddings side by side; arguments as for `dot_interaction`.

    Returns
    -------
    out : ndarray, (batch, (T + 1) d), dtype of `dense`
        The interaction.
    backward : function
        As that of `dot_interaction`.

    Raises
    ------
    TypeError, ValueError
        Shapes or dtypes do not fit each other.
    """
    batch, num_tables, dim = _check_inputs(dense, embeddings)
    out = _into("out", out, (batch, cat_width(num_tables, dim)), dense.dtype)
    np.concatenate([dense, embeddings.reshape(batch, num_tables * dim)], axis=1, out=out)

    def backward(
        grad_out: np.ndarray, grad_embeddings: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        check_array("grad_out", grad_out, out.shape, (out.dtype,))
        grad_embeddings = _into("grad_embeddings", grad_embeddings, embeddings.shape, dense.dtype)
        grad_embeddings[...] = grad_out[:, dim:].reshape(embeddings.shape)
        return grad_out[:, :dim].copy(), grad_embeddings

    return out, backward


# Of "dcn" a cross network follows, which has parameters; see `cross.py`.
INTERACTIONS = {
    "dot": (dot_interaction, dot_width),
    "cat": (cat_interaction, cat_width),
    "dcn": (cat_interaction, cat_width),
}
