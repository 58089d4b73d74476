"""DLRM: bottom MLP, embeddings, interaction, top MLP; backpropagation by hand.

Source: Naumov et al., Deep Learning Recommendation Model, 2019, arXiv 1906.00091.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from robe_numba.checks.arrays import INDEX_DTYPES, check_scalar
from robe_numba.dlrm.backends import Batch, placement
from robe_numba.dlrm.embeddings.kinds import Embedding
from robe_numba.dlrm.gradient_buffer import Gradients, layers_of, named_views, sum_rows
from robe_numba.dlrm.layers.interaction import INTERACTIONS, cat_interaction
from robe_numba.dlrm.layers.loss import bce_with_logits, sigmoid
from robe_numba.dlrm.layers.mlp import mlp
from robe_numba.dlrm.optimizers import DenseOptimizer, check_rate
from robe_numba.dlrm.presets import DLRMConfig, init_parameters
from robe_numba.ops.devices import check_any_device


class DLRM:
    """A click model with one logit per row, on the device of its embedding.

    On the host it takes and gives NumPy arrays, and the result of every method is bit-identical
    for any number of threads (see `thread_pool.py`). On a GPU it takes arrays of CuPy or
    PyTorch and gives CuPy's, works on CuPy's current stream and waits for nothing: losses are
    arrays () there, and labels are not looked at. Results may differ in the last bits between
    batch sizes and devices. `robe_numba.dlrm.captured` makes small batches faster there.

    Parameters
    ----------
    config : widths of the MLPs, interaction.
    embedding : kind of embedding, with its own optimizer; see `make_embedding`. One that was
        moved by `Embedding.to("cuda")` makes a model on the GPU.
    seed : of the dense parameters.
    dtype : float32, or float64 for tests; the embedding's dtype too.
    optimizer : "sgd" or "adagrad", of the dense parameters.
    threads : of the layers, and of all in scoring; None takes Numba's number of threads, which the
        embedding's kernels and the optimizers always use in training. A GPU's are its own.

    Attributes
    ----------
    device : "cpu" or "cuda".
    place : what computes there.

    Raises
    ------
    ValueError : the embedding does not fit the configuration, or an unknown optimizer.
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
        if embedding.dtype != self.dtype:
            raise ValueError(f"the embedding is {embedding.dtype} but the model is {self.dtype}")
        self.device = embedding.device
        self.place = placement(self.device, threads)
        self._shapes = config.parameter_shapes()
        initial = init_parameters(config, np.random.default_rng(seed), self.dtype)
        flat = np.concatenate([values.reshape(-1) for values in initial.values()])
        self._flat, self._threads = self.place.put(flat), threads
        self._dense = named_views(self._flat, self._shapes)
        self._optimizer = DenseOptimizer(optimizer, {"dense": self._flat})

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made from; views of one memory would come apart."""
        return {
            "arguments": (self.config, self.embedding),
            "options": {"dtype": self.dtype, "optimizer": self.optimizer, "threads": self._threads},
            "dense": self._flat,
            "state": self._optimizer.state,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["arguments"], **state["options"])  # type: ignore[misc]
        self._flat[...] = state["dense"]
        for name, array in state["state"].items():
            self._optimizer.state[name][...] = array

    def parameters(self) -> dict[str, np.ndarray]:
        """All weights, live: "bottom.0.weight" (fan_out, fan_in), ..., "embedding.<name>"."""
        return self._dense | _prefixed(self.embedding.parameters())

    def state(self) -> dict[str, np.ndarray]:
        """What the optimizers remember, live: "<parameter>.state_sum"; empty for SGD."""
        state = {
            f"{name}.state_sum": view
            for flat in self._optimizer.state.values()
            for name, view in named_views(flat, self._shapes).items()
        }
        return state | _prefixed(self.embedding.state())

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Overwrite parameters and optimizer state in place.

        Parameters
        ----------
        arrays : every name of `parameters()` and `state()`, with equal shape and dtype, of either
            device; other names are ignored.

        Raises
        ------
        ValueError, TypeError : a name is missing or an array does not fit; nothing was written.
        """
        targets = self.parameters() | self.state()
        missing = sorted(set(targets) - set(arrays))
        if missing:
            raise ValueError(f"arrays lack {', '.join(missing)}")
        for name, target in targets.items():
            check_any_device(name, arrays[name], target.shape, (target.dtype,))
        for name, target in targets.items():
            target[...] = self.place.put(arrays[name])

    def logits(self, dense: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Score rows.

        Parameters
        ----------
        dense : dtype of the model (batch, num_dense)
        indices : int32, int64, uint32 or uint64 (batch, num_tables)

        Returns
        -------
        dtype of the model (batch,)

        Raises
        ------
        TypeError, ValueError : shapes or dtypes do not fit.
        """
        dense, indices = self._checked(dense, indices)
        out = self.place.empty((len(dense),), self.dtype)
        for start in range(0, len(dense), self.place.rows_at_once):
            rows = slice(start, start + self.place.rows_at_once)
            self._logits(dense[rows], indices[rows], out[rows])
        return out

    def predict(self, dense: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Click probabilities (batch,), sigmoid of `logits`, whose arguments it takes."""
        return sigmoid(self.logits(dense, indices))

    def loss_and_gradients(
        self, dense: np.ndarray, indices: np.ndarray, labels: np.ndarray
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Mean binary cross-entropy and its gradient for every parameter; nothing is updated.

        Parameters
        ----------
        dense, indices : as `logits` takes them.
        labels : dtype of the model (batch,), each 0 or 1

        Returns
        -------
        loss : float; on a GPU an array () there
        gradients : the names, shapes and dtype of `parameters()`, the embedding's as dense arrays

        Raises
        ------
        TypeError, ValueError : shapes, dtypes or labels do not fit.
        """
        loss, flat, grad_out, context = self.backpropagate(dense, indices, labels)
        gradients = named_views(flat.copy(), self._shapes)
        return loss, gradients | _prefixed(self.embedding.gradients(grad_out, context))

    def train_step(
        self,
        dense: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
        lr: float,
        embedding_lr: float | None = None,
        clip_norm: float | None = None,
    ) -> float:
        """One optimizer step on one batch; the loss before it, on a GPU an array () there.

        On the host a loss that is not finite moves nothing; a GPU is not waited for to know it.

        Parameters
        ----------
        dense, indices, labels : as `loss_and_gradients` takes them.
        lr : learning rate of the dense parameters.
        embedding_lr : learning rate of the embedding; None is `lr`.
        clip_norm : scale the gradient down to this Euclidean norm if it is longer; None does not.
            The gradient is that of the dense parameters and of every looked-up embedding (batch,
            num_tables, d), before those that share elements are added up.

        Raises
        ------
        TypeError, ValueError : shapes, dtypes or labels do not fit; nothing was updated.
        """
        # All before the first update, so that an error leaves everything as it was.
        lr, embedding_lr, clip_norm = check_rates(lr, embedding_lr, clip_norm)
        loss, flat, grad_out, context = self.backpropagate(dense, indices, labels)
        if self.device == "cpu" and not math.isfinite(loss):
            return loss
        if clip_norm is not None:
            gradients = (flat, grad_out)
            self.place.clip(gradients, self.place.squares(gradients), clip_norm)
        self.embedding.update(grad_out, context, embedding_lr)
        self.update_dense(flat, lr)
        return loss

    def update_dense(self, gradient: np.ndarray, lr: float) -> None:
        """One optimizer step of the dense parameters.

        Parameters
        ----------
        gradient : dtype of the model (n,), flat, as `backpropagate` gives it.
        lr : learning rate.
        """
        self._optimizer.step({"dense": gradient}, lr)

    def feed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches of the host, with arrays on the model's device.

        To a GPU each is copied while the one before it is computed with.

        Parameters
        ----------
        batches : named tuples of C-contiguous NumPy arrays (rows, ...) or None.

        Yields
        ------
        the same tuples; their arrays are overwritten once the next was asked for
        """
        return self.place.feed(batches)

    def _checked(self, dense: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both, of the place's library: on a GPU they may be PyTorch's."""
        rows = len(dense)
        self.place.check("dense", dense, (rows, self.config.num_dense), (self.dtype,))
        self.place.check("indices", indices, (rows, self.config.num_tables), INDEX_DTYPES)
        return self.place.put(dense), self.place.put(indices)

    def _logits(self, dense: np.ndarray, indices: np.ndarray, out: np.ndarray) -> None:
        config, parts = self.config, self.place.parts(len(dense))
        bottom, top = (layers_of(self._dense, name) for name in ("bottom", "top"))

        def score(part: int) -> None:
            features, ids = dense[parts[part]], indices[parts[part]]
            outs = self.place.outputs(config, len(features), self.dtype)
            x, _ = mlp(features, bottom, final_relu=True, outs=outs.bottom)
            if config.interaction == "dot":
                joined = self.embedding.lookup_dot_interaction(ids, x, outs.joined)
            else:
                embeddings, _ = self.embedding.lookup(ids, False, self._room("embeddings", ids))
                joined, _ = cat_interaction(x, embeddings, outs.joined)
            outs.top[-1] = out[parts[part], None]
            mlp(joined, top, final_relu=False, outs=outs.top)

        self.place.run(score, len(parts))

    def _room(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Kept memory like the embeddings of a batch."""
        return self.place.room(name, (*indices.shape, self.config.embedding_dim), self.dtype)

    def _forward(
        self, dense: np.ndarray, embeddings: np.ndarray
    ) -> tuple[np.ndarray, Callable[..., None]]:
        """Logits of some rows and their backward, both in memory of the thread that runs them."""
        config, rows = self.config, len(dense)
        interaction, _ = INTERACTIONS[config.interaction]
        bottom, top = (layers_of(self._dense, name) for name in ("bottom", "top"))
        outs = self.place.outputs(config, rows, self.dtype)
        x, backward_bottom = mlp(dense, bottom, final_relu=True, outs=outs.bottom)
        joined, backward_interaction = interaction(x, embeddings, outs.joined)
        logits, backward_top = mlp(joined, top, final_relu=False, outs=outs.top)

        def backward(
            grad_logits: np.ndarray, gradients: dict[str, np.ndarray], grad_embeddings: np.ndarray
        ) -> None:
            bottom, top = (layers_of(gradients, name) for name in ("bottom", "top"))
            widths = (config.bottom_widths[:-1], config.top_widths[:-1])
            of_bottom, of_top = self.place.grads(*widths, rows=rows, dtype=self.dtype)
            grad_joined, _ = backward_top(grad_logits[:, None], top, of_top)
            grad_x, _ = backward_interaction(grad_joined, grad_embeddings)
            # Nothing learns from the gradient of the dense features.
            backward_bottom(grad_x, bottom, of_bottom, wanted=False)

        return logits[:, 0], backward

    def backpropagate(
        self,
        dense: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
        count: int | None = None,
        keep: bool = True,
    ) -> Gradients:
        """Loss and gradients of a batch before any update, for a step of your own.

        Parameters
        ----------
        dense, indices, labels : as `loss_and_gradients` takes them.
        count : rows of the whole batch, when these are a part of it: then the losses and gradients
            of the parts add up to those of the whole. None is the number of rows given.
        keep : whether to give the context that `Embedding.update` takes.

        Returns
        -------
        gradients, in memory that is the caller's for as long as it refers to them

        Raises
        ------
        TypeError, ValueError : shapes, dtypes or labels do not fit.
        """
        dense, indices = self._checked(dense, indices)
        self.place.check("labels", labels, (len(dense),), (self.dtype,))
        self.place.check_labels(labels)
        whole = len(labels) if count is None else count
        room = self._room("embeddings", indices)
        embeddings, context = self.embedding.lookup(indices, keep, room)
        grad_embeddings = self._room("grad_embeddings", indices)
        parts = self.place.parts(len(dense))
        flat = self.place.room("gradients", (len(parts), self._flat.size), self.dtype)

        def learn(part: int) -> Any:
            rows = parts[part]
            logits, backward = self._forward(dense[rows], embeddings[rows])
            loss, backward_loss = bce_with_logits(logits, labels[rows], count=whole)
            backward(backward_loss(), named_views(flat[part], self._shapes), grad_embeddings[rows])
            return loss

        losses = self.place.run(learn, len(parts))
        total = flat[0]
        if len(parts) > 1:
            total = self.place.room("gradient", total.shape, self.dtype)
            sum_rows(flat, total)
        return Gradients(sum(losses), total, grad_embeddings, context)


def check_rates(
    lr: float, embedding_lr: float | None, clip_norm: float | None
) -> tuple[float, float, float | None]:
    """Require what `DLRM.train_step` takes; the embedding's rate is `lr` if it has none."""
    lr = check_rate("lr", lr)
    embedding_lr = lr if embedding_lr is None else check_rate("embedding_lr", embedding_lr)
    return lr, embedding_lr, None if clip_norm is None else check_scalar("clip_norm", clip_norm, 0)


def _prefixed(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"embedding.{name}": array for name, array in arrays.items()}
