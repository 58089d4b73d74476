"""One optimizer step on a batch whose rows are spread over processes, each with the whole model."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from robe_numba.dlrm import DLRM
from robe_numba.dlrm.backends import backend_for
from robe_numba.dlrm.captured import capture_train_step
from robe_numba.dlrm.optimizers import check_rates
from robe_numba.parallel.carriers.base import Carrier, Done, Pending, Traffic, share_of
from robe_numba.parallel.exchange import AUTO, EXCHANGES, Exchange, Plan, check_exchange
from robe_numba.parallel.group import Group


class DataParallel:
    """Trains one model in all processes of a group, each with its share of every batch.

    All have the same bits after each step, and the same bits again in another run of as many
    processes. One process trains as `DLRM.train_step` does.

    Parameters
    ----------
    model : of the same bits in all processes.
    group : the processes.
    batch_size : rows of a full batch, all processes together.
    index_dtype : dtype of the ids.
    exchange : way of the embedding's gradient, "gather" or "reduce" (see
        `robe_numba.parallel.exchange`), or "auto" for the one that brings fewer bytes.

    Attributes
    ----------
    plan : bytes of a step; None for one process.

    Raises
    ------
    ValueError : an unknown exchange, or fewer rows than processes.
    """

    def __init__(
        self,
        model: DLRM,
        group: Group,
        batch_size: int,
        index_dtype: Any = np.uint32,
        exchange: str = AUTO,
    ):
        check_exchange(exchange)
        check_batch_size(batch_size, group.size)
        self.model, self._group, self._batch_size = model, group, batch_size
        self._captured: dict[Any, Callable[..., Any]] = {}
        self.plan: Plan | None = None
        self._shared: tuple[Carrier, Exchange] | None = None
        if group.size > 1:
            carrier = group.carrier(model.device)
            ways: dict[str, Exchange] = {
                name: make(model.embedding, carrier) for name, make in EXCHANGES.items()
            }
            self.plan = self._choose(carrier, ways, batch_size, np.dtype(index_dtype), exchange)
            self._shared = carrier, ways[self.plan.exchange]
            self._backend = backend_for(model.device, threads=1)

    def _choose(
        self,
        carrier: Carrier,
        ways: dict[str, Exchange],
        batch_size: int,
        index_dtype: np.dtype,
        exchange: str,
    ) -> Plan:
        mine = {name: way.bytes(batch_size, index_dtype) for name, way in ways.items()}
        # The most of any process, so that all choose alike.
        most = {name: self._group.highest(count) for name, count in mine.items()}
        if exchange == AUTO:
            exchange = min(most, key=lambda name: most[name])
        model, item = self.model, self.model.dtype.itemsize
        embedded = sum(array.size for array in model.embedding.parameters().values())
        elements = sum(array.size for array in model.parameters().values()) - embedded
        dense = carrier.sum_bytes(elements, item)
        numbers = 2 * np.dtype(np.float64).itemsize * (self._group.size - 1)
        total = self._group.highest(mine[exchange] + dense + numbers)
        return Plan(exchange, most, self._group.highest(dense), total)

    def _captured_step(self, index_dtype: Any, clip_norm: float | None) -> Callable[..., Any]:
        """The step of full batches on a GPU."""
        key = np.dtype(index_dtype), clip_norm
        if key not in self._captured:
            arguments = self.model, self._batch_size, index_dtype, clip_norm
            self._captured[key] = capture_train_step(*arguments)
        return self._captured[key]

    @property
    def traffic(self) -> Traffic:
        """What was carried so far."""
        return Traffic() if self._shared is None else self._shared[0].traffic

    def train_step(
        self,
        dense: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
        rows: int,
        lr: float,
        embedding_lr: float | None = None,
        clip_norm: float | None = None,
    ) -> Any:
        """One step on one batch, called by all processes; the loss of the whole batch before it.

        On the host a loss that is not finite moves nothing, in any process.

        Parameters
        ----------
        dense, indices, labels : this process's rows, as `DLRM.train_step` takes them: of a batch
            of `rows` rows those of `share_of(rows, rank, size)`, which may be none.
        rows : of the whole batch.
        lr, embedding_lr, clip_norm : as `DLRM.train_step` takes them.

        Raises
        ------
        TypeError, ValueError : shapes, dtypes or labels do not fit; nothing was updated.
        """
        if self._shared is None:
            if self.model.device == "cpu" or len(labels) != self._batch_size:
                return self.model.train_step(dense, indices, labels, lr, embedding_lr, clip_norm)
            step = self._captured_step(indices.dtype, clip_norm)
            return step(dense, indices, labels, lr, embedding_lr)
        share = share_of(rows, self._group.rank, self._group.size)
        if len(labels) != len(share):
            raise ValueError(
                f"rank {self._group.rank} was given {len(labels)} rows; its share of {rows} are "
                f"{len(share)}"
            )
        lr, embedding_lr, clip_norm = check_rates(lr, embedding_lr, clip_norm)

        model, (carrier, exchange) = self.model, self._shared
        exchange.begin(indices, rows)
        loss, flat, grad_out, context = model.backpropagate(
            dense, indices, labels, count=rows, keep=exchange.computes_first
        )
        squares = 0.0
        if clip_norm is not None:
            carrier.wait(carrier.start(carrier.add_up, flat))
            squares = self._backend.sum_of_squares((grad_out,))
        loss, squares = carrier.wait(carrier.start(carrier.add_numbers, (loss, squares)))
        if model.device == "cpu" and not math.isfinite(loss):
            return loss
        if clip_norm is not None:
            squares += self._backend.sum_of_squares((flat,))
            self._backend.clip((flat, grad_out), squares, clip_norm)
        # The dense gradient travels while the embedding is updated. An exchange that computes first
        # leaves time for it before that; one that sends at once goes first.
        summed: Pending[Any] = Done(flat)
        if clip_norm is None and exchange.computes_first:
            summed = carrier.start(carrier.add_up, flat)
        exchange.send(grad_out, context)
        if clip_norm is None and not exchange.computes_first:
            summed = carrier.start(carrier.add_up, flat)
        exchange.update(embedding_lr)
        model.update_dense(carrier.wait(summed), lr)
        return loss


def check_batch_size(batch_size: int, processes: int) -> None:
    """Require a row for each process; ValueError otherwise."""
    if batch_size < processes:
        raise ValueError(
            f"batch_size is {batch_size} but {processes} processes train together; give each at "
            f"least one row, or start fewer"
        )
