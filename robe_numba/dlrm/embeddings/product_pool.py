"""Pooling of rows that are made, not read: the products of `qr`."""

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

import numpy as np

from robe_numba.checks.bags import check_modes, check_weights
from robe_numba.dlrm.backends import backend_for, device_of
from robe_numba.dlrm.bags import Bags
from robe_numba.ops import embedding_bag, embedding_bag_backward
from robe_numba.spec import TableSpec

OTHER = -1  # in the place of ids that are pooled in another mode


def tables_of(bags: Bags) -> Any:
    """The table of each id of bags, int64 (n,)."""
    xp = backend_for(device_of(bags.offsets)).xp
    ends = bags.offsets[bags.batch :: max(bags.batch, 1)]
    return xp.searchsorted(ends, xp.arange(len(bags.values)), side="right")


class ProductPool:
    """Products of two rows for each id, pooled with the kernels of tables.

    The products are the rows of a table, which bag b of any feature reads in order. Its number of
    rows is rounded up to a power of two, so that batches of any size have few specs among them.

    Parameters
    ----------
    bags : Bags
        Their values are not used.
    tables : array, (n,) int64
        From `tables_of`.
    pooled_by : mapping of str to array, (num_tables,) bool
        For each mode that occurs, which tables have it.
    factors, others : array, (n, d)
        The rows to multiply.

    Raises
    ------
    ValueError
        On the CPU: ids of a feature that is not summed have weights other than 1.
    """

    def __init__(
        self, bags: Bags, tables: Any, pooled_by: Mapping[str, Any], factors: Any, others: Any
    ):
        if bags.weights is not None and device_of(factors) == "cpu":
            check_weights(bags.weights, bags.offsets, check_modes(bags.modes, len(bags.modes)))
        self._bags, self._tables, self._pooled_by = bags, tables, pooled_by
        self._xp = backend_for(device_of(factors)).xp
        count, dim = factors.shape
        self._spec = TableSpec((1 << max(count - 1, 0).bit_length(),), dim)
        self._products = self._xp.empty((self._spec.array_size // dim, dim), factors.dtype)
        np.multiply(factors, others, out=self._products[:count])

    def _arguments(self) -> Iterator[dict[str, Any]]:
        """What the functions of bags take, for each mode."""
        xp, bags = self._xp, self._bags
        rows = xp.arange(len(bags.values))
        for mode, chosen in self._pooled_by.items():
            yield {
                "indices": xp.where(chosen[self._tables], rows, OTHER),
                "offsets": bags.offsets,
                "spec": self._spec,
                "mode": mode,
                "per_sample_weights": bags.weights if mode == "sum" else None,
                "padding_idx": OTHER,
            }

    def pool(self, out: Any = None) -> Any:
        """The pooled products (batch, num_tables, d)."""
        bags, dim = self._bags, self._spec.embedding_dim
        if out is None:
            out = self._xp.empty((bags.batch, len(bags.modes), dim), self._products.dtype)
        # A bag is empty in all modes but its own.
        parts = (embedding_bag(self._products.reshape(-1), **given) for given in self._arguments())
        out[...] = (
            reduce(np.add, parts).reshape(len(bags.modes), bags.batch, dim).transpose(1, 0, 2)
        )
        return out

    def gradient(self, grad_out: Any) -> Any:
        """The gradient of the products (n, d), given that of the pooled ones."""
        bags, dim = self._bags, self._spec.embedding_dim
        by_table = grad_out.transpose(1, 0, 2).copy().reshape(-1, 1, dim)
        products = self._products.reshape(-1)
        parts = (
            embedding_bag_backward(by_table, **given, array=products) for given in self._arguments()
        )
        return reduce(np.add, parts).reshape(-1, dim)[: len(bags.values)]
