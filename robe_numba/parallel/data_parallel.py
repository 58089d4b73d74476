"""Training steps on batches whose rows are spread over processes, each with the whole model."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from robe_numba._share_of import share_of
from robe_numba.dlrm import DLRM
from robe_numba.dlrm.backends import backend_for
from robe_numba.dlrm.bags import MultiHot, check_ids
from robe_numba.dlrm.cuda_graphs import capture_train_step
from robe_numba.dlrm.optimizers import check_rates
from robe_numba.parallel.carriers.base import Carrier, Done, Pending, Traffic
from robe_numba.parallel.exchange import (
    AUTO,
    EXCHANGES,
    Exchange,
    ExchangePlan,
    ListSizes,
    check_exchange,
)
from robe_numba.parallel.group import Group

NO_LISTS = ListSizes()


class DataParallel:
    """Trains one model in all processes of a group, each with its share of every batch.

    After each step all processes have the same bits, and they have them again in another run with
    the same number of processes. One process trains as `DLRM.train_step` does.

    Parameters
    ----------
    model : DLRM
        Of the same bits in all processes.
    group : Group
        The processes.
    batch_size : int
        Rows of a full batch, all processes together.
    index_dtype : dtype
        Of the ids.
    exchange : str
        How the embedding's gradient travels: "gather" or "reduce" (see
        `robe_numba.parallel.exchange`), or "auto" for the one that brings fewer bytes.
    lists : ListSizes
        How long the lists of multi-hot features are on average; plan and choice count with it.

    Attributes
    ----------
    plan : ExchangePlan, optional
        Bytes of a step; None for one process.

    Raises
    ------
    ValueError
        The exchange is unknown, or there are fewer rows than processes.
    """

    def __init__(
        self,
        model: DLRM,
        group: Group,
        batch_size: int,
        index_dtype: Any = np.uint32,
        exchange: str = AUTO,
        lists: ListSizes = NO_LISTS,
    ):
        check_exchange(exchange)
        check_batch_size(batch_size, group.size)
        self.model, self._group, self._batch_size = model, group, batch_size
        self._captured: dict[Any, Callable[..., Any]] = {}
        self.plan: ExchangePlan | None = None
        self._shared: _SharedSteps | None = None
        if group.size > 1:
            carrier = group.carrier(model.device)
            exchanges: dict[str, Exchange] = {
                name: kind(model.embedding, carrier) for name, kind in EXCHANGES.items()
            }
            self.plan = self._plan(carrier, exchanges, np.dtype(index_dtype), exchange, lists)
            self._shared = _SharedSteps(model, carrier, exchanges[self.plan.exchange])

    def _plan(
        self,
        carrier: Carrier,
        exchanges: dict[str, Exchange],
        index_dtype: np.dtype,
        chosen: str,
        lists: ListSizes,
    ) -> ExchangePlan:
        batch = self._batch_size, index_dtype, lists
        mine = {name: each.bytes(*batch) for name, each in exchanges.items()}
        # The most of any process, so that all choose alike.
        most = {name: self._group.all_max(count) for name, count in mine.items()}
        if chosen == AUTO:
            chosen = min(most, key=lambda name: most[name])
        model, itemsize = self.model, self.model.dtype.itemsize
        embedded = sum(array.size for array in model.embedding.parameters().values())
        elements = sum(array.size for array in model.parameters().values()) - embedded
        dense = carrier.all_reduce_bytes(elements, itemsize)
        loss_and_norm = 2 * np.dtype(np.float64).itemsize * (self._group.size - 1)
        total = self._group.all_max(mine[chosen] + dense + loss_and_norm)
        return ExchangePlan(chosen, most, self._group.all_max(dense), total, lists.ids)

    @property
    def traffic(self) -> Traffic:
        """What was carried so far."""
        return Traffic() if self._shared is None else self._shared.carrier.traffic

    def train_step(
        self,
        dense: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
        rows: int,
        lr: float,
        embedding_lr: float | None = None,
        clip_norm: float | None = None,
        multi_hot: MultiHot | None = None,
    ) -> Any:
        """Make one step on one batch; all processes call it.

        Parameters
        ----------
        dense, indices, labels, multi_hot
            This process's rows, as for `DLRM.train_step`: of a batch of `rows` rows those of
            `share_of(rows, rank, size)`, which may be none.
        rows : int
            Rows of the whole batch.
        lr, embedding_lr, clip_norm : float
            As for `DLRM.train_step`.

        Returns
        -------
        float
            Loss of the whole batch before the step; on a GPU an array () there. On the CPU nothing
            is updated in any process if it is not finite.

        Raises
        ------
        TypeError, ValueError
            Shapes, dtypes or labels do not fit; nothing was updated.
        """
        batch = dense, indices, labels
        if self._shared is None:
            lists = self.model.config.pooling or multi_hot
            if self.model.device == "cpu" or lists or len(labels) != self._batch_size:
                return self.model.train_step(*batch, lr, embedding_lr, clip_norm, multi_hot)
            return self._captured_step(indices.dtype, clip_norm)(*batch, lr, embedding_lr)
        share = share_of(rows, self._group.rank, self._group.size)
        if len(labels) != len(share):
            raise ValueError(
                f"rank {self._group.rank} was given {len(labels)} rows; its share of {rows} is "
                f"{len(share)}"
            )
        rates = check_rates(lr, embedding_lr, clip_norm)
        return self._shared.step(_Share(*batch, multi_hot, rows), *rates)

    def _captured_step(self, index_dtype: Any, clip_norm: float | None) -> Callable[..., Any]:
        """The step of full batches on a GPU."""
        key = np.dtype(index_dtype), clip_norm
        if key not in self._captured:
            arguments = self.model, self._batch_size, index_dtype, clip_norm
            self._captured[key] = capture_train_step(*arguments)
        return self._captured[key]


class _Share(NamedTuple):
    """The rows of a batch that one process has."""

    dense: Any
    indices: Any
    labels: Any
    multi_hot: MultiHot | None
    batch_rows: int  # of all processes


class _SharedSteps:
    """The steps of several processes."""

    def __init__(self, model: DLRM, carrier: Carrier, exchange: Exchange):
        self._model, self.carrier, self._exchange = model, carrier, exchange
        self._backend = backend_for(model.device, threads=1)

    def step(self, share: _Share, lr: float, embedding_lr: float, clip_norm: float | None) -> Any:
        model, carrier, exchange = self._model, self.carrier, self._exchange
        exchange.begin(*self._checked_ids(share), share.batch_rows)
        loss, flat, grad_out, context = model.backpropagate(
            share.dense,
            share.indices,
            share.labels,
            count=share.batch_rows,
            keep=exchange.computes_first,
            multi_hot=share.multi_hot,
        )
        squares = 0.0
        if clip_norm is not None:
            carrier.wait(carrier.start(carrier.all_reduce, flat))
            squares = self._backend.sum_of_squares((grad_out,))
        sums = carrier.start(carrier.all_reduce_scalars, (loss, squares))
        loss, squares = carrier.wait(sums)
        if model.device == "cpu" and not math.isfinite(loss):
            return loss
        if clip_norm is not None:
            squares += self._backend.sum_of_squares((flat,))
            self._backend.clip((flat, grad_out), squares, clip_norm)
        # Without clipping, the dense gradient travels while the embedding is updated: before an
        # exchange that computes first, since it has that time; after one that sends at once.
        summed: Pending[Any] = Done(flat)
        if clip_norm is None and exchange.computes_first:
            summed = carrier.start(carrier.all_reduce, flat)
        exchange.send(grad_out, context)
        if clip_norm is None and not exchange.computes_first:
            summed = carrier.start(carrier.all_reduce, flat)
        exchange.update(embedding_lr)
        model.update_dense(carrier.wait(summed), lr)
        return loss

    def _checked_ids(self, share: _Share) -> tuple[Any, MultiHot | None]:
        """The ids to send; lists are checked first, as their lengths decide what is sent."""
        model = self._model
        if not model.config.pooling:
            return share.indices, None
        rows, ids = len(share.dense), (share.indices, share.multi_hot)
        return check_ids(self._backend, model.config, rows, *ids, model.dtype)


def check_batch_size(batch_size: int, processes: int) -> None:
    """Raise ValueError unless a batch has a row for each process."""
    if batch_size < processes:
        raise ValueError(
            f"batch_size is {batch_size} but {processes} processes train together; give each at "
            f"least one row, or start fewer"
        )
