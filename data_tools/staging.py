"""The output folder of an ingest: whose files it holds, and how finished ones get there.

Everything is written into a subfolder, and moved into place when it is whole, the manifest last.
So an ingest that fails or is killed never leaves a folder that could be taken for a dataset, and
an old dataset stays until the new one is ready. Only files that a manifest lists are ever deleted.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from data_tools.errors import DatasetError
from data_tools.manifest import MANIFEST_NAME, Manifest
from data_tools.rejects import REJECTS_NAME

PREFIX = ".ingest-"
LOCK_NAME = "robe-ingest.lock"  # in a staging folder; an ingest at work holds it
REPLACED_NAME = "replaced"  # in a staging folder: where the manifest of the old dataset goes


@contextmanager
def staging(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Yield an empty subfolder of `folder` to write to; afterwards it is gone.

    `folder` is made if need be, and goes as well if it is new and empty. What ingests that were
    killed left in it is removed.

    Raises
    ------
    FileExistsError : `folder` is a file, another ingest writes to it, it holds a dataset and
        `overwrite` is false, or it holds files that would be overwritten and are no dataset's.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder for the dataset")
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    mine = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
    try:
        with open(mine / LOCK_NAME, "wb") as lock:
            # Each ingest first locks its own folder and then looks for others, so of any two that
            # begin together at least one sees the other.
            _lock(lock)
            _discard_dead(folder, mine)
            replaceable(folder, overwrite)
            yield mine
    finally:
        _discard(mine, folder)
        if created and not any(folder.iterdir()):
            folder.rmdir()


def publish(staged: Path, folder: Path, manifest: Manifest) -> None:
    """Move the files that `manifest` lists from `staged` to `folder`, the manifest last.

    Raises
    ------
    FileExistsError : a file appeared meanwhile that would be overwritten.
    """
    old = replaceable(folder, overwrite=True)
    manifest.save(staged)
    if old is not None:
        # Without its manifest the old dataset is none, so its files may go one by one.
        (staged / REPLACED_NAME).mkdir()
        os.replace(folder / MANIFEST_NAME, staged / REPLACED_NAME / MANIFEST_NAME)
        for name in _listed(old):
            (folder / name).unlink(missing_ok=True)
    for name in [*_listed(manifest), MANIFEST_NAME]:
        os.replace(staged / name, folder / name)


def replaceable(folder: Path, overwrite: bool) -> Manifest | None:
    """Return the manifest of the dataset in `folder`, None where there is none.

    Raises
    ------
    FileExistsError : the dataset must not be replaced, or files that are no dataset's are in the
        way of a new one.
    """
    old = None
    if os.path.lexists(folder / MANIFEST_NAME):
        try:
            old = Manifest.load(folder)
        except (DatasetError, OSError) as error:
            raise FileExistsError(
                f"{folder / MANIFEST_NAME} is in the way and is no manifest that this program can "
                f"read ({error}); choose another folder, or remove the file yourself"
            ) from None
        if not overwrite:
            raise FileExistsError(
                f"{folder} holds a finished dataset; choose another folder, or overwrite it "
                "(overwrite=True, --overwrite)"
            )
    ours = {*_listed(old)} if old else set()
    written = [*folder.glob("part-[0-9][0-9][0-9][0-9][0-9]*.arrow"), folder / REJECTS_NAME]
    foreign = sorted(p.name for p in written if os.path.lexists(p) and p.name not in ours)
    if foreign:
        raise FileExistsError(
            f"{folder} holds {', '.join(foreign[:3])}{' ...' * (len(foreign) > 3)}, which no "
            "dataset there lists and an ingest might overwrite; choose another folder, or move "
            "such files away"
        )
    return old


def _listed(manifest: Manifest) -> list[str]:
    """Names of a dataset's files beside its manifest."""
    rejects = [REJECTS_NAME] if manifest.rejected else []
    return [shard.name for shard in manifest.shards] + rejects


def _discard_dead(folder: Path, mine: Path) -> None:
    """Remove the staging folders of killed ingests; one that is alive is an error."""
    for lock_path in folder.glob(f"{PREFIX}*/{LOCK_NAME}"):
        if lock_path.parent == mine:
            continue
        try:
            with open(lock_path, "rb+") as lock:
                _lock(lock)
                _discard(lock_path.parent, folder)
        except FileNotFoundError:
            continue  # it ended meanwhile
        except BlockingIOError:
            raise FileExistsError(
                f"another ingest is writing to {folder}; wait for it, or choose another folder"
            ) from None


def _discard(staged: Path, folder: Path) -> None:
    """Remove a staging folder, and what it moved to `folder` if the manifest did not follow.

    From the beginning of `publish` to its end `folder` has no manifest, and the listed files that
    lie in it are of the old dataset or of the new one.
    """
    if not os.path.lexists(folder / MANIFEST_NAME):
        for source in (staged / REPLACED_NAME, staged):
            if (source / MANIFEST_NAME).exists():
                for name in _listed(Manifest.load(source)):
                    if not (staged / name).exists():
                        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(staged, ignore_errors=True)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        """Lock the file until it is closed or the process ends."""
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        """Lock the file until it is closed or the process ends.

        Raises
        ------
        BlockingIOError : it is locked already.
        """
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
