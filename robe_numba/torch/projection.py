"""Filling a shared array so that it approximates trained tables."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import robe_numba as rn
from robe_numba.spec import RobeSpec
from robe_numba.torch.kernels import start_threads
from robe_numba.torch.reader import RobeReader

CHUNK = 1 << 22  # table elements taken at a time, at least


def project(tables: Mapping[RobeReader, Tensor | Sequence[Tensor]]) -> None:
    """Fill an array so that the modules that read it approximate trained tables.

    Each element of the array becomes the mean of all table elements that read it, multiplied by
    their signs, which is the least-squares fit. Elements that no table reads keep their values.

    Parameters
    ----------
    tables : mapping of module to Tensor, (num_embeddings, d)
        The trained table of each module; for `RobeTables` a sequence with one tensor per table.
        All modules must read the same array.

    Raises
    ------
    TypeError
        `tables` is not a mapping.
    ValueError
        The modules read different arrays, or a tensor does not have the shape of its table. The
        array is then unchanged.
    """
    if not isinstance(tables, Mapping):
        raise TypeError("tables must be a mapping of modules to trained tables: {module: weight}")
    arrays = {module.array for module in tables}
    if len(arrays) != 1:
        raise ValueError(f"the modules read {len(arrays)} arrays; call project once per array")
    (array,) = arrays
    whole = {
        module: [table] if isinstance(table, Tensor) else list(table)
        for module, table in tables.items()
    }
    for module, parts in whole.items():
        _check_tables(module.spec, parts)
    start_threads()
    total, count = np.zeros(array.size), np.zeros(array.size)
    for module, parts in whole.items():
        padding_idx = getattr(module, "padding_idx", None)  # a row that is not read
        _add_tables(module.spec, parts, padding_idx, total, count)
    weight = array.weight
    with torch.no_grad():
        mean = torch.from_numpy(total / np.maximum(count, 1)).to(weight)
        weight.copy_(torch.where(torch.from_numpy(count > 0).to(weight.device), mean, weight))


def _check_tables(spec: RobeSpec, tables: Sequence[Tensor]) -> None:
    """Require one table of the right shape for each table of a spec."""
    if spec.num_embeddings is None:
        raise ValueError(
            "num_embeddings is None; give the module the sizes of its tables to project them"
        )
    shapes = [tuple(table.shape) for table in tables]
    wanted = [(rows, spec.embedding_dim) for rows in spec.num_embeddings]
    if shapes != wanted:
        raise ValueError(f"the tables have shapes {shapes}; expected {wanted}")


def _add_tables(
    spec: RobeSpec,
    tables: Sequence[Tensor],
    padding_idx: int | None,
    total: np.ndarray,
    count: np.ndarray,
) -> None:
    """Add to each array element the signed table elements that read it, and their number."""
    unsigned = replace(spec, sign=False)
    chunk = max(1, max(CHUNK, spec.array_size) // (spec.num_tables * spec.embedding_dim))
    for first in range(0, max(map(len, tables)), chunk):
        parts = [table.detach()[first : first + chunk].cpu() for table in tables]
        # Each row is a bag of one id, and the table's elements are the gradient of its sum.
        ids = [np.arange(first, first + len(part)) for part in parts]
        sizes = [np.arange(max(map(len, parts))) < len(part) for part in parts]
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
        values = np.zeros((len(sizes[0]), spec.num_tables, spec.embedding_dim))
        for t, part in enumerate(parts):
            values[: len(part), t] = part.double().numpy()
        bags = np.concatenate(ids), offsets
        ones = np.ones_like(values)
        total += rn.embedding_bag_backward(values, *bags, spec, padding_idx=padding_idx)
        count += rn.embedding_bag_backward(ones, *bags, unsigned, padding_idx=padding_idx)


def filled(module: Any, table: Tensor, freeze: bool) -> Any:
    """The module, after its array was filled to approximate a table."""
    if freeze and module.array.optimizer is not None:
        raise ValueError("freeze is True, but the array has an optimizer, which steps; use False")
    project({module: table})
    return module.requires_grad_(False) if freeze else module
