"""Any bytes as a log that is ingested: equal rows or an error that says where and why.

What comes of a case is held against the slow parser. Each is a whole ingest with its files, for
what lies between the readers; each reader has a target of its own, which is a thousand times as
fast (`tests.fuzz.criteo` and its neighbours).

    python -m tests.fuzz.ingest -runs=10000 CORPUS

Mutated Parquet tests Arrow's reader more than this package; it can be left out with FORMS.
"""

import gzip
import io
import json
import tempfile
import zlib
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz import harness

with harness.guided(__name__):
    import data_tools
    from data_tools.ingestion import coordinator, source_shards
    from data_tools.schema import Schema
    from data_tools.sources.criteo.parser import MAX_LINE_BYTES
    from tests.fuzz.criteo import BOM, LINES, SCHEMAS, slow_rows

TABLE = Schema("y", ("a",), ("p",))
FORMS = ["text", "gzip", "cut gzip", "flipped gzip", "csv", "parquet"]
GZIP_MAGIC = b"\x1f\x8b"
DAMAGED = "cut off or corrupt"
MOST_SHARDS = 48  # of a case, each has a file of its own


class Case(NamedTuple):
    """What `check` makes of its bytes, one byte for all but the last two."""

    form: str
    schema: Schema
    skip: bool  # bad lines
    block_bytes: int  # 1 to 255, or all at once
    shard_bytes: int  # 1 to 256, more where that were too many shards
    longest: int  # line that is allowed: 1 to 255, or as everywhere
    place: int  # of the damage, in thousandths of 65535
    content: bytes


def case_bytes(
    content: bytes,
    form: str = "text",
    schema: int = 0,
    skip: bool = False,
    block_bytes: int = 0,
    shard_bytes: int = 256,
    longest: int = 0,
    place: int = 0,
) -> bytes:
    """Make the bytes of a case; 0 stands for the largest size, `schema` is a number."""
    head = [FORMS.index(form), schema, skip, block_bytes, shard_bytes - 1, longest]
    return bytes(head) + place.to_bytes(2, "big") + content


