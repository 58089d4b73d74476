"""Files and folders that we create inside a dataset or a run.

The folder may be somebody else's: a symbolic link that waits there under one of our names would
have us write over a file elsewhere, so links are refused.
"""

import os
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
    """Open a file as `open` does, but never through a symbolic link.

    Parameters
    ----------
    mode : "r", "w" or "a", with "b" or without.
    options : of `open`.

    Raises
    ------
    OSError : `path` is a symbolic link, or as `open`.
    """

    def opener(name: str, flags: int) -> int:
        try:
            return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError:
            check_no_link(name)
            raise

    return open(path, mode, opener=opener, **options)


def make_own_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder with its parents where there is none, but never take a symbolic link for it.

    Raises
    ------
    OSError : `path` is a symbolic link, or as `Path.mkdir`.
    """
    check_no_link(path)
    Path(path).mkdir(parents=True, exist_ok=True)
