"""The manifest: the file that makes a folder of shards a finished dataset."""

import json
import reprlib
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from data_tools.errors import DatasetError
from data_tools.format.names import FOLDER, SHARD, VOCABULARY, check_name
from data_tools.options import Options, check_count
from data_tools.schema import Schema
from data_tools.storage.folders import Folder, read_bytes, write_bytes
from data_tools.storage.json_files import Count, convert, parse

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 3
# Rows of each block of a shard except its last: 1.3 MB of Criteo's, and what Parquet reads well.
BLOCK_ROWS = {"arrow": 8192, "parquet": 1 << 16}
REMEDY = "ingest the log again"


@dataclass(frozen=True)
class Source:
    """A file that was ingested: its name without the folder, and its size."""

    name: str
    bytes: Count


@dataclass(frozen=True)
class StoredFile:
    """One file of the dataset: its name, rows and size, and the CRC-32 of its bytes."""

    name: str
    rows: Count
    bytes: Count
    crc32: Count


@dataclass(frozen=True)
class Shard(StoredFile):
    """A file of rows, which all come from one source (counted from 0)."""

    source: Count


@dataclass(frozen=True)
class ListFacts:
    """How long the lists of a multi-hot column are.

    Attributes
    ----------
    ids : int
        In all rows; for a `ParquetDataset` an estimate.
    longest : int or None
        Ids of the longest list; None if not counted.
    shortened : int or None
        Lists of which only the last `max_length` ids were kept; None if not counted.

    Raises
    ------
    ValueError
        The longest list has more ids than all lists together.
    """

    ids: Count
    longest: Count | None = None
    shortened: Count | None = None

    def __post_init__(self) -> None:
        if (self.longest or 0) > self.ids:
            raise ValueError(
                f"its longest list has {self.longest} ids, but all lists together have {self.ids}"
            )


