"""The models of a server: the runs that they come from, and their replacement while they serve."""

import os
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from robe_numba.serving.scorer import Scorer
from robe_numba.serving.server.metrics import ModelCounters
from robe_numba.training.run.config_file import CONFIG
from robe_numba.training.run.folder import MODEL, RunFolder

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
POLL_SECONDS = 1.0
_State = tuple[tuple[int, int, int] | None, ...]


class Model:
    """One model that is served.

    Parameters
    ----------
    name : str
        In URLs.
    run : Path
        Folder of the run.
    **options
        As for `Scorer`.

    Attributes
    ----------
    scorer : Scorer
        The current one. Another one takes its place when the run changes.

    Raises
    ------
    ValueError, OSError
        The run cannot be served.
    """

    def __init__(self, name: str, run: Path, **options: Any):
        self.name, self.run, self._options = name, run, options
        self._tried = self._seen = _state(run)
        self.scorer = self._load()

    def _load(self) -> Scorer:
        """Load the run and score one row, which also compiles what has not been yet.

        Raises
        ------
        ValueError, OSError
            It is no run, damaged, or its score is not a number.
        """
        scorer = Scorer(self.run, **self._options)
        score = scorer(*scorer.missing(1))
        if not np.isfinite(score).all():
            raise ValueError(f"the score of a row is {score[0]}; the weights are not finite")
        return scorer

    def reload(self) -> tuple[bool, str] | None:
        """Replace the scorer if the run has changed and can be served.

        Returns
        -------
        tuple of (bool, str) or None
            Whether it was replaced, and a sentence about it; None if there is nothing new.
        """
        state = _state(self.run)
        settled, self._seen = state == self._seen, state
        if state == self._tried or not settled:  # files may still be written: look again
            return None
        try:
            # No digest: it is trained anew, and has no model yet. Two: one replaces the other.
            digests = RunFolder(self.run).config.get("digests")
            if digests is not None and len(digests["models"]) != 1:
                return None
            scorer = self._load()
            if _state(self.run) != state:  # it may be half old and half new
                return None
        except Exception as error:  # whatever a damaged folder causes, the old one serves on
            self._tried = state
            return False, (
                f"{self.name} is not reloaded: {error}; version {self.scorer.version} stays"
            )
        before, self.scorer, self._tried = self.scorer.version, scorer, state
        return True, f"{self.name} is reloaded: version {before} is now {scorer.version}"


def _state(run: Path) -> _State:
    """What tells whether the files of a run are others than before."""
    found: list[tuple[int, int, int] | None] = []
    for name in (CONFIG, MODEL):
        try:
            status = os.stat(run / name)
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        except OSError:
            found.append(None)
    return tuple(found)


class Watcher:
    """A thread that looks for changed runs.

    Parameters
    ----------
    models : iterable of (Model, ModelCounters)
        What to watch, and where reloads are counted.
    log : callable
        Gets a sentence about each reload, and whether it is important: it was refused.
    """

    def __init__(
        self, models: Iterable[tuple[Model, ModelCounters]], log: Callable[[str, bool], None]
    ) -> None:
        self._models, self._log = list(models), log
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reloading", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            for model, counters in self._models:
                if (result := model.reload()) is not None:
                    done, line = result
                    counters.reload(done)
                    self._log(line, not done)

    def close(self) -> None:
        """End the thread, after a reload that it may be at."""
        self._closed.set()
        self._thread.join()


def named_runs(runs: Iterable[str]) -> dict[str, Path]:
    """The folders to serve, by name.

    Parameters
    ----------
    runs : iterable of str
        Each the path of a run, which is served by the name of its folder, or NAME=path.

    Raises
    ------
    ValueError
        A name is not fit for a URL, or given twice.
    """
    found: dict[str, Path] = {}
    for text in runs:
        name, given, path = text.partition("=")
        if not given or "/" in name or Path(text).exists():
            name, path = os.path.basename(os.path.abspath(text)), text
        if not NAME.fullmatch(name):
            raise ValueError(
                f"the name {name!r} does not fit into a URL; choose one of letters, digits, '.', "
                f"'_' and '-': NAME={path}"
            )
        if name in found:
            raise ValueError(
                f"two runs have the name {name!r}: {found[name]} and {path}; give one of them "
                f"another, as NAME={path}"
            )
        found[name] = Path(path)
    return found
