"""Train every combination of settings once; finished runs are not trained again."""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data_tools import Dataset
from data_tools.storage.own_files import check_no_link
from data_tools.storage.paths import check_room_for_folder
from robe_numba.training.config import ResolvedConfig, TrainingConfig
from robe_numba.training.loop import TrainingError
from robe_numba.training.model_builder import needs_vocabulary, training_vocabulary
from robe_numba.training.reports.html import write_report
from robe_numba.training.run.folder import RunFolder
from robe_numba.training.settings import SETTINGS, applies
from robe_numba.training.sweeps.workers import ProcessKilledError, call_all
from robe_numba.training.training_run import train
from robe_numba.training.watchers.base import Watcher

RUNS = "runs"  # the folder of the runs within that of the sweep


@dataclass(frozen=True)
class Outcome:
    """The result of one combination of settings.

    Parameters
    ----------
    config : ResolvedConfig
        The settings.
    path : Path
        Its run folder.
    error : str, optional
        Why the run is not finished.
    """

    config: ResolvedConfig
    path: Path
    error: str | None


def grid(axes: Mapping[str, Sequence[Any]]) -> list[ResolvedConfig]:
    """Every combination of settings, once.

    Parameters
    ----------
    axes : mapping of str to sequence
        Values to try for settings of `TrainingConfig`, by name. Settings that a kind of embedding
        does not have are left out of its runs.

    Returns
    -------
    list of ResolvedConfig
        The last axis changes fastest.

    Raises
    ------
    TypeError, ValueError
        A setting is unknown, or a combination is not allowed.
    """
    kinds = axes.get("embedding", [SETTINGS["embedding"].default])
    others = {name: values for name, values in axes.items() if name != "embedding"}
    configs: dict[ResolvedConfig, None] = {}
    for kind in kinds:
        used = {name: v for name, v in others.items() if applies(name, kind)}
        for values in itertools.product(*used.values()):
            settings = dict(zip(used, values, strict=True))
            configs[TrainingConfig(embedding=kind, **settings).resolved()] = None
    return list(configs)


def run_name(config: ResolvedConfig) -> str:
    """The folder of a run: its kind and size, a digest of all settings but the seed, the seed."""
    settings = config.to_dict()
    seed = settings.pop("seed")
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=4)
    size = f"-{config.compression:g}x" if config.compression else ""
    block = f"-Z{config.block_size}" if config.block_size else ""
    return f"{config.embedding}{size}{block}-{digest.hexdigest()}-seed{seed}"


def sweep(
    dataset: Dataset,
    configs: Sequence[ResolvedConfig],
    output: str | os.PathLike[str],
    *,
    jobs: int = 1,
    threads: int | None = None,
    watching: Callable[[ResolvedConfig], Watcher] | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> list[Outcome]:
    """Train every configuration that is not finished, and resume runs that were stopped.

    Parameters
    ----------
    dataset : Dataset
        Labelled.
    configs : sequence of ResolvedConfig
        Result of `grid`.
    output : path
        Folder of the sweep; each run has a folder in `runs/` there.
    jobs : int
        Processes that train one run each.
    threads : int, optional
        Threads per run; None divides the cores equally.
    watching : callable, optional
        Makes the watcher of a run, if there is one job.
    progress : callable, optional
        Called with (runs done, all runs).

    Returns
    -------
    list of Outcome
        In the order of `configs`. A run that cannot be trained (its size does not suit its kind of
        embedding, it diverged, its process was killed, ...) has an error, and the others continue.

    Raises
    ------
    FileExistsError
        `output` contains something other than a sweep, or cannot be a folder.
    ValueError
        jobs is less than 1, the dataset has no labels, or config.json of a run in `output` is
        damaged.
    OSError
        A file cannot be written, or `runs/` or a run there is a symbolic link. Finished runs stay.
    KeyboardInterrupt
        The current runs have a checkpoint.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}; it must be at least 1")
    if not dataset.labelled:
        raise ValueError("the dataset has no labels; training needs a labelled log")
    check_room_for_folder(output)
    folder = Path(output) / RUNS
    check_no_link(folder)
    if Path(output).exists() and not folder.is_dir() and any(Path(output).iterdir()):
        raise FileExistsError(f"{output} exists and is not a sweep; choose another output")
    threads = threads or max(1, (os.cpu_count() or 1) // jobs)
    known = _known_runs(folder)
    paths = [known.get(_key(c.to_dict()), folder / run_name(c)) for c in configs]
    for path in paths:
        check_no_link(path)
    calls = [
        (str(dataset.path), config, path, threads)
        for config, path in zip(configs, paths, strict=True)
    ]
    errors: dict[int, str | None] = {}
    for number, error in _results(calls, jobs, watching):
        errors[number] = error
        if progress:
            progress(len(errors), len(configs))
    return [
        Outcome(config, path, errors[number])
        for number, (config, path) in enumerate(zip(configs, paths, strict=True))
    ]


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _known_runs(folder: Path) -> dict[str, Path]:
    """The runs in a folder by their settings, since earlier versions named them otherwise."""
    runs = (RunFolder(path.parent) for path in folder.glob("*/config.json"))
    return {_key(run.settings): run.path for run in runs}


def _results(
    calls: Sequence[tuple[Any, ...]],
    jobs: int,
    watching: Callable[[ResolvedConfig], Watcher] | None,
) -> Iterator[tuple[int, str | None]]:
    """Index and error of each run as it ends."""
    if jobs == 1:
        for number, (place, config, path, threads) in enumerate(calls):
            yield number, _train(place, config, path, threads, watching and watching(config))
        return
    # Closed, so that an error in the caller ends the processes.
    with closing(call_all(_train, calls, jobs)) as results:
        for number, result in results:
            killed = isinstance(result, ProcessKilledError)
            yield number, f"{calls[number][2].name}: {result}" if killed else result


def _train(
    place: str, config: ResolvedConfig, path: Path, threads: int, watcher: Watcher | None = None
) -> str | None:
    """Train one run to its end; returns the error if that fails."""
    dataset = Dataset(place)
    try:
        vocabulary = None
        finished = RunFolder.exists_at(path) and RunFolder(path).finished
        if needs_vocabulary(config) and not finished:
            seed = (
                config.seed if config.split_by == "random" else 0
            )  # other splits do not depend on it
            vocabulary = _vocabulary(place, config.fractions, config.split_by, seed)
        run = train(
            dataset,
            config,
            path,
            threads=threads,
            vocabulary=vocabulary,
            watcher=watcher,
            resume=True,
        )
    except MemoryError as error:
        return f"not enough memory: {error}"
    except (ArithmeticError, TrainingError, ValueError) as error:
        return f"{path.name}: {error}" if path.exists() else str(error)
    write_report(run)
    return None


@lru_cache(maxsize=1)
def _vocabulary(
    place: str, fractions: tuple[float, float, float], split_by: str, seed: int
) -> list[np.ndarray]:
    """Distinct ids of the training rows, cached for runs that train on the same rows."""
    config = TrainingConfig(embedding="full", fractions=fractions, split_by=split_by, seed=seed)
    return training_vocabulary(Dataset(place), config)
