"""What is installed, whether the driver accepts the compiler's PTX, and how fast the GPU copies."""

import importlib.metadata
import platform
import re
import subprocess
from typing import Any

import numpy as np
from numba import cuda, types

from perf.gpu.checker.report import Report
from perf.gpu.device_times import device_times
from perf.harness.places import here

PACKAGES = (
    *("numba", "numba-cuda", "numpy", "llvmlite", "cupy-cuda13x", "torch", "cuda-core"),
    *("cuda-bindings", "cuda-pathfinder", "nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-nvjitlink"),
    *("nvidia-cuda-nvrtc", "pyarrow", "isal", "pytest", "pytest-xdist", "hypothesis", "ml-dtypes"),
)
COPY_BYTES = 4 << 30  # of the array that is copied


def run(report: Report, options: Any) -> None:
    """Write the first lines of the log."""
    report.add("python", version=platform.python_version())
    report.add("machine", name=here().describe())
    for name in PACKAGES:
        try:
            report.add(name, version=importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            report.add(name, version="absent")
    if here().simulated:
        print("  skipped: driver and PTX need a GPU", flush=True)
    else:
        _driver(report)
        _ptx(report)
    _trivial_kernel(report)
    _copy_ceiling(report, options.tiny)


def _driver(report: Report) -> None:
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,memory.used"]
        query.append("--format=csv,noheader")
        asked = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
        report.add("nvidia-smi", says=asked.stdout.strip() or asked.stderr.strip())
    except (OSError, subprocess.TimeoutExpired) as error:
        report.add("nvidia-smi", says=repr(error))
    runtime = here().xp.cuda.runtime
    free, total = runtime.memGetInfo()
    properties = runtime.getDeviceProperties(0)
    report.add(
        "driver",
        takes_cuda=_dotted(runtime.driverGetVersion()),
        cupy_runtime=_dotted(runtime.runtimeGetVersion()),
        free_gb=free / 1e9,
        total_gb=total / 1e9,
        l2_mb=properties["l2CacheSize"] / 1e6,
        multiprocessors=properties["multiProcessorCount"],
    )


def _ptx(report: Report) -> None:
    """Report the compiler that numba-cuda finds; its PTX must not be newer than the driver."""
    try:
        from numba.cuda.cudadrv.libs import get_cudalib

        report.add("libnvvm", path=str(get_cudalib("nvvm")))
    except Exception as error:
        report.add("libnvvm", path=f"unknown: {error!r}")

    ptx, _ = cuda.compile_ptx(double.py_func, (types.float32[:],))
    version = re.search(r"\.version\s+(\S+)", ptx)
    target = re.search(r"\.target\s+(\S+)", ptx)
    # CUDA 13.0 has PTX 9.0, CUDA 13.1 has 9.1 and so on; CUDA 12 has 8.x.
    major, minor = divmod(here().xp.cuda.runtime.driverGetVersion(), 1000)
    takes = f"{major - 4}.{minor // 10}"
    report.add("PTX", version=version and version[1], target=target and target[1], takes=takes)
    if version and tuple(map(int, version[1].split("."))) > (major - 4, minor // 10):
        print(
            f"  the driver refuses PTX {version[1]}: set CUDA_HOME to a toolkit of CUDA "
            f"{major}.{minor // 10}, or install nvidia-nvvm=={major}.{minor // 10}.*",
            flush=True,
        )


@cuda.jit
def double(x: Any) -> None:
    """x[i] = 2 x[i]; one thread per element."""
    i = cuda.grid(1)
    if i < x.size:
        x[i] *= 2


def _trivial_kernel(report: Report) -> None:
    array = cuda.to_device(np.arange(64, dtype=np.float32))
    double[2, 32](array)
    np.testing.assert_array_equal(array.copy_to_host(), 2 * np.arange(64, dtype=np.float32))
    report.add("trivial kernel", result="right")


def _copy_ceiling(report: Report, tiny: bool) -> None:
    """Time a copy from device to device; bytes read and written count."""
    size = 1 << 10 if tiny else COPY_BYTES // 4
    xp = here().xp
    source, target = (xp.zeros((size,), "float32") for _ in range(2))
    source[...] = 1
    report.time("copy", device_times(lambda: xp.copyto(target, source)), bytes=8 * size)


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
