"""Calls of the kernels on tensors, without copies, on their device and its current stream.

Nothing here is recorded for autograd.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple, NoReturn

import ml_dtypes
import numpy as np
import torch
from numba.np.ufunc import parallel
from torch import Tensor
from torch.nn import functional

import robe_numba as rn
from robe_numba.checks.arrays import check_stored_array
from robe_numba.checks.arrays import real_dtype as real_dtype_of
from robe_numba.checks.bags import BagArguments, check_bags
from robe_numba.checks.ids import check_indices
from robe_numba.checks.scalars import type_name
from robe_numba.memory import aligned_empty
from robe_numba.ops.bags import pool_bags
from robe_numba.ops.rows import read_rows
from robe_numba.spec import RobeSpec

INDICES = (torch.int64, torch.int32, torch.uint64, torch.uint32)


class Rows(NamedTuple):
    """One id per table."""

    indices: Tensor  # (..., num_tables), or of any shape if there is one table
    spec: RobeSpec
    padding_idx: int | None


class Bags(NamedTuple):
    """Bags of ids."""

    indices: Tensor  # (n,)
    offsets: Tensor  # (num_tables * batch + 1,), table-major
    weights: Tensor | None  # (n,)
    spec: RobeSpec
    mode: str
    padding_idx: int | None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `robe_numba.embedding_bag` and of its gradients and updates."""
        return {
            "indices": view(self.indices),
            "offsets": view(self.offsets),
            "spec": self.spec,
            "mode": self.mode,
            "per_sample_weights": None if self.weights is None else view(self.weights),
            "padding_idx": self.padding_idx,
        }


@lru_cache(maxsize=1024)
def spec_of(text: str) -> RobeSpec:
    """The spec from its JSON; operators take JSON, as a graph can hold a string."""
    return RobeSpec.from_json(text)


def view(tensor: Tensor) -> Any:
    """A tensor as the kernels take it: on the CPU a NumPy view, on a GPU the tensor itself."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    tensor = tensor.contiguous()
    if tensor.is_cuda:
        return tensor
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


@cache
def start_threads() -> None:
    """Start Numba's threads without changing torch's number of threads.

    Where both use OpenMP, starting Numba's threads sets that number too.
    """
    number = torch.get_num_threads()
    parallel._launch_threads()
    torch.set_num_threads(number)


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of arithmetic: float32 for halves."""
    return torch.float32 if dtype.itemsize == 2 else dtype


def lookup(array: Tensor, rows: Rows, keep_starts: bool) -> tuple[Tensor, Tensor]:
    """Read rows (*indices.shape, d) of the array's dtype.

    Also returns the starts of their blocks, (*indices.shape, num_blocks) int64, or (0,) if they are
    not kept.
    """
    start_threads()
    indices, spec, padding_idx = rows
    try:
        _check_dtype("indices", indices, INDICES)
        check_indices_shape(indices, spec)
        read = _lookup_on_gpu if array.is_cuda else _lookup_on_cpu
        out, starts = read(array, indices, spec, keep_starts)
    except (TypeError, ValueError) as error:
        if spec.num_tables == 1 and not array.is_cuda:
            _raise_as_torch(error, spec, array.dtype, functional.embedding, indices)
        raise
    if padding_idx is not None:
        out.masked_fill_(_padding(rows), 0)
    return _as_dtype(out, array.dtype), starts


def _lookup_on_cpu(
    array: Tensor, indices: Tensor, spec: RobeSpec, keep_starts: bool
) -> tuple[Tensor, Tensor]:
    """As `robe_numba.lookup`, but checks only the caller's tensors, to save time."""
    stored = check_stored_array(view(array), spec)
    ids, shape = check_indices(_as_rows(indices, spec), spec), indices.shape
    out = aligned_empty((*shape, spec.embedding_dim), real_dtype_of(stored))
    starts = np.empty((*shape, spec.num_blocks) if keep_starts else (0,), np.int64)
    read_rows(stored, ids, spec, starts.view(np.uint64).reshape(-1), out)
    return torch.from_numpy(out), torch.from_numpy(starts)


def _lookup_on_gpu(
    array: Tensor, indices: Tensor, spec: RobeSpec, keep_starts: bool
) -> tuple[Tensor, Tensor]:
    """As `robe_numba.lookup`, into memory allocated by torch, which tracks streams."""
    out = _empty((*indices.shape, spec.embedding_dim), array)
    starts = _starts((*indices.shape, spec.num_blocks), keep_starts, array.device)
    rn.lookup(
        view(array),
        _as_rows(indices, spec),
        spec,
        out=_as_rows(out, spec, spec.embedding_dim),
        starts=_as_rows(starts, spec, spec.num_blocks) if keep_starts else None,
    )
    return out, starts


