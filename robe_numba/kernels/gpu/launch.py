"""Launching kernels at the cost of the driver's own call.

Numba infers the type of every argument at each launch, which takes 200 us and more. Here the layout
of a kernel's parameters is computed once for each set of argument types. A launch writes the values
into it and calls the driver.
"""

import ctypes
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from robe_numba.kernels.gpu import compiler
from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.compiler import SIMULATED, types

if not SIMULATED:
    from cuda.bindings import driver

LANES = 32  # threads of a warp
# Threads of a thread block, unless a kernel is faster with fewer. The simulator runs each as a
# thread of Python and has blocks of one warp.
THREADS = LANES if SIMULATED else 256

MOST_DIMENSIONS = 8  # of an array
MOST_COMPILED = 256  # launchers of a kernel; Numba keeps the machine code


class Prepared:
    """A named tuple of constants, whose fields are written once and not at each launch.

    Parameters
    ----------
    constants : NamedTuple
        Of NumPy scalars and `DeviceArray`s.
    """

    __slots__ = ("constants",)

    def __init__(self, constants: tuple):
        self.constants = constants


def _add(argument: Any, kinds: list[Any], values: list[Any]) -> None:
    """Append an argument's fields as the kernel takes them, and its kind: arguments of other kinds
    need another launcher.
    """
    kind = type(argument)
    if kind is DeviceArray:
        kinds.append(argument.dtype.num * MOST_DIMENSIONS + len(argument.shape))
        values += argument.fields()
    elif kind is Prepared:
        kinds.append(argument)
    elif isinstance(argument, tuple):
        kinds.append(kind)
        for field in argument:
            _add(field, kinds, values)
    else:
        kinds.append(kind)
        values.append(argument)


def _leaves(arguments: tuple[Any, ...]) -> Iterator[Any]:
    """The arguments, with tuples flattened."""
    for argument in arguments:
        if isinstance(argument, tuple):
            yield from _leaves(argument)
        else:
            yield argument


def _type_of(argument: Any) -> Any:
    """Numba's type of an argument."""
    if isinstance(argument, DeviceArray):
        dtype = compiler.from_dtype(argument.dtype)
        return types.Array(dtype, len(argument.shape), "C")
    if isinstance(argument, Prepared):
        argument = argument.constants
    if isinstance(argument, tuple):
        fields = [_type_of(field) for field in argument]
        if type(argument) is tuple:
            return types.BaseTuple.from_types(fields)
        return types.NamedTuple(fields, type(argument))
    if isinstance(argument, bool | np.bool_):
        return types.boolean
    if isinstance(argument, int):
        return types.int64
    return compiler.from_dtype(argument.dtype)


def _layout(kind: Any) -> str:
    """The struct format in which a kernel takes an argument of a Numba type."""
    if isinstance(kind, types.Array):
        # Two unused pointers, size, item size, data, shape and strides.
        return "q" * (5 + 2 * kind.ndim)
    if isinstance(kind, types.BaseTuple):
        return "".join(_layout(field) for field in kind)
    if kind == types.boolean:
        return "?"
    if isinstance(kind, types.Float):
        return {32: "f", 64: "d"}[kind.bitwidth]
    letter = {32: "i", 64: "q"}[kind.bitwidth]
    return letter if kind.signed else letter.upper()


class _Parameters:
    """Memory for a kernel's parameters, and the address of each field.

    Only one launch uses it at a time: other threads may launch the kernel while the driver reads,
    and a signal handler may launch it between any two lines.
    """

    __slots__ = ("_pointers", "address", "buffer")

    def __init__(self, prepared: bytearray, places: list[int]):
        self.buffer = ctypes.create_string_buffer(bytes(prepared), len(prepared))
        begin = ctypes.addressof(self.buffer)
        self._pointers = (ctypes.c_void_p * len(places))(*(begin + place for place in places))
        self.address = ctypes.addressof(self._pointers)


