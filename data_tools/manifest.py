"""The manifest: the file that makes a folder of shards a finished dataset."""

import json
import os
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from data_tools.errors import DatasetError
from data_tools.schema import Schema

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 2


def shard_name(number: int) -> str:
    """File name of a dataset's shard, counted from 0."""
    return f"part-{number:05d}.arrow"


@dataclass(frozen=True)
class Source:
    """A file that was ingested: its name without the folder, and its size."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Shard:
    """One file of the dataset: its name, rows and size, and a checksum of its values."""

    name: str
    rows: int
    bytes: int
    crc32: int


@dataclass(frozen=True)
class Options:
    """How the sources were read; the values are those that `ingest` takes."""

    format: str = "auto"
    dense_transform: str = "log1p"
    on_error: str = "stop"

    def __post_init__(self) -> None:
        choices = {
            "format": ("auto", "criteo", "csv", "parquet"),
            "dense_transform": ("log1p", "none"),
            "on_error": ("stop", "skip"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}"
                )


@dataclass(frozen=True)
class Manifest:
    """What a dataset holds and where it came from.

    Attributes
    ----------
    schema : Schema
    sources : tuple of Source
    options : Options
    rows : int                    In all shards.
    positives : int or None       Clicks; None where unlabelled.
    rejected : int                Bad lines left out, only with on_error="skip".
    labelled : bool
    index_dtype : str             "uint32" for Criteo text, "uint64" for other logs.
    shards : tuple of Shard       In the order of their rows.
    created_by : str              The program and its version.
    """

    schema: Schema
    sources: tuple[Source, ...]
    options: Options
    rows: int
    positives: int | None
    rejected: int
    labelled: bool
    index_dtype: str
    shards: tuple[Shard, ...]
    created_by: str

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as a dict of JSON types, which `from_json` reads."""
        return {"format_version": FORMAT_VERSION, **asdict(self), "schema": self.schema.to_json()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Manifest":
        """Make the manifest that `to_json` described.

        Raises
        ------
        DatasetError : another format version, or a key is missing, unknown or of a wrong value.
        """
        fields = dict(record)
        version = fields.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise DatasetError(
                f"the manifest's format_version is {version!r}, but this program reads "
                f"{FORMAT_VERSION}; ingest the log again"
            )
        try:
            fields["schema"] = Schema.from_json(fields["schema"])
            fields["sources"] = tuple(Source(**source) for source in fields["sources"])
            fields["options"] = Options(**fields["options"])
            fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
            manifest = cls(**fields)
            manifest._check()
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"the manifest is not valid ({error}); ingest the log again"
            ) from None
        return manifest

    def _check(self) -> None:
        """Refuse numbers that contradict each other, and names that no ingest gives.

        The names are opened, and deleted when the dataset is replaced: they must lead nowhere else.
        """
        for number, shard in enumerate(self.shards):
            if shard.name != shard_name(number):
                raise ValueError(f"shard {number} is {shard.name!r}, not {shard_name(number)}")
            for value in (shard.rows, shard.bytes, shard.crc32):
                if type(value) is not int or value < 0:
                    raise ValueError(f"{shard.name} has the number {value!r}")
        held = sum(shard.rows for shard in self.shards)
        if held != self.rows:
            raise ValueError(f"it counts {self.rows} rows, but its shards hold {held}")
        if self.index_dtype not in ("uint32", "uint64"):
            raise ValueError(f"index_dtype is {self.index_dtype!r}; it is uint32 or uint64")

    def save(self, folder: Path) -> None:
        """Write the manifest into `folder` at once: it is there whole, or not at all."""
        temporary = folder / (MANIFEST_NAME + ".tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(self.to_json(), file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / MANIFEST_NAME)

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read the manifest of the dataset in `folder`.

        Raises
        ------
        FileNotFoundError : no such folder, or it has no manifest.
        DatasetError : the manifest is damaged.
        """
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder; make a dataset with robe ingest")
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {MANIFEST_NAME}: it is no dataset, or its ingest did not finish; "
                "ingest the log again"
            )
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DatasetError(f"{path} is not JSON ({error}); ingest the log again") from None
        if not isinstance(record, dict):
            raise DatasetError(f"{path} is not a JSON object; ingest the log again")
        return cls.from_json(record)


def created_by() -> str:
    """Name this program and its version."""
    try:
        version = metadata.version("robe-numba")
    except metadata.PackageNotFoundError:  # run from a source tree
        version = "unknown version"
    return f"robe-numba {version}"