@dataclass(frozen=True)
class Manifest:
    """What a dataset holds and where it came from.

    Attributes
    ----------
    schema : Schema
    sources : tuple of Source
    options : Options
    rows : int
        In all shards.
    positives : int or None
        Clicks; None where unlabelled or not counted.
    rejected : int
        Bad lines left out, only with on_error="skip".
    labelled : bool
    index_dtype : str
        "uint32" for Criteo text, "uint64" for other logs.
    folder : str
        Subfolder of the shards.
    block_rows : int
        Rows of each block of a shard except the last.
    shards : tuple of Shard
        In the order of their rows.
    vocabulary : tuple of StoredFile
        The known ids of each of the schema's `features`, if the options number or count ids.
    created_by : str
        The program and its version.
    lists : tuple of ListFacts
        Of each multi-hot column.
    """

    schema: Schema
    sources: tuple[Source, ...]
    options: Options
    rows: Count
    positives: Count | None
    rejected: Count
    labelled: bool
    index_dtype: str
    folder: str
    block_rows: Count
    shards: tuple[Shard, ...]
    vocabulary: tuple[StoredFile, ...]
    created_by: str
    lists: tuple[ListFacts, ...] = ()

    @property
    def ids_per_row(self) -> tuple[float, ...]:
        """Mean number of ids per row of each multi-hot column; 0 where there are no rows."""
        return tuple(facts.ids / max(self.rows, 1) for facts in self.lists)

    def rows_per_source(self) -> list[int]:
        """Rows that came from each source."""
        rows = [0] * len(self.sources)
        for shard in self.shards:
            rows[shard.source] += shard.rows
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as a dict of JSON types, which `from_json` reads.

        What older manifests lack is left out where it is not used.
        """
        record = {"format_version": FORMAT_VERSION, **asdict(self)}
        if not self.lists:
            del record["lists"]
        return {**record, "schema": self.schema.to_json(), "options": self.options.to_json()}

    @classmethod
    def from_json(cls, record: Any, path: str = "the manifest") -> "Manifest":
        """Make the manifest that `to_json` described.

        Parameters
        ----------
        path : str
            Where it was read from; for messages.

        Raises
        ------
        DatasetError
            It is not a JSON object, has another format version, or a key is missing, unknown or
            wrong.
        """
        if not isinstance(record, dict):
            raise DatasetError(f"{path} is not a JSON object; {REMEDY}")
        version = record.get("format_version")
        if version != FORMAT_VERSION:
            raise DatasetError(
                f"{path}: format_version is {reprlib.repr(version)}, but this program reads "
                f"{FORMAT_VERSION}; {REMEDY}"
            )
        fields = {name: value for name, value in record.items() if name != "format_version"}
        manifest = convert(fields, cls, path, REMEDY, DatasetError)
        try:
            manifest._check()
        except ValueError as error:
            raise DatasetError(f"{path} is not valid ({error}); {REMEDY}") from None
        return manifest

    def _check(self) -> None:
        """Refuse numbers that contradict each other, and unknown names of files."""
        check_name(self.folder, FOLDER)
        check_count("block_rows", self.block_rows, max(BLOCK_ROWS.values()))
        for pattern, files in ((SHARD, self.shards), (VOCABULARY, self.vocabulary)):
            for file in files:
                check_name(file.name, pattern)
        if len({shard.name for shard in self.shards}) < len(self.shards):
            raise ValueError("it lists a shard twice")
        if any(shard.source >= len(self.sources) for shard in self.shards):
            raise ValueError("a shard is of a source that it does not list")
        held = sum(shard.rows for shard in self.shards)
        if held != self.rows:
            raise ValueError(f"it counts {self.rows} rows, but its shards hold {held}")
        if (self.positives or 0) > self.rows:
            raise ValueError(f"it counts {self.positives} clicks in {self.rows} rows")
        if len(self.vocabulary) not in (0, len(self.schema.features)):
            raise ValueError(
                f"it lists the known ids of {len(self.vocabulary)} columns, but has "
                f"{len(self.schema.features)}"
            )
        self.options.check_columns(self.schema.num_categorical)
        if self.options.multi_hot_sizes is not None and not self.vocabulary:
            raise ValueError("it has multi_hot_sizes, but no known ids to draw from")
        if len(self.lists) != self.schema.num_multi_hot:
            raise ValueError(
                f"it counts the ids of {len(self.lists)} multi-hot columns, but has "
                f"{self.schema.num_multi_hot}"
            )
        if any(None in (facts.longest, facts.shortened) for facts in self.lists):
            raise ValueError("it does not say how long the lists of a column are")
        if any((facts.shortened or 0) > self.rows for facts in self.lists):
            raise ValueError(f"it counts more shortened lists of a column than {self.rows} rows")
        if self.index_dtype not in ("uint32", "uint64"):
            raise ValueError(f"index_dtype is {self.index_dtype!r}; it is uint32 or uint64")

    def save(self, folder: Folder) -> None:
        """Write the manifest into `folder`, atomically."""
        text = json.dumps(self.to_json(), indent=2) + "\n"
        write_bytes(folder, MANIFEST_NAME, text.encode())

    @classmethod
    def load(cls, folder: Folder) -> "Manifest":
        """Read the manifest of the dataset in `folder`.

        Raises
        ------
        FileNotFoundError
            It has none.
        DatasetError
            The manifest is damaged.
        """
        path = folder.path(MANIFEST_NAME)
        if folder.size(MANIFEST_NAME) is None:
            raise FileNotFoundError(
                f"{folder.path('')} has no {MANIFEST_NAME}: it is not a dataset, or its ingest did "
                "not finish; run robe ingest, which resumes where it was stopped"
            )
        content = read_bytes(folder, MANIFEST_NAME)
        return cls.from_json(parse(content, path, REMEDY, DatasetError), path)


def created_by() -> str:
    """Name this program and its version."""
    try:
        version = metadata.version("robe-numba")
    except metadata.PackageNotFoundError:  # run from a source tree
        version = "unknown version"
    return f"robe-numba {version}"
