"""From click logs to a dataset: a folder of shards that a manifest makes complete."""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.errors import ParseError
from data_tools.format.manifest import Manifest, Shard, Source, StoredFile, created_by
from data_tools.format.names import REJECTS_NAME
from data_tools.ingestion.output_folder import begun_ingest
from data_tools.ingestion.plan import IngestPlan, make_plan
from data_tools.ingestion.schedulers import LOCAL, THREADS, default_threads, run_tasks
from data_tools.ingestion.shard_records import COUNTS, PARTS, STATE, ShardRecords
from data_tools.ingestion.vocabulary_files import build, load
from data_tools.ingestion.worker import ShardError, ShardMaker
from data_tools.options import Options, multi_hot_options
from data_tools.schema import CRITEO, Schema
from data_tools.sources.lines import BLOCK_BYTES
from data_tools.sources.row_buffer import MAX_KEPT
from data_tools.storage.atomic import TEMPORARY
from data_tools.storage.folders import Folder, LocalFolder, is_remote, write_bytes
from data_tools.storage.paths import check_room_for_folder

Progress = Callable[[int, int, int], None]


def ingest(
    sources: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    schema: Schema = CRITEO,
    format: str = "auto",
    separator: str | None = None,
    list_separator: str | None = None,
    max_length: int | None = None,
    on_error: str = "stop",
    dense_transform: str = "log1p",
    max_ind_range: int | None = None,
    ids: str = "raw",
    min_count: int = 1,
    vocabulary: str | Path | None = None,
    multi_hot_sizes: str | tuple[int, ...] | None = None,
    multi_hot_seed: int = 0,
    labelled: bool | None = None,
    file_format: str = "arrow",
    compression: str = "none",
    shard_bytes: int | None = None,
    threads: int | None = None,
    scheduler: str = THREADS,
    progress: Progress | None = None,
    overwrite: bool = False,
    block_bytes: int = BLOCK_BYTES,
) -> Manifest:
    r"""Convert click logs into a dataset in the folder `output`.

    The same sources and options give the same shards, byte for byte, on any number of threads or
    workers. An ingest that was killed, or stopped by an error, is resumed by calling it again:
    finished shards are kept.

    Parameters
    ----------
    sources : path or paths
        Criteo text, CSV with a header, or Parquet. Text and CSV may be compressed by gzip, zstd,
        bz2, xz or lz4. A source is a file of this machine or, as an address `protocol://...`, of
        any file system that fsspec supports. Either all sources are labelled or none: Criteo text
        by the number of fields in most of its first lines, the others by the label column. A line
        of a CSV is a row, so no field may hold a line end. Criteo text cannot be mixed with CSV or
        Parquet, whose ids are made differently. Rows are in the order of the sources: sort files by
        number, not by name as `glob` does, which puts day_10 before day_2.
    output : path or address
        Made if it does not exist; other files in it are left alone. One ingest at a time.
    schema : Schema
        The columns: of Criteo text in their order, of CSV and Parquet by name, where case and
        spaces count. The id of a Criteo field is its hexadecimal value. In CSV and Parquet, the id
        of an integer is its value modulo 2**64, also if it is text in plain form (`7`, `-1`; not
        `007`, not `+7`) that fits 64 bits. A whole float has the id of the integer, also as text
        (`12.0` is 12). Other text has its 8-byte BLAKE2b hash, little-endian, a
        missing field (empty, `NULL`, `\N`, `NaN`) has 0, and a value of another type has the id of
        its text. A float that is not whole, or that was rounded, is an error in a column of
        numbers: in Parquet a column of floats, in a CSV one whose fields in the first 64 KiB are
        all numbers. Elsewhere it is a text. A list of a multi-hot column has any number of such
        ids, none if it is null or empty; its weights are as many finite numbers. In Parquet, a
        categorical column of lists is multi-hot. docs/logs.md has the rules for every type.
    format : {"auto", "criteo", "csv", "parquet"}
        "auto": Parquet by its first bytes or by the name `.parquet`, CSV by the name (`.csv`,
        `.csv.gz`, ...), if there is a `separator`, or if the first line names all columns of a
        `schema` other than Criteo's, and Criteo text for all others.
    separator : str, optional
        The character between the fields of a CSV. None: the one of comma, TAB, `;` and `|` that
        the header has; the comma if it has several or none.
    list_separator : str, optional
        The character between the ids, or the weights, of a multi-hot field, of a CSV or in texts of
        Parquet. An empty or missing field is an empty list.
    max_length : int, optional
        Only the last ids of a longer list are kept, and such lists are counted.
    on_error : {"stop", "skip"}
        With "skip" bad lines are counted, and the first hundred are kept in `rejects.jsonl` beside
        the shards. A damaged file or an empty Criteo text is an error even then.
    dense_transform : {"log1p", "none", "log3", "log-squared"}
        log(max(x, 0) + 1); x; log(max(x, -2) + 3); floor(log(x)**2) above 2, else x. A missing
        field (empty, null, NaN, `NULL`, `\N`) counts as 0.
    max_ind_range : int, optional
        Ids are taken modulo this, as published DLRM results do (40,000,000 for Terabyte).
    ids : {"raw", "appearance"}
        As they are, or numbered per column from 0 in the order of their first appearance, which
        takes two passes over the sources.
    min_count : int
        Ids that occur in fewer rows become one id, see `IdMap`; above 1 this takes two passes.
    vocabulary : path, optional
        A dataset whose known ids are used instead of counting these sources, with its options `ids`
        and `min_count`; for rows to be scored by a model that was trained on it.
    multi_hot_sizes : "mlperf" or tuple of int, optional
        Ids per row of each categorical column, for which the dataset is read as if it had lists:
        each row's own id, and others that are drawn for it; see `Expansion`. "mlperf": the sizes of
        MLPerf's DLRM-DCNv2 for Criteo's columns. Needs ids="appearance".
    multi_hot_seed : int
        Of these draws, 0 to 2**63 - 1.
    labelled : bool, optional
        True: every source must have labels. False: none may. None: as the first source.
    file_format : {"arrow", "parquet"}
        Of the shards. Uncompressed Arrow is mapped into memory and read without copying.
    compression : {"none", "lz4", "zstd"}
        Of the shards.
    shard_bytes : int, optional
        Bytes of text per shard. None: about 64 shards in all, of 16 to 128 MiB each.
    threads : int, optional
        None: all processors of this process.
    scheduler : str
        "threads"; "local", a Dask cluster of `threads` processes on this machine; or the address of
        a Dask scheduler, whose workers reach sources and output by the same names.
    progress : callable(bytes_done, bytes_total, rows), optional
        Called repeatedly with the bytes of all sources on disk, times two if there are two passes.
    overwrite : bool
        Replace a dataset in `output`, which stays until the new one is complete; also discard an
        unfinished ingest of other sources or options.
    block_bytes : int
        Bytes of text to read at a time; the result does not depend on it.

    Returns
    -------
    Manifest
        Of the dataset that was written.

    Raises
    ------
    ParseError
        A bad line or file.
    DatasetError
        The plan of an unfinished ingest in `output` is damaged; or a finished shard or its record
        is missing, or was written where this process cannot see it.
    FileNotFoundError
        A source does not exist.
    FileExistsError
        `output` holds a dataset, or an unfinished ingest of something else, and `overwrite` is
        false; another ingest is writing to it; or it, or a folder above it, is a file.
    PermissionError
        `output` must not be written to.
    OSError
        For example, the disk is full; finished shards are kept for the next call.
    ValueError
        No sources, a source that is not a regular file, an unknown option, or Criteo text mixed
        with other formats.
    """
    lists = multi_hot_options(multi_hot_sizes, multi_hot_seed)
    preparation = dense_transform, on_error, max_ind_range, ids, min_count
    files = file_format, compression, separator, list_separator, max_length
    options = Options(format, *preparation, *files, **lists)
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; it must be at least 1")
    if scheduler not in (THREADS, LOCAL) and ":" not in scheduler:
        raise ValueError(
            f"scheduler is {scheduler!r}; choose {THREADS}, {LOCAL}, or the address of a Dask "
            "scheduler, tcp://HOST:PORT"
        )
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    addresses = [_absolute(source) for source in sources]
    known = _absolute(vocabulary) if vocabulary is not None else None
    output = _absolute(output)
    if not is_remote(output):
        check_room_for_folder(output)
    plan = make_plan(addresses, schema, options, labelled, shard_bytes, known)
    options.check_columns(plan.schema.num_categorical)
    with begun_ingest(output, plan, overwrite) as (folder, shards, finished):
        if finished:
            return finished
        threads = threads or default_threads()
        run = _Coordinator(plan, folder, output, shards, scheduler, threads, block_bytes, progress)
        return run.make()


