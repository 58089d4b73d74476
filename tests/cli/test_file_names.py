"""Names of files are bytes: all works where they are not UTF-8, and says what they are."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import data_tools
from tests.data_tools.ingestion.test_ingest import SCHEMA, make_lines, write
from tests.support.commands import robe

E = "\udce9"  # how Python holds the byte E9, an é of Latin-1
ROWS = 50


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / f"caf{E}"
    try:
        path.mkdir()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    return path


def sources(folder):
    """The same rows in every kind of source."""
    text = write(folder / f"log{E}.tsv", make_lines(ROWS))
    zipped = write(folder / f"log{E}.gz", make_lines(ROWS))
    columns = [np.array(column) for column in zip(*map(str.split, make_lines(ROWS)), strict=True)]
    dense = [column.astype(np.int64) for column in columns[: 1 + SCHEMA.num_dense]]
    table = pa.table(dict(zip(SCHEMA.names, [*dense, *columns[len(dense) :]], strict=True)))
    with open(folder / f"log{E}.parquet", "wb") as file:
        pq.write_table(table, file)
    with open(folder / f"log{E}.csv", "wb") as file:
        pa.csv.write_csv(table, file)
    return text, zipped, folder / f"log{E}.csv", folder / f"log{E}.parquet"


def all_rows(dataset):
    batches = [batch[:3] for batch in dataset.split("all").batches(7)]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


@pytest.mark.parametrize("file_format", ["arrow", "parquet"])
def test_every_kind_of_source_into_such_a_folder(folder, tmp_path, file_format):
    """Counted ids go through all other files: counts, scratch and vocabulary."""
    options = {"schema": SCHEMA, "shard_bytes": 300, "file_format": file_format}
    for source in sources(folder):
        out = folder / f"{source.suffix}{E}"
        for extra in ({}, {"ids": "appearance", "min_count": 2, "overwrite": True}):
            manifest = data_tools.ingest(source, out, **options, **extra)
            assert manifest.rows == ROWS
            assert manifest.sources[0].name == source.name
            assert data_tools.verify(out) == []
            plain = tmp_path / f"log{source.suffix}"
            plain.write_bytes(source.read_bytes())
            data_tools.ingest(plain, tmp_path / f"{plain.suffix}-out", **options, **extra)
            there = data_tools.Dataset(tmp_path / f"{plain.suffix}-out")
            for mine, wanted in zip(
                all_rows(data_tools.Dataset(out)), all_rows(there), strict=True
            ):
                np.testing.assert_array_equal(mine, wanted)
    again = data_tools.ingest(
        source, folder / "again", vocabulary=out, ids="appearance", min_count=2, **options
    )
    assert [file.crc32 for file in again.vocabulary] == [
        file.crc32 for file in data_tools.Dataset(out).manifest.vocabulary
    ]


def test_such_a_dataset_is_mapped_and_not_copied(folder):
    out = folder / "out"
    data_tools.ingest(write(folder / "log.tsv", make_lines(ROWS)), out, schema=SCHEMA)
    (batch,) = data_tools.Dataset(out).split("all").batches(ROWS)
    assert not any(array.flags.owndata or array.flags.writeable for array in batch[:3])


def test_parquet_of_others_in_such_a_folder(folder):
    *_, parquet = sources(folder)
    for path in (folder, parquet):
        assert data_tools.ParquetDataset(path, SCHEMA).num_rows == ROWS


def test_messages_and_rejects_name_such_files(folder):
    bad = write(folder / f"log{E}.tsv", [*make_lines(2), "0"])
    with pytest.raises(data_tools.ParseError, match=f"caf{E}/log{E}.tsv:3: "):
        data_tools.ingest(bad, folder / "out", schema=SCHEMA)
    data_tools.ingest(bad, folder / "out", schema=SCHEMA, on_error="skip")
    (reject,) = (folder / "out/shards-0/rejects.jsonl").read_text(encoding="ascii").splitlines()
    assert r"caf\udce9/log\udce9.tsv" in reject
    shard = folder / "out/shards-0/part-000-00000.arrow"
    shard.unlink()
    assert data_tools.verify(folder / "out") == [f"{shard} is missing"]


def test_a_column_whose_name_is_no_text_is_refused():
    with pytest.raises(ValueError, match=r"the column name 'pric\\udce9' is not UTF-8"):
        data_tools.Schema("y", (f"pric{E}",), ())


STEPS = (
    "synth l{e}.tsv --rows 2000 --scale 0.01",
    "ingest l{e}.tsv -o d{e}",
    "data info d{e}",
    "data verify d{e}",
    "train d{e} -o r{e} --compression 20 --bottom 8 --top 8 --batch-size 256 --log mlperf",
    "evaluate r{e} d{e}",
    "predict r{e} d{e} -o s{e}.parquet",
)


def test_from_a_log_to_scores_in_such_a_folder(folder):
    """As a person in that folder does it, with relative names."""
    written = "".join(robe(*step.format(e=E).split(), cwd=folder) for step in STEPS)
    for line in (
        r"d\udce9: 2,000 rows in 1 Arrow file",
        r"from l\udce9.tsv, ",
        r"d\udce9: all files are as they were written",
        "test rows 200, AUC 0.",
        r"s\udce9.parquet: 2,000 scores",
    ):
        assert line in written
    assert r"l\udce9.tsv" in (folder / f"r{E}/report.html").read_text(encoding="utf-8")
    with open(folder / f"s{E}.parquet", "rb") as file:
        assert pq.read_table(file).num_rows == 2000
