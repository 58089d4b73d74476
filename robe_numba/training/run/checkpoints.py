"""Checkpoints: everything that a run needs to continue as if it had never stopped.

checkpoints/step-000000012345/state.json          where the run is, and digests
checkpoints/step-000000012345/state.safetensors   weights and optimizer state
checkpoints/step-000000012345/best.safetensors    model.safetensors of that time, as a hard link

A checkpoint is written under another name, flushed to the disk and then renamed, so that it is
complete under its own. The last two are kept. Nothing is pickled.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from data_tools.storage.atomic import flush, remove
from data_tools.storage.checksums import digest as _digest
from data_tools.storage.checksums import digest_of
from data_tools.storage.json_files import convert, parse
from data_tools.storage.own_files import make_own_folder
from robe_numba.dlrm import DLRM
from robe_numba.dlrm.backends import to_numpy

FORMAT = "robe checkpoint 1"
OTHERWISE = "it is no state of a run"
STATE, ARRAYS, BEST = "state.json", "state.safetensors", "best.safetensors"
KEPT = 2


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says why, and what to do."""


@dataclass
class TrainingState:
    """Where a run is, apart from weights and optimizer state.

    Parameters
    ----------
    step : int
        Steps done. Epoch and batch follow from it, and the order of rows from the settings.
    loss_sum, losses : float, int
        Sum and number of the losses since the last evaluation.
    seconds : float
        Spent so far.
    best : float, optional
        Validation AUC of the weights in model.safetensors.
    best_digest : str, optional
        Of that file; None if there is none yet.
    waited : int
        Evaluations since the best one.
    records : list of dict
        metrics.jsonl so far.
    """

    step: int = 0
    loss_sum: float = 0.0
    losses: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_digest: str | None = None
    waited: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of one run.

    Parameters
    ----------
    folder : Path
        Where they are.
    run : mapping
        Settings and dataset, ready for JSON; a checkpoint of others is refused.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any]):
        self.folder = folder
        self._run = _digest(json.dumps(run, sort_keys=True).encode())

    def steps(self) -> list[int]:
        """Steps of the existing checkpoints, the latest first."""
        names = (path.name for path in self.folder.glob(f"step-{'[0-9]' * 12}"))
        return sorted((int(name.removeprefix("step-")) for name in names), reverse=True)

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.folder / f"step-{step:012d}"

    def write(self, model: DLRM, state: TrainingState, best: Path) -> None:
        """Write a checkpoint, then remove those of later steps and all but the last two.

        Parameters
        ----------
        model : DLRM
            In the state to save.
        state : TrainingState
            Where the run is.
        best : Path
            model.safetensors, which is linked if `state` has its digest.

        Raises
        ------
        FloatingPointError
            A weight is not finite; such a checkpoint would be of no use.
        OSError
            It could not be written, for instance on a full disk. Earlier ones are kept.
        """
        arrays = {name: to_numpy(a) for name, a in (model.parameters() | model.state()).items()}
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise FloatingPointError(f"{name} has values that are not finite")
        make_own_folder(self.folder)
        aside = self.folder / ".step.tmp"
        remove(aside)
        aside.mkdir()
        try:
            save_file(arrays, aside / ARRAYS)
            digest = digest_of(aside / ARRAYS)
            if state.best_digest is not None:
                link(best, aside / BEST)
            facts = {"format": FORMAT, "run": self._run, "arrays": digest, **asdict(state)}
            text = json.dumps(facts)
            (aside / STATE).write_text(f"{text}\n{_digest(text.encode())}\n", encoding="utf-8")
            for path in (aside / ARRAYS, aside / STATE, aside):
                flush(path)
            target = self.path(state.step)
            remove(target)  # a damaged one that was skipped
            os.rename(aside, target)
            flush(self.folder)
        except SafetensorError as error:  # a full disk, most likely
            raise OSError(f"{aside / ARRAYS} could not be written: {error}") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        steps = self.steps()
        kept = [step for step in steps if step <= state.step][:KEPT]
        for step in set(steps) - set(kept):
            remove(self.path(step))

    def load(self, model: DLRM, use_previous: bool = False) -> TrainingState:
        """Put a model into the state of the latest checkpoint.

        Parameters
        ----------
        model : DLRM
            Of the run's settings; not changed unless the whole checkpoint is good.
        use_previous : bool
            If the latest cannot be used, use the one before it.

        Returns
        -------
        TrainingState
            Of step 0 if there is no checkpoint.

        Raises
        ------
        CheckpointError
            It is damaged, truncated or of another run, and the one before it is not to be used, or
            cannot be used either.
        """
        steps = self.steps()
        for position, step in enumerate(steps):
            try:
                return self._load(step, model)
            except CheckpointError as error:
                others = steps[position + 1 :]
                if use_previous and others:
                    continue
                remedy = (
                    f"pass --use-previous to continue from the one before it, of step {others[0]:,}"
                    if others
                    else "there is none before it; train again with --overwrite"
                )
                raise CheckpointError(f"{error}; {remedy}") from None
        return TrainingState()

    def _load(self, step: int, model: DLRM) -> TrainingState:
        path = self.path(step)
        facts = _read_state(path / STATE)
        run, digest = facts.pop("run", None), facts.pop("arrays", None)
        state = convert(facts, TrainingState, str(path / STATE), OTHERWISE, CheckpointError)
        if run != self._run:
            raise CheckpointError(f"{path} is of a run with other settings or other data")
        if state.step != step:
            raise CheckpointError(f"{path} holds step {state.step}; it was renamed")
        _check_digest(path / ARRAYS, digest)
        if state.best_digest is not None:
            _check_digest(path / BEST, state.best_digest)
        try:
            model.load(load_file(path / ARRAYS))
        except (SafetensorError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path / ARRAYS} does not fit the model ({error})") from None
        return state

    def remove(self) -> None:
        """Remove all checkpoints, once the run is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read_state(path: Path) -> dict[str, Any]:
    """The first line of a state.json, whose digest is its second line."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None
    text, _, digest = content.removesuffix(b"\n").rpartition(b"\n")
    if _digest(text) != digest.decode("ascii", "replace"):
        raise CheckpointError(f"{path} is damaged or cut off: its digest is another")
    facts: dict[str, Any] = parse(text, str(path), OTHERWISE, CheckpointError)
    if not isinstance(facts, dict) or "format" not in facts:
        raise CheckpointError(f"{path} has no format; {OTHERWISE}")
    written = facts.pop("format")
    if written != FORMAT:
        raise CheckpointError(f"{path} has format {written!r}, but this version reads {FORMAT!r}")
    return facts


def _check_digest(path: Path, expected: str) -> None:
    try:
        found = digest_of(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None
    if found != expected:
        raise CheckpointError(f"{path} is damaged or cut off: its digest is another")


def link(path: Path, target: Path) -> None:
    """Give a file another name. It is never written to, only replaced."""
    try:
        os.link(path, target)
    except OSError:  # the file system has no hard links
        shutil.copyfile(path, target)
