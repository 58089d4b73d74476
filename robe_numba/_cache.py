"""Compiled functions on disk, never stale.

Numba's own cache looks only at the file of the compiled function, so a kernel whose callee in
another file was edited would be loaded stale. Here the cache folder of a function is named by a
digest of its file and of all files of ours that it imports, directly or not: an edit of any of them
makes a new folder, and an edit elsewhere compiles nothing again. Folders that have not been used
for 30 days are removed.
"""

import atexit
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache

DAY = 86400  # seconds
UNUSED_DAYS = 30
ROOT = Path(__file__).parents[1]
_IMPORT = re.compile(
    r"^(?:import|from) ((?:robe_numba|data_tools)[\w.]*)(?: import (\([^)]*\)|.*))?", re.MULTILINE
)


def _imported(source: str) -> Iterator[Path]:
    """Files of ours that a source may import at its top: modules and packages."""
    for module, names in _IMPORT.findall(source):
        for name in (module, *(f"{module}.{name}" for name in re.findall(r"\w+", names))):
            path = ROOT.joinpath(*name.split("."))
            yield path.with_suffix(".py")
            yield path / "__init__.py"


def sources(path: Path) -> set[Path]:
    """Return a file of ours and those that it imports, directly or not."""
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
    """Return a digest of the path and content of every file in `sources(path)`."""
    digest = hashlib.sha256()
    for file in sorted(sources(path)):
        digest.update(os.fsencode(file) + b"\0" + _file_digest(file))
    return digest.hexdigest()[:16]


def _cache_root() -> Path | None:
    """Choose NUMBA_CACHE_DIR if that is set, else the user's cache folder, else a temporary one.

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
        pass  # no home or a read-only one, as in many containers
    try:
        # For this process only: a folder of a known name might hold another user's files.
        temporary = tempfile.mkdtemp(prefix="robe_numba-")
    except OSError:
        return None
    atexit.register(_remove, temporary, os.getpid())
    return Path(temporary)


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # not in its forked children
        shutil.rmtree(folder, ignore_errors=True)


def prune(root: Path) -> None:
    """Remove the folders below a cache root that no process has used for 30 days.

    Looks for them at most once a day, and ignores what it cannot read or remove.
    """
    folder, now = root / "robe_numba", time.time()
    stamp = folder / "pruned"
    with suppress(OSError):
        if not folder.is_dir() or (stamp.exists() and now - stamp.stat().st_mtime < DAY):
            return
        stamp.touch()
        for each in folder.iterdir():
            ours = re.fullmatch("[0-9a-f]{16}", each.name) and not each.is_symlink()
            if ours and each.is_dir() and now - each.stat().st_mtime > UNUSED_DAYS * DAY:
                shutil.rmtree(each, ignore_errors=True)


_CACHE_ROOT = _cache_root()
if _CACHE_ROOT is not None:
    prune(_CACHE_ROOT)


@cache  # once in each process
def _mark_used(folder: str) -> None:
    with suppress(OSError):
        os.utime(folder)


class _Place:
    """Where the compiled forms of a function are kept, as Numba's caches ask for it."""

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
    """Make one of Numba's kinds of cache use our folders and fail without harm.

    Numba itself would choose the folder by a setting that all threads share, and raise any error of
    reading or writing there.
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
            # Numba numbers files without a lock: two processes that compile a function for
            # different types at once could both choose one name, and load the wrong file.
            base = self._impl.filename_base
            self._cache_file._data_name_pattern = f"{base}.{{number}}-{uuid.uuid4().hex[:8]}.nbc"

        def load_overload(self, *arguments: Any) -> Any:
            _mark_used(self._impl.locator.get_cache_path())
            try:
                return super().load_overload(*arguments)
            except Exception:  # a damaged file may raise anything: the function is compiled again
                with suppress(OSError):
                    self.flush()
                return None

        def save_overload(self, *arguments: Any) -> None:
            try:
                super().save_overload(*arguments)
            except OSError as error:
                _warn_not_kept(error.strerror)

    return Kept


@cache  # once in each process
def _warn_not_kept(reason: str | None) -> None:
    warnings.warn(
        f"compiled functions cannot be kept in {_CACHE_ROOT} ({reason}), so each process compiles "
        f"them again; make room there, or set NUMBA_CACHE_DIR to a folder that can be written",
        RuntimeWarning,
        stacklevel=3,
    )


def keep(compiled: Any, function: Callable, kind: Any = FunctionCache) -> Any:
    """Keep the compiled forms of a Numba dispatcher on disk, where that is possible."""
    can_keep = hasattr(compiled, "_cache")  # not where Numba is disabled
    if _CACHE_ROOT is not None and can_keep:
        with suppress(OSError):  # sources in a zip file cannot be read, so no edit would be noticed
            compiled._cache = _kept(kind)(function)
    return compiled
