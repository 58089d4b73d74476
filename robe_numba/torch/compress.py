"""Replacing the embedding tables of a model by modules that read a shared array."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from robe_numba.checks.scalars import check_scalar, type_name
from robe_numba.formatting import format_bytes
from robe_numba.spec import MAX_SIZE, check_int
from robe_numba.torch.array import SCALE, RobeArray
from robe_numba.torch.embedding import RobeEmbedding
from robe_numba.torch.embedding_bag import RobeEmbeddingBag
from robe_numba.torch.fused import FusedOptimizer
from robe_numba.torch.projection import project

INITS = ("fresh", "project")
SAMPLE = 1 << 20  # elements of a table whose scale is measured


class CompressedTable(NamedTuple):
    """One line of the report: an embedding of the model."""

    module: str  # its names in the model, comma-separated
    rows: int
    embedding_dim: int
    bytes_before: int
    bytes_after: int  # its share of the array, or bytes_before if the table was kept


@dataclass(frozen=True)
class CompressionReport:
    """What `compress` did. Prints as a table.

    Attributes
    ----------
    tables : list of CompressedTable
        All embeddings in the order of the model, including those that were kept.
    arrays : list of RobeArray
        The shared arrays that the new modules read, usually one.
    """

    tables: list[CompressedTable]
    arrays: list[RobeArray]

    @property
    def bytes_before(self) -> int:
        """Bytes of all tables before."""
        return sum(table.bytes_before for table in self.tables)

    @property
    def bytes_after(self) -> int:
        """Bytes of the arrays and of the tables that were kept, without an optimizer's state."""
        return sum(table.bytes_after for table in self.tables)

    def __str__(self) -> str:
        header = ("module", "rows", "d", "before", "after")
        lines = [header, *map(_cells, self.tables)]
        sums = (self.bytes_before, self.bytes_after)
        lines.append(("total", "", "", *map(format_bytes, sums)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
            for line in lines
        )


def compress(
    model: nn.Module,
    compression: float = 100,
    min_rows: int = 1000,
    init: str = "fresh",
    *,
    optimizer: FusedOptimizer | None = None,
    exclude: Collection[str] = (),
    block_size: int | None = None,
    alignment: int = 1,
) -> tuple[nn.Module, CompressionReport]:
    """Replace every large embedding table of a model by reads of one small shared array.

    Each `nn.Embedding` and `nn.EmbeddingBag` is replaced, in place, by a module that is called in
    the same way and gives outputs of the same shape and dtype. A module that is used twice stays
    one module, and two modules that share a weight still read the same rows. Devices, dtypes,
    training mode and frozen weights are kept: there is one array for each combination of device,
    dtype and frozen or trained.

    Parameters
    ----------
    model : Module
        It is changed in place. Subclasses of the two modules are left as they are.
    compression : float
        How many times smaller the array is than the tables that it replaces.
    min_rows : int
        Tables with fewer rows are kept.
    init : {"fresh", "project"}
        "fresh" draws random values with the root mean square of the tables' elements, to train
        from scratch; "project" approximates the tables, to fine-tune (see `project`).
    optimizer : FusedSGD or FusedAdagrad, optional
        Updates the array during backward. By default the array is a parameter for `torch.optim`.
    exclude : collection of str
        Names of embeddings to keep, as in `model.named_modules()`.
    block_size, alignment : int
        As in `Options`.

    Returns
    -------
    model : Module
        The same object, or a new module if the model is itself an embedding.
    report : CompressionReport
        Sizes of each table before and after.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong; no table is large enough; or a table cannot be replaced, because it
        has `max_norm`, `scale_grad_by_freq` or hooks, was compiled by itself, or another module
        uses its weight. The model is then unchanged.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type_name(model)}")
    if check_scalar("compression", compression, 0) == 0:
        raise ValueError("compression is 0; it must be positive, such as 100")
    min_rows = check_int("min_rows", min_rows, 1, MAX_SIZE)
    if init not in INITS:
        raise ValueError(f"init is {init!r}; choose one of {', '.join(INITS)}")
    names = _tables(model)
    replaced = _chosen(names, min_rows, exclude)
    for table in replaced:
        _check_table(model, table, names[table], replaced)

    groups = defaultdict(list)
    for table in replaced:
        weight = table.weight
        groups[weight.device, weight.dtype, weight.requires_grad].append(table)
    new: dict[Any, Any] = {}
    arrays = []
    options = {"block_size": block_size, "alignment": alignment}
    for tables in groups.values():
        array = _array_for(tables, compression, optimizer)
        arrays.append(array)
        made = _readers(tables, array, options)
        if init == "project":
            project({made[table]: table.weight for table in tables})
        new |= made
    report = CompressionReport(list(_lines(names, new)), arrays)
    for table, module in new.items():
        for name in names[table]:
            parent, _, own = name.rpartition(".")
            if own:
                model.get_submodule(parent)._modules[own] = module
            else:
                model = module
    return model, report


def _tables(model: nn.Module) -> dict[Any, list[str]]:
    """All embeddings of a model, each with all its names."""
    names = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) in (nn.Embedding, nn.EmbeddingBag):
            names[module].append(name)
    return names


def _chosen(names: dict[Any, list[str]], min_rows: int, exclude: Collection[str]) -> list[Any]:
    """The embeddings to replace."""
    if isinstance(exclude, str):
        raise TypeError(f"exclude is the string {exclude!r}; use a list: exclude=[{exclude!r}]")
    unknown = set(exclude) - {name for known in names.values() for name in known}
    if unknown:
        raise ValueError(f"exclude has {min(unknown)!r}, which is not an embedding of the model")
    replaced = [
        table
        for table, known in names.items()
        if table.num_embeddings >= min_rows and not set(known) & set(exclude)
    ]
    if not replaced:
        remedy = "lower min_rows or exclude fewer" if names else "it has none of any size"
        raise ValueError(
            f"the model has no nn.Embedding or nn.EmbeddingBag of at least {min_rows} rows to "
            f"replace; {remedy}"
        )
    return replaced


def _check_table(model: nn.Module, table: Any, names: list[str], replaced: list[Any]) -> None:
    """Require that a table can be replaced."""
    name = names[0]
    keep = f"exclude={[name]!r} keeps it as it is"
    for option in ("max_norm", "scale_grad_by_freq"):
        if getattr(table, option):
            raise ValueError(
                f"{name or 'the model'} has {option}, which a hashed table cannot have, as its "
                f"rows share their elements; {keep}"
            )
    lost = _lost(table, names)
    if lost:
        raise ValueError(
            f"{name or 'the model'} {lost}, which the module in its place would not have; do that "
            f"after compress, or {keep}"
        )
    for other_name, other in model.named_modules():
        if other not in replaced and any(p is table.weight for p in other._parameters.values()):
            raise ValueError(
                f"the weight of {name} is also that of {other_name}, which needs the whole table; "
                f"{keep}"
            )


def _lost(table: Any, names: list[str]) -> str | None:
    """What a table has been given that a replacement would drop without a word."""
    if any(name.rpartition(".")[2] == "_orig_mod" for name in names):
        return "is compiled by itself"
    if "forward" in vars(table):
        return "has a forward of its own"
    hooks = table._forward_pre_hooks, table._forward_hooks, table._backward_pre_hooks
    if any(hooks) or table._backward_hooks:
        return "has hooks"  # also those of `weight_norm` and `prune`
    return None


def _array_for(
    tables: list[Any], compression: float, optimizer: FusedOptimizer | None
) -> RobeArray:
    """A new array for tables of one device and dtype, either all frozen or all trained."""
    weights = list({id(table.weight): table.weight for table in tables}.values())
    first = weights[0]
    size = max(
        round(sum(weight.numel() for weight in weights) / compression),
        *(weight.shape[1] for weight in weights),
        1,
    )
    array = RobeArray(
        size,
        scale=_scale(weights),
        optimizer=optimizer if first.requires_grad else None,
        device=first.device,
        dtype=first.dtype,
    )
    array.weight.requires_grad_(first.requires_grad and optimizer is None)
    return array


def _scale(weights: list[Tensor]) -> float:
    """Half-width of the uniform distribution with the root mean square of the tables."""
    if weights[0].is_meta:
        return SCALE
    total = count = 0.0
    for weight in weights:
        every = -(-weight.numel() // SAMPLE)
        sample = weight.detach().flatten()[::every].double()
        total, count = total + float(sample.square().sum()), count + len(sample)
    return math.sqrt(3 * total / count)


def _readers(
    tables: list[Any], array: RobeArray, options: dict[str, Any]
) -> dict[Any, RobeEmbedding | RobeEmbeddingBag]:
    """The module that replaces each table; tables that share a weight share a hash."""
    made: dict[Any, RobeEmbedding | RobeEmbeddingBag] = {}
    seeds: dict[int, int] = {}
    for table in tables:
        key = id(table.weight)
        size = (table.num_embeddings, table.embedding_dim)
        given = {**options, "array": array, "seed": seeds.get(key)}
        padding_idx = table.padding_idx
        if isinstance(table, nn.Embedding):
            module = RobeEmbedding(*size, padding_idx, **given)
        else:
            module = RobeEmbeddingBag(
                *size,
                mode=table.mode,
                include_last_offset=table.include_last_offset,
                padding_idx=padding_idx,
                **given,
            )
        seeds[key] = module.spec.seed
        made[table] = module.train(table.training)
    return made


def _lines(names: dict[Any, list[str]], new: dict[Any, Any]) -> Iterator[CompressedTable]:
    """Lines of the report; a weight shared by several tables counts once."""
    elements: dict[RobeArray, int] = defaultdict(int)
    seen: set[int] = set()
    for table, module in new.items():
        if id(table.weight) not in seen:
            elements[module.array] += table.weight.numel()
        seen.add(id(table.weight))
    seen.clear()
    for table, known in names.items():
        weight = table.weight
        before = after = 0
        if id(weight) not in seen:
            before = after = weight.numel() * weight.element_size()
            if table in new:
                share = weight.numel() / elements[new[table].array]
                after = round(new[table].array.size * weight.element_size() * share)
        seen.add(id(weight))
        name = ", ".join(known) or "(the model)"
        yield CompressedTable(name, weight.shape[0], weight.shape[1], before, after)


def _cells(table: CompressedTable) -> tuple[str, ...]:
    before, after = format_bytes(table.bytes_before), format_bytes(table.bytes_after)
    return table.module, f"{table.rows:,}", str(table.embedding_dim), before, after
