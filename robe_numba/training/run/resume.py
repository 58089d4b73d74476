"""Resuming a run: which settings may change, and the state of its last checkpoint."""

import os
from collections.abc import Sequence
from typing import Any

from data_tools import Dataset
from data_tools.storage.atomic import remove_temporary
from data_tools.storage.checksums import digest_of
from robe_numba.dlrm import DLRM
from robe_numba.training.config import ResolvedConfig, TrainingConfig
from robe_numba.training.run.checkpoints import BEST, TrainingState, link
from robe_numba.training.run.config_file import CONFIG, FORMAT, write_config
from robe_numba.training.run.folder import METRICS, RunFolder
from robe_numba.training.run.metrics_file import write_records
from robe_numba.training.run.model_file import replacing_model
from robe_numba.training.settings import RESUMABLE


def run_to_resume(
    path: str | os.PathLike[str], config: ResolvedConfig, dataset: Dataset
) -> RunFolder | None:
    """Find the run in a folder and check that it can be resumed.

    Parameters
    ----------
    path : path
        The folder.
    config : ResolvedConfig
        Settings to resume with.
    dataset : Dataset
        The run's own.

    Returns
    -------
    RunFolder, optional
        None if there is no run.

    Raises
    ------
    FileExistsError
        The folder has something else.
    ValueError
        The run cannot be resumed with these settings or this dataset, or its config.json is
        damaged.
    OSError
        A file that would be written is a symbolic link.
    """
    if not RunFolder.exists_at(path):
        return None
    RunFolder.check_links(path)
    run = RunFolder(path)
    changes = changed_settings(run, config, dataset)
    if run.finished and set(changes) - {"ranks", "exchange"}:  # these no longer matter
        names = ", ".join(name for name in changes if name not in ("ranks", "exchange"))
        raise ValueError(
            f"{path} is finished and cannot be resumed with another {names}; choose another output"
        )
    return run


def changed_settings(run: RunFolder, config: ResolvedConfig, dataset: Dataset) -> dict[str, Any]:
    """Settings that differ from those of a run, with their new values.

    Raises
    ------
    ValueError
        The run cannot be resumed with them, or the dataset is not its own.
    """
    # Resolved, as it may be older than some of the settings.
    old = TrainingConfig.from_dict(run.config["training"]).resolved().to_dict()
    new = config.to_dict()
    changes = {name: new[name] for name in new if new[name] != old[name]}
    fixed = [name for name in changes if name not in RESUMABLE]
    if fixed:
        words = ", ".join(f"{name} {old[name]} (given: {new[name]})" for name in fixed)
        raise ValueError(
            f"{run.path} was started with {words}; resume it with the same, choose another output, "
            f"or pass --overwrite instead of --resume"
        )
    if not run.is_own(dataset):
        raise ValueError(
            f"{run.path} was started on another dataset, or the dataset was ingested again with "
            f"other options; give the same"
        )
    return changes


def resume_run(
    run: RunFolder, model: DLRM, config: ResolvedConfig, dataset: Dataset, use_previous: bool
) -> TrainingState:
    """Put a model and the files of a run into the state of its last checkpoint.

    Parameters
    ----------
    run : RunFolder
        From `run_to_resume`.
    model : DLRM
        Of the run's settings.
    config, dataset
        As for `run_to_resume`.
    use_previous : bool
        If the last checkpoint is damaged, use the one before it.

    Returns
    -------
    TrainingState

    Raises
    ------
    CheckpointError
        The checkpoint is damaged or of another run.
    BlockingIOError
        Another process has finished the run.
    """
    if run.finished:
        raise BlockingIOError(f"{run.path} has just been finished by another process")
    remove_temporary(run.path)
    state = _load_checkpoint(run, model, use_previous)
    changes = changed_settings(run, config, dataset)
    if changes:
        _change_settings(run, config, state.step, changes)
    state.records = restore_records(run, state.records, state.step)
    return state


def _load_checkpoint(run: RunFolder, model: DLRM, use_previous: bool) -> TrainingState:
    """Put a model, and model.safetensors, into the state of the last checkpoint."""
    state = run.checkpoints.load(model, use_previous)
    if not run.has_digests:  # an earlier version started it; from now on it has them
        models = [digest_of(run.model_path)] if run.has_model else []
        run.config |= {"format": FORMAT, "digests": {"models": models}}
        write_config(run.path / CONFIG, run.config)
    if state.best_digest is not None:
        with replacing_model(run.model_path, run.path / CONFIG, run.config) as temporary:
            temporary.unlink()
            link(run.checkpoints.path(state.step) / BEST, temporary)
    return state


def _change_settings(
    run: RunFolder, config: ResolvedConfig, step: int, changes: dict[str, Any]
) -> None:
    """Write new settings to config.json, and the step from which they count."""
    run.config["training"] = config.to_dict()
    if step:
        record = {"step": step, "changed": changes}
        run.config["changes"] = [*run.config.get("changes", ()), record]
    write_config(run.path / CONFIG, run.config)


def restore_records(
    run: RunFolder, records: Sequence[dict[str, Any]], step: int
) -> list[dict[str, Any]]:
    """Write the records of a checkpoint, and changes of settings since, to metrics.jsonl.

    Returns
    -------
    list of dict
        All of them.
    """
    changes = [
        {**change, "step": min(step, change["step"])} for change in run.config.get("changes", ())
    ]
    records = [*records, *(change for change in changes if change not in records)]
    write_records(run.path / METRICS, records)
    return records
