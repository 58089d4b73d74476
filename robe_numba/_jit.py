"""The one way this package compiles a function: Numba, cached on disk, never stale.

Numba's own cache looks at the file of the compiled function alone, so a kernel whose callee in
another file was edited would be loaded stale. Here the cache folder is named by a digest of all
sources of the package: any edit is a new folder.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


def source_digest(package: Path) -> str:
    """Digest of the path and content of every Python file below `package`."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _cache_root() -> Path:
    """NUMBA_CACHE_DIR where the user set it, else the user's cache folder, else a temporary one."""
    if numba.config.CACHE_DIR:
        return Path(numba.config.CACHE_DIR)
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        (folder / "robe_numba").mkdir(parents=True, exist_ok=True)
        if os.access(folder / "robe_numba", os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass  # no home or a read-only one, as in many containers: kernels still compile
    # Of this process alone: what lies in a folder of a known name might be another user's.
    return Path(tempfile.mkdtemp(prefix="robe_numba-"))


CACHE_DIR = _cache_root() / "robe_numba" / source_digest(Path(__file__).parent)


def jit(function: Callable | None = None, **options: Any) -> Any:
    """Compile `function` lazily with `numba.njit`: cached, without the GIL, IEEE division.

    Options are those of `numba.njit` (`parallel`, `fastmath`, `forceinline`).
    """
    if function is None:
        return lambda inner: jit(inner, **options)
    # Numba reads the folder when it decorates; it is put back for the caller's own functions.
    previous = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(CACHE_DIR)
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    finally:
        numba.config.CACHE_DIR = previous


def scalar(function: Callable) -> Any:
    """Compile a function of numbers into each of its callers; Python may call it too."""
    return jit(function, forceinline=True, _nrt=False)


def inner(function: Callable) -> Any:
    """Compile a function that kernels call and that makes no arrays.

    It counts no references to arrays: the count is atomic, on a line that all threads share, and
    would cost more than a short block.
    """
    return jit(function, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def inlined(function: Callable) -> Any:
    """As `inner`, compiled into each caller: for what runs once per block or row.

    A call would pass every field of a spec.
    """
    options = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return jit(function, forceinline=True, _nrt=False, **options)