def read_case(data: bytes) -> Case:
    """Undo `case_bytes`, for whatever bytes."""
    head, content = data[:8].ljust(8, b"\0"), data[8:]
    return Case(
        FORMS[head[0] % len(FORMS)],
        SCHEMAS[head[1] % len(SCHEMAS)],
        bool(head[2] % 2),
        head[3] or len(content) + 1,
        max(head[4] + 1, len(content) // MOST_SHARDS),
        head[5] or MAX_LINE_BYTES,
        int.from_bytes(head[6:], "big"),
        content,
    )


def check(data: bytes) -> None:
    """Ingest the case and compare; raises AssertionError, or whatever ingest should not raise."""
    case = read_case(data)
    with tempfile.TemporaryDirectory(dir=harness.MEMORY) as name:
        folder = Path(name)
        if case.form in ("text", "gzip"):
            check_text(case, folder)
        elif case.form == "csv":
            check_csv(case, folder)
        elif case.form == "parquet":
            check_parquet(case, folder)
        else:
            check_damaged(case, folder)


class Result(NamedTuple):
    """What an ingest gave: an error, or rows."""

    error: data_tools.ParseError | None
    rows: list[tuple[Any, ...]]  # label or None, dense values, ids
    rejected: int
    bad: list[int]  # lines that were kept
    reasons: list[str]
    labelled: bool | None


def ingest(source: Path, content: bytes, schema: Schema, longest: int, **options: Any) -> Result:
    """Write the file and ingest it into a dataset beside it; lines have at most `longest` bytes."""
    source.write_bytes(content)
    output = source.with_name("out")
    with ExitStack() as stack:
        for name in ("LineBlocks", "Parser"):
            limited = partial(getattr(source_shards, name), max_line_bytes=longest)
            stack.enter_context(patch.object(source_shards, name, limited))
        try:
            manifest = coordinator.ingest(
                source,
                output,
                schema=schema,
                threads=1,
                dense_transform="none",
                overwrite=True,
                **options,
            )
        except data_tools.ParseError as error:
            if error.file != str(source) or error.line < 1 or not error.reason.strip():
                raise AssertionError(f"no file, line or reason: {error}") from error
            return Result(error, [], 0, [], [], None)
    dataset = data_tools.Dataset(output)
    assert dataset.num_rows == manifest.rows
    rows: list[tuple[Any, ...]] = []
    for batch in dataset.split("all").batches(max(1, dataset.num_rows)):
        labels = [None] * len(batch.dense) if batch.labels is None else batch.labels.tolist()
        rows += zip(labels, batch.dense.tolist(), batch.indices.tolist(), strict=True)
    rejects = [
        json.loads(line)
        for file in output.glob("**/rejects.jsonl")
        for line in file.read_text().splitlines()
    ]
    return Result(
        None,
        rows,
        manifest.rejected,
        [reject["line"] for reject in rejects],
        [reject["reason"] for reject in rejects],
        dataset.labelled,
    )


def options_of(case: Case) -> dict[str, Any]:
    """The options of the ingest that the case chooses."""
    return {
        "on_error": "skip" if case.skip else "stop",
        "block_bytes": case.block_bytes,
        "shard_bytes": case.shard_bytes,
    }


def check_text(case: Case, folder: Path) -> None:
    """Criteo text, plain or gzipped in two members, gives what the slow parser says."""
    text, stored, name = case.content, case.content, "log.tsv"
    if case.form == "gzip":
        half = case.place % (len(text) + 1)
        stored = gzip.compress(text[:half], 1) + gzip.compress(text[half:], 1)
        name = "log.gz"
    found = ingest(folder / name, stored, case.schema, case.longest, **options_of(case))
    labelled, rows, bad = slow_rows(text, case.schema, case.longest)
    if labelled is None or (bad and not case.skip):
        line = bad[0] if bad else 1  # an empty file is an error of its line 1
        assert found.error is not None, f"{found} instead of an error at line {line}"
        assert found.error.line == line, f"{found.error}, expected at line {line}"
        return
    assert found.error is None, f"{found.error}, but bad lines are {bad}"
    assert found.labelled == labelled
    assert found.rows == rows, f"{found.rows}, expected {rows}"
    assert (found.rejected, found.bad) == (len(bad), bad[:100])


def check_damaged(case: Case, folder: Path) -> None:
    """A gzip stream that is cut off, or of which a bit is flipped, is an error of some line.

    Where it can be inflated none the less, it gives the rows.
    """
    stored = bytearray(gzip.compress(case.content, 1, mtime=0))
    place = case.place % (8 * len(stored))
    if case.form == "cut gzip":
        del stored[place // 8 :]
    else:
        stored[place // 8] ^= 1 << place % 8
    found = ingest(folder / "log.gz", bytes(stored), case.schema, case.longest, **options_of(case))
    try:
        text = gzip.decompress(stored) if stored else None
    except (EOFError, OSError, zlib.error):
        text = None
    if text is not None:
        labelled, rows, bad = slow_rows(text, case.schema, case.longest)
        if labelled is None or (bad and not case.skip):
            assert found.error is not None
            assert DAMAGED not in found.error.reason, found.error
            assert found.error.line == (bad[0] if bad else 1)
        else:
            assert (found.error, found.rows, found.rejected) == (None, rows, len(bad))
        return
    assert found.error is not None, "a damaged stream was taken for whole"
    if case.form == "cut gzip":
        assert found.error.line <= case.content.count(b"\n") + 1
    if case.skip:
        assert DAMAGED in found.error.reason or found.error.line == 1, found.error


def check_csv(case: Case, folder: Path) -> None:
    """The sizes of blocks and shards change nothing in what is made of a CSV file."""
    text = (b"y,a,p\n" if case.place % 4 else b"") + case.content
    options = options_of(case)
    first = ingest(folder / "log.csv", text, TABLE, MAX_LINE_BYTES, **options)
    options |= {"block_bytes": len(text) + 1, "shard_bytes": len(text) + 1}
    again = ingest(folder / "log.csv", text, TABLE, MAX_LINE_BYTES, **options)
    assert str(first.error) == str(again.error)
    assert first[1:] == again[1:], f"{first}, but with other sizes {again}"


@cache
def parquet_bytes() -> bytes:
    """A valid file of a few types, pages and row groups."""
    numbers = list(range(40))
    columns = {
        "y": pa.array([number % 2 for number in numbers], pa.int8()),
        "a": pa.array([None, *numbers[1:]], pa.int64()),
        "p": pa.array([str(number % 7) for number in numbers]),
    }
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=25, data_page_size=64)
    return file.getvalue()


def check_parquet(case: Case, folder: Path) -> None:
    """Bytes of a valid file are replaced, three bytes of the case for each: error or rows."""
    file = bytearray(parquet_bytes())
    for start in range(0, len(case.content) - 2, 3):
        place = int.from_bytes(case.content[start : start + 2], "big") % len(file)
        file[place] = case.content[start + 2]
    if case.place % 4 == 1:
        del file[case.place // 4 % len(file) :]
    ingest(folder / "log.parquet", bytes(file), TABLE, case.longest, **options_of(case))


SEEDS = [
    case_bytes(LINES),
    case_bytes(LINES.replace(b"5", b"5.0").replace(b"-7", b"NULL").replace(b"ff", b"\\N")),
    case_bytes(LINES + b"2\tx\n" + LINES.rstrip(), "text", 0, True, 1, 1),
    case_bytes(LINES.replace(b"5", b"9" * 40) + b"\0", "text", 0, False, 7, 30, 20),
    case_bytes(BOM + b"1\t2\n0\t-0\n1\t9223372036854775807\n", "text", 1, True, 3, 5, 12),
    case_bytes(b"aB\t\n00000001\t7\n", "gzip", 2, True, 2, 3, 0, 9),
    case_bytes(b"\t".join([b"1"] * 40) + b"\n", "gzip", 3),
    case_bytes(LINES * 3, "cut gzip", 0, True, 5, 9, 0, 300),
    case_bytes(LINES * 3, "flipped gzip", 0, True, 5, 9, 0, 70),
    case_bytes(b'1,2,"a""b"\r\n0,,x\n1,1e3\n', "csv", 0, True, 4, 6, 0, 1),
    case_bytes(b'"\n1,1,1\n1,2,"\n', "csv", 0, False, 4, 6, 0, 1),
    case_bytes(b"", "parquet"),
    case_bytes(b"\1\0\7\2\0\1", "parquet", 0, True, 0, 1, 0, 1),
]


if __name__ == "__main__":
    harness.fuzz(check, SEEDS)
