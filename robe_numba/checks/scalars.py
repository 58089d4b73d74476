"""Checks of single values: specs and numbers. `robe_numba.spec.check_int` checks integers."""

import math
import numbers
from typing import Any

import numpy as np

from robe_numba.spec import RobeSpec, Spec, TableSpec


def check_spec(spec: Any) -> Spec:
    """Require a RobeSpec or a TableSpec."""
    if not isinstance(spec, RobeSpec | TableSpec):
        raise TypeError(f"spec must be a RobeSpec or a TableSpec, got {type_name(spec)}")
    return spec


def check_scalar(name: str, value: Any, low: float, dtype: Any = np.float64) -> float:
    """Require a number of at least `low` that is finite in the dtype of the arithmetic too."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {type_name(value)}")
    high = float(np.finfo(dtype).max)
    try:
        number = float(value)
    except OverflowError:  # an integer beyond float64
        number = math.inf
    if not low <= number <= high:
        raise ValueError(f"{name} is {number}; it must be finite, from {low} to {high:.3g}")
    return number


def type_name(value: Any) -> str:
    """The type of a value, for a message."""
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return name if name != "str" else f"the string {value!r}"
