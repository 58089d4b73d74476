"""Files and folders that we create inside a dataset or a run.

The folder may be somebody else's: a symbolic link that waits there under one of our names would
have us write over a file elsewhere, and a pipe would have us wait for ever, so both are refused.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO, Any


def check_no_link(path: str | os.PathLike[str]) -> None:
    """Refuse a symbolic link.

    Raises
    ------
    OSError : `path` is one, wherever it leads.
    """
    if os.path.islink(path):
        target = os.readlink(path)
        raise OSError(
            f"{os.fspath(path)} is a symbolic link (to {target}); what it leads to is not ours to "
            "write, so remove the link"
        )


def open_own(path: str | os.PathLike[str], mode: str, **options: Any) -> IO[Any]:
    """Open a file as `open` does, but no symbolic link, pipe or device.

    Parameters
    ----------
    mode : "r", "w" or "a", with "b" or without.
    options : of `open`.

    Raises
    ------
    OSError : `path` is a symbolic link or no regular file, or as `open`.
    """

    def opener(name: str, flags: int) -> int:
        _check_file(name)
        # Should something else come there meanwhile.
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        return os.open(name, flags, 0o666)

    return open(path, mode, opener=opener, **options)


def _check_file(name: str) -> None:
    """Refuse everything but a regular file, or none."""
    check_no_link(name)
    with suppress(FileNotFoundError):
        mode = os.stat(name).st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise OSError(f"{name} is {what} in the place of a file of ours; move it away")


def make_own_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder with its parents where there is none, but never take a symbolic link for it.

    Raises
    ------
    OSError : `path` is a symbolic link, or as `Path.mkdir`.
    """
    check_no_link(path)
    Path(path).mkdir(parents=True, exist_ok=True)
