"""What is known of an ingest that has not finished: its plan, and a record of each finished shard.

Everything lies in the subfolder `.ingest` of the output. A shard is finished when its record is
there, which is written after it; so a worker may be killed at any moment, and only what has no
record is made again. Workers tell the coordinator nothing but through these records.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from data_tools.storage import Folder, LocalFolder, read_bytes, write_bytes

STATE = ".ingest"
PLAN_NAME = f"{STATE}/plan.json"
LOCK_NAME = f"{STATE}.lock"
PARTS, COUNTS = "parts", "counts"  # the two kinds of records: of shards, and of their ids' counts


@dataclass(frozen=True)
class Record:
    """A finished shard; of one without rows there is no file.

    Attributes
    ----------
    name : str            Of the file.
    rows, bytes, crc32    Of the file.
    positives : int       Rows with label 1.
    lines : int           Lines of the source, good and bad.
    rejected : int        Bad lines.
    rejects : list        The first of them; lines counted within the shard.
    source_bytes : int    Bytes of the source that this shard took.
    last : bool           Whether the source ends with it.
    """

    name: str
    source: int
    number: int
    rows: int
    bytes: int
    crc32: int
    positives: int
    lines: int
    rejected: int
    rejects: list[dict[str, Any]]
    source_bytes: int
    last: bool


@dataclass
class Records:
    """The records of one kind, as far as they were read.

    Attributes
    ----------
    found : dict of (source, number) to Record
    """

    folder: Folder
    kind: str
    found: dict[tuple[int, int], Record] = field(default_factory=dict)

    def refresh(self) -> None:
        """Read what is new."""
        for name in self.folder.names(f"{STATE}/{self.kind}"):
            if not name.endswith(".json"):
                continue
            source, number = (int(part) for part in name.removesuffix(".json").split("-"))
            if (source, number) not in self.found:
                record = load_record(self.folder, self.kind, source, number)
                if record:
                    self.found[source, number] = record

    def of(self, source: int) -> list[Record]:
        """Records of one source in the order of its shards."""
        return [record for key, record in sorted(self.found.items()) if key[0] == source]

    def all(self) -> list[Record]:
        """All records in the order of the rows."""
        return [record for _, record in sorted(self.found.items())]


def load_record(folder: Folder, kind: str, source: int, number: int) -> Record | None:
    """The record of a shard, if it is finished.

    One that is not whole is being written, where the folder's system shows such files.
    """
    name = _record_name(kind, source, number)
    if folder.size(name) is None:
        return None
    try:
        return Record(**json.loads(read_bytes(folder, name)))
    except ValueError:
        return None


def save_record(folder: Folder, kind: str, record: Record) -> None:
    """Declare a shard finished."""
    content = json.dumps(asdict(record)).encode()
    write_bytes(folder, _record_name(kind, record.source, record.number), content)


def _record_name(kind: str, source: int, number: int) -> str:
    return f"{STATE}/{kind}/{source:03d}-{number:05d}.json"


@contextmanager
def locked(folder: Folder) -> Iterator[None]:
    """Keep other ingests of this machine from the folder; one on another machine is not noticed.

    Raises
    ------
    FileExistsError : another ingest is writing to it.
    """
    if not isinstance(folder, LocalFolder):
        yield
        return
    path = folder.folder / LOCK_NAME
    with _lock_file(path) as file:
        if file is None:
            raise FileExistsError(
                f"another ingest is writing to {folder.folder}; wait for it, or choose another "
                "folder"
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _lock_file(path: Path) -> Iterator[IO[bytes] | None]:
    """The locked file, None where another process has it."""
    while True:
        with open(path, "wb") as file:
            try:
                _lock(file)
            except BlockingIOError:
                yield None
                return
            # Whoever had it before may have removed it after it was opened here.
            if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                yield file
                return


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
