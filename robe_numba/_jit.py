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
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from robe_numba._environment import check_environment

check_environment()

import numba  # noqa: E402
from numba.core.caching import FunctionCache  # noqa: E402

# Where it simulates a GPU Numba has to be disabled, and no function of the host's is called.
if numba.config.DISABLE_JIT and not numba.config.ENABLE_CUDASIM:
    raise ImportError(
        "NUMBA_DISABLE_JIT is set, but kernels on vectors run only when they are compiled; unset it"
    )

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
        imported = {each for file in waiting for each in _imports_of(file)}
        waiting = imported - found
    return found


@cache
def _imports_of(path: Path) -> tuple[Path, ...]:
    return tuple(file for file in _imported(path.read_text(encoding="utf-8")) if file.is_file())


@cache
def _file_digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@cache
def source_digest(path: Path) -> str:
    """Digest of the path and content of every file in `sources(path)`."""
    digest = hashlib.sha256()
    for file in sorted(sources(path)):
        digest.update(os.fsencode(file) + b"\0" + _file_digest(file))
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
    atexit.register(_remove, temporary, os.getpid())
    return Path(temporary)


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # not in its forked children
        shutil.rmtree(folder, ignore_errors=True)


_CACHE_ROOT = _cache_root()


class _Place:
    """Where the compiled forms of a function are kept, in the terms of Numba's caches."""

    def __init__(self, function: Callable, root: Path):
        self._py_file, self._line = function.__code__.co_filename, function.__code__.co_firstlineno
        self._digest = source_digest(Path(self._py_file))
        self._folder = str(root / "robe_numba" / self._digest)

    def get_cache_path(self) -> str:
        return self._folder

    def get_source_stamp(self) -> str:
        return self._digest

    def get_disambiguator(self) -> str:
        return str(self._line)

    def ensure_cache_path(self) -> None:
        os.makedirs(self._folder, exist_ok=True)


@cache
def _kept(kind: Any) -> Any:
    """One of Numba's kinds of cache, in our folders, where it may fail without harm.

    Numba would choose the folder itself, by a setting that all threads share, and raise whatever
    keeps it from reading or writing there.
    """

    class Implementation(kind._impl_class):
        def __init__(self, function: Callable):
            assert _CACHE_ROOT is not None
            self._lineno = function.__code__.co_firstlineno
            self._locator = _Place(function, _CACHE_ROOT)
            name = f"{Path(function.__code__.co_filename).stem}.{function.__qualname__}"
            self._filename_base = self.get_filename_base(name, getattr(sys, "abiflags", ""))

    class Kept(kind):
        _impl_class = Implementation

        def __init__(self, function: Callable):
            super().__init__(function)
            # Numba numbers files without a lock: two processes that compile a function for other
            # types at once could give theirs one name, and read each other's for their own.
            base = self._impl.filename_base
            self._cache_file._data_name_pattern = f"{base}.{{number}}-{uuid.uuid4().hex[:8]}.nbc"

        def load_overload(self, *arguments: Any) -> Any:
            try:
                return super().load_overload(*arguments)
            except Exception:  # whatever a damaged file leads to: the function is compiled anew
                with suppress(OSError):
                    self.flush()
                return None

        def save_overload(self, *arguments: Any) -> None:
            try:
                super().save_overload(*arguments)
            except OSError as error:
                _warn_not_kept(error.strerror)

    return Kept


@cache  # once: every function would say the same
def _warn_not_kept(reason: str | None) -> None:
    warnings.warn(
        f"compiled functions cannot be kept in {_CACHE_ROOT} ({reason}), so each process compiles "
        f"them again; make room there, or set NUMBA_CACHE_DIR to a folder that can be written",
        RuntimeWarning,
        stacklevel=3,
    )


def keep(compiled: Any, function: Callable, kind: Any = FunctionCache) -> Any:
    """Let what Numba made of a function keep its compiled forms on disk, where that is possible."""
    if _CACHE_ROOT is not None and hasattr(compiled, "_cache"):  # it has none if Numba is disabled
        with suppress(OSError):  # of reading sources, as in a zip file: no edit would be noticed
            compiled._cache = _kept(kind)(function)
    return compiled


def jit(function: Callable | None = None, **options: Any) -> Any:
    """Compile `function` lazily with `numba.njit`: cached, without the GIL, IEEE division.

    Options are those of `numba.njit` (`parallel`, `fastmath`, `forceinline`).
    """
    if function is None:
        return lambda inner: jit(inner, **options)
    return keep(numba.njit(nogil=True, error_model="numpy", **options)(function), function)


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
