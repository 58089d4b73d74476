"""CUDA graphs: dozens of launches for the price of one.

A small batch is computed faster than its kernels are launched. So work of fixed shapes is captured
once, and then launched as a whole by a single call.
"""

from collections.abc import Callable
from typing import Any

from robe_numba.kernels.gpu.arrays import array_library
from robe_numba.kernels.gpu.compiler import SIMULATED


class CapturedWork:
    """A function of arrays of fixed shapes, run as a CUDA graph from the second call on.

    The first call runs the function itself, which compiles kernels and allocates memory. A capture
    can do neither.

    Parameters
    ----------
    function : callable
        Launches work on CuPy's current stream, waits for nothing, and returns an array. What it
        does may depend on shapes only, not on values.
    *inputs : cupy.ndarray
        Of any content; each call copies its arguments there.
    """

    def __init__(self, function: Callable[..., Any], *inputs: Any):
        self._function, self._inputs = function, inputs
        self._graph: Any = None
        self._output: Any = None
        if not SIMULATED:
            cupy = array_library()
            # The graph keeps the memory that the function allocates.
            self._pool = cupy.cuda.MemoryPool()
            self._stream = cupy.cuda.Stream(non_blocking=True)

    def __call__(self, *arguments: Any) -> Any:
        """Give the function's result for arrays like the inputs, in a new array."""
        if SIMULATED:
            return self._function(*arguments)
        cupy = array_library()
        for kept, given in zip(self._inputs, arguments, strict=True):
            kept.data.copy_from_device_async(given.data, kept.nbytes)
        if self._graph is not None:
            self._graph.launch()
            return self._output.copy()
        current = cupy.cuda.get_current_stream()
        self._stream.wait_event(current.record())
        with self._stream, cupy.cuda.using_allocator(self._pool.malloc):
            if self._output is None:
                self._output = self._function(*self._inputs)
            else:
                self._capture()
        current.wait_event(self._stream.record())
        if self._graph is not None:
            self._graph.launch()
        return self._output.copy()

    def _capture(self) -> None:
        """Capture the graph; nothing is computed yet."""
        self._stream.begin_capture()
        try:
            output = self._function(*self._inputs)
        finally:
            graph = self._stream.end_capture()
        self._output, self._graph = output, graph
