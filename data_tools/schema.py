"""The columns of a click log: their names and kinds."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from data_tools.storage.json_files import convert


@dataclass(frozen=True)
class Schema:
    """The columns of a click log, in order: a label, dense numbers, ids, lists of ids.

    Parameters
    ----------
    label : str
        Column of clicks (0 or 1); a log may lack it.
    dense : tuple of str
        Numeric columns, possibly none.
    categorical : tuple of str
        Columns of ids, possibly none.
    multi_hot : tuple of str
        Columns of lists of ids, possibly none.
    weights : tuple of (str or None)
        For each multi-hot column the column of its ids' weights, or None; () for no weights.

    Raises
    ------
    TypeError
        A name is not a string.
    ValueError
        A name is empty or occurs twice, there is no column besides the label, or there are weights
        for another number of multi-hot columns.
    """

    label: str
    dense: tuple[str, ...]
    categorical: tuple[str, ...]
    multi_hot: tuple[str, ...] = ()
    weights: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        for group in ("dense", "categorical", "multi_hot", "weights"):
            if isinstance(getattr(self, group), str):
                raise TypeError(f"{group} is the string {getattr(self, group)!r}; give a tuple")
            # Lists are accepted, but a frozen schema must be hashable.
            object.__setattr__(self, group, tuple(getattr(self, group)))
        if self.weights and len(self.weights) != len(self.multi_hot):
            raise ValueError(
                f"there are {len(self.weights)} weights for {len(self.multi_hot)} multi-hot "
                f"columns; give one for each, None for a column without weights"
            )
        if not any(name is not None for name in self.weights):
            object.__setattr__(self, "weights", ())
        names = self.names
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"column names are strings, not {name!r}")
            if not name:
                raise ValueError("a column name is empty; give every column a name")
            try:
                name.encode()
            except UnicodeEncodeError:
                raise ValueError(f"the column name {name!r} is not UTF-8; rename it") from None
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise ValueError(
                f"column names must differ, but {', '.join(twice)} occurs twice; name each "
                f"column once"
            )
        if len(names) == 1:
            raise ValueError("a schema needs at least one column besides the label")

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, in order: label, dense, categorical, multi-hot, weights."""
        weights = (name for name in self.weights if name is not None)
        return (self.label, *self.dense, *self.categorical, *self.multi_hot, *weights)

    @property
    def num_dense(self) -> int:
        """Number of dense columns."""
        return len(self.dense)

    @property
    def num_categorical(self) -> int:
        """Number of categorical columns."""
        return len(self.categorical)

    @property
    def num_multi_hot(self) -> int:
        """Number of multi-hot columns."""
        return len(self.multi_hot)

    @property
    def lists(self) -> tuple[tuple[str, str | None], ...]:
        """Each multi-hot column, with the column of its weights or None."""
        weights = self.weights or (None,) * len(self.multi_hot)
        return tuple(zip(self.multi_hot, weights, strict=True))

    @property
    def features(self) -> tuple[str, ...]:
        """The columns that are embedded, in the order of a model's tables."""
        return (*self.categorical, *self.multi_hot)

    def to_json(self) -> dict[str, Any]:
        """Return the schema as a dict of JSON types, which `from_json` reads.

        Without lists of ids it is as it was before there were any.
        """
        record: dict[str, Any] = {
            "label": self.label,
            "dense": list(self.dense),
            "categorical": list(self.categorical),
        }
        if self.multi_hot:
            record["multi_hot"] = list(self.multi_hot)
        if self.weights:
            record["weights"] = list(self.weights)
        return record

    @classmethod
    def from_json(cls, record: Any) -> "Schema":
        """Make the schema that `to_json` described.

        Raises
        ------
        ValueError
            A key is missing or unknown, or a value breaks the rules of `Schema`.
        """
        keys = "its keys are label, dense, categorical, multi_hot and weights"
        return convert(record, cls, "the schema", keys)


CRITEO = Schema(
    label="label",
    dense=tuple(f"I{i}" for i in range(1, 13 + 1)),
    categorical=tuple(f"C{i}" for i in range(1, 26 + 1)),
)
