"""What all modules that read a shared array have in common: options and state."""

from collections.abc import Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from robe_numba.checks.scalars import check_scalar
from robe_numba.spec import MAX_SIZE, RobeSpec, check_int
from robe_numba.torch.array import SCALE, RobeArray
from robe_numba.torch.fused import FusedOptimizer

COMPRESSION = 100
UMA_SEED = 1024  # of the authors' release
OF_ARRAY = ("compression", "array_size", "scale", "optimizer")
OF_SPEC = ("block_size", "hash", "seed", "sign", "alignment")


class Options(TypedDict, total=False):
    """Options of `RobeEmbedding`, `RobeEmbeddingBag` and `RobeTables`.

    Attributes
    ----------
    compression : float
        How many times smaller than the tables the array is; 100 if neither `array_size` nor
        `array` is given. The array always holds at least one block or row.
    array_size : int
        m, elements of the array.
    array : RobeArray
        An existing array to read, which other modules may read too.
    block_size : int
        Z, contiguous elements read per hash; by default d.
    hash : {"multiply-shift", "paper", "uma"}
        See `robe_numba.RobeSpec`; "uma" reads arrays of the authors' release.
    seed : int
        Seed of the hash; by default one that no other module on the same array has.
    sign : bool
        Multiply elements by hashed signs; by default True, except for "uma".
    alignment : int
        Starts are multiples of this many elements; by default 1.
    scale : float
        Half-width of the uniform initial values; by default 0.001.
    optimizer : FusedSGD or FusedAdagrad
        Updates the array during backward; by default it has a dense gradient for `torch.optim`.
    """

    compression: float
    array_size: int
    array: RobeArray
    block_size: int
    hash: str
    seed: int
    sign: bool
    alignment: int
    scale: float
    optimizer: FusedOptimizer


