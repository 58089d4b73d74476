"""The columns of a log as options name them."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from data_tools import Schema


def names(text: str | None) -> tuple[str, ...]:
    """Names that are written as a,b,c."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


def schema_of(
    label: str | None,
    dense: str | None,
    categorical: str | None,
    multi_hot: str | None = None,
    weights: str | None = None,
) -> "Schema":
    """The columns that the options name, or Criteo's.

    Parameters
    ----------
    label : str or None
    dense, categorical, multi_hot : str or None
        Names, as a,b,c.
    weights : str or None
        Columns of lists and of their weights, as a=x,b=y. A categorical column with weights is
        multi-hot.

    Raises
    ------
    ValueError
        Weights are written in another way, or are of a column that is not named, or named twice; or
        see `Schema`.
    """
    from data_tools import CRITEO, Schema

    if not (dense or categorical or multi_hot or weights):
        return Schema(label, CRITEO.dense, CRITEO.categorical) if label else CRITEO
    weighed = _weights(weights)
    single, lists = names(categorical), list(names(multi_hot))
    for column in weighed.keys() - set(single) - set(lists):
        raise ValueError(
            f"there are weights for {column!r}, which is not among the columns of lists; name it "
            "with --multi-hot"
        )
    lists += [column for column in single if column in weighed]
    return Schema(
        label or "label",
        names(dense),
        tuple(column for column in single if column not in weighed),
        tuple(lists),
        tuple(weighed.get(column) for column in lists),
    )


def _weights(text: str | None) -> dict[str, str]:
    """The column of weights of each column of lists."""
    pairs = [pair.partition("=") for pair in names(text)]
    if not all(column and weights for column, _, weights in pairs):
        raise ValueError(f"weights are {text!r}; write them as history=ratings,tags=scores")
    weighed = {column: weights for column, _, weights in pairs}
    if len(weighed) < len(pairs):
        raise ValueError(f"weights are {text!r}; name each column of lists once")
    return weighed


def numbers_of(text: str, option: str) -> tuple[int, ...]:
    """The whole numbers of an option, `1,2,3`."""
    numbers = names(text)
    if not numbers or not all(number.isdecimal() for number in numbers):
        raise typer.BadParameter(f"{text!r} has no whole numbers, a,b,c", param_hint=option)
    return tuple(map(int, numbers))
