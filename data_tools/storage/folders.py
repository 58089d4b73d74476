"""Folders of this machine, or at any address that fsspec supports (`s3://...`).

Under its name, a file is there whole or not at all. That is all that ingest relies on.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa

from data_tools.storage.atomic import remove, replacing
from data_tools.storage.own_files import check_no_link


def is_remote(address: str | Path) -> bool:
    """Whether an address is fsspec's, `protocol://...`, and not a path of this machine."""
    return "://" in str(address)


def _file_system(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path there."""
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{address} needs fsspec: pip install 'robe-numba[cluster]', and the package of its "
            "protocol, as s3fs for s3://",
            name="fsspec",
        ) from error
    return fsspec.core.url_to_fs(address)


def map_file(path: str | os.PathLike[str]) -> pa.MemoryMappedFile:
    """Map a file of this machine into memory, whatever bytes its name has (Arrow wants UTF-8)."""
    return pa.memory_map(os.fsencode(path))


def open_input(address: str) -> IO[bytes]:
    """Open a source for reading; a file of this machine is not buffered."""
    if is_remote(address):
        system, path = _file_system(address)
        return system.open(path, "rb")
    return open(address, "rb", buffering=0)


def input_facts(address: str) -> tuple[int, str]:
    """Size of a source in bytes, and a stamp that differs once its content was replaced.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ValueError
        It is no regular file.
    """
    if is_remote(address):
        system, path = _file_system(address)
        if system.isdir(path):
            raise IsADirectoryError(f"the source {address} is a folder; name the files in it")
        if not system.exists(path):
            raise FileNotFoundError(f"there is no source {address}")
        return system.size(path), str(system.checksum(path))
    local = Path(address)
    if local.is_dir():
        raise IsADirectoryError(f"the source {address} is a folder; name the files in it")
    if not local.exists():
        raise FileNotFoundError(f"there is no source {address}")
    if not local.is_file():
        raise ValueError(
            f"the source {address} is not a regular file, and a pipe cannot be read twice; save "
            "it as a file first"
        )
    status = local.stat()
    return status.st_size, str(status.st_mtime_ns)


class Folder(Protocol):
    """A folder; names in it are relative, with `/` between their parts."""

    def path(self, name: str) -> str:
        """Address of a file, for messages."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""

    def names(self, name: str) -> list[str]:
        """Files directly in a subfolder, sorted; none where it does not exist."""

    def sizes(self, name: str) -> dict[str, int]:
        """Bytes of each of these files, by name."""

    def is_free(self, name: str) -> bool:
        """Whether a subfolder is missing or empty, so that it can be used."""

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading; a file of this machine is mapped into memory."""

    def writing(self, name: str) -> Any:
        """Context manager of a binary file to write, which appears on leaving without an error.

        Here and in `remove`, on this machine: OSError if a subfolder on the way is a symbolic link.
        """

    def remove(self, name: str) -> None:
        """Remove a file or a subfolder with all that is in it, if it is there."""


class LocalFolder:
    """A folder of this machine; it need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> str:
        """Address of a file, for messages."""
        return str(self.folder / name)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def names(self, name: str) -> list[str]:
        """Files directly in a subfolder, sorted; none where it does not exist."""
        folder = self.folder / name
        if not folder.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_file())

    def sizes(self, name: str) -> dict[str, int]:
        """Bytes of each of these files, by name."""
        return {file: (self.folder / name / file).stat().st_size for file in self.names(name)}

    def is_free(self, name: str) -> bool:
        """Whether a subfolder is missing or empty, so that it can be used."""
        path = self.folder / name
        if path.is_dir() and not path.is_symlink():
            return not os.listdir(path)
        return not os.path.lexists(path)

    def open(self, name: str) -> pa.NativeFile:
        """Map a file for reading."""
        return map_file(self.folder / name)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Write a file, see `replacing`."""
        path = self._own(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            yield file

    def remove(self, name: str) -> None:
        """Remove a file or a subfolder with all that is in it, if it is there."""
        remove(self._own(name))

    def _own(self, name: str) -> Path:
        """Path of a file to write or remove; a symbolic link on the way there is an error."""
        path = self.folder
        for part in name.split("/")[:-1]:
            path /= part
            check_no_link(path)
        return self.folder / name


class RemoteFolder:
    """A folder at an address of fsspec, where an upload appears when it is complete."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._system, self._root = _file_system(self.address)
        self._root = self._root.rstrip("/")
        self._system.invalidate_cache()

    def path(self, name: str) -> str:
        """Address of a file, for messages."""
        return f"{self.address}/{name}"

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        path = f"{self._root}/{name}"
        return self._system.size(path) if self._system.isfile(path) else None

    def names(self, name: str) -> list[str]:
        """Files directly in a subfolder, sorted; none where it does not exist."""
        return sorted(self.sizes(name))

    def sizes(self, name: str) -> dict[str, int]:
        """Bytes of each of these files, by name."""
        self._system.invalidate_cache()
        try:
            entries = self._system.ls(f"{self._root}/{name}", detail=True)
        except FileNotFoundError:
            return {}
        return {e["name"].rpartition("/")[2]: e["size"] for e in entries if e["type"] == "file"}

    def is_free(self, name: str) -> bool:
        """Whether a subfolder is missing or empty, so that it can be used."""
        return not self.names(name)

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading."""
        return pa.PythonFile(self._system.open(f"{self._root}/{name}", "rb"), "r")

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Write a file; after an error a part of it may be left, which no record refers to."""
        path = f"{self._root}/{name}"
        self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
        with self._system.open(path, "wb") as file:
            yield file

    def remove(self, name: str) -> None:
        """Remove a file or a subfolder with all that is in it, if it is there."""
        path = f"{self._root}/{name}"
        if self._system.exists(path):
            self._system.rm(path, recursive=True)


def folder_at(address: str | Path) -> LocalFolder | RemoteFolder:
    """The folder of an address."""
    return RemoteFolder(str(address)) if is_remote(address) else LocalFolder(Path(address))


def read_bytes(folder: Folder, name: str) -> bytes:
    """All of a file."""
    with folder.open(name) as file:
        return file.read()


def write_bytes(folder: Folder, name: str, content: bytes) -> None:
    """Write a whole file."""
    with folder.writing(name) as file:
        file.write(content)
