"""Locks between processes of one machine. A lock is a file, which its holder's end releases."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from data_tools.storage.own_files import open_own


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Lock a file, which is made for this and removed afterwards.

    Yields
    ------
    False where another process holds it.

    Raises
    ------
    OSError : `path` is a symbolic link, or cannot be made.
    """
    while True:
        with open_own(path, "ab") as file:  # what somebody else's file holds is left as it is
            try:
                _lock(file)
            except BlockingIOError:
                yield False
                return
            if _stands_at(path, file):
                try:
                    yield True
                finally:
                    with suppress(PermissionError):  # Windows does not remove open files
                        path.unlink(missing_ok=True)
                return


def _stands_at(path: Path, file: IO[bytes]) -> bool:
    """Whether it is the file of the path; who held it before may have removed it once opened."""
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
        """Lock the file until it is closed or the process ends.

        Raises
        ------
        BlockingIOError : it is locked already.
        """
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