class RobeReader(nn.Module):
    """A module that reads a shared array.

    Parameters
    ----------
    array : RobeArray
        The only parameter.
    spec : RobeSpec
        How rows are read. It is saved in `state_dict`, and a state with another spec is refused.
    """

    def __init__(self, array: RobeArray, spec: RobeSpec):
        super().__init__()
        if array.size != spec.array_size:
            raise ValueError(
                f"the array has {array.size} elements, but the spec reads {spec.array_size}; make "
                f"them equal"
            )
        self.array, self.spec = array, spec
        self._spec_text = spec.to_json()

    # What torch's modules have; see `refuse_options`.
    max_norm, norm_type, scale_grad_by_freq, sparse = None, 2.0, False, False

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(
                "a hashed table has no weight (num_embeddings, d); use module.array.weight, the "
                "shared array, or the rows that it stands for: module(torch.arange(num_embeddings))"
            )
        return super().__getattr__(name)

    @property
    def embedding_dim(self) -> int:
        """d, elements of one embedding."""
        return self.spec.embedding_dim

    def reset_parameters(self) -> None:
        """Draw new values for the whole array, which also changes other modules that read it."""
        self.array.reset_parameters()

    def get_extra_state(self) -> Tensor:
        """The spec for `state_dict`: its JSON as bytes, which any file format can hold."""
        return torch.tensor(list(self._spec_text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Check that a saved state has the spec of this module.

        Raises
        ------
        ValueError
            It has another spec. The array is unchanged, unless a module that shares it was loaded
            before.
        """
        saved = RobeSpec.from_json(bytes(state.tolist()).decode())
        if saved != self.spec:
            raise ValueError(
                f"the state is that of {saved!r}, but the module has {self.spec!r}; make the "
                f"module with the arguments of the saved one"
            )

    def _describe(self, size: int | None, **options: Any) -> str:
        """For `extra_repr`: the first two arguments, then options and how rows are read."""
        given = {name: value for name, value in options.items() if value is not None}
        given |= {name: getattr(self.spec, name) for name in OF_SPEC}
        named = [f"{name}={value!r}" for name, value in given.items()]
        return ", ".join([f"{size}, {self.embedding_dim}", *named])


def array_and_spec(
    num_tables: int,
    embedding_dim: int,
    num_embeddings: tuple[int, ...] | None,
    device: Any,
    dtype: torch.dtype | None,
    options: Mapping[str, Any],
) -> tuple[RobeArray, RobeSpec]:
    """The array of a module, taken from the options or new, and the spec that reads it."""
    unknown = set(options) - set(Options.__annotations__)
    if unknown:
        raise TypeError(
            f"unknown option {min(unknown)!r}; choose among {', '.join(Options.__annotations__)}"
        )
    given = {name: value for name, value in options.items() if value is not None}
    dim = check_int("embedding_dim", embedding_dim, 1, MAX_SIZE)
    array, hash_ = given.get("array"), given.get("hash", "multiply-shift")
    if array is None:
        size, seed = _array_size(dim, num_embeddings, given), 0
    else:
        _check_shared(array, given, device, dtype)
        size, seed = array.size, array.next_seed()
    spec = RobeSpec(
        array_size=size,
        block_size=given.get("block_size", min(dim, size)),
        embedding_dim=dim,
        num_tables=num_tables,
        num_embeddings=num_embeddings,
        hash=hash_,
        seed=given.get("seed", UMA_SEED if hash_ == "uma" else seed),
        sign=given.get("sign", hash_ != "uma"),
        alignment=given.get("alignment", 1),
    )
    if array is None:  # made last, as it may be large
        scale, optimizer = given.get("scale", SCALE), given.get("optimizer")
        array = RobeArray(size, scale=scale, optimizer=optimizer, device=device, dtype=dtype)
        array.next_seed()
    return array, spec


def refuse_options(
    max_norm: float | None,
    scale_grad_by_freq: bool,
    sparse: bool,
    weight: Tensor | None = None,
    freeze: bool = False,
) -> None:
    """Refuse what a hashed table cannot have, and say what to use instead."""
    wrong = {
        "max_norm": max_norm is not None
        and "rows share their elements, so they cannot be scaled one by one; normalise the output",
        "scale_grad_by_freq": scale_grad_by_freq
        and "rows share their elements; use optimizer=FusedAdagrad(lr) or torch.optim.Adagrad, "
        "which take smaller steps for ids that occur often",
        "sparse": sparse
        and "the gradient of the array is dense; use optimizer=FusedSGD(lr) or FusedAdagrad(lr), "
        "which move only what was read",
        "_weight": weight is not None
        and "there is no table to hold it; use from_pretrained(weight), which approximates it",
        "_freeze": freeze
        and "use module.requires_grad_(False), or module.eval() with a fused optimizer",
    }
    for name, reason in wrong.items():
        if reason:
            raise ValueError(f"a hashed table cannot have {name}: {reason}")


def _array_size(dim: int, num_embeddings: tuple[int, ...] | None, given: Mapping[str, Any]) -> int:
    """The number of elements of a new array."""
    if "array_size" in given:
        if "compression" in given:
            raise ValueError("array_size and compression are both given; give one of them")
        return check_int("array_size", given["array_size"], 1, MAX_SIZE)
    if num_embeddings is None:
        raise ValueError(
            "num_embeddings is None, so the size of the array cannot be computed from it; give "
            "array_size or array"
        )
    compression = check_scalar("compression", given.get("compression", COMPRESSION), 0)
    if compression == 0:
        raise ValueError("compression is 0; it must be positive, such as 100")
    sizes = [
        check_int(f"num_embeddings[{t}]", n, 1, MAX_SIZE) for t, n in enumerate(num_embeddings)
    ]
    block = check_int("block_size", given.get("block_size", dim), 1, MAX_SIZE)
    return max(round(sum(sizes) * dim / compression), min(block, dim))


def _check_shared(
    array: Any, given: Mapping[str, Any], device: Any, dtype: torch.dtype | None
) -> None:
    if not isinstance(array, RobeArray):
        raise TypeError(f"array is a {type(array).__name__}; it must be a RobeArray")
    own = [name for name in OF_ARRAY if name in given]
    own += [name for name, value in (("device", device), ("dtype", dtype)) if value is not None]
    if own:
        raise ValueError(
            f"{own[0]} is given, but so is an array, which fixes it; leave it out, and make the "
            f"RobeArray to suit"
        )


def table_shape(table: Tensor) -> tuple[int, int]:
    """The shape (num_embeddings, d) of a trained table."""
    if table.dim() != 2:
        raise ValueError(
            f"embeddings has shape {tuple(table.shape)}; it must be (num_embeddings, embedding_dim)"
        )
    rows, dim = table.shape
    return rows, dim


def options_like(table: Tensor, options: Options) -> dict[str, Any]:
    """The options, with the device and dtype of a table unless they have an array."""
    if "array" in options:
        return dict(options)
    return {"device": table.device, "dtype": table.dtype, **options}
