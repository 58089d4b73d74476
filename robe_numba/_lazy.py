"""Attributes of a package that are imported when they are first used.

So `robe --help` does not wait for Numba, and a program pays only for what it uses of `robe_numba`.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from robe_numba._environment import check_environment


def attributes(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make `__getattr__` and `__dir__` of a package (PEP 562).

    Parameters
    ----------
    package : str
        Its `__name__`.
    homes : mapping of str to str
        For each public name the module that defines it.

    Returns
    -------
    tuple of callables
        `__getattr__` and `__dir__`.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        check_environment()
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)  # found at once from now on
        return value

    return get, lambda: sorted(homes)
