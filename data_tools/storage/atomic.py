"""Writing files so that a name never stands for half a file."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_tools.storage.locks import locked
from data_tools.storage.own_files import check_no_link

LOCK = ".lock.tmp"  # counts as temporary


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # of a killed process of this number, or somebody's link
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode  # what the user's umask gives a new file
        yield temporary
        flush(temporary)
        os.chmod(temporary, mode)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether it is no result: `replacing` made it, and its process did not come to remove it."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made, against other processes of this machine.

    Raises
    ------
    BlockingIOError : another holds it.
    OSError : its lock file is a symbolic link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK) as held:
        if not held:
            raise BlockingIOError(
                f"another process is training in {folder}; wait for it, or choose another output"
            )
        yield


def remove_temporary(folder: Path) -> None:
    """Remove what processes that were killed left in a folder, but its lock."""
    for path in folder.iterdir():
        if is_temporary(path) and path.name != LOCK:
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, or nothing; of a link the link itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def replacing_own(path: str | os.PathLike[str]) -> Iterator[Path]:
    """As `replacing`, of a file inside a folder that we made.

    Raises
    ------
    OSError : `path` is a symbolic link.
    """
    check_no_link(path)
    with replacing(path) as temporary:
        yield temporary


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file of ours at once, with names of files that are no text escaped in it.

    Errors as `replacing_own`.
    """
    with replacing_own(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Within the block, say of a file of a run that cannot be read what can be done."""
    try:
        yield
    except OSError as error:
        raise type(error)(
            f"{path} cannot be read ({error.strerror}); see to its permissions and its disk, or "
            f"restore it from a copy"
        ) from None


def read_bytes(path: Path) -> bytes:
    """What a file of a run holds.

    Raises
    ------
    OSError : it cannot be read.
    """
    with readable(path):
        return path.read_bytes()


def digest(content: bytes) -> str:
    """BLAKE2b in hexadecimal digits."""
    return hashlib.blake2b(content).hexdigest()


def digest_of(path: Path) -> str:
    """That of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before anything that follows."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
