"""The one way to compile a function here: Numba, cached on disk, never stale.

Numba's own cache looks at the file of the compiled function alone, so a kernel whose callee in
another file was edited would be loaded stale. Here the cache folder of a function is named by a
digest of its file and of all files of ours that this one imports, directly or not: an edit of any
of them is a new folder, and an edit elsewhere compiles nothing again.
"""

import atexit
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numba

ROOT = Path(__file__).parents[1]
_IMPORT = re.compile(
    r"^(?:import|from) ((?:robe_numba|data_tools)[\w.]*)(?: import (\([^)]*\)|.*))?", re.MULTILINE
)


def _imported(source: str) -> Iterator[Path]:
    """Files of ours that a source may import at its top: modules, and modules of packages."""
    for module, names in _IMPORT.findall(source):
        for name in (module, *(f"{module}.{name}" for name in re.findall(r"\w+", names))):
            path = ROOT.joinpath(*name.split("."))
            yield path.with_suffix(".py")
            yield path / "__init__.py"


def sources(path: Path) -> set[Path]:
    """A file of ours, and those that it imports, directly or not."""
    found: set[Path] = set()
    waiting = {path}
    while waiting:
        found |= waiting
        imported = {each for file in waiting for each in _imports_of(file) if each.is_file()}
        waiting = imported - found
    return found


@cache
def _imports_of(path: Path) -> tuple[Path, ...]:
    return tuple(_imported(path.read_text(encoding="utf-8")))


@cache
def source_digest(path: Path) -> str:
    """Digest of the path and content of every file in `sources(path)`."""
    digest = hashlib.sha256()
    for file in sorted(sources(path)):
        digest.update(os.fsencode(file) + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _cache_root() -> Path | None:
    """NUMBA_CACHE_DIR where the user set it, else the user's cache folder, else a temporary one.

    None where nothing can be written: kernels then compile in every process.
    """
    if numba.config.CACHE_DIR:
        return Path(numba.config.CACHE_DIR)
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        (folder / "robe_numba").mkdir(parents=True, exist_ok=True)
        if os.access(folder / "robe_numba", os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass  # no home or a read-only one, as in many containers: kernels still compile
    try:
        # Of this process alone: what lies in a folder of a known name might be another user's.
        temporary = tempfile.mkdtemp(prefix="robe_numba-")
    except OSError:
        return None
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)


_CACHE_ROOT = _cache_root()


def cache_dir(function: Callable) -> str | None:
    """Folder for the compiled forms of `function`; None where there can be none."""
    if _CACHE_ROOT is None:
        return None
    digest = source_digest(Path(function.__code__.co_filename))
    return str(_CACHE_ROOT / "robe_numba" / digest)


def jit(function: Callable | None = None, **options: Any) -> Any:
    """Compile `function` lazily with `numba.njit`: cached, without the GIL, IEEE division.

    Options are those of `numba.njit` (`parallel`, `fastmath`, `forceinline`).
    """
    if function is None:
        return lambda inner: jit(inner, **options)
    # Numba reads the folder when it decorates; it is put back for the caller's own functions.
    folder = cache_dir(function)
    previous = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = folder or ""
    try:
        compiler = numba.njit(cache=bool(folder), nogil=True, error_model="numpy", **options)
        return compiler(function)
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
