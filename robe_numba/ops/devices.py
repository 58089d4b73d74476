"""Functions of NumPy arrays that take arrays on a GPU as well."""

import functools
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import numpy as np

from robe_numba.checks import GPU_NEEDS, is_on_device

P = ParamSpec("P")
Result = TypeVar("Result")


def on_any_device(gpu: str) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Send calls with an array on a GPU to the function of that name in `robe_numba.gpu.<gpu>`.

    The module is imported by the first such call: without a GPU nothing of it is.
    """

    def decorate(function: Callable[P, Result]) -> Callable[P, Result]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            for argument in (*args, *kwargs.values()):
                if type(argument) is not np.ndarray and is_on_device(argument):
                    _check_one_device(signature.bind(*args, **kwargs).arguments)
                    return getattr(_import(gpu), function.__name__)(*args, **kwargs)
            return function(*args, **kwargs)

        return call

    return decorate


def _import(gpu: str) -> ModuleType:
    try:
        return import_module(f"robe_numba.gpu.{gpu}")
    except ImportError as error:  # plain Numba has another numba.cuda, or none
        raise ImportError(GPU_NEEDS) from error


def _check_one_device(arguments: Mapping[str, Any]) -> None:
    host = next((name for name, a in arguments.items() if isinstance(a, np.ndarray)), None)
    if host is not None:
        device = next(name for name, argument in arguments.items() if is_on_device(argument))
        raise TypeError(
            f"{host} is a NumPy array but {device} is on a GPU; use cupy.asarray({host}), or "
            f"cupy.asnumpy({device})"
        )