def _absolute(address: str | Path) -> str:
    """Workers may be in another folder."""
    return str(address) if is_remote(address) else os.path.abspath(address)


@dataclass
class _Coordinator:
    """Has workers make the shards, and writes the manifest."""

    plan: IngestPlan
    folder: Folder
    output: str  # its address
    shards: str
    scheduler: str
    threads: int
    block_bytes: int
    progress: Progress | None

    def make(self) -> Manifest:
        """Write everything, the manifest last."""
        folder, plan = self.folder, self.plan
        # Beside the output, where there is room for ids; the system's folder may be small.
        near = folder.folder / STATE if isinstance(folder, LocalFolder) else None
        with tempfile.TemporaryDirectory(prefix="scratch-", dir=near) as scratch:
            files = self._vocabulary(Path(scratch))
        records = self._pass(PARTS, files)
        shards = [
            Shard(r.name, r.rows, r.bytes, r.crc32, r.source) for r in records.all() if r.rows
        ]
        for name in folder.names(self.shards):
            if name.endswith(TEMPORARY):  # of a worker that was killed
                folder.remove(f"{self.shards}/{name}")
        self._save_rejects(records)
        manifest = Manifest(
            schema=plan.schema,
            sources=tuple(Source(source.name, source.bytes) for source in plan.sources),
            options=plan.options,
            rows=sum(shard.rows for shard in shards),
            positives=sum(r.positives for r in records.all()) if plan.labelled else None,
            rejected=sum(r.rejected for r in records.all()),
            labelled=plan.labelled,
            index_dtype=plan.index_dtype,
            folder=self.shards,
            block_rows=plan.layout.block_rows,
            shards=tuple(shards),
            vocabulary=files,
            created_by=created_by(),
            lists=records.lists(plan.schema.num_multi_hot),
        )
        manifest.save(folder)
        return manifest

    def _vocabulary(self, scratch: Path) -> tuple[StoredFile, ...]:
        """The known ids, where the options need them: counted, or of another dataset."""
        if self.plan.vocabulary is not None:
            return load(self.plan, self.folder, self.shards, scratch)
        if not self.plan.options.counts_ids:
            return ()
        return build(self.plan, self._pass(COUNTS), self.folder, self.shards, scratch)

    def _pass(self, kind: str, vocabulary: tuple[StoredFile, ...] = ()) -> ShardRecords:
        """Make the shards, or count their ids; returns the records of all."""
        records = ShardRecords(self.folder, kind)
        sizes = sum(source.bytes for source in self.plan.sources)
        two = self.plan.options.counts_ids and self.plan.vocabulary is None
        total = sizes * (1 + two)
        before = sizes if two and kind == PARTS else 0

        def look() -> None:
            records.refresh()
            done = min(sum(r.source_bytes for r in records.found.values()), sizes)
            if self.progress:
                rows = sum(record.rows for record in records.found.values())
                self.progress(before + done, total, rows)

        maker = ShardMaker(self.plan, self.output, self.shards, kind, vocabulary, self.block_bytes)
        try:
            run_tasks(maker, list(self.plan.tasks()), self.scheduler, self.threads, look)
        except ShardError as error:
            records.refresh()
            before_it = [r for r in records.of(error.source) if r.number < error.number]
            line = sum(record.lines for record in before_it) + error.line
            address = self.plan.sources[error.source].address
            raise ParseError(address, line, error.reason) from error
        records.found.clear()  # a wrong record may have been replaced
        records.refresh()
        records.check_complete(self.plan, self.shards)
        if self.progress:
            self.progress(before + sizes, total, sum(r.rows for r in records.all()))
        return records

    def _save_rejects(self, records: ShardRecords) -> None:
        """Write the first bad lines of all sources as JSON lines, if there are any."""
        kept = []
        for number, source in enumerate(self.plan.sources):
            before = 0
            for record in records.of(number):
                for reject in record.rejects:
                    line = before + reject["line"]
                    kept.append({"file": source.address, **reject, "line": line})
                before += record.lines
        if kept:
            text = "".join(json.dumps(reject) + "\n" for reject in kept[:MAX_KEPT])
            write_bytes(self.folder, f"{self.shards}/{REJECTS_NAME}", text.encode())
