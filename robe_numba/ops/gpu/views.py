"""Checks of arrays on a GPU, and views of them as kernels take them.

No check reads values, which would wait for the device. Kernels are safe for any values.
"""

import sys
from typing import Any

import numpy as np

from robe_numba.checks.arrays import (
    ARRAY_DTYPES,
    BFLOAT16_BITS,
    STORED_DTYPES,
    ArrayLayout,
    is_bfloat16,
    refuse_layout,
    refuse_overlap,
    refuse_read_only,
)
from robe_numba.checks.scalars import check_scalar, check_spec
from robe_numba.device_arrays import is_on_device, is_tensor
from robe_numba.kernels.gpu import arrays
from robe_numba.kernels.gpu.arrays import DeviceArray, Rate, array_library
from robe_numba.kernels.gpu.compiler import SIMULATED
from robe_numba.kernels.gpu.context import DeviceContext
from robe_numba.ops.gpu.device import current_device
from robe_numba.quantization.quantized import QuantizedArray
from robe_numba.spec import Spec
from robe_numba.state_blocks import check_state_block, check_state_shape

INT64 = (np.dtype(np.int64),)


def view(
    name: str,
    array: Any,
    shape: tuple[int, ...] | None,
    dtypes: tuple[np.dtype, ...],
    written: bool = False,
) -> DeviceArray:
    """Check an array on a GPU, and give it as kernels take it.

    Parameters
    ----------
    name : str
        For messages.
    array : cupy.ndarray, torch.Tensor, or any with `__cuda_array_interface__`
        C-contiguous, aligned, and on the current GPU.
    shape : tuple of int, optional
        That the array must have.
    dtypes : tuple of dtype
        One of which the array must have.
    written : bool
        Whether it will be written, so that it must be writeable.

    Returns
    -------
    DeviceArray

    Raises
    ------
    TypeError
        Where it is not on a GPU, or has another dtype.
    ValueError
        Where it has another shape, or kernels cannot use its memory.
    """
    if isinstance(array, QuantizedArray):
        raise TypeError(
            f"{name} is a QuantizedArray, which only the CPU reads; use "
            f"cupy.asarray({name}.dequantize())"
        )
    if not is_on_device(array):
        kind = type(array)
        raise TypeError(
            f"{name} must be an array on a GPU like the other arrays, got {kind.__module__}."
            f"{kind.__name__}; use cupy.asarray({name})"
        )
    if is_tensor(array) and array.requires_grad:
        raise ValueError(f"{name} requires a gradient of PyTorch; use {name}.detach()")
    memory = arrays.of(array)
    aligned = not memory.size or memory.pointer % memory.dtype.itemsize == 0
    fits = memory.dtype in dtypes and (shape is None or memory.shape == shape)
    if not (fits and memory.contiguous and aligned):
        layout = ArrayLayout(array, memory.dtype, memory.shape, memory.contiguous, aligned)
        refuse_layout(name, layout, shape, dtypes)
    if memory.size:
        _check_home(name, memory)
    if written and memory.read_only:
        refuse_read_only(name)
    return memory


def stored_view(array: Any, spec: Spec) -> DeviceArray:
    """Check the array that embeddings are read from; kernels take bfloat16 by its bits."""
    shape = (spec.array_size,)
    if not is_bfloat16(array):
        return view("array", array, shape, STORED_DTYPES)
    bits = sys.modules["torch"].int16 if is_tensor(array) else BFLOAT16_BITS
    return view("array", array.view(bits), shape, (BFLOAT16_BITS,))


def _check_home(name: str, memory: DeviceArray) -> None:
    """Require memory of the current GPU."""
    if SIMULATED:
        return
    current, home = current_device(), memory.home
    if home is None:
        home = array_library().cuda.runtime.pointerGetAttributes(memory.pointer).device
    if home != current:
        raise ValueError(
            f"{name} is on GPU {home} but the current one is {current}; work within "
            f"cupy.cuda.Device({home}), with all arrays there"
        )


def check_apart(written: dict[str, Any], read: dict[str, Any]) -> None:
    """Require that written arrays share no memory with any other; `view` rejects non-arrays."""
    extents = {name: _extent(array) for name, array in written.items() if array is not None}
    if not extents:
        return
    others = extents | {name: _extent(array) for name, array in read.items()}
    for name, (begin, end) in extents.items():
        for other, (low, high) in others.items():
            if low < end and begin < high and other != name:
                refuse_overlap(name, other)


def _extent(array: Any) -> tuple[int, int]:
    """Addresses of the first byte of a C-contiguous array and of the byte after its last.

    Anything that is not an array on a GPU has the empty extent (0, 0).
    """
    if not isinstance(array, DeviceArray):
        if not is_on_device(array):
            return 0, 0
        array = arrays.of(array)
    return array.pointer, array.pointer + array.size * array.dtype.itemsize


def check_step(
    spec: Spec,
    lr: Any,
    written: dict[str, Any],
    read: dict[str, Any],
    state_block: int = 1,
) -> tuple[list[DeviceArray], Rate]:
    """Check what an update is given: views of the written arrays, `array` first, and the rate."""
    check_spec(spec)
    check_state_block(state_block)
    shape = (spec.array_size,)
    views = [view("array", written["array"], shape, ARRAY_DTYPES, written=True)]
    if "state_sum" in written:
        state_sum = view("state_sum", written["state_sum"], None, (views[0].dtype,), written=True)
        check_state_shape(state_sum, spec.array_size, state_block)
        views.append(state_sum)
    check_apart(dict(zip(written, views, strict=True)), read)
    return views, check_rate(lr, views[0].dtype)


def check_rate(lr: Any, dtype: np.dtype) -> Rate:
    """Check a learning rate: a number, or an array of one element on the GPU, which is not read."""
    if not is_on_device(lr):
        return (dtype.type(check_scalar("lr", lr, 0, dtype)),)
    memory = view("lr", lr, None, (dtype,))
    if memory.size != 1:
        raise ValueError(f"lr has shape {memory.shape}; an array of it must have one element")
    return memory.flat()


def given_or_new(
    context: DeviceContext, name: str, given: Any, shape: tuple[int, ...], dtype: np.dtype
) -> Any:
    """An array to write to: the caller's, as one of `context.xp`, or a new one."""
    if given is None:
        return context.empty(shape, dtype)
    view(name, given, shape, (dtype,), written=True)
    return context.xp.asarray(given)
