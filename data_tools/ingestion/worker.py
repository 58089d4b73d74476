"""Make shards: the work of a thread of this process, or of a process on another machine."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa

from data_tools.batch import Rows
from data_tools.format.manifest import ListFacts, StoredFile
from data_tools.format.names import shard_name
from data_tools.format.shard_writer import ChecksummedFile, count_rows, shard_writer
from data_tools.ingestion.plan import IngestPlan, ShardTask, damage
from data_tools.ingestion.shard_records import (
    COUNTS,
    PARTS,
    STATE,
    ShardRecord,
    file_path,
    load_record,
    save_record,
)
from data_tools.ingestion.source_shards import Feed, ShardSource
from data_tools.ingestion.vocabulary_files import open_vocabulary
from data_tools.sources.file_types import DamagedFileError
from data_tools.sources.lines import BLOCK_BYTES
from data_tools.sources.row_buffer import BadLineError, RowBuffer
from data_tools.storage.folders import Folder, folder_at
from data_tools.vocabulary.counts import ShardCounter, write_counts


class StoppedError(Exception):
    """The coordinator gave up the ingest."""


class ShardError(Exception):
    """A source cannot be read further.

    Attributes
    ----------
    source, number : int
        Of the shard.
    line : int
        Counted from 1 at the beginning of the shard.
    reason : str
    """

    def __init__(self, source: int, number: int, line: int, reason: str) -> None:
        super().__init__(source, number, line, reason)
        self.source, self.number, self.line, self.reason = source, number, line, reason


@dataclass(frozen=True)
class ShardMaker:
    """Makes the shards of an ingest, or counts their ids; each worker has a copy.

    Parameters
    ----------
    plan : IngestPlan
    address : str
        Of the output.
    shards : str
        Subfolder of the shards in the output.
    kind : {PARTS, COUNTS}
        Whether rows are written, or their ids counted.
    vocabulary : tuple of StoredFile
        Files of known ids, where ids become numbers.
    block_bytes : int
    """

    plan: IngestPlan
    address: str
    shards: str
    kind: str
    vocabulary: tuple[StoredFile, ...] = ()
    block_bytes: int = BLOCK_BYTES

    def make(
        self,
        task: ShardTask,
        stop: threading.Event | None = None,
        slots: threading.Semaphore | None = None,
    ) -> None:
        """Make the shards of a task that have no record yet.

        Parameters
        ----------
        task : ShardTask
        stop : Event, optional
            Set to give up.
        slots : Semaphore, optional
            Held while a shard is written, but not while the disk is flushed.

        Raises
        ------
        ShardError
            A bad line that is not skipped, or a damaged source.
        StoppedError
            `stop` was set.
        """
        folder = folder_at(self.address)
        first = task.first
        while task.stop is None or first < task.stop:
            record = self._finished(folder, task.source, first)
            if record is None:
                break
            if record.last:
                return
            first += 1
        else:
            return

        def make_one(number: int, feeds: Iterator[Feed]) -> ShardRecord:
            return self._make_one(folder, task.source, number, feeds, stop, slots)

        with ShardSource(self.plan, task, self.block_bytes) as source:
            self._make_all(folder, task, first, source, make_one)

    def _finished(self, folder: Folder, source: int, number: int) -> ShardRecord | None:
        """The record of a shard that need not be made again: its file is there, with its rows."""
        record = load_record(folder, self.kind, source, number)
        layout = self.plan.layout
        if record is None or record.name != shard_name(source, number, layout.file_format):
            return None
        path = file_path(self.kind, self.shards, record)
        if path is None:
            return record
        if record.rows and len(record.lists) != layout.schema.num_multi_hot:
            return None
        if folder.size(path) != record.bytes:
            return None
        if self.kind == PARTS:
            try:
                with folder.open(path) as file:
                    rows = count_rows(file, layout)
            except (pa.ArrowException, OSError):
                return None
            if rows != record.rows:
                return None
        return record

    def _make_all(
        self,
        folder: Folder,
        task: ShardTask,
        first: int,
        source: ShardSource,
        make_one: Callable[[int, Iterator[Feed]], ShardRecord],
    ) -> None:
        """Make the shards from number `first` on, and record each."""
        number, taken = first, 0
        pending: ShardRecord | None = None  # finished, but it may be the last
        try:
            for number, feeds in source.shards(first):
                if pending:
                    save_record(folder, self.kind, pending)
                for skipped in range(pending.number + 1 if pending else first, number):
                    save_record(folder, self.kind, self._no_rows(task.source, skipped))
                pending = replace(make_one(number, feeds), source_bytes=source.done - taken)
                taken = source.done
        except DamagedFileError as error:
            raise self._damage(task.source, number, 1, error) from error
        pending = pending or self._no_rows(task.source, first)
        last = task.stop is None or task.stop == self.plan.sources[task.source].num_shards
        save_record(folder, self.kind, replace(pending, last=last))

    def _damage(self, source: int, number: int, line: int, error: DamagedFileError) -> ShardError:
        # Also with on_error="skip": an unknown number of rows is lost, not one bad line.
        return ShardError(source, number, line, damage(self.plan.sources[source].kind, error))

    def _no_rows(self, source: int, number: int) -> ShardRecord:
        """The record of a shard in which no line begins."""
        name = shard_name(source, number, self.plan.options.file_format)
        facts = self.plan.sources[source]
        taken = min(self.plan.shard_bytes, facts.bytes) if facts.num_shards else 0
        return ShardRecord(name, source, number, 0, 0, 0, 0, 0, 0, [], taken, False)

    def _make_one(
        self,
        folder: Folder,
        source: int,
        number: int,
        feeds: Iterator[Feed],
        stop: threading.Event | None,
        slots: threading.Semaphore | None,
    ) -> ShardRecord:
        """Write one shard, or its counts; no file where there are no rows."""
        name = shard_name(source, number, self.plan.options.file_format)
        with self._writing(folder, name, slots or nullcontext()) as (rows, sink):
            try:
                for feed in feeds:
                    if stop is not None and stop.is_set():
                        raise StoppedError
                    feed(rows)
            except BadLineError as error:
                raise ShardError(source, number, error.line, error.reason) from error
            except DamagedFileError as error:
                raise self._damage(source, number, rows.lines + 1, error) from error
            rows.flush()
        if rows.rows == 0 and self.kind == PARTS:
            folder.remove(f"{self.shards}/{name}")
        return ShardRecord(
            name,
            source,
            number,
            rows.rows,
            sink.size,
            sink.crc32,
            rows.positives,
            rows.lines,
            rows.rejected,
            rows.rejects,
            source_bytes=0,
            last=False,
            lists=[ListFacts(b.ids, b.longest, b.shortened) for b in rows.lists],
        )

    @contextmanager
    def _writing(
        self, folder: Folder, name: str, slots: AbstractContextManager
    ) -> Iterator[tuple[RowBuffer, ChecksummedFile]]:
        """A buffer whose rows go into the file of a shard, complete on leaving."""
        layout = self.plan.layout
        counts = self.kind == COUNTS
        path = f"{STATE}/{COUNTS}/{name}" if counts else f"{self.shards}/{name}"
        with folder.writing(path) as file, slots:
            sink = ChecksummedFile(file)
            if counts:
                schema = layout.schema
                counter = ShardCounter(
                    schema.num_categorical, layout.index_dtype, schema.num_multi_hot
                )

                def count(batch: Rows) -> None:
                    lists = [self._reduced(each.values) for each in batch.lists]
                    counter.add(self._reduced(batch.indices), lists)

                yield self._buffer("C", count), sink
                write_counts(sink, counter)  # type: ignore[arg-type]
                return
            with shard_writer(sink, layout, name) as writer:

                def write(batch: Rows) -> None:
                    writer.write(self._mapped(batch))

                yield self._buffer(layout.order, write), sink

    def _buffer(self, order: Literal["C", "F"], write: Callable[[Rows], None]) -> RowBuffer:
        layout, skip = self.plan.layout, self.plan.options.on_error == "skip"
        shape = layout.schema, layout.index_dtype, layout.labelled, layout.block_rows
        return RowBuffer(*shape, order, write, skip, self.plan.options.max_length)

    def _reduced(self, indices: np.ndarray) -> np.ndarray:
        """Ids modulo max_ind_range, in place."""
        modulus = self.plan.options.max_ind_range
        if modulus is not None:
            np.remainder(indices, indices.dtype.type(modulus), out=indices)
        return indices

    def _mapped(self, rows: Rows) -> Rows:
        """Rows with the ids that are written."""
        indices = self._reduced(rows.indices)
        values = [self._reduced(lists.values) for lists in rows.lists]
        if not self.vocabulary:
            return rows
        modulus, num_lists = self.plan.options.max_ind_range, len(values)
        known = open_vocabulary(self.address, self.shards, self.vocabulary, modulus, num_lists)
        lists = tuple(
            lists._replace(values=known.map_list(number, lists.values))
            for number, lists in enumerate(rows.lists)
        )
        return rows._replace(indices=known.map(indices), lists=lists)
