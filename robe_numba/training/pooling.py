"""How the multi-hot features of a dataset are pooled, from the setting `pooling`."""

from data_tools.schema import Schema
from robe_numba.checks.bags import MODES

DEFAULT = "sum"
HOW = (
    f"write one of {', '.join(MODES)} for all multi-hot features, or name them, as "
    "genres=mean,seen=max"
)


def parse_pooling(text: str) -> str | dict[str, str]:
    """A mode for all multi-hot features, or the modes of some by name; the rest have "sum".

    Parameters
    ----------
    text : str
        "sum", "mean" or "max", or "genres=mean,seen=max".

    Raises
    ------
    TypeError
        It is not a text.
    ValueError
        It is not of this form, or names a feature twice.
    """
    if not isinstance(text, str):
        raise TypeError(f"pooling is {text!r}; {HOW}")
    if text in MODES:
        return text
    modes: dict[str, str] = {}
    for word in text.split(","):
        name, equals, mode = word.strip().rpartition("=")
        if not equals or not name or mode not in MODES:
            raise ValueError(f"pooling is {text!r}; {HOW}")
        if name in modes:
            raise ValueError(f"pooling is {text!r}, which names {name} twice; name it once")
        modes[name] = mode
    return modes


def pooling_of(text: str, schema: Schema) -> tuple[str, ...]:
    """The mode of each multi-hot feature of a schema.

    Parameters
    ----------
    text : str
        As `parse_pooling` takes it.
    schema : Schema
        Of the dataset.

    Returns
    -------
    tuple of str
        In the order of `schema.multi_hot`.

    Raises
    ------
    ValueError
        A name is not a multi-hot feature, there are none at all, or a feature with weights is not
        summed.
    """
    modes, features = parse_pooling(text), schema.multi_hot
    if not features and text != DEFAULT:
        raise ValueError(
            f"pooling is {text!r}, but the dataset has no multi-hot features; leave it out, or "
            f"ingest columns of lists"
        )
    if isinstance(modes, dict):
        unknown = [name for name in modes if name not in features]
        if unknown:
            raise ValueError(
                f"pooling names {', '.join(unknown)}, but the multi-hot features are "
                f"{', '.join(features)}"
            )
    else:
        modes = dict.fromkeys(features, modes)
    weights = schema.weights or (None,) * len(features)
    for name, column in zip(features, weights, strict=True):
        mode = modes.setdefault(name, DEFAULT)
        if column is not None and mode != "sum":
            raise ValueError(
                f"{name} is pooled by {mode!r}, but its ids have weights ({column}), which need "
                f"'sum'; name the features that take another, as genres=mean, or ingest {name} "
                f"without weights"
            )
    return tuple(modes[name] for name in features)
