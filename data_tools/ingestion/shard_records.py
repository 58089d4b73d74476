"""What is known of an ingest that has not finished: its plan, and a record of each finished shard.

Everything lies in the subfolder `.ingest` of the output. A shard is finished when its record is
there, which is written after it; so a worker may be killed at any moment, and only what has no
record is made again. Workers tell the coordinator nothing but through these records.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from data_tools.format.names import SHARD, check_name, shard_name
from data_tools.options import FILE_FORMATS
from data_tools.sources.rejects import Reject
from data_tools.storage.folders import Folder, LocalFolder, read_bytes, write_bytes
from data_tools.storage.json_files import Count, decode
from data_tools.storage.locks import locked
from data_tools.storage.own_files import check_no_link

STATE = ".ingest"
PLAN_NAME = f"{STATE}/plan.json"
LOCK_NAME = f"{STATE}.lock"
PARTS, COUNTS = "parts", "counts"  # the two kinds of records: of shards, and of their ids' counts
_RECORD_NAME = re.compile(r"([0-9]{3,9})-([0-9]{5,9})\.json")


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

    Raises
    ------
    ValueError : the numbers contradict each other, or the name is of no shard or of another one.
    """

    name: str
    source: Count
    number: Count
    rows: Count
    bytes: Count
    crc32: Count
    positives: Count
    lines: Count
    rejected: Count
    rejects: list[Reject]
    source_bytes: Count
    last: bool

    def __post_init__(self) -> None:
        check_name(self.name, SHARD)
        if self.name not in {shard_name(self.source, self.number, f) for f in FILE_FORMATS}:
            raise ValueError(f"{self.name} is not shard {self.number} of source {self.source}")
        # A header is a line, but no row and not bad.
        if self.lines - self.rows - self.rejected not in (0, 1) or self.positives > self.rows:
            raise ValueError(
                f"{self.name} has {self.rows} rows ({self.positives} clicks) and {self.rejected} "
                f"bad lines of {self.lines} lines"
            )


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
            match = _RECORD_NAME.fullmatch(name)
            if match is None:
                continue
            key = int(match[1]), int(match[2])
            if key not in self.found:
                record = load_record(self.folder, self.kind, *key)
                if record:
                    self.found[key] = record

    def of(self, source: int) -> list[Record]:
        """Records of one source in the order of its shards."""
        return [record for key, record in sorted(self.found.items()) if key[0] == source]

    def all(self) -> list[Record]:
        """All records in the order of the rows."""
        return [record for _, record in sorted(self.found.items())]


def load_record(folder: Folder, kind: str, source: int, number: int) -> Record | None:
    """The record of a shard, if it is finished.

    One that is not whole is being written, where the folder's system shows such files; one that is
    damaged counts as not there either, so that the shard is made again.
    """
    name = _record_name(kind, source, number)
    if folder.size(name) is None:
        return None
    content = read_bytes(folder, name)
    try:
        record = decode(content, Record, folder.path(name), "the shard is made again", RecordError)
    except RecordError:
        return None
    return record if (record.source, record.number) == (source, number) else None


class RecordError(ValueError):
    """A record is not whole, or damaged."""


def save_record(folder: Folder, kind: str, record: Record) -> None:
    """Declare a shard finished."""
    content = json.dumps(asdict(record)).encode()
    write_bytes(folder, _record_name(kind, record.source, record.number), content)


def _record_name(kind: str, source: int, number: int) -> str:
    return f"{STATE}/{kind}/{source:03d}-{number:05d}.json"


def file_path(kind: str, shards: str, record: Record) -> str | None:
    """Where the file of a record lies, among the shards or the counts; None where it has none."""
    if kind == COUNTS:
        return f"{STATE}/{COUNTS}/{record.name}" if record.bytes else None
    return f"{shards}/{record.name}" if record.rows else None


@contextmanager
def alone_in(folder: Folder) -> Iterator[None]:
    """Keep other ingests of this machine from the folder; one on another machine is not noticed.

    Raises
    ------
    FileExistsError : another ingest is writing to it.
    OSError : a symbolic link has the name of one of our own files there.
    """
    if not isinstance(folder, LocalFolder):
        yield
        return
    taken = f"another ingest is writing to {folder.folder}; wait for it, or choose another folder"
    with locked(folder.folder / LOCK_NAME, FileExistsError(taken)):
        check_no_link(folder.folder / STATE)
        yield
