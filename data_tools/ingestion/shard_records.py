"""The records of an unfinished ingest, one for each finished shard.

They are in the subfolder `.ingest` of the output. A shard is finished when its record is there,
which is written after the shard. So a worker may be killed at any moment, and only shards without a
record are made again. Records are all that workers tell the coordinator.
"""

import json
import re
from dataclasses import asdict, dataclass, field

from data_tools.errors import DatasetError
from data_tools.format.manifest import ListFacts
from data_tools.format.names import SHARD, check_name, shard_name
from data_tools.ingestion.plan import IngestPlan
from data_tools.options import FILE_FORMATS
from data_tools.sources.row_buffer import Reject
from data_tools.storage.folders import Folder, read_bytes, write_bytes
from data_tools.storage.json_files import Count, decode

STATE = ".ingest"
PARTS, COUNTS = "parts", "counts"  # the two kinds of records: of shards, and of their ids' counts
_RECORD_NAME = re.compile(r"([0-9]{3,9})-([0-9]{5,9})\.json")


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard; one without rows has no file.

    Attributes
    ----------
    name : str
        Of the file.
    source, number : int
        Which source, and which of its shards.
    rows, bytes, crc32 : int
        Of the file.
    positives : int
        Rows with label 1.
    lines : int
        Lines of the source, good and bad.
    rejected : int
        Bad lines.
    rejects : list of Reject
        The first bad lines; their numbers count from the beginning of the shard.
    source_bytes : int
        Bytes of the source that the shard took.
    last : bool
        Whether the source ends with this shard.
    lists : list of ListFacts
        Of each multi-hot column; none where there are no rows.

    Raises
    ------
    ValueError
        The numbers contradict each other, or the name is not that of this shard.
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
    lists: list[ListFacts] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_name(self.name, SHARD)
        if self.name not in {shard_name(self.source, self.number, f) for f in FILE_FORMATS}:
            raise ValueError(f"{self.name} is not shard {self.number} of source {self.source}")
        if any((facts.shortened or 0) > self.rows for facts in self.lists):
            raise ValueError(f"{self.name} has more shortened lists of a column than rows")
        # A header is a line, but no row and not bad.
        if self.lines - self.rows - self.rejected not in (0, 1) or self.positives > self.rows:
            raise ValueError(
                f"{self.name} has {self.rows} rows ({self.positives} clicks) and {self.rejected} "
                f"bad lines of {self.lines} lines"
            )


@dataclass
class ShardRecords:
    """The records of one kind that have been read so far.

    Attributes
    ----------
    folder : Folder
        The output.
    kind : {PARTS, COUNTS}
    found : dict of (source, number) to ShardRecord
    """

    folder: Folder
    kind: str
    found: dict[tuple[int, int], ShardRecord] = field(default_factory=dict)

    def refresh(self) -> None:
        """Read new records."""
        for name in self.folder.names(f"{STATE}/{self.kind}"):
            match = _RECORD_NAME.fullmatch(name)
            if match is None:
                continue
            key = int(match[1]), int(match[2])
            if key not in self.found:
                record = load_record(self.folder, self.kind, *key)
                if record:
                    self.found[key] = record

    def of(self, source: int) -> list[ShardRecord]:
        """Records of one source in the order of its shards."""
        return [record for key, record in sorted(self.found.items()) if key[0] == source]

    def all(self) -> list[ShardRecord]:
        """All records in the order of the rows."""
        return [record for _, record in sorted(self.found.items())]

    def lists(self, num_multi_hot: int) -> tuple[ListFacts, ...]:
        """How long the lists of each multi-hot column are in all shards."""
        columns = list(zip(*(record.lists for record in self.all() if record.rows), strict=True))
        return tuple(
            ListFacts(
                sum(facts.ids for facts in column),
                max((facts.longest or 0 for facts in column), default=0),
                sum(facts.shortened or 0 for facts in column),
            )
            for column in columns or [()] * num_multi_hot
        )

    def check_complete(self, plan: IngestPlan, shards: str) -> None:
        """Require a record and a file of every planned shard; drop records that were not planned.

        Parameters
        ----------
        plan : IngestPlan
        shards : str
            Subfolder of the shards.

        Raises
        ------
        DatasetError
            Some are missing; the message says which, and the remedy.
        """
        planned: dict[tuple[int, int], ShardRecord] = {}
        for source, facts in enumerate(plan.sources):
            found = {record.number: record for record in self.of(source)}
            count = facts.num_shards
            if count is None:  # only the last record tells
                last = [number for number, record in found.items() if record.last]
                count = max(last) + 1 if last else max(found, default=-1) + 2
            missing = [number for number in range(count) if number not in found]
            if missing:
                raise DatasetError(
                    f"{facts.address}: shard {missing[0]} (of {len(missing)} of its {count} "
                    f"shards) has no record in {self.folder.path(f'{STATE}/{self.kind}')}, so its "
                    "rows would be missing; run the same again to make it. Workers on other "
                    "machines must reach this folder by this name"
                )
            planned |= {(source, number): found[number] for number in range(count)}
        sizes = self.folder.sizes(f"{STATE}/{COUNTS}" if self.kind == COUNTS else shards)
        for record in planned.values():
            path = file_path(self.kind, shards, record)
            if path is not None and sizes.get(record.name) != record.bytes:
                raise DatasetError(
                    f"{self.folder.path(path)} is missing or does not have the {record.bytes} "
                    "bytes that were written; run the same again to make it"
                )
        self.found = planned


def load_record(folder: Folder, kind: str, source: int, number: int) -> ShardRecord | None:
    """Read the record of a shard; None if the shard is not finished.

    A damaged record counts as missing, so that the shard is made again. So does one that is still
    being written, which some file systems show.
    """
    name = _record_name(kind, source, number)
    if folder.size(name) is None:
        return None
    content = read_bytes(folder, name)
    try:
        record = decode(
            content, ShardRecord, folder.path(name), "the shard is made again", RecordError
        )
    except RecordError:
        return None
    return record if (record.source, record.number) == (source, number) else None


class RecordError(ValueError):
    """A record is damaged."""


def save_record(folder: Folder, kind: str, record: ShardRecord) -> None:
    """Record that a shard is finished."""
    content = json.dumps(asdict(record)).encode()
    write_bytes(folder, _record_name(kind, record.source, record.number), content)


def _record_name(kind: str, source: int, number: int) -> str:
    return f"{STATE}/{kind}/{source:03d}-{number:05d}.json"


def file_path(kind: str, shards: str, record: ShardRecord) -> str | None:
    """Path of a record's file, among the shards or the counts; None if it has none."""
    if kind == COUNTS:
        return f"{STATE}/{COUNTS}/{record.name}" if record.bytes else None
    return f"{shards}/{record.name}" if record.rows else None