class _Compiled:
    """A kernel compiled for the types of its arguments, with their prepared constants, on a device.

    Parameters
    ----------
    dispatcher : CUDADispatcher
        Numba's, of the kernel.
    arguments : tuple
        Of the first launch.
    """

    def __init__(self, dispatcher: Any, arguments: tuple[Any, ...]):
        kinds = tuple(_type_of(argument) for argument in arguments)
        try:
            function = dispatcher.compile(kinds)._codelibrary.get_cufunc()
        except Exception as error:
            raise RuntimeError(
                f"Numba cannot compile a kernel for this GPU: {error}. If it names PTX or the "
                f"driver, the libnvvm that Numba finds is newer than the driver: install the "
                f"nvidia-nvvm of the driver's CUDA version, or set CUDA_HOME to such a toolkit"
            ) from error
        self._function = function  # keeps the module loaded
        self._handle = driver.CUfunction(int(function.handle))
        layout = "".join(_layout(kind) for kind in kinds)
        self._prepared, self._places = bytearray(struct.calcsize(layout)), offsets(layout)
        self._groups = list(self._write_prepared(arguments, self._places))
        self._spare: list[_Parameters] = []

    def _write_prepared(
        self, arguments: tuple[Any, ...], places: list[int]
    ) -> Iterator[tuple[Any, int, int]]:
        """Write the prepared arguments. For each group of fields between them yield the function
        that packs it, its place, and its number of fields.
        """
        first, group, place = 0, "", 0
        for argument in _leaves(arguments):
            layout = _layout(_type_of(argument))
            if isinstance(argument, Prepared):
                if group:
                    yield struct.Struct(group).pack_into, place, len(group)
                values: list[Any] = []
                _add(argument.constants, [], values)
                struct.pack_into(layout, self._prepared, places[first], *values)
                group = ""
            else:
                place = place if group else places[first]
                group += layout
            first += len(layout)
        if group:
            yield struct.Struct(group).pack_into, place, len(group)

    def launch(
        self, grid: int, threads: tuple[int, int], shared: int, stream: int, values: list[Any]
    ) -> Any:
        """Launch with the fields of all arguments that are not prepared. Returns CUDA's error."""
        try:
            parameters = self._spare.pop()
        except IndexError:
            parameters = _Parameters(self._prepared, self._places)
        first = 0
        for pack_into, place, count in self._groups:
            pack_into(parameters.buffer, place, *values[first : first + count])
            first += count
        (error,) = driver.cuLaunchKernel(
            *(self._handle, grid, 1, 1, *threads, 1, shared, stream, parameters.address, 0)
        )
        self._spare.append(parameters)
        return error


def offsets(layout: str) -> list[int]:
    """The offset of each field of a struct format, aligned as in C."""
    ends = [struct.calcsize(layout[: i + 1]) for i in range(len(layout))]
    return [end - struct.calcsize(field) for end, field in zip(ends, layout, strict=True)]


class Kernel:
    """A kernel, compiled when it is first launched with arguments of new types.

    Parameters
    ----------
    python : callable
        Its source, in Numba's subset of Python.
    max_registers : int, optional
        Registers of a thread, where the compiler would take more and be slower.
    """

    def __init__(self, python: Callable, max_registers: int | None = None):
        self.py_func, self.max_registers = python, max_registers
        self.__name__, self.__doc__ = python.__name__, python.__doc__
        self._dispatcher = compiler.jit(python, max_registers)
        self._compiled: dict[tuple, _Compiled] = {}

    def launch(
        self,
        context: Any,
        grid: int,
        threads: int | tuple[int, int],
        *arguments: Any,
        shared: int = 0,
    ) -> None:
        """Launch on the stream of a context.

        Parameters
        ----------
        context : DeviceContext
        grid : int
            Thread blocks, at least one.
        threads : int or tuple of int
            Threads of a thread block, in x or in x and y.
        *arguments : DeviceArray, Prepared, NumPy scalar, int, bool, or a named tuple of these
        shared : int
            Bytes of dynamic shared memory, at most 48 KiB.

        Raises
        ------
        RuntimeError
            Where the driver refuses the launch, or Numba cannot compile the kernel.
        """
        if SIMULATED:
            simulated = (_simulated(argument) for argument in arguments)
            self._dispatcher[grid, threads, 0, shared](*simulated)
            return
        kinds: list[Any] = [context.device]
        values: list[Any] = []
        for argument in arguments:
            if type(argument) is DeviceArray:  # most are, and a call costs time
                kinds.append(argument.dtype.num * MOST_DIMENSIONS + len(argument.shape))
                values += argument.fields()
            else:
                _add(argument, kinds, values)
        key = tuple(kinds)
        compiled = self._compiled.get(key)
        if compiled is None:
            if len(self._compiled) >= MOST_COMPILED:  # each keeps the constants of a spec
                self._compiled.clear()
            compiled = self._compiled.setdefault(key, _Compiled(self._dispatcher, arguments))
        shape = (threads, 1) if isinstance(threads, int) else threads
        error = compiled.launch(grid, shape, shared, context.stream, values)
        if error and error == driver.CUresult.CUDA_ERROR_INVALID_CONTEXT:  # in a new thread
            context.begin_thread()
            error = compiled.launch(grid, shape, shared, context.stream, values)
        if error:
            raise RuntimeError(f"CUDA refuses to launch {self.__name__}: {error.name}")

    def launch_each(self, context: Any, count: int, *arguments: Any) -> None:
        """Launch with a thread for each of `count` items, if there are any; see `launch`."""
        if count:
            self.launch(context, -(-count // THREADS), THREADS, *arguments)


def _simulated(argument: Any) -> Any:
    """Convert an argument to what the simulator takes."""
    if isinstance(argument, DeviceArray):
        return argument.simulated()
    if isinstance(argument, Prepared):
        argument = argument.constants
    if isinstance(argument, tuple):
        fields = [_simulated(field) for field in argument]
        return tuple(fields) if type(argument) is tuple else type(argument)(*fields)
    return argument
