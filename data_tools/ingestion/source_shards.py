"""Read a source shard by shard, piece by piece, into RowBuffers."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import groupby

from data_tools.ingestion.plan import IngestPlan, ShardTask
from data_tools.sources.criteo.parser import Parser
from data_tools.sources.criteo.reader import read_lines
from data_tools.sources.lines import LineBlocks, TextBlock, lines_end
from data_tools.sources.row_buffer import RowBuffer
from data_tools.sources.table_files import (
    CsvLines,
    TableRows,
    group_offsets,
    parquet_rows,
    table_columns,
)
from data_tools.sources.table_rows import Conversion, find_columns, read_rows

Feed = Callable[[RowBuffer], None]  # appends some rows of a shard


class ShardSource:
    """Reads the shards of one task. Leaving its context closes what it reads from.

    Parameters
    ----------
    plan : IngestPlan
    task : ShardTask
    block_bytes : int
        Bytes of text to read at a time.

    Attributes
    ----------
    done : int
        Bytes of the source on disk that were read.
    """

    def __init__(self, plan: IngestPlan, task: ShardTask, block_bytes: int) -> None:
        self.done = 0
        self._plan, self._task, self._block_bytes = plan, task, block_bytes
        self._source = plan.sources[task.source]
        self._reading = ExitStack()
        options = plan.options
        self._conversion = Conversion(
            plan.schema,
            plan.labelled,
            options.dense_transform,
            self._source.kind == "csv",
            options.list_separator,
        )

    def __enter__(self) -> "ShardSource":
        return self

    def __exit__(self, *error: object) -> None:
        # An error keeps the generators below alive, so they do not close their files themselves.
        self._reading.close()

    def shards(self, first: int) -> Iterator[tuple[int, Iterator[Feed]]]:
        """Yield the number of each shard in which rows begin, from `first` on, and its rows."""
        plan, source = self._plan, self._source
        if source.kind == "criteo":
            parser = Parser(plan.schema, plan.labelled, plan.options.dense_transform)
            for number, blocks in self._text(first):
                yield number, (_text_feed(parser, block) for block in blocks)
            return
        options = plan.options
        columns = table_columns(source.address, source.kind, options.separator)
        wanted = find_columns(
            source.address, plan.schema, columns, plan.labelled, options.list_separator
        )
        if not plan.labelled:
            wanted = [name for name in wanted if name != plan.schema.label]
        if source.kind == "csv":
            lines = CsvLines(
                source.address,
                wanted,
                options.separator,
                plan.schema.multi_hot,
                options.list_separator,
            )
            for number, blocks in self._text(first):
                yield number, (self._csv_feed(lines, block) for block in blocks)
            return
        begins = group_offsets(source.address)
        for number in range(first, self._task.stop or 0):
            groups = [n for n, at in enumerate(begins) if at // plan.shard_bytes == number]
            if groups:
                self.done = source.bytes * len(groups) // len(begins)
                rows = parquet_rows(source.address, groups, wanted)
                parts = self._reading.enter_context(closing(rows))
                yield number, (self._parquet_feed(part) for part in parts)

    def _text(self, first: int) -> Iterator[tuple[int, Iterator[TextBlock]]]:
        """Blocks of lines by the shard in which they begin."""
        size = self._plan.shard_bytes
        begin = 0 if self._source.num_shards is None else first * size
        end = None if self._task.stop is None else self._task.stop * size
        reader = LineBlocks(self._source.address, self._block_bytes, begin=begin, end=end)
        if end is not None:
            self.done = max(min(end, self._source.bytes) - begin, 0)
        by_shard = groupby(self._cut(reader, size), lambda block: block.offset // size)
        for number, blocks in by_shard:
            if number >= first:
                yield number, blocks

    def _cut(self, reader: LineBlocks, size: int) -> Iterator[TextBlock]:
        """Blocks that do not go over the end of a shard."""
        for block in self._reading.enter_context(closing(iter(reader))):
            offset, lines = block
            while lines.size:
                stop = lines_end(lines, size - offset % size)
                if self._source.num_shards is None:
                    self.done = reader.bytes_done
                yield TextBlock(offset, lines[:stop])
                offset, lines = offset + stop, lines[stop:]

    def _csv_feed(self, lines: CsvLines, block: TextBlock) -> Feed:
        def feed(rows: RowBuffer) -> None:
            read_rows(lines.read(block, rows.lines + 1), self._conversion, rows)
            rows.lines += block.count_lines()

        return feed

    def _parquet_feed(self, table: TableRows) -> Feed:
        def feed(rows: RowBuffer) -> None:
            read_rows(table, self._conversion, rows)
            rows.lines += table.rows.num_rows

        return feed


def _text_feed(parser: Parser, block: TextBlock) -> Feed:
    return lambda rows: read_lines(parser, block, rows)
