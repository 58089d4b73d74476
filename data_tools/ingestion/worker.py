"""Make shards: what a worker does, a thread here or a process on another machine."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Literal

import numpy as np
import pyarrow as pa

from data_tools.batch import Batch
from data_tools.format.names import shard_name
from data_tools.format.shard_writer import ChecksummedFile, Layout, count_rows, shard_writer
from data_tools.ingestion.plan import Plan, Task, damage
from data_tools.ingestion.shard_records import (
    COUNTS,
    PARTS,
    STATE,
    Record,
    file_path,
    load_record,
    save_record,
)
from data_tools.ingestion.source_shards import Feed, Feeds
from data_tools.ingestion.vocabulary_files import open_vocabulary
from data_tools.sources.containers import DamagedFileError
from data_tools.sources.lines import BLOCK_BYTES
from data_tools.sources.rejects import BadLineError, Rejects
from data_tools.sources.row_buffer import RowBuffer
from data_tools.storage.folders import Folder, folder_at
from data_tools.vocabulary.counts import ShardCounter, write_counts


class StoppedError(Exception):
    """The coordinator gave up the ingest."""


class ShardError(Exception):
    """A source that cannot be read further.

    Attributes
    ----------
    source, number : int    Of the shard.
    line : int              Counted from 1 at the beginning of the shard.
    reason : str
    """

    def __init__(self, source: int, number: int, line: int, reason: str) -> None:
        super().__init__(source, number, line, reason)
        self.source, self.number, self.line, self.reason = source, number, line, reason


class Work:
    """What all tasks of an ingest share.

    Parameters
    ----------
    plan : Plan
    address : str             Of the output.
    folder_name : str         Its subfolder for the shards.
    kind : {PARTS, COUNTS}    Whether rows are written, or their ids counted.
    vocabulary : tuple of str Files of known ids, where ids become numbers.
    block_bytes : int
    """

    def __init__(
        self,
        plan: Plan,
        address: str,
        folder_name: str,
        kind: str,
        vocabulary: tuple[str, ...] = (),
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self.plan = plan
        self.address = address
        self.folder_name = folder_name
        self.kind = kind
        self.vocabulary = vocabulary
        self.block_bytes = block_bytes

    def run(
        self,
        task: Task,
        stop: threading.Event | None = None,
        slots: threading.Semaphore | None = None,
    ) -> None:
        """Make those shards of a task that have no record yet.

        A shard holds one of the `slots` until all of it is written, but not while it waits for the
        disk to have it.

        Raises
        ------
        ShardError : a bad line that is not tolerated, or a damaged source.
        StoppedError : `stop` was set meanwhile.
        """
        folder = folder_at(self.address)
        finished = task.first
        while (task.stop is None or finished < task.stop) and (
            record := self._finished(folder, task.source, finished)
        ):
            if record.last:
                return
            finished += 1
        if task.stop is not None and finished >= task.stop:
            return
        _Maker(self, folder, task, stop, slots).make(finished)

    def _finished(self, folder: Folder, source: int, number: int) -> Record | None:
        """The record of a shard that need not be made again: its file is there, with its rows."""
        record = load_record(folder, self.kind, source, number)
        layout = layout_of(self.plan)
        if record is None or record.name != shard_name(source, number, layout.file_format):
            return None
        path = file_path(self.kind, self.folder_name, record)
        if path is None:
            return record
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


def layout_of(plan: Plan) -> Layout:
    """How the shards of a plan are written."""
    options = plan.options
    return Layout(
        plan.schema, plan.labelled, plan.index_dtype, options.file_format, options.compression
    )


class _Maker:
    """Makes the shards of one task."""

    def __init__(
        self,
        work: Work,
        folder: Folder,
        task: Task,
        stop: threading.Event | None,
        slots: threading.Semaphore | None,
    ) -> None:
        self._work, self._folder, self._task, self._stop = work, folder, task, stop
        self._plan = plan = work.plan
        self._source = plan.sources[task.source]
        self._layout = layout_of(plan)
        self._slots: AbstractContextManager = slots or nullcontext()
        self._feeds = Feeds(plan, task, work.block_bytes)

    def make(self, first: int) -> None:
        """Make the shards from number `first` on."""
        with self._feeds:
            self._make_all(first)

    def _make_all(self, first: int) -> None:
        number, taken, line = first, 0, 1
        pending: Record | None = None  # finished, but perhaps the last
        try:
            for number, feeds in self._feeds.shards(first):
                if pending:
                    save_record(self._folder, self._work.kind, pending)
                for skipped in range(pending.number + 1 if pending else first, number):
                    save_record(self._folder, self._work.kind, self._nothing(skipped))
                rejects = Rejects(self._plan.options.on_error == "skip")
                try:
                    pending = self._make_one(number, feeds, rejects)
                except BadLineError as error:
                    raise ShardError(self._task.source, number, error.line, error.reason) from error
                except DamagedFileError:
                    line = rejects.lines + 1
                    raise
                pending = replace(pending, source_bytes=self._feeds.done - taken)
                taken = self._feeds.done
        except DamagedFileError as error:
            # Also with on_error="skip": an unknown number of rows is lost, not one bad line.
            reason = damage(self._source.kind, error)
            raise ShardError(self._task.source, number, line, reason) from error
        pending = pending or self._nothing(first)
        last = self._task.stop is None or self._task.stop == self._source.num_shards
        save_record(self._folder, self._work.kind, replace(pending, last=last))

    def _nothing(self, number: int) -> Record:
        """The record of a shard in which no line begins."""
        name = shard_name(self._task.source, number, self._layout.file_format)
        taken = self._plan.shard_bytes if self._source.num_shards else 0
        taken = min(taken, self._source.bytes)
        return Record(name, self._task.source, number, 0, 0, 0, 0, 0, 0, [], taken, False)

    def _make_one(self, number: int, feeds: Iterator[Feed], rejects: Rejects) -> Record:
        """Write one shard, or its counts; no file where there are no rows."""
        name = shard_name(self._task.source, number, self._layout.file_format)
        with self._writing(name) as (rows, sink):
            for feed in feeds:
                if self._stop is not None and self._stop.is_set():
                    raise StoppedError
                feed(rows, rejects)
            rows.flush()
        path = f"{self._work.folder_name}/{name}"
        if rows.rows == 0 and self._work.kind == PARTS:
            self._folder.remove(path)
        return Record(
            name,
            self._task.source,
            number,
            rows.rows,
            sink.size,
            sink.crc32,
            rows.positives,
            rejects.lines,
            rejects.count,
            rejects.kept,
            0,
            False,
        )

    @contextmanager
    def _writing(self, name: str) -> Iterator[tuple[RowBuffer, ChecksummedFile]]:
        """A buffer whose rows go into the file of a shard, complete on leaving."""
        layout = self._layout
        counts = self._work.kind == COUNTS
        path = f"{STATE}/{COUNTS}/{name}" if counts else f"{self._work.folder_name}/{name}"
        with self._folder.writing(path) as file, self._slots:
            sink = ChecksummedFile(file)
            if counts:
                counter = ShardCounter(layout.schema.num_categorical, layout.index_dtype)

                def count(batch: Batch) -> None:
                    counter.add(self._reduced(batch.indices))

                yield self._buffer("C", count), sink
                write_counts(sink, counter)  # type: ignore[arg-type]
                return
            with shard_writer(sink, layout, name) as writer:

                def write(batch: Batch) -> None:
                    writer.write(batch._replace(indices=self._mapped(batch.indices)))

                yield self._buffer(layout.order, write), sink

    def _buffer(self, order: Literal["C", "F"], write: Callable[[Batch], None]) -> RowBuffer:
        layout = self._layout
        return RowBuffer(
            layout.schema, layout.index_dtype, layout.labelled, layout.block_rows, order, write
        )

    def _reduced(self, indices: np.ndarray) -> np.ndarray:
        """Ids modulo max_ind_range, in place."""
        modulus = self._plan.options.max_ind_range
        if modulus is not None:
            np.remainder(indices, indices.dtype.type(modulus), out=indices)
        return indices

    def _mapped(self, indices: np.ndarray) -> np.ndarray:
        """Ids as they are written."""
        indices = self._reduced(indices)
        work = self._work
        if not work.vocabulary:
            return indices
        vocabulary = open_vocabulary(
            work.address, work.folder_name, work.vocabulary, self._plan.options.max_ind_range
        )
        return vocabulary.map(indices)
