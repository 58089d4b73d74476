"""The shape of a DLRM, and its initial dense parameters."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np

from robe_numba.checks.bags import check_mode
from robe_numba.dlrm.layers.interaction import INTERACTIONS
from robe_numba.spec import MAX_SIZE, check_int


@dataclass(frozen=True)
class DLRMConfig:
    """Widths of the two MLPs and the interaction between them.

    Parameters
    ----------
    num_dense : int
        Dense features; with 0 the bottom MLP is a function of its biases alone.
    num_tables : int
        T, categorical features, of which the last len(pooling) are multi-hot.
    embedding_dim : int
        d, elements of one embedding and of the bottom MLP's output.
    bottom : tuple of int
        Hidden widths of the bottom MLP, without its last width, d.
    top : tuple of int
        Hidden widths of the top MLP, without its last width, 1.
    interaction : str
        "dot", "cat", or "dcn": `cat` followed by a cross network.
    cross_layers, cross_rank : int
        Layers of the cross network and the rank of their weights; of "dcn" alone.
    pooling : tuple of str
        "sum", "mean" or "max" for each multi-hot feature; () if every feature has a single id.

    Raises
    ------
    TypeError, ValueError
        A width is not a positive integer, the interaction or a pooling is unknown, or there are
        more multi-hot features than tables.
    """

    num_dense: int = 13
    num_tables: int = 26
    embedding_dim: int = 16
    bottom: tuple[int, ...] = (512, 256, 64)
    top: tuple[int, ...] = (512, 256)
    interaction: str = "dot"
    cross_layers: int = 3
    cross_rank: int = 64
    pooling: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("bottom", "top", "pooling"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        named = [("num_tables", self.num_tables), ("embedding_dim", self.embedding_dim)]
        named += [("bottom", width) for width in self.bottom]
        named += [("top", width) for width in self.top]
        named += [("cross_layers", self.cross_layers), ("cross_rank", self.cross_rank)]
        for name, value in [("num_dense", self.num_dense), *named]:
            check_int(name, value, 0 if name == "num_dense" else 1, MAX_SIZE)
        if self.interaction not in INTERACTIONS:
            raise ValueError(
                f"interaction is {self.interaction!r}; choose one of {', '.join(INTERACTIONS)}"
            )
        for mode in self.pooling:
            check_mode(mode)
        if len(self.pooling) > self.num_tables:
            raise ValueError(
                f"pooling has {len(self.pooling)} modes for {self.num_tables} tables; give one for "
                f"each multi-hot feature"
            )

    @property
    def num_single(self) -> int:
        """Features with a single id; those after them are multi-hot."""
        return self.num_tables - len(self.pooling)

    @property
    def bottom_widths(self) -> tuple[int, ...]:
        """All widths of the bottom MLP, input and output included."""
        return (self.num_dense, *self.bottom, self.embedding_dim)

    @property
    def top_widths(self) -> tuple[int, ...]:
        """All widths of the top MLP; the first is the interaction's."""
        return (self.interaction_width, *self.top, 1)

    @property
    def interaction_width(self) -> int:
        """Elements of the interaction of a row."""
        _, width = INTERACTIONS[self.interaction]
        return width(self.num_tables, self.embedding_dim)

    @property
    def cross_ranks(self) -> tuple[int, ...]:
        """The rank of each layer of the cross network; () without one."""
        return (self.cross_rank,) * self.cross_layers if self.interaction == "dcn" else ()

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name, in order.

        "bottom.0.weight" (fan_out, fan_in), "bottom.0.bias" (fan_out,), ..., those of "top", and
        of a cross network of rows (n,) "cross.0.v" (rank, n), "cross.0.u" (n, rank) and
        "cross.0.bias" (n,).
        """
        shapes: dict[str, tuple[int, ...]] = {}
        for part, widths in (("bottom", self.bottom_widths), ("top", self.top_widths)):
            for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
                shapes[f"{part}.{layer}.weight"] = (fan_out, fan_in)
                shapes[f"{part}.{layer}.bias"] = (fan_out,)
        width = self.interaction_width
        for layer, rank in enumerate(self.cross_ranks):
            shapes[f"cross.{layer}.v"] = (rank, width)
            shapes[f"cross.{layer}.u"] = (width, rank)
            shapes[f"cross.{layer}.bias"] = (width,)
        return shapes

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON; those that older runs lack only if they have a value."""
        fields = asdict(self)
        if self.interaction != "dcn":
            del fields["cross_layers"], fields["cross_rank"]
        if not self.pooling:
            del fields["pooling"]
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, also after a trip through JSON."""
        return cls(**fields)


def init_parameters(
    config: DLRMConfig, generator: np.random.Generator, dtype: Any = np.float32
) -> dict[str, np.ndarray]:
    """Draw dense parameters as in Naumov et al. 2019.

    Weights ~ N(0, sqrt(2 / (fan_in + fan_out))), biases ~ N(0, sqrt(1 / fan_out)); but the biases
    of a cross network are 0, as in MLPerf's reference.

    Parameters
    ----------
    config : DLRMConfig
        Shape of the model.
    generator : numpy.random.Generator
        The same state gives the same parameters.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    dict of str to ndarray
        In the order and shapes of `config.parameter_shapes()`.
    """
    # Weight (fan_out, fan_in): 2 / sum of the shape; bias (fan_out,): 1 / fan_out.
    drawn = {
        name: generator.normal(0.0, np.sqrt(len(shape) / sum(shape)), shape).astype(dtype)
        for name, shape in config.parameter_shapes().items()
    }
    for layer in range(len(config.cross_ranks)):
        drawn[f"cross.{layer}.bias"][:] = 0
    return drawn
