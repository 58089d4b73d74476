"""Verify that a dataset is as it was written."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_tools.errors import DatasetError
from data_tools.format.manifest import MANIFEST_NAME, Manifest, Shard, StoredFile
from data_tools.format.names import REJECTS_NAME
from data_tools.format.shard_reader import open_shard
from data_tools.storage.atomic import TEMPORARY
from data_tools.storage.checksums import crc32
from data_tools.storage.folders import Folder, folder_at, is_remote
from data_tools.storage.paths import check_folder

CHUNK_BYTES = 1 << 22


def verify(path: str | Path, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Read every file of a dataset and compare it with the manifest.

    Parameters
    ----------
    path : path or fsspec address
    progress : callable(bytes_done, bytes_total), optional

    Returns
    -------
    list of str
        A sentence for each file that is missing, cut off, changed (a flipped bit), of another
        dataset, unlike the manifest, or not listed. Empty if nothing is wrong.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, DatasetError
        The folder or its manifest is missing, or the manifest is damaged.
    """
    if not is_remote(path):
        check_folder(path, "make a dataset with robe ingest")
    folder = folder_at(path)
    manifest = Manifest.load(folder)
    files = [*manifest.shards, *manifest.vocabulary]
    total, done = sum(file.bytes for file in files), 0
    problems = []
    for number, file in enumerate(files):
        name = f"{manifest.folder}/{file.name}"
        size = folder.size(name)
        where = folder.path(name)
        if size is None:
            problems.append(f"{where} is missing")
        elif size < file.bytes:
            problems.append(f"{where} is cut off: it has {size} of {file.bytes} bytes")
        elif size > file.bytes:
            problems.append(f"{where} has {size} bytes, but {file.bytes} were written")
        else:
            found = _checksum(folder, name)
            if found != file.crc32:
                problems.append(_changed(folder, manifest, file, number, found))
            elif isinstance(file, Shard):
                problems += _unlike_manifest(folder, manifest, number)
        done += file.bytes
        if progress:
            progress(done, total)
    if not problems:
        try:
            problems += _other_lists(folder, manifest)
        except DatasetError as error:
            problems.append(str(error))
    return problems + list(_foreign(folder, manifest))


def _checksum(folder: Folder, name: str) -> int:
    found = 0
    with folder.open(name) as file:
        while chunk := file.read_buffer(CHUNK_BYTES):
            found = crc32(chunk, found)
    return found


def _changed(folder: Folder, manifest: Manifest, file: StoredFile, number: int, found: int) -> str:
    """Say what is wrong with a file of the right size and the wrong checksum."""
    where = folder.path(f"{manifest.folder}/{file.name}")
    if isinstance(file, Shard):
        try:
            open_shard(folder, manifest, number)
        except DatasetError as error:
            if "another dataset" in str(error):
                return f"{where} is a shard of another dataset"
    return (
        f"{where} was changed: its CRC-32 is {found:08x}, but {file.crc32:08x} was written; a bit "
        "flipped, or it is of another dataset"
    )


def _unlike_manifest(folder: Folder, manifest: Manifest, number: int) -> list[str]:
    """Where the manifest contradicts a shard that is as it was written."""
    try:
        shard = open_shard(folder, manifest, number)
        if shard.block_rows.size:
            shard.read(shard.block_rows.size - 1)
    except DatasetError as error:
        return [str(error)]
    return []


def _other_lists(folder: Folder, manifest: Manifest) -> list[str]:
    """Where the manifest counts other ids of a multi-hot column than the shards have."""
    ids, longest = [0] * len(manifest.lists), [0] * len(manifest.lists)
    for number in range(len(manifest.shards) if ids else 0):
        shard = open_shard(folder, manifest, number)
        for block in range(shard.block_rows.size):
            for column, lists in enumerate(shard.read(block).lists):
                ids[column] += int(lists.offsets[-1] - lists.offsets[0])
                longest[column] = max(longest[column], int(np.diff(lists.offsets).max()))
    return [
        f"{folder.path(MANIFEST_NAME)} counts {facts.ids} ids of {name}, {facts.longest} in the "
        f"longest list, but the shards have {here} and {most}"
        for name, facts, here, most in zip(
            manifest.schema.multi_hot, manifest.lists, ids, longest, strict=True
        )
        if (facts.ids, facts.longest) != (here, most)
    ]


def _foreign(folder: Folder, manifest: Manifest) -> Iterator[str]:
    """Files among the shards that the manifest does not list."""
    listed = {file.name for file in (*manifest.shards, *manifest.vocabulary)} | {REJECTS_NAME}
    for name in folder.names(manifest.folder):
        where = folder.path(f"{manifest.folder}/{name}")
        if name.endswith(TEMPORARY):
            yield f"{where} was left by a killed worker and may be removed"
        elif name not in listed:
            yield f"{where} is not a file of this dataset; it is not read, so move it away"
