"""The output folder of an ingest: what is there already, and what stays after an error.

manifest.json      makes the folder a dataset; written last
shards-N/          the shards; those of a replaced dataset are removed last
.ingest/           the plan and the records of an unfinished ingest
.ingest.finished   the plan of a finished ingest, while it tidies up
"""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_tools.errors import DatasetError
from data_tools.format.manifest import MANIFEST_NAME, Manifest
from data_tools.format.names import FOLDER, check_name, shards_folder
from data_tools.ingestion.plan import IngestPlan, differences
from data_tools.ingestion.shard_records import COUNTS, PARTS, STATE
from data_tools.storage.atomic import TEMPORARY
from data_tools.storage.folders import Folder, LocalFolder, folder_at, read_bytes, write_bytes
from data_tools.storage.json_files import decode
from data_tools.storage.locks import locked
from data_tools.storage.own_files import check_no_link

PLAN_NAME = f"{STATE}/plan.json"
LOCK_NAME = f"{STATE}.lock"
FINISHED_NAME = f"{STATE}.finished"


@dataclass(frozen=True)
class State:
    """What an ingest writes down when it begins.

    Attributes
    ----------
    folder : str
        Subfolder of its shards.
    plan : str
        `IngestPlan.to_json`.
    replaces : str or None
        Subfolder of the dataset that it replaces.

    Raises
    ------
    ValueError
        A subfolder has a wrong name, or both are the same.
    """

    folder: str
    plan: str
    replaces: str | None = None

    def __post_init__(self) -> None:
        for name in (self.folder, self.replaces):
            if name is not None:
                check_name(name, FOLDER)
        if self.folder == self.replaces:
            raise ValueError(f"it would replace {self.replaces} by itself")

    def save(self, folder: Folder, name: str) -> None:
        """Write it to a file."""
        write_bytes(folder, name, json.dumps(asdict(self)).encode())


@contextmanager
def begun_ingest(
    address: str, plan: IngestPlan, overwrite: bool
) -> Iterator[tuple[Folder, str, Manifest | None]]:
    """Begin or resume an ingest; after an error keep the finished shards, if there are any.

    Yields
    ------
    folder : Folder
        The output.
    shards : str
        Subfolder of the shards.
    finished : Manifest or None
        Of an ingest that was killed after it wrote its manifest, so there is nothing left to do.

    Raises
    ------
    FileExistsError
        It must not begin; see `ingest`.
    """
    folder = folder_at(address)
    path = Path(address)
    created = False
    if isinstance(folder, LocalFolder):
        created = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
    try:
        with _alone_in(folder):
            state, finished = _begin(folder, plan, overwrite)
            try:
                yield folder, state.folder, finished
            except BaseException as error:
                _keep_or_discard(folder, state.folder, error, finished is None)
                raise
            _tidy_up(folder, state)
    finally:
        if created and not any(path.iterdir()):
            path.rmdir()


@contextmanager
def _alone_in(folder: Folder) -> Iterator[None]:
    """Keep other ingests of this machine out of the folder; those of others are not noticed."""
    if not isinstance(folder, LocalFolder):
        yield
        return
    taken = f"another ingest is writing to {folder.folder}; wait for it, or choose another folder"
    with locked(folder.folder / LOCK_NAME, FileExistsError(taken)):
        check_no_link(folder.folder / STATE)
        yield


def _begin(folder: Folder, plan: IngestPlan, overwrite: bool) -> tuple[State, Manifest | None]:
    """Find out what is in the folder, and write the plan into it."""
    old = _old_manifest(folder)
    for name, lenient in ((FINISHED_NAME, True), (PLAN_NAME, overwrite)):
        state, differing = _found(folder, name, plan, lenient)
        if state is None:
            continue
        if old is not None and old.folder == state.folder:  # killed while it tidied up
            if not differing:
                return state, old
            _tidy_up(folder, state)
        elif name == PLAN_NAME and _may_resume(folder, differing, overwrite):
            if old is None or overwrite:
                return state, None
        elif name == PLAN_NAME:
            folder.remove(state.folder)
    if old is not None and not overwrite:
        raise FileExistsError(
            f"{folder.path('')} holds a finished dataset; choose another folder, or overwrite it "
            "(overwrite=True, --overwrite)"
        )
    for name in (STATE, FINISHED_NAME):  # unreadable, or left by another dataset
        folder.remove(name)
    replaces = None if old is None else old.folder
    number = 0
    while shards_folder(number) == replaces or not folder.is_free(shards_folder(number)):
        number += 1
    state = State(shards_folder(number), plan.to_json(), replaces)
    state.save(folder, PLAN_NAME)
    return state, None


def _found(
    folder: Folder, name: str, plan: IngestPlan, lenient: bool
) -> tuple[State | None, list[str]]:
    """A state that was written, and how its plan differs; None if there is none.

    A damaged one is a DatasetError, or counts as missing where `lenient` is true.
    """
    if folder.size(name) is None:
        return None, []
    about: Any = folder.path(name), "discard it (overwrite=True, --overwrite)", DatasetError
    try:
        state = decode(read_bytes(folder, name), State, *about)
        before = decode(state.plan.encode(errors="surrogatepass"), dict[str, Any], *about)
    except DatasetError:
        if lenient:
            return None, []
        raise
    return state, differences(before, plan)


def _may_resume(folder: Folder, differing: list[str], overwrite: bool) -> bool:
    """Whether an unfinished ingest is this one; else it may be discarded."""
    if differing and not overwrite:
        raise FileExistsError(
            f"{folder.path('')} holds an unfinished ingest that differs in "
            f"{', '.join(differing)}; run that one again to finish it, choose another folder, "
            "or discard it (overwrite=True, --overwrite)"
        )
    return not differing


def _old_manifest(folder: Folder) -> Manifest | None:
    if folder.size(MANIFEST_NAME) is None:
        return None
    try:
        return Manifest.load(folder)
    except (DatasetError, OSError) as error:
        raise FileExistsError(
            f"{folder.path(MANIFEST_NAME)} is in the way and is not a manifest that this program "
            f"can read ({error}); choose another folder, or remove the file yourself"
        ) from None


def _tidy_up(folder: Folder, state: State) -> None:
    """Remove what a finished ingest no longer needs.

    Its plan stays until the end, in a file of its own. So if killed, the same ingest finds out
    that it had finished.
    """
    state.save(folder, FINISHED_NAME)
    if state.replaces is not None:
        folder.remove(state.replaces)
    folder.remove(STATE)
    for name in folder.names(""):
        if name.endswith(TEMPORARY) and name.startswith(
            (f".{MANIFEST_NAME}.", f".{FINISHED_NAME}.")
        ):
            folder.remove(name)
    folder.remove(FINISHED_NAME)


def _keep_or_discard(folder: Folder, shards: str, error: BaseException, discard: bool) -> None:
    """Keep finished shards for the next call and say so; if there are none, remove everything."""
    try:
        kept = sum(len(folder.names(f"{STATE}/{kind}")) for kind in (PARTS, COUNTS))
        if not kept and discard:
            folder.remove(shards)  # first: without a plan nothing would own them
            folder.remove(STATE)
    except OSError:
        return  # the first error is what matters
    if kept:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        first = "make room on the disk" if full else "fix the cause"
        error.add_note(
            f"finished shards are kept ({kept} files): {first} and run the same command again to "
            "resume"
        )
