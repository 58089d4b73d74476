"""Locks between processes of one machine: lock files, which the end of a process releases."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from data_tools.storage.own_files import open_own

RUN_LOCK = ".lock.tmp"  # a name of temporary files


@contextmanager
def locked(path: Path, taken: OSError) -> Iterator[None]:
    """Hold a lock file, which is made for this and removed afterwards.

    Parameters
    ----------
    path : Path
    taken : OSError
        Raised if another process holds it.

    Raises
    ------
    OSError
        `path` is a symbolic link, a folder, a pipe or a device, or the file cannot be made.
    """
    # The loop repeats if the last holder removed the file between our opening and locking it.
    while True:
        with open_own(path, "ab") as file:  # append: somebody else's file keeps its content
            try:
                _lock(file)
            except BlockingIOError:
                raise taken from None
            if _is_at(path, file):
                try:
                    yield
                finally:
                    with suppress(PermissionError):  # Windows does not remove open files
                        path.unlink(missing_ok=True)
                return


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock the folder of a run, which is made if need be.

    Raises
    ------
    BlockingIOError
        Another process holds it.
    OSError
        See `locked`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken = f"another process is training in {folder}; wait for it, or choose another output"
    with locked(folder / RUN_LOCK, BlockingIOError(taken)):
        yield


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether an open file still is the one at `path`."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        """Lock the file until it is closed or the process ends."""
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        """Lock the file until it is closed or the process ends; BlockingIOError if it is locked."""
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
