"""Our own files and folders inside a dataset or a run.

The folder may be shared with other people. A symbolic link under one of our names would make us
overwrite a file elsewhere, and a pipe would block for ever, so both are refused.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


def check_no_link(path: str | os.PathLike[str]) -> None:
    """Refuse a symbolic link.

    Raises
    ------
    OSError
        `path` is a symbolic link, wherever it leads.
    """
    if os.path.islink(path):
        target = os.readlink(path)
        raise OSError(
            f"{os.fspath(path)} is a symbolic link (to {target}); what it leads to is not ours to "
            "write, so remove the link"
        )


def open_own(path: str | os.PathLike[str], mode: str, **options: Any) -> IO[Any]:
    """Open a file as `open` does, but refuse symbolic links, pipes and devices.

    Parameters
    ----------
    path : path
    mode : {"r", "w", "a", "rb", "wb", "ab"}
    **options
        Of `open`.

    Raises
    ------
    OSError
        `path` is a symbolic link or no regular file, or as `open`.
    """

    def opener(name: str, flags: int) -> int:
        _check_file(name)
        # In case something else is put there after the check.
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        return os.open(name, flags, 0o666)

    return open(path, mode, opener=opener, **options)


def _check_file(name: str) -> None:
    """Refuse anything but a regular file, or none."""
    check_no_link(name)
    with suppress(FileNotFoundError):
        mode = os.stat(name).st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise OSError(f"{name} is {what} in the place of a file of ours; move it away")


def make_own_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder with its parents if it is not there, but refuse a symbolic link.

    Raises
    ------
    OSError
        `path` is a symbolic link, or as `Path.mkdir`.
    """
    check_no_link(path)
    Path(path).mkdir(parents=True, exist_ok=True)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Add a remedy to an OSError of the block, which reads a file of a run."""
    try:
        yield
    except OSError as error:
        raise type(error)(
            f"{path} cannot be read ({error.strerror}); check its permissions and its disk, or "
            f"restore it from a copy"
        ) from None


def read_bytes(path: Path) -> bytes:
    """Read a file of a run; an OSError names a remedy."""
    with readable(path):
        return path.read_bytes()
