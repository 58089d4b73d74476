"""The known ids of a dataset: counted in its sources, or copied from another dataset."""

import os
import tempfile
import weakref
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from data_tools.errors import DatasetError
from data_tools.format.manifest import REMEDY, Manifest, StoredFile
from data_tools.format.names import vocabulary_name
from data_tools.format.shard_writer import ChecksummedFile
from data_tools.ingestion.plan import IngestPlan
from data_tools.ingestion.shard_records import COUNTS, ShardRecords, file_path
from data_tools.schema import Schema
from data_tools.storage.checksums import crc32
from data_tools.storage.folders import Folder, LocalFolder, folder_at, read_bytes
from data_tools.vocabulary.build import build_vocabulary
from data_tools.vocabulary.id_map import IdMap
from robe_numba._locks import renewed_lock

_opening = renewed_lock()


def build(
    plan: IngestPlan, records: ShardRecords, folder: Folder, shards: str, scratch: Path
) -> tuple[StoredFile, ...]:
    """Merge the counts of all shards, and write the known ids beside the shards."""
    options = plan.options
    built = build_vocabulary(
        _counts(records, folder),
        lambda column: open(scratch / vocabulary_name(column), "wb"),  # noqa: SIM115 - it closes them
        scratch_folder=scratch,
        by_appearance=options.ids == "appearance",
        min_count=options.min_count,
    )
    return _store([size.kept for size in built], folder, shards, scratch)


def _counts(records: ShardRecords, folder: Folder) -> Iterator[Path | IO[bytes]]:
    for record in records.all():
        name = file_path(COUNTS, "", record)
        if name is not None:
            yield folder.folder / name if isinstance(folder, LocalFolder) else folder.open(name)


def load(plan: IngestPlan, folder: Folder, shards: str, scratch: Path) -> tuple[StoredFile, ...]:
    """Copy the known ids of the dataset that the plan names.

    Raises
    ------
    ValueError
        It has none, or was made with other options or columns.
    DatasetError
        Its manifest or a file of known ids is damaged.
    """
    assert plan.vocabulary is not None
    other = folder_at(plan.vocabulary)
    manifest = Manifest.load(other)
    if not manifest.vocabulary:
        raise ValueError(
            f"{plan.vocabulary} has no vocabulary, because its ids are raw; leave it out"
        )
    theirs, ours = manifest.options.preparation(), plan.options.preparation()
    theirs |= _columns(manifest.schema, manifest.index_dtype)
    ours |= _columns(plan.schema, plan.index_dtype)
    for name in theirs | ours:
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"the vocabulary of {plan.vocabulary} was made with {name} = {theirs.get(name)}, "
                f"but this ingest has {ours.get(name)}; use the same"
            )
    for name, content in _checked(other, manifest):
        (scratch / name).write_bytes(content)
    return _store([file.rows for file in manifest.vocabulary], folder, shards, scratch)


def _columns(schema: Schema, index_dtype: str) -> dict[str, Any]:
    """What a vocabulary is about."""
    return {
        "categorical": schema.categorical,
        "multi_hot": schema.multi_hot,
        "index_dtype": index_dtype,
    }


def _checked(folder: Folder, manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of a dataset's known ids, as they were written."""
    for file in manifest.vocabulary:
        name = f"{manifest.folder}/{file.name}"
        content = read_bytes(folder, name)
        if (len(content), crc32(content)) != (file.bytes, file.crc32):
            raise DatasetError(f"{folder.path(name)} is not as it was written; {REMEDY}")
        yield file.name, content


def checked_vocabulary(address: str) -> IdMap:
    """Open the known ids of a dataset that has some.

    Raises
    ------
    DatasetError
        Its manifest or a file of known ids is damaged.
    FileNotFoundError
        It is not a dataset, or a file is missing.
    """
    folder = folder_at(address)
    manifest = Manifest.load(folder)
    for _ in _checked(folder, manifest):
        pass
    modulus, num_multi_hot = manifest.options.max_ind_range, manifest.schema.num_multi_hot
    return open_vocabulary(address, manifest.folder, manifest.vocabulary, modulus, num_multi_hot)


def open_vocabulary(
    address: str,
    shards: str,
    files: tuple[StoredFile, ...],
    max_ind_range: int | None,
    num_multi_hot: int = 0,
) -> IdMap:
    """Open the known ids of a dataset, once per process; remote files are copied first.

    A dataset that replaces another may have files of the same names, but with other checksums.
    """
    with _opening:  # else several threads would open it at a time
        return _opened(address, shards, files, max_ind_range, num_multi_hot)


@lru_cache(maxsize=2)
def _opened(
    address: str,
    shards: str,
    files: tuple[StoredFile, ...],
    max_ind_range: int | None,
    num_multi_hot: int,
) -> IdMap:
    folder = folder_at(address)
    if isinstance(folder, LocalFolder):
        paths = [folder.folder / shards / file.name for file in files]
        return IdMap(paths, max_ind_range=max_ind_range, num_multi_hot=num_multi_hot)
    copies = tempfile.TemporaryDirectory(prefix="robe-vocabulary-")
    paths = [Path(copies.name) / file.name for file in files]
    for path in paths:
        path.write_bytes(read_bytes(folder, f"{shards}/{path.name}"))
    vocabulary = IdMap(paths, max_ind_range=max_ind_range, num_multi_hot=num_multi_hot)
    weakref.finalize(vocabulary, copies.cleanup)
    return vocabulary


def _store(kept: list[int], folder: Folder, shards: str, scratch: Path) -> tuple[StoredFile, ...]:
    """Move the files of all columns from `scratch` to the shards."""
    files = []
    for column, rows in enumerate(kept):
        name = vocabulary_name(column)
        with folder.writing(f"{shards}/{name}") as target, open(scratch / name, "rb") as source:
            sink = ChecksummedFile(target)
            while chunk := source.read(1 << 20):
                sink.write(chunk)
        files.append(StoredFile(name, rows, sink.size, sink.crc32))
        os.unlink(scratch / name)
    return tuple(files)