def lookup_gradient(grad_out: Tensor, rows: Rows, starts: Tensor) -> Tensor:
    """The gradient (array_size,) of the array under `lookup`."""
    arguments = lookup_arguments(grad_out, rows, starts)
    if not grad_out.is_cuda:
        return _as_dtype(torch.from_numpy(rn.lookup_backward(**arguments)), grad_out.dtype)
    gradient = _empty((rows.spec.array_size,), grad_out)
    rn.lookup_backward(**arguments, out=view(gradient))
    return _as_dtype(gradient, grad_out.dtype)


def lookup_arguments(grad_out: Tensor, rows: Rows, starts: Tensor) -> dict[str, Any]:
    """Keyword arguments of the gradients and updates of rows."""
    spec = rows.spec
    grads = grad_out.to(real_dtype(grad_out.dtype))
    if rows.padding_idx is not None:
        grads = grads.masked_fill(_padding(rows), 0)
    return {
        "grad_out": _as_rows(grads, spec, spec.embedding_dim),
        "indices": _as_rows(rows.indices, spec),
        "spec": spec,
        "starts": _as_rows(starts, spec, spec.num_blocks) if starts.numel() else None,
    }


def embedding_bag(array: Tensor, bags: Bags, keep_starts: bool) -> tuple[Tensor, Tensor]:
    """Pool bags (batch, num_tables, d) of the array's dtype.

    Also returns the starts of all blocks read, (n, num_blocks) int64, or (0,) where they are not
    kept.
    """
    start_threads()
    spec, real = bags.spec, real_dtype(array.dtype)
    if bags.weights is not None and bags.weights.dtype == array.dtype:
        bags = bags._replace(weights=bags.weights.to(real))
    try:
        _check_dtype("indices", bags.indices, INDICES)
        _check_dtype("offsets", bags.offsets, INDICES)
        if bags.weights is not None:
            _check_dtype("per_sample_weights", bags.weights, (real,))
        pool = _pool_on_gpu if array.is_cuda else _pool_on_cpu
        out, starts = pool(array, bags, keep_starts)
    except (TypeError, ValueError) as error:
        if spec.num_tables == 1 and not array.is_cuda and _may_ask_torch(bags):
            _raise_as_torch(error, spec, array.dtype, _embedding_bag, bags)
        raise
    return _as_dtype(out, array.dtype), starts


def _pool_on_cpu(array: Tensor, bags: Bags, keep_starts: bool) -> tuple[Tensor, Tensor]:
    """As `robe_numba.embedding_bag`; see `_lookup_on_cpu`."""
    spec, stored = bags.spec, check_stored_array(view(array), bags.spec)
    arguments = bags.arguments()
    del arguments["spec"]
    checked = check_bags(BagArguments(**arguments), spec, real_dtype_of(stored))
    shape = (checked.batch, spec.num_tables, spec.embedding_dim)
    out = aligned_empty(shape, real_dtype_of(stored))
    places = (bags.indices.numel(), spec.num_blocks) if keep_starts else (0,)
    starts = np.empty(places, np.int64)
    pool_bags(stored, checked, spec, starts.view(np.uint64).reshape(-1), out)
    return torch.from_numpy(out), torch.from_numpy(starts)


def _pool_on_gpu(array: Tensor, bags: Bags, keep_starts: bool) -> tuple[Tensor, Tensor]:
    """As `robe_numba.embedding_bag`, into memory allocated by torch, which tracks streams."""
    spec = bags.spec
    starts = _starts((bags.indices.numel(), spec.num_blocks), keep_starts, array.device)
    batch = (bags.offsets.numel() - 1) // spec.num_tables
    out = _empty((batch, spec.num_tables, spec.embedding_dim), array)
    kept = view(starts) if keep_starts else None
    rn.embedding_bag(view(array), **bags.arguments(), out=view(out), starts=kept)
    return out, starts


def bag_gradient(array: Tensor | None, grad_out: Tensor, bags: Bags, starts: Tensor) -> Tensor:
    """The gradient (array_size,) of the array under `embedding_bag`; "max" needs the array."""
    values = None if array is None else view(array.to(real_dtype(array.dtype)))
    gradient = rn.embedding_bag_backward(array=values, **bag_arguments(grad_out, bags, starts))
    made = torch.from_dlpack(gradient) if grad_out.is_cuda else torch.from_numpy(gradient)
    return made.to(grad_out.dtype)


