"""Check the paths that a user gave before any work is done."""

import os
from pathlib import Path


def check_folder(path: str | os.PathLike[str], remedy: str) -> None:
    """Require a folder, or a link to one.

    Parameters
    ----------
    remedy : str
        What to do if there is none; for the message.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        There is none; the message says what is there.
    """
    if not os.path.isdir(path):
        kind = NotADirectoryError if os.path.exists(path) else FileNotFoundError
        raise kind(f"{os.fspath(path)} is not a folder: {what_is_at(path)}; {remedy}")


def check_room_for_folder(path: str | os.PathLike[str]) -> None:
    """Require that a folder is there or can be made, with its parents, and can be written to.

    Raises
    ------
    FileExistsError
        A file, or a link that leads to no folder, is in its place or a parent's.
    PermissionError
        It, or the parent that is there, must not be written to.
    """
    for place in (Path(path), *Path(path).parents):
        if place.is_dir():
            check_writable(place)
            return
        if os.path.lexists(place):
            raise FileExistsError(
                f"{os.fspath(path)} cannot be a folder: {what_is_at(place)}; choose another "
                "output, or move what is there"
            )


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Require that files can be made in a folder.

    Raises
    ------
    PermissionError
        They cannot.
    """
    rights = os.W_OK | os.X_OK
    if not os.access(folder, rights, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(
            f"{os.fspath(folder)} is a folder that you may not write to; check its permissions, "
            "or choose another output"
        )


def what_is_at(path: str | os.PathLike[str]) -> str:
    """A clause about a path: it is a file, leads nowhere, does not exist, and the like."""
    name = os.fspath(path)
    if os.path.islink(path):
        target = os.readlink(path)
        if not os.path.exists(path):
            return f"{name} is a symbolic link to {target}, which does not exist"
        return f"{name} is a symbolic link to {target}, a {_kind(path)}"
    if os.path.exists(path):
        return f"{name} is a {_kind(path)}"
    for parent in Path(path).parents:
        if os.path.lexists(parent) and not parent.is_dir():
            return what_is_at(parent)
    return f"{name} does not exist"


def _kind(path: str | os.PathLike[str]) -> str:
    return "folder" if os.path.isdir(path) else "file" if os.path.isfile(path) else "device"
