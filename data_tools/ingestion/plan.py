"""The plan of an ingest: its sources, how each is cut into shards, and the tasks that make them.

Shard k of a text holds the lines that begin in its bytes [k * shard_bytes, (k + 1) * shard_bytes),
of the inflated text where the file is compressed; of Parquet the row groups that begin there. So
the shards depend only on sources and options, any worker can make any shard without the others, and
finished shards need not be made again.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_tools.errors import ParseError
from data_tools.format.shard_writer import Layout
from data_tools.options import LATER, Options
from data_tools.schema import CRITEO, Schema
from data_tools.sources.criteo.reader import is_labelled
from data_tools.sources.file_types import (
    DamagedFileError,
    is_parquet,
    other_than_text,
    without_ending,
)
from data_tools.sources.lines import first_bytes, is_compressed
from data_tools.sources.table_files import group_offsets, has_header, table_columns
from data_tools.sources.table_rows import Columns, find_columns, with_lists
from data_tools.storage.folders import input_facts, is_remote

LEAST_SHARD_BYTES, MOST_SHARD_BYTES = 1 << 24, 1 << 27
SHARDS = 64  # of all sources together, as long as they are neither smaller nor larger than that
MOST_SHARDS = 1_000_000


@dataclass(frozen=True)
class PlannedSource:
    """One source: its address, its kind, and a stamp that changes when it is replaced."""

    address: str
    kind: str  # "criteo", "csv" or "parquet"
    bytes: int
    stamp: str
    num_shards: int | None  # None: compressed, so not known before all is inflated

    @property
    def name(self) -> str:
        """Its name without the folder."""
        return (
            self.address.rpartition("/")[2] if is_remote(self.address) else Path(self.address).name
        )


class ShardTask(NamedTuple):
    """Some consecutive shards of a source: `stop` is excluded, None means all that follow."""

    source: int
    first: int
    stop: int | None


@dataclass(frozen=True)
class IngestPlan:
    """Everything that decides the bytes of a dataset.

    Attributes
    ----------
    schema : Schema
    sources : tuple of PlannedSource
    options : Options
    labelled : bool
        Whether the sources have labels.
    index_dtype : str
        "uint32" or "uint64".
    shard_bytes : int
        Text of each shard.
    vocabulary : str or None
        Address of a dataset whose known ids are used.
    """

    schema: Schema
    sources: tuple[PlannedSource, ...]
    options: Options
    labelled: bool
    index_dtype: str
    shard_bytes: int
    vocabulary: str | None

    def tasks(self) -> Iterator[ShardTask]:
        """A task for each shard, or for a whole source that can only be read from its beginning."""
        for number, source in enumerate(self.sources):
            if source.num_shards is None:
                yield ShardTask(number, 0, None)
            else:
                yield from (ShardTask(number, k, k + 1) for k in range(source.num_shards))

    @property
    def layout(self) -> Layout:
        """How the shards are written."""
        options = self.options
        return Layout(
            self.schema, self.labelled, self.index_dtype, options.file_format, options.compression
        )

    def to_json(self) -> str:
        """The plan as text; equal plans give equal texts."""
        record = {**asdict(self), "schema": self.schema.to_json()}
        return json.dumps({**record, "options": self.options.to_json()}, indent=1)


def differences(old: dict[str, Any], new: IngestPlan) -> list[str]:
    """Names of the fields that differ between a plan that was read from a file and a plan.

    Shards of different plans cannot be mixed. But an ingest that stopped at a bad line may be
    resumed with on_error="skip": its shards have no bad lines.
    """
    before, now = dict(old), json.loads(new.to_json())
    options = before.pop("options", None)
    before |= options if isinstance(options, dict) else {}
    now |= now.pop("options")
    if before.get("on_error") == "stop":
        before["on_error"] = now["on_error"]
    # Plans of older versions lack the options that they did not have, or have them as null.
    absent = dict.fromkeys(LATER)
    before, now = absent | before, absent | now
    return [name for name in now if name not in before or before[name] != now[name]]


def make_plan(
    addresses: Sequence[str],
    schema: Schema,
    options: Options,
    labelled: bool | None,
    shard_bytes: int | None,
    vocabulary: str | None,
) -> IngestPlan:
    """Look at every source and plan the ingest.

    Parameters
    ----------
    addresses : sequence of str
        Paths or fsspec addresses, in the order of their rows.
    schema : Schema
    options : Options
    labelled : bool or None
        Whether all sources must be labelled. None: the first one decides.
    shard_bytes : int or None
        None: about 64 shards in all, of 16 to 128 MiB each.
    vocabulary : str or None
        Address of a dataset whose known ids are used.

    Raises
    ------
    ParseError
        A source is empty or damaged, or lacks columns or labels.
    FileNotFoundError, IsADirectoryError, ValueError
        There are no sources, one is not a regular file, kinds that make different ids are mixed, or
        shard_bytes is below 1 or makes too many shards.
    """
    if not addresses:
        raise ValueError("there are no sources; give at least one file")
    if shard_bytes is not None and shard_bytes < 1:
        raise ValueError(f"shard_bytes is {shard_bytes}; it must be at least 1")
    facts = [input_facts(address) for address in addresses]
    kinds = [_kind(address, options, schema) for address in addresses]
    columns = [
        _columns(address, kind, options) for address, kind in zip(addresses, kinds, strict=True)
    ]
    schema = with_lists(schema, columns)
    _check_lists(schema, options, kinds)
    if len({kind == "criteo" for kind in kinds}) > 1:
        raise ValueError(
            "Criteo text and tables (CSV, Parquet) are mixed, but make different ids of a text; "
            "ingest them into separate folders, or name the format"
        )
    if shard_bytes is None:
        wanted = sum(size for size, _ in facts) // SHARDS
        shard_bytes = min(max(wanted, LEAST_SHARD_BYTES), MOST_SHARD_BYTES)
    sources = []
    for address, kind, (size, stamp), present in zip(addresses, kinds, facts, columns, strict=True):
        labelled = _agreed_label(address, kind, schema, present, labelled, options)
        num_shards = _num_shards(address, kind, size, shard_bytes)
        sources.append(PlannedSource(address, kind, size, stamp, num_shards))
    planned = sum(source.num_shards or 1 for source in sources)
    if planned > MOST_SHARDS:
        raise ValueError(
            f"shard_bytes is {shard_bytes}, which makes {planned:,} shards; {MOST_SHARDS:,} is the "
            "most, so raise it"
        )
    index_dtype = "uint32" if kinds[0] == "criteo" else "uint64"
    return IngestPlan(
        schema, tuple(sources), options, bool(labelled), index_dtype, shard_bytes, vocabulary
    )


def _kind(address: str, options: Options, schema: Schema) -> str:
    """Format of a file: as asked for, or by its content or name.

    Criteo's own columns in a first line do not make it a CSV, which would have other ids.
    """
    head = first_bytes(address)
    name = without_ending(address)
    if options.format != "auto":
        kind = options.format
    elif is_parquet(head) or name.endswith(".parquet"):
        kind = "parquet"
    elif options.separator is not None or name.endswith(".csv"):
        kind = "csv"
    else:
        kind = "csv" if schema != CRITEO and has_header(address, schema) else "criteo"
    other = other_than_text(head)
    if kind == "parquet" and other and not is_parquet(head):
        raise ParseError(address, 1, f"the file is not Parquet; it is {other}")
    return kind


def _columns(address: str, kind: str, options: Options) -> Columns:
    """Columns of a table; none of Criteo text."""
    if kind == "criteo":
        return []
    try:
        return table_columns(address, kind, options.separator, options.list_separator)
    except DamagedFileError as error:
        raise ParseError(address, 1, damage(kind, error)) from error


def _check_lists(schema: Schema, options: Options, kinds: Sequence[str]) -> None:
    """Refuse lists in Criteo text, and options of lists where there are none."""
    if schema.multi_hot and "criteo" in kinds:
        raise ValueError(
            f"the columns {', '.join(schema.multi_hot)} are multi-hot, but Criteo text has no "
            "lists; give the log as CSV or Parquet, or name the format"
        )
    for name in ("list_separator", "max_length"):
        if getattr(options, name) is not None and not schema.multi_hot:
            raise ValueError(
                f"{name} is {getattr(options, name)!r}, but no column is multi-hot; name the "
                "columns of lists (Schema.multi_hot, --multi-hot), or leave it out"
            )


def _num_shards(address: str, kind: str, size: int, shard_bytes: int) -> int | None:
    if kind == "parquet":
        try:
            begins = group_offsets(address)
        except DamagedFileError as error:
            raise ParseError(address, 1, damage(kind, error)) from error
        return begins[-1] // shard_bytes + 1 if begins else 1
    return None if is_compressed(address) else max(1, -(-size // shard_bytes))


def damage(kind: str, error: DamagedFileError) -> str:
    """Say that a source cannot be read further."""
    what = "the compressed file is cut off or corrupt from here on"
    if kind != "criteo":
        what = f"the {kind} file is not readable here or further on"
    return f"{what} ({error})"


def _agreed_label(
    address: str,
    kind: str,
    schema: Schema,
    columns: Columns,
    before: bool | None,
    options: Options,
) -> bool:
    """Whether a source is labelled; it must agree with the others, and with what was asked for."""
    try:
        if kind == "criteo":
            labelled = is_labelled(address, schema)
        else:
            separator = options.list_separator
            found = find_columns(address, schema, columns, bool(before), separator)
            labelled = schema.label in found
    except DamagedFileError as error:
        raise ParseError(address, 1, damage(kind, error)) from error
    if before is not None and before != labelled:
        here, other = ("", "no ") if labelled else ("no ", "")
        raise ParseError(
            address,
            1,
            f"this file has {here}labels, but the sources before it have {other}labels, or "
            f"labelled={before} asked for that; ingest the two kinds into separate folders",
        )
    return labelled
