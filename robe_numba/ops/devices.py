"""Functions of NumPy arrays that take arrays on a GPU as well."""

import functools
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import numpy as np

from robe_numba.checks.arrays import check_array, check_written
from robe_numba.device_arrays import GPU_NEEDS, is_on_device

P = ParamSpec("P")
Result = TypeVar("Result")


def on_any_device(gpu: str) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Send calls with an array on a GPU to the function of that name in `robe_numba.ops.gpu.<gpu>`.

    The first such call imports the module, so a program without a GPU never does.
    """

    def decorate(function: Callable[P, Result]) -> Callable[P, Result]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            arguments = (*args, *kwargs.values())
            for argument in arguments:
                if type(argument) is not np.ndarray and is_on_device(argument):
                    break
            else:
                return function(*args, **kwargs)
            if any(map(_is_on_host, arguments)):
                _refuse_two_devices(signature.bind(*args, **kwargs).arguments)
            return getattr(gpu_module(gpu), function.__name__)(*args, **kwargs)

        return call

    return decorate


@functools.cache
def gpu_module(name: str) -> ModuleType:
    """Import the module `robe_numba.ops.gpu.<name>`.

    Raises
    ------
    ImportError
        Where a package that it needs is not installed; the message names it.
    """
    try:
        return import_module(f"robe_numba.ops.gpu.{name}")
    except ImportError as error:  # plain Numba has another numba.cuda, or none
        raise ImportError(f"{GPU_NEEDS} ({error})") from error


def check_any_device(
    name: str,
    array: Any,
    shape: tuple[int, ...] | None,
    dtypes: tuple[np.dtype, ...],
    written: bool = False,
) -> None:
    """As `check_array`, for an array of either device; if `written`, it must be writeable."""
    if is_on_device(array):
        gpu_module("views").view(name, array, shape, dtypes, written)
        return
    check_array(name, array, shape, dtypes)
    if written:
        check_written(**{name: array})


def _is_on_host(argument: Any) -> bool:
    return isinstance(argument, np.ndarray) and not is_on_device(argument)


def _refuse_two_devices(arguments: Mapping[str, Any]) -> None:
    device = next(n for n, a in arguments.items() if is_on_device(a))
    host = next(name for name, argument in arguments.items() if _is_on_host(argument))
    raise TypeError(
        f"{host} is a NumPy array but {device} is on a GPU; use cupy.asarray({host}), or "
        f"cupy.asnumpy({device})"
    )
