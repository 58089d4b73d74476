"""The output folder of an ingest: what is there already, and what stays after an error.

manifest.json      what makes the folder a dataset; written last, at once
shards-N/          its shards; those of a replaced dataset go last
.ingest/           the plan and the records of an ingest that has not finished
.ingest.finished   the plan of one that has, while it removes what it no longer needs
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
from data_tools.ingestion.plan import Plan, differences
from data_tools.ingestion.shard_records import COUNTS, PARTS, PLAN_NAME, STATE, alone_in
from data_tools.storage.atomic import TEMPORARY
from data_tools.storage.folders import Folder, LocalFolder, folder_at, read_bytes, write_bytes
from data_tools.storage.json_files import decode

FINISHED_NAME = f"{STATE}.finished"


@dataclass(frozen=True)
class State:
    """What an ingest writes down when it begins.

    Attributes
    ----------
    folder : str              Its subfolder for the shards.
    plan : str                `Plan.to_json`.
    replaces : str or None    Subfolder of the dataset that it replaces.

    Raises
    ------
    ValueError : a subfolder has not the name of one, or it would replace itself.
    """

    folder: str
    plan: str
    replaces: str | None = None

    def __post_init__(self) -> None:
        for name in (self.folder, self.replaces):
            if name is not None:
                check_name(name, FOLDER)
        if self.folder == self.replaces:
            raise ValueError(f"it replaces {self.replaces} by itself")

    def save(self, folder: Folder, name: str) -> None:
        """Write it to a file."""
        write_bytes(folder, name, json.dumps(asdict(self)).encode())


@dataclass
class Begun:
    """An ingest that may write: where, and what it replaces."""

    folder: Folder
    state: State
    finished: Manifest | None  # it was killed after its manifest was written

    @property
    def shards(self) -> str:
        """Subfolder of the shards."""
        return self.state.folder


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
        with alone_in(folder):
            begun = _begin(folder, plan, overwrite)
            try:
                yield begun
            except BaseException as error:
                _keep_or_discard(begun, error)
                raise
            _tidy_up(folder, begun.state)
    finally:
        if created and not any(path.iterdir()):
            path.rmdir()


def _begin(folder: Folder, plan: Plan, overwrite: bool) -> Begun:
    """Find out what is in the folder, and write the plan into it."""
    old = _old_manifest(folder)
    for name, lenient in ((FINISHED_NAME, True), (PLAN_NAME, overwrite)):
        state, differing = _found(folder, name, plan, lenient)
        if state is None:
            continue
        if old is not None and old.folder == state.folder:  # killed when it had but to tidy up
            if not differing:
                return Begun(folder, state, old)
            _tidy_up(folder, state)
        elif name == PLAN_NAME and _may_go_on(folder, differing, overwrite):
            if old is None or overwrite:
                return Begun(folder, state, None)
        elif name == PLAN_NAME:
            folder.remove(state.folder)
    if old is not None and not overwrite:
        raise FileExistsError(
            f"{folder.path('')} holds a finished dataset; choose another folder, or overwrite it "
            "(overwrite=True, --overwrite)"
        )
    for name in (STATE, FINISHED_NAME):  # without a plan that can be read, or of no dataset here
        folder.remove(name)
    replaces = None if old is None else old.folder
    number = 0
    while shards_folder(number) == replaces or not folder.is_free(shards_folder(number)):
        number += 1
    state = State(shards_folder(number), plan.to_json(), replaces)
    state.save(folder, PLAN_NAME)
    return Begun(folder, state, None)


def _found(folder: Folder, name: str, plan: Plan, lenient: bool) -> tuple[State | None, list[str]]:
    """A state that was written down, and how its plan differs; None where there is none.

    Raises
    ------
    DatasetError : it is damaged; where `lenient` is true it then counts as not there.
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


def _may_go_on(folder: Folder, differing: list[str], overwrite: bool) -> bool:
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
            f"{folder.path(MANIFEST_NAME)} is in the way and is no manifest that this program can "
            f"read ({error}); choose another folder, or remove the file yourself"
        ) from None


def _tidy_up(folder: Folder, state: State) -> None:
    """Remove what a finished ingest no longer needs.

    Its plan is there until the end, in a file of its own: killed before that, the same ingest knows
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


def _keep_or_discard(begun: Begun, error: BaseException) -> None:
    """Keep finished shards for the next call and say so; without any leave nothing."""
    folder = begun.folder
    try:
        kept = sum(len(folder.names(f"{STATE}/{kind}")) for kind in (PARTS, COUNTS))
        if not kept and begun.finished is None:
            folder.remove(begun.shards)  # first, for without a plan they would be nobody's
            folder.remove(STATE)
    except OSError:
        return  # the first error is what matters
    if kept:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        first = "make room on the disk" if full else "see to the cause"
        error.add_note(
            f"what is finished ({kept} files) is kept: {first} and run the same again to go on"
        )
