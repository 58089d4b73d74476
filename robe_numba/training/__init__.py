"""Training, scoring and run folders; needs the `cli` extra.

This is where models and data meet: `data_tools` gives plain NumPy batches, `robe_numba.dlrm` learns
from them.
"""

from robe_numba.training.building import build_model, table_rows, training_vocabulary
from robe_numba.training.checkpoints import CheckpointError
from robe_numba.training.config import TrainingConfig
from robe_numba.training.learner import TrainingError
from robe_numba.training.loop import TrainingInterrupted, check_alike, computing, train
from robe_numba.training.report import write_report
from robe_numba.training.run_folder import RunFolder
from robe_numba.training.scoring import evaluate, predict, score
from robe_numba.training.watching import Watcher, Watchers

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
