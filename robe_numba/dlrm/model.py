"""DLRM: bottom MLP, embeddings, interaction, top MLP; backpropagation by hand.

Source: Naumov et al., Deep Learning Recommendation Model, 2019, arXiv 1906.00091.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from robe_numba.dlrm.backends import Rows, backend_for
from robe_numba.dlrm.bags import Bags, MultiHot, bags_of, check_ids
from robe_numba.dlrm.config import DLRMConfig
from robe_numba.dlrm.dense_part import DensePart, Gradients
from robe_numba.dlrm.embeddings.base import Embedding
from robe_numba.dlrm.layers.loss import sigmoid
from robe_numba.dlrm.optimizers import check_rates
from robe_numba.ops.devices import check_any_device


class DLRM:
    """A click model with one logit per row, on the device of its embedding.

    On the CPU it takes and returns NumPy arrays, and the result of every method is bit-identical
    for any number of threads (see `thread_pool.py`). On a GPU it takes arrays of CuPy or PyTorch
    and returns CuPy's. It works on CuPy's current stream and never waits for it: losses are arrays
    () there, and labels are not checked. Results may differ in the last bits between batch sizes
    and devices. `robe_numba.dlrm.cuda_graphs` makes small batches faster on a GPU.

    Parameters
    ----------
    config : DLRMConfig
        Widths of the MLPs, interaction.
    embedding : Embedding
        With its own optimizer, and the pooling of `config`; see `make_embedding`. One that
        `Embedding.to("cuda")` moved makes a model on the GPU, and one of `Embedding.stored_as` a
        model that can only score.
    seed : int
        Seed of the dense parameters.
    dtype : dtype
        float32, or float64 for tests; also that of the embedding.
    optimizer : str
        "sgd" or "adagrad", of the dense parameters.
    threads : int, optional
        Threads of the layers, and of everything in scoring; by default Numba's number of threads,
        which the embedding's kernels and the optimizers always use in training. Ignored on a GPU.

    Attributes
    ----------
    device : str
        "cpu" or "cuda".
    backend : Backend
        What computes on that device.

    Raises
    ------
    ValueError
        The embedding does not fit the configuration, or the optimizer is unknown.
    """

    def __init__(
        self,
        config: DLRMConfig,
        embedding: Embedding,
        *,
        seed: int = 0,
        dtype: Any = np.float32,
        optimizer: str = "sgd",
        threads: int | None = None,
    ):
        self.config = config
        self.embedding = embedding
        self.dtype = np.dtype(dtype)
        self.optimizer = optimizer
        for name in ("num_tables", "embedding_dim"):
            if getattr(embedding, name) != getattr(config, name):
                raise ValueError(
                    f"{name} is {getattr(embedding, name)} in the embedding but "
                    f"{getattr(config, name)} in the configuration; make them equal"
                )
        if embedding.pooling != config.pooling:
            raise ValueError(
                f"pooling is {embedding.pooling} in the embedding but {config.pooling} in the "
                f"configuration; make them equal"
            )
        if embedding.dtype != self.dtype:
            raise ValueError(f"the embedding is {embedding.dtype} but the model is {self.dtype}")
        self.device = embedding.device
        self._threads = threads
        self.backend = backend_for(self.device, threads)
        self._dense = DensePart(config, self.backend, seed, self.dtype, optimizer)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made from; copied views would no longer share the flat array."""
        return {
            "arguments": (self.config, self.embedding),
            "options": {"dtype": self.dtype, "optimizer": self.optimizer, "threads": self._threads},
            "arrays": self._dense.parameters() | self._dense.state(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["arguments"], **state["options"])  # type: ignore[misc]
        for name, array in (self._dense.parameters() | self._dense.state()).items():
            array[...] = state["arrays"][name]

    def parameters(self) -> dict[str, np.ndarray]:
        """All weights, live: "bottom.0.weight" (fan_out, fan_in), ..., "embedding.<name>"."""
        return self._dense.parameters() | _prefixed(self.embedding.parameters())

    def state(self) -> dict[str, np.ndarray]:
        """The optimizers' sums, live: "<parameter>.state_sum"; empty for SGD."""
        return self._dense.state() | _prefixed(self.embedding.state())

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Overwrite parameters and optimizer state in place.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            Every name of `parameters()` and `state()`, with equal shape and dtype, on either
            device; other names are ignored.

        Raises
        ------
        ValueError, TypeError
            A name is missing or an array does not fit; nothing was written.
        """
        targets = self.parameters() | self.state()
        missing = sorted(set(targets) - set(arrays))
        if missing:
            raise ValueError(f"arrays lack {', '.join(missing)}")
        for name, target in targets.items():
            check_any_device(name, arrays[name], target.shape, (target.dtype,))
        for name, target in targets.items():
            target[...] = self.backend.asarray(arrays[name])

    def logits(
        self, dense: np.ndarray, indices: np.ndarray, multi_hot: MultiHot | None = None
    ) -> np.ndarray:
        """Score rows.

        Parameters
        ----------
        dense : ndarray, (batch, num_dense) of the model's dtype
            Dense features.
        indices : ndarray, (batch, num_single) int32, int64, uint32 or uint64
            Raw ids of the features with a single id: all, unless the configuration has pooling.
        multi_hot : (values, offsets, weights), optional
            Raw ids of the T2 multi-hot features, as `Batch.multi_hot` has them: values (n,) of the
            dtype of `indices`; offsets (T2 * batch + 1,), integers, where the ids of feature t in
            row b are values[offsets[t * batch + b]:offsets[t * batch + b + 1]]; and weights (n,)
            or None. Weights of features that are not summed must be 1.

        Returns
        -------
        ndarray, (batch,) of the model's dtype

        Raises
        ------
        TypeError, ValueError
            Shapes or dtypes do not fit.
        """
        dense, ids = self._checked(dense, indices, multi_hot)
        out = self.backend.empty((len(dense),), self.dtype)
        self._dense.score(dense, ids, self.embedding, out)
        return out

    def predict(
        self, dense: np.ndarray, indices: np.ndarray, multi_hot: MultiHot | None = None
    ) -> np.ndarray:
        """Click probabilities (batch,), sigmoid of `logits`, whose arguments it takes."""
        return sigmoid(self.logits(dense, indices, multi_hot))

    def loss_and_gradients(
        self,
        dense: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
        multi_hot: MultiHot | None = None,
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Mean binary cross-entropy and its gradient for every parameter; nothing is updated.

        Parameters
        ----------
        dense, indices, multi_hot
            As for `logits`.
        labels : ndarray, (batch,) of the model's dtype
            Each 0 or 1.

        Returns
        -------
        loss : float
            On a GPU an array () there.
        gradients : dict of str to ndarray
            Names, shapes and dtype of `parameters()`, the embedding's as dense arrays.

        Raises
        ------
        TypeError, ValueError
            Shapes, dtypes or labels do not fit.
        """
        loss, flat, grad_out, context = self.backpropagate(
            dense, indices, labels, multi_hot=multi_hot
        )
        gradients = self._dense.named(flat.copy())
        return loss, gradients | _prefixed(self.embedding.gradients(grad_out, context))

    def train_step(
        self,
        dense: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
        lr: float,
        embedding_lr: float | None = None,
        clip_norm: float | None = None,
        multi_hot: MultiHot | None = None,
    ) -> float:
        """Make one optimizer step on one batch.

        Parameters
        ----------
        dense, indices, labels, multi_hot
            As for `loss_and_gradients`.
        lr : float
            Learning rate of the dense parameters.
        embedding_lr : float, optional
            Learning rate of the embedding; by default `lr`.
        clip_norm : float, optional
            Scale the gradient down to this Euclidean norm if it is longer. The gradient is that of
            the dense parameters and of every looked-up embedding (batch, num_tables, d), pooled
            ones included, before those that share elements are added up.

        Returns
        -------
        float
            The loss before the step; on a GPU an array () there. On the CPU nothing is updated if
            it is not finite; on a GPU that is not checked, since it would mean waiting.

        Raises
        ------
        TypeError, ValueError
            Shapes, dtypes or labels do not fit; nothing was updated.
        """
        # All checks come before the first update, so that an error leaves everything as it was.
        lr, embedding_lr, clip_norm = check_rates(lr, embedding_lr, clip_norm)
        loss, flat, grad_out, context = self.backpropagate(
            dense, indices, labels, multi_hot=multi_hot
        )
        if self.device == "cpu" and not math.isfinite(loss):
            return loss
        if clip_norm is not None:
            gradients = (flat, grad_out)
            self.backend.clip(gradients, self.backend.sum_of_squares(gradients), clip_norm)
        self.embedding.update(grad_out, context, embedding_lr)
        self.update_dense(flat, lr)
        return loss

    def update_dense(self, gradient: np.ndarray, lr: float) -> None:
        """Make one optimizer step of the dense parameters, given the flat gradient (n,)."""
        self._dense.update(gradient, lr)

    def feed(self, batches: Iterable[Rows]) -> Iterator[Rows]:
        """Move batches to the model's device; to a GPU while the batch before is used.

        Parameters
        ----------
        batches : iterable of named tuples
            Their fields are C-contiguous NumPy arrays (rows, ...), lists of any length among
            them, or None. The arrays of what is yielded are overwritten once the next batch is
            requested.
        """
        return self.backend.feed(batches)

    def backpropagate(
        self,
        dense: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
        count: int | None = None,
        keep: bool = True,
        multi_hot: MultiHot | None = None,
    ) -> Gradients:
        """Loss and gradients of a batch before any update, for a step of your own.

        Parameters
        ----------
        dense, indices, labels, multi_hot
            As for `loss_and_gradients`.
        count : int, optional
            Rows of the whole batch where these are a part of it: then the losses and gradients of
            the parts add up to those of the whole. By default the number of rows given.
        keep : bool
            Whether to return the context that `Embedding.update` takes.

        Returns
        -------
        Gradients
            Their memory is reused once the caller drops them.

        Raises
        ------
        TypeError, ValueError
            Shapes, dtypes or labels do not fit.
        """
        self.embedding.check_trainable()
        dense, ids = self._checked(dense, indices, multi_hot)
        self.backend.check("labels", labels, (len(dense),), (self.dtype,))
        self.backend.check_labels(labels)
        rows = len(labels) if count is None else count
        shape = (len(dense), self.config.num_tables, self.config.embedding_dim)
        out = self.backend.scratch("embeddings", shape, self.dtype)
        embeddings, context = self.embedding.lookup(ids, keep, out)
        grad_embeddings = self.backend.scratch("grad_embeddings", shape, self.dtype)
        loss, flat = self._dense.backpropagate(dense, embeddings, labels, rows, grad_embeddings)
        return Gradients(loss, flat, grad_embeddings, context)

    def _checked(
        self, dense: np.ndarray, indices: np.ndarray, multi_hot: MultiHot | None
    ) -> tuple[np.ndarray, np.ndarray | Bags]:
        """Dense features and ids as arrays of the backend: on a GPU they may be PyTorch's."""
        backend, config, rows = self.backend, self.config, len(dense)
        backend.check("dense", dense, (rows, config.num_dense), (self.dtype,))
        ids, lists = check_ids(backend, config, rows, indices, multi_hot, self.dtype)
        if lists is not None:
            ids = bags_of(backend.xp, ids, lists, config.pooling)
        return backend.asarray(dense), ids


def _prefixed(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"embedding.{name}": array for name, array in arrays.items()}
