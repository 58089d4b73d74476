"""The output folder of an ingest: what is there already, and what stays after an error.

manifest.json      what makes the folder a dataset; written last, at once
shards-N/          its shards; those of a replaced dataset go last
.ingest/           the plan and the records of an ingest that has not finished
"""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_tools.errors import DatasetError
from data_tools.manifest import MANIFEST_NAME, Manifest
from data_tools.plan import Plan, differences
from data_tools.records import COUNTS, PARTS, PLAN_NAME, STATE, locked
from data_tools.storage import Folder, LocalFolder, folder_at, read_bytes, write_bytes


@dataclass
class Begun:
    """An ingest that may write: where, and what it replaces."""

    folder: Folder
    shards: str  # subfolder
    old: Manifest | None
    finished: Manifest | None  # it was killed after its manifest was written


@contextmanager
def begun_ingest(address: str, plan: Plan, overwrite: bool) -> Iterator[Begun]:
    """Begin an ingest, or go on with one; after an error keep what is finished, if anything is.

    Raises
    ------
    FileExistsError : it must not begin; see `ingest`.
    """
    folder = folder_at(address)
    path = Path(address)
    created = False
    if isinstance(folder, LocalFolder):
        created = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder):
            begun = _begin(folder, plan, overwrite)
            try:
                yield begun
            except BaseException as error:
                _keep_or_discard(begun, error)
                raise
            folder.remove(STATE)
    finally:
        if created and not any(path.iterdir()):
            path.rmdir()


def _begin(folder: Folder, plan: Plan, overwrite: bool) -> Begun:
    """Find out what is in the folder, and write the plan into it."""
    old = _old_manifest(folder)
    if folder.size(PLAN_NAME) is not None:
        state = json.loads(read_bytes(folder, PLAN_NAME))
        differing = differences(state["plan"], plan)
        if not differing:
            finished = old if old is not None and old.folder == state["folder"] else None
            if finished or old is None or overwrite:
                return Begun(folder, state["folder"], old, finished)
        elif not overwrite:
            raise FileExistsError(
                f"{folder.path('')} holds an unfinished ingest that differs in "
                f"{', '.join(differing)}; run that one again to finish it, choose another folder, "
                "or discard it (overwrite=True, --overwrite)"
            )
        else:
            if old is None or old.folder != state["folder"]:
                folder.remove(state["folder"])
            folder.remove(STATE)
    if old is not None and not overwrite:
        raise FileExistsError(
            f"{folder.path('')} holds a finished dataset; choose another folder, or overwrite it "
            "(overwrite=True, --overwrite)"
        )
    number = 0
    while folder.names(f"shards-{number}") or (old and old.folder == f"shards-{number}"):
        number += 1
    shards = f"shards-{number}"
    state = {"folder": shards, "plan": plan.to_json()}
    write_bytes(folder, PLAN_NAME, json.dumps(state).encode())
    return Begun(folder, shards, old, None)


def _old_manifest(folder: Folder) -> Manifest | None:
    if folder.size(MANIFEST_NAME) is None:
        return None
    try:
        return Manifest.load(folder)
    except (DatasetError, OSError) as error:
        raise FileExistsError(
            f"{folder.path(MANIFEST_NAME)} is in the way and is no manifest that this program can "
            f"read ({error}); choose another folder, or remove the file yourself"
        ) from None


def _keep_or_discard(begun: Begun, error: BaseException) -> None:
    """Keep finished shards for the next call and say so; without any leave nothing."""
    folder = begun.folder
    try:
        kept = sum(len(folder.names(f"{STATE}/{kind}")) for kind in (PARTS, COUNTS))
        if not kept and begun.finished is None:
            folder.remove(STATE)
            folder.remove(begun.shards)
    except OSError:
        return  # the first error is what matters
    if kept:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        first = "make room on the disk" if full else "see to the cause"
        error.add_note(
            f"what is finished ({kept} files) is kept: {first} and run the same again to go on"
        )
