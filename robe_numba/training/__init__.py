"""Training, scoring and run folders; needs the `cli` extra.

This is where models and data meet: `data_tools` gives plain NumPy batches, `robe_numba.dlrm` learns
from them.
"""

from typing import TYPE_CHECKING

from robe_numba._lazy import attributes

if TYPE_CHECKING:
    from robe_numba.training.config import TrainingConfig
    from robe_numba.training.loop import TrainingError
    from robe_numba.training.model_builder import build_model, table_rows, training_vocabulary
    from robe_numba.training.reports.html import write_report
    from robe_numba.training.run.checkpoints import CheckpointError
    from robe_numba.training.run.folder import RunFolder
    from robe_numba.training.scoring import evaluate, predict, score
    from robe_numba.training.training_run import TrainingInterrupted, check_alike, computing, train
    from robe_numba.training.watchers.base import Watcher, Watchers

__all__ = [
    "CheckpointError",
    "RunFolder",
    "TrainingConfig",
    "TrainingError",
    "TrainingInterrupted",
    "Watcher",
    "Watchers",
    "build_model",
    "check_alike",
    "computing",
    "evaluate",
    "predict",
    "score",
    "table_rows",
    "train",
    "training_vocabulary",
    "write_report",
]

__getattr__, __dir__ = attributes(
    __name__,
    {
        "CheckpointError": "robe_numba.training.run.checkpoints",
        "RunFolder": "robe_numba.training.run.folder",
        "TrainingConfig": "robe_numba.training.config",
        "TrainingError": "robe_numba.training.loop",
        "TrainingInterrupted": "robe_numba.training.training_run",
        "Watcher": "robe_numba.training.watchers.base",
        "Watchers": "robe_numba.training.watchers.base",
        "build_model": "robe_numba.training.model_builder",
        "check_alike": "robe_numba.training.training_run",
        "computing": "robe_numba.training.training_run",
        "evaluate": "robe_numba.training.scoring",
        "predict": "robe_numba.training.scoring",
        "score": "robe_numba.training.scoring",
        "table_rows": "robe_numba.training.model_builder",
        "train": "robe_numba.training.training_run",
        "training_vocabulary": "robe_numba.training.model_builder",
        "write_report": "robe_numba.training.reports.html",
    },
)
