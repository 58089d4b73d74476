"""Training, scoring and run folders; needs the `cli` extra.

This is where models and data meet: `data_tools` gives plain NumPy batches, `robe_numba.dlrm` learns
from them.
"""

from robe_numba.training.building import build_model, table_rows, training_vocabulary
from robe_numba.training.config import TrainingConfig
from robe_numba.training.loop import (
    TrainingError,
    TrainingInterrupted,
    Watcher,
    computing,
    train,
)
from robe_numba.training.report import write_report
from robe_numba.training.run_folder import RunFolder
from robe_numba.training.scoring import evaluate, predict, score

__all__ = [
    "RunFolder",
    "TrainingConfig",
    "TrainingError",
    "TrainingInterrupted",
    "Watcher",
    "build_model",
    "computing",
    "evaluate",
    "predict",
    "score",
    "table_rows",
    "train",
    "training_vocabulary",
    "write_report",
]
