"""The columns of a click log: their names and kinds."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from data_tools.storage.json_files import convert


@dataclass(frozen=True)
class Schema:
    """The columns of a click log, in order: one label, dense numbers, categorical ids.

    Parameters
    ----------
    label : str
        Column of clicks (0 or 1); a log may lack it.
    dense : tuple of str
        Numeric columns, possibly none.
    categorical : tuple of str
        Columns of ids, possibly none.

    Raises
    ------
    TypeError
        A name is not a string.
    ValueError
        A name is empty or occurs twice, or there is no column besides the label.
    """

    label: str
    dense: tuple[str, ...]
    categorical: tuple[str, ...]

    def __post_init__(self) -> None:
        for group in ("dense", "categorical"):
            if isinstance(getattr(self, group), str):
                raise TypeError(f"{group} is the string {getattr(self, group)!r}; give a tuple")
            # Lists are accepted, but a frozen schema must be hashable.
            object.__setattr__(self, group, tuple(getattr(self, group)))
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
            raise ValueError(f"column names must differ, but {', '.join(twice)} occurs twice")
        if len(names) == 1:
            raise ValueError("a schema needs at least one dense or categorical column")

    @property
    def names(self) -> tuple[str, ...]:
        """All columns in the order of the text format: label, dense, categorical."""
        return (self.label, *self.dense, *self.categorical)

    @property
    def num_dense(self) -> int:
        """Number of dense columns."""
        return len(self.dense)

    @property
    def num_categorical(self) -> int:
        """Number of categorical columns."""
        return len(self.categorical)

    def to_json(self) -> dict[str, Any]:
        """Return the schema as a dict of JSON types, which `from_json` reads."""
        return {
            "label": self.label,
            "dense": list(self.dense),
            "categorical": list(self.categorical),
        }

    @classmethod
    def from_json(cls, record: Any) -> "Schema":
        """Make the schema that `to_json` described.

        Raises
        ------
        ValueError
            A key is missing or unknown, or a value breaks the rules of `Schema`.
        """
        return convert(record, cls, "the schema", "its keys are label, dense and categorical")


CRITEO = Schema(
    label="label",
    dense=tuple(f"I{i}" for i in range(1, 13 + 1)),
    categorical=tuple(f"C{i}" for i in range(1, 26 + 1)),
)