def bag_arguments(grad_out: Tensor, bags: Bags, starts: Tensor) -> dict[str, Any]:
    """Keyword arguments of the gradients and updates of bags."""
    real = real_dtype(grad_out.dtype)
    if bags.weights is not None:
        bags = bags._replace(weights=bags.weights.to(real))
    return {
        "grad_out": view(grad_out.to(real)),
        "starts": view(starts) if starts.numel() else None,
        **bags.arguments(),
    }


def weights_gradient(array: Tensor, grad_out: Tensor, bags: Bags) -> Tensor:
    """The gradient (n,) of the weights: each row times the gradient of its bag."""
    spec, indices = bags.spec, bags.indices.long()  # torch writes no unsigned ids to places
    batch = max((bags.offsets.numel() - 1) // spec.num_tables, 1)
    sizes = bags.offsets.diff()
    bag = torch.repeat_interleave(sizes, output_size=len(indices))
    table = bag // batch
    # A lookup takes one id per table, so the ids of each table become a column.
    of_table = sizes.view(spec.num_tables, -1).sum(1)
    place = torch.arange(len(bag), device=bag.device) - (of_table.cumsum(0) - of_table)[table]
    columns = indices.new_zeros((int(of_table.max()), spec.num_tables))
    columns[place, table] = indices
    rows, _ = lookup(array, Rows(columns, spec, bags.padding_idx), False)
    gradient = (rows[place, table] * grad_out[bag % batch, table]).sum(-1)
    return gradient.to(grad_out.dtype)


def check_indices_shape(indices: Tensor, spec: RobeSpec) -> None:
    """Require one id per table in the last dimension; a single table takes any shape."""
    if spec.num_tables > 1 and indices.shape[-1:] != (spec.num_tables,):
        raise ValueError(
            f"indices has shape {tuple(indices.shape)}; expected (..., num_tables) with "
            f"num_tables = {spec.num_tables}"
        )


def _check_dtype(name: str, tensor: Any, dtypes: tuple[torch.dtype, ...]) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type_name(tensor)}; use torch.tensor")
    if tensor.dtype not in dtypes:
        raise TypeError(
            f"{name} has dtype {tensor.dtype}; it must be {' or '.join(map(str, dtypes))}: use "
            f"{name}.to({dtypes[0]})"
        )


def _starts(shape: tuple[int, ...], keep: bool, device: torch.device) -> Tensor:
    """Memory for starts, or (0,) if they are not kept."""
    return torch.empty(shape if keep else (0,), dtype=torch.int64, device=device)


def _empty(shape: tuple[int, ...], array: Tensor) -> Tensor:
    """Memory for a result."""
    return torch.empty(shape, dtype=real_dtype(array.dtype), device=array.device)


def _as_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _as_rows(tensor: Tensor, spec: RobeSpec, *rest: int) -> Any:
    """A tensor (..., num_tables, *rest) as the kernels take it: (batch, num_tables, *rest)."""
    return view(tensor).reshape(-1, spec.num_tables, *rest)


def _padding(rows: Rows) -> Tensor:
    """Where rows (..., 1) are padding."""
    return (rows.indices == rows.padding_idx).unsqueeze(-1)


def _raise_as_torch(
    error: Exception,
    spec: RobeSpec,
    dtype: torch.dtype,
    function: Callable[[Any, Tensor], Tensor],
    indices: Any,
) -> NoReturn:
    """Raise an error with torch's type and words added, if torch refuses these arguments too.

    torch's function is called with a table that takes no memory.
    """
    rows = 1 if spec.num_embeddings is None else spec.num_embeddings[0]
    try:
        function(indices, torch.empty((1, 1), dtype=dtype).expand(rows, 1))
    except Exception as refusal:
        words = str(refusal).partition("\n")[0]
        raise type(refusal)(f"{error} ({words})") from None
    raise error


def _embedding_bag(bags: Bags, table: Tensor) -> Tensor:
    """torch's `embedding_bag`, called with the bags of one table."""
    last = _rises(bags.offsets)
    return functional.embedding_bag(
        bags.indices,
        table,
        bags.offsets if last else bags.offsets[:-1],
        mode=bags.mode,
        per_sample_weights=bags.weights,
        include_last_offset=last,
        padding_idx=bags.padding_idx,
    )


def _may_ask_torch(bags: Bags) -> bool:
    """Whether torch refuses these bags or can take them; it crashes on some that end too early."""
    offsets = bags.offsets
    if offsets.numel() == 0 or int(offsets[-1]) < bags.indices.numel():
        return False
    return _rises(offsets[:-1])


def _rises(offsets: Tensor) -> bool:
    """Whether the offsets never decrease."""
    return bool((offsets.diff() >= 0).all())
