"""Launches of kernels with a fake driver, on a machine without a GPU."""

import ctypes
import struct
import threading
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from tests.support.needs import GPU, need

need(*GPU)

from robe_numba.kernels.gpu import launch
from robe_numba.kernels.gpu.arrays import DeviceArray
from robe_numba.kernels.gpu.launch import Kernel, Prepared

CONTEXT = SimpleNamespace(device=0, stream=0xABC)


class Constants(NamedTuple):
    """Constants like those of a spec."""

    size: np.uint64
    signed: bool
    table: DeviceArray


class Driver:
    """A fake of CUDA's driver, which reads parameters as a GPU would."""

    CUfunction = staticmethod(lambda handle: handle)

    class CUresult:
        CUDA_ERROR_INVALID_CONTEXT = 201

    def __init__(self, layout, errors=()):
        self.layout, self.errors, self.launches = layout, list(errors), []

    def cuLaunchKernel(self, handle, *arguments):  # noqa: N802 - CUDA's name
        *shape, parameters, extra = arguments
        assert extra == 0
        places = (ctypes.c_void_p * len(self.layout)).from_address(parameters)
        values = [
            struct.unpack(field, ctypes.string_at(place, struct.calcsize(field)))[0]
            for field, place in zip(self.layout, places, strict=True)
        ]
        self.launches.append((handle, tuple(shape), values))
        return (self.errors.pop(0) if self.errors else 0,)


@pytest.fixture
def kernel(monkeypatch):
    """A kernel that counts how often it is compiled."""
    made = Kernel(lambda *arguments: None)
    made.compilations = []

    def compile_(kinds):
        made.compilations.append(kinds)
        function = SimpleNamespace(handle=7)
        return SimpleNamespace(_codelibrary=SimpleNamespace(get_cufunc=lambda: function))

    monkeypatch.setattr(made._dispatcher, "compile", compile_)
    return made


def array(pointer, shape, dtype):
    """A device array at an address."""
    return DeviceArray(pointer, shape, np.dtype(dtype), None)


ARRAY = [0, 0, 5, 4, 64, 5, 4]
TABLE = [0, 0, 6, 8, 128, 2, 3, 24, 8]
LAYOUT = "q" * 7 + "?" + "f" + "Q?" + "q" * 9 + "q"


def arguments_with(constants):
    return array(64, (5,), np.float32), True, np.float32(1.5), constants, -7


@pytest.mark.parametrize("prepared", [False, True])
def test_the_driver_finds_every_field(kernel, monkeypatch, prepared):
    driver = Driver(LAYOUT)
    monkeypatch.setattr(launch, "driver", driver)
    constants = Constants(np.uint64(2**63 + 1), False, array(128, (2, 3), np.uint64))
    constants = Prepared(constants) if prepared else constants
    kernel.launch(CONTEXT, 3, (32, 4), *arguments_with(constants), shared=48)
    ((handle, shape, values),) = driver.launches
    assert handle == 7
    assert shape == (3, 1, 1, 32, 4, 1, 48, 0xABC)
    assert values == [*ARRAY, True, 1.5, 2**63 + 1, False, *TABLE, -7]


def test_kernels_are_compiled_once_for_each_set_of_types_and_device(kernel, monkeypatch):
    monkeypatch.setattr(launch, "driver", Driver("q" * 7))
    for pointer, size in ((64, 5), (128, 9)):
        kernel.launch(CONTEXT, 1, 32, array(pointer, (size,), np.float32))
    assert len(kernel.compilations) == 1
    kernel.launch(CONTEXT, 1, 32, array(64, (5,), np.float64))
    assert len(kernel.compilations) == 2
    kernel.launch(SimpleNamespace(device=1, stream=0), 1, 32, array(64, (5,), np.float64))
    assert len(kernel.compilations) == 3


def test_a_thread_without_a_context_begins_one(kernel, monkeypatch):
    driver, begun = Driver("q" * 7, errors=[201]), []
    monkeypatch.setattr(launch, "driver", driver)
    context = SimpleNamespace(device=0, stream=0, begin_thread=lambda: begun.append(True))
    kernel.launch(context, 1, 32, array(64, (5,), np.float32))
    assert len(driver.launches) == 2
    assert begun == [True]


def test_a_refused_launch_is_an_error(kernel, monkeypatch):
    refusal = SimpleNamespace(name="CUDA_ERROR_INVALID_VALUE")
    monkeypatch.setattr(launch, "driver", Driver("q" * 7, errors=[refusal]))
    with pytest.raises(RuntimeError, match=r"refuses to launch .*: CUDA_ERROR_INVALID_VALUE"):
        kernel.launch(CONTEXT, 1, 32, array(64, (5,), np.float32))


def test_threads_do_not_mix_their_parameters(kernel, monkeypatch):
    driver = Driver("q" * 7)
    monkeypatch.setattr(launch, "driver", driver)

    def launch_many(size):
        for _ in range(200):
            kernel.launch(CONTEXT, size, 32, array(64 * size, (size,), np.float32))

    threads = [threading.Thread(target=launch_many, args=(size,)) for size in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(driver.launches) == 600
    for _, shape, values in driver.launches:
        assert values[2] == shape[0]
        assert values[4] == 64 * shape[0]


def test_a_launch_within_a_launch_leaves_its_parameters_alone(kernel, monkeypatch):
    """As if a signal handler launched it between the writes of two groups of fields."""
    constants = Prepared(Constants(np.uint64(1), False, array(128, (2, 3), np.uint64)))
    driver = Driver("qQ?" + "q" * 9 + "q")
    monkeypatch.setattr(launch, "driver", driver)
    kernel.launch(CONTEXT, 1, 32, 5, constants, 5)
    (compiled,) = kernel._compiled.values()
    (pack, *first), *rest = compiled._groups
    within = []

    def pack_and_launch(buffer, place, *values):
        pack(buffer, place, *values)
        if not within:
            within.append(True)
            kernel.launch(CONTEXT, 1, 32, 7, constants, 7)

    compiled._groups = [(pack_and_launch, *first), *rest]
    thread = threading.Thread(target=kernel.launch, args=(CONTEXT, 1, 32, 6, constants, 6))
    thread.daemon = True
    thread.start()
    thread.join(10)  # with one lock for both it would never end
    assert [(values[0], values[-1]) for _, _, values in driver.launches] == [(5, 5), (7, 7), (6, 6)]


def test_what_cannot_be_compiled_names_the_remedy(kernel, monkeypatch):
    def refuse(kinds):
        raise ValueError("unsupported PTX version")

    monkeypatch.setattr(kernel._dispatcher, "compile", refuse)
    with pytest.raises(RuntimeError, match=r"unsupported PTX version.*nvidia-nvvm"):
        kernel.launch(CONTEXT, 1, 32, array(64, (5,), np.float32))


def test_launchers_of_many_specs_do_not_pile_up(kernel, monkeypatch):
    monkeypatch.setattr(launch, "driver", Driver("Q?" + "q" * 9))
    for _ in range(2 * launch.MOST_COMPILED):
        constants = Constants(np.uint64(1), False, array(128, (2, 3), np.uint64))
        kernel.launch(CONTEXT, 1, 32, Prepared(constants))
    assert len(kernel._compiled) <= launch.MOST_COMPILED
