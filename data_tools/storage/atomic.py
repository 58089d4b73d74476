"""Atomic writes: under its name, a file is there whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_tools.storage.locks import RUN_LOCK
from data_tools.storage.own_files import check_no_link

TEMPORARY = ".tmp"  # ending of files that are being written


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file beside `path`, and rename it to `path` when the block ends without an error.

    Parameters
    ----------
    path : path
        What is there is replaced; of a symbolic link, the link itself.

    Yields
    ------
    Path
        An empty new file. It is flushed to the disk before it is renamed, and removed after an
        error. A killed process leaves it behind, see `is_temporary`.
    """
    target = Path(path)
    # A random name: another process, perhaps on another machine, may be writing the same file.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{TEMPORARY}")
    temporary.touch(exist_ok=False)
    try:
        mode = temporary.stat().st_mode  # what the user's umask gives a new file
        yield temporary
        flush(temporary)
        os.chmod(temporary, mode)
        os.replace(temporary, target)
        with suppress(OSError):  # the folder may not be readable, or its file system refuses
            flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_own(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Do as `replacing`, for a file inside a folder of ours, where a symbolic link is an error.

    Raises
    ------
    OSError
        `path` is a symbolic link.
    """
    check_no_link(path)
    with replacing(path) as temporary:
        yield temporary


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file as `replacing_own` does.

    Parameters
    ----------
    path : path
    text : str
        Encoded as UTF-8. Lone surrogates, which come from file names that are not UTF-8, are
        written as backslash escapes.
    """
    with replacing_own(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def flush(path: str | os.PathLike[str]) -> None:
    """Flush a file, or the names in a folder (where the system can do that), to the disk."""
    if os.path.isdir(path) and not hasattr(os, "O_DIRECTORY"):
        return
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_temporary(path: Path) -> bool:
    """Whether a file in a run's folder is unfinished: its process was killed, or is still at it."""
    return path.name.startswith(".") and path.name.endswith(TEMPORARY)


def remove_temporary(folder: Path) -> None:
    """Remove what killed processes left in a run's folder, but not its lock."""
    for path in folder.iterdir():
        if is_temporary(path) and path.name != RUN_LOCK:
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with its contents, if it is there; of a link, the link itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
