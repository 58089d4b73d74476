"""Everything of a DLRM but its embedding: both MLPs, the interaction and their optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from robe_numba.dlrm.backends import Backend
from robe_numba.dlrm.bags import Bags
from robe_numba.dlrm.config import DLRMConfig, init_parameters
from robe_numba.dlrm.embeddings.base import Embedding
from robe_numba.dlrm.gradient_buffer import cross_layers_of, layers_of, named_views, sum_rows
from robe_numba.dlrm.layers.cross import cross_network
from robe_numba.dlrm.layers.interaction import INTERACTIONS, cat_interaction
from robe_numba.dlrm.layers.loss import bce_with_logits
from robe_numba.dlrm.layers.mlp import mlp
from robe_numba.dlrm.optimizers import DenseOptimizer


class Gradients(NamedTuple):
    """Loss and gradients of a batch."""

    loss: Any  # float; on a GPU an array () there
    dense: Any  # (n,), of all dense parameters, flat
    embeddings: Any  # (batch, num_tables, d), of what was looked up
    context: Any  # of the lookup; None where it was not kept


class DensePart:
    """The dense parameters of a DLRM, in one flat array, and the layers that use them.

    Parameters
    ----------
    config : DLRMConfig
        Widths of the MLPs, interaction.
    backend : Backend
        What computes.
    seed : int
        Seed of the initial parameters.
    dtype : dtype
        float32 or float64.
    optimizer : str
        "sgd" or "adagrad".

    Attributes
    ----------
    flat : ndarray, (n,)
        All parameters, live.
    """

    def __init__(
        self, config: DLRMConfig, backend: Backend, seed: int, dtype: np.dtype, optimizer: str
    ):
        self._config, self._backend, self._dtype = config, backend, dtype
        self._shapes = config.parameter_shapes()
        initial = init_parameters(config, np.random.default_rng(seed), dtype)
        self.flat = backend.asarray(np.concatenate([a.reshape(-1) for a in initial.values()]))
        self._optimizer = DenseOptimizer(optimizer, {"dense": self.flat})
        self._parameters = self.named(self.flat)

    def named(self, flat: Any) -> dict[str, Any]:
        """Views of an array (n,) by the names and shapes of the parameters."""
        return named_views(flat, self._shapes)

    def parameters(self) -> dict[str, Any]:
        """The parameters by name, live."""
        return dict(self._parameters)

    def state(self) -> dict[str, Any]:
        """Adagrad's sums by "<parameter>.state_sum", live; empty for SGD."""
        return {
            f"{name}.state_sum": view
            for flat in self._optimizer.state.values()
            for name, view in self.named(flat).items()
        }

    def update(self, gradient: Any, lr: float) -> None:
        """One optimizer step, given a flat gradient (n,)."""
        self._optimizer.step({"dense": gradient}, lr)

    def score(self, dense: Any, indices: Any, embedding: Embedding, out: Any) -> None:
        """Write the logits of a batch to `out` (batch,); indices are an array or `Bags`."""
        most = self._backend.scoring_rows
        for start in range(0, len(dense), most):
            batch = slice(start, start + most)
            ids = indices.of_rows(batch) if isinstance(indices, Bags) else indices[batch]
            self._score(dense[batch], ids, embedding, out[batch])

    def _score(self, dense: Any, indices: Any, embedding: Embedding, out: Any) -> None:
        config, parts = self._config, self._backend.split(len(dense))
        bottom, top = (layers_of(self._parameters, name) for name in ("bottom", "top"))
        interaction, _ = INTERACTIONS[config.interaction]
        crossing = cross_layers_of(self._parameters)
        pooled = self._pooled(indices, embedding) if isinstance(indices, Bags) else None

        def score(part: int) -> None:
            rows = parts[part]
            features = dense[rows]
            outs = self._backend.layer_outputs(config, len(features), self._dtype, keep=False)
            x, _ = mlp(features, bottom, final_relu=True, outs=outs.bottom)
            if pooled is not None:
                joined, _ = interaction(x, pooled[rows], outs.joined)
            elif config.interaction == "dot":
                joined = embedding.lookup_dot_interaction(indices[rows], x, outs.joined)
            else:
                ids = indices[rows]
                shape = (*ids.shape, config.embedding_dim)
                embeddings = self._backend.scratch("embeddings", shape, self._dtype)
                embeddings, _ = embedding.lookup(ids, False, embeddings)
                joined, _ = cat_interaction(x, embeddings, outs.joined)
            joined, _ = cross_network(joined, crossing, outs=outs.cross)
            outs.top[-1] = out[rows, None]
            mlp(joined, top, final_relu=False, outs=outs.top)

        self._backend.run(score, len(parts))

    def _pooled(self, bags: Bags, embedding: Embedding) -> Any:
        """The embeddings (batch, num_tables, d) of bags, which are not cut into parts."""
        shape = (bags.batch, self._config.num_tables, self._config.embedding_dim)
        out = self._backend.scratch("embeddings", shape, self._dtype)
        self._backend.run(lambda part: embedding.lookup(bags, False, out), 1, uses_blas=False)
        return out

    def backpropagate(
        self, dense: Any, embeddings: Any, labels: Any, count: int, grad_embeddings: Any
    ) -> tuple[Any, Any]:
        """Loss and flat gradient (n,) of a batch; grad_embeddings (batch, num_tables, d) is filled.

        `count` is what the sums over rows are divided by.
        """
        parts = self._backend.split(len(dense))
        flat = self._backend.scratch("gradients", (len(parts), self.flat.size), self._dtype)

        def learn(part: int) -> Any:
            rows = parts[part]
            logits, backward = self._forward(dense[rows], embeddings[rows])
            loss, backward_loss = bce_with_logits(logits, labels[rows], count=count)
            backward(backward_loss(), flat[part], grad_embeddings[rows])
            return loss

        loss = sum(self._backend.run(learn, len(parts)))
        if len(parts) == 1:
            return loss, flat[0]
        total = self._backend.scratch("gradient", flat[0].shape, self._dtype)
        sum_rows(flat, total)
        return loss, total

    def _forward(self, dense: Any, embeddings: Any) -> tuple[Any, Callable[..., None]]:
        """Logits (rows,) of some rows and their backward, in memory of the calling thread.

        backward(grad_logits, gradient, grad_embeddings) writes the flat gradient (n,) of the
        parameters and that of the embeddings (rows, num_tables, d).
        """
        config, rows = self._config, len(dense)
        interaction, _ = INTERACTIONS[config.interaction]
        bottom, top = (layers_of(self._parameters, name) for name in ("bottom", "top"))
        outs = self._backend.layer_outputs(config, rows, self._dtype)
        crossing = cross_layers_of(self._parameters)
        x, backward_bottom = mlp(dense, bottom, final_relu=True, outs=outs.bottom)
        joined, backward_interaction = interaction(x, embeddings, outs.joined)
        joined, backward_cross = cross_network(joined, crossing, outs=outs.cross)
        logits, backward_top = mlp(joined, top, final_relu=False, outs=outs.top)

        def backward(grad_logits: Any, gradient: Any, grad_embeddings: Any) -> None:
            named = self.named(gradient)
            bottom, top = (layers_of(named, name) for name in ("bottom", "top"))
            widths = (config.bottom_widths[:-1], config.top_widths[:-1])
            inputs = self._backend.layer_gradients(*widths, rows=rows, dtype=self._dtype)
            grad_joined, _ = backward_top(grad_logits[:, None], top, inputs[1])
            grad_joined, _ = backward_cross(grad_joined, cross_layers_of(named))
            grad_x, _ = backward_interaction(grad_joined, grad_embeddings)
            # Nothing learns from the gradient of the dense features.
            backward_bottom(grad_x, bottom, inputs[0], wanted=False)

        return logits[:, 0], backward
