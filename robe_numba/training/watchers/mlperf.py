"""A log of a run that MLPerf's tools read.

Source: mlperf_logging of MLCommons, rules of training 1.0.0, open division, benchmark "dlrm".
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_tools.storage.own_files import open_own
from robe_numba import __version__
from robe_numba.dlrm import DLRM
from robe_numba.training.config import ResolvedConfig
from robe_numba.training.watchers.base import Watcher

NAME = "mlperf.log"
POINT, START, STOP = "POINT_IN_TIME", "INTERVAL_START", "INTERVAL_END"


class MLPerfLog(Watcher):
    """Writes mlperf.log into the folder of a run; a resumed run appends to it.

    AUC is that of the validation rows; epochs are counted from 1.

    Parameters
    ----------
    folder : Path
        Folder of the run, which need not exist before the run starts.
    config : ResolvedConfig
        Settings of the run.
    train_rows, validation_rows : int
        Numbers of rows.
    """

    def __init__(self, folder: Path, config: ResolvedConfig, train_rows: int, validation_rows: int):
        self._path = folder / NAME
        self._config = config
        self._waiting: list[str] | None = []  # lines from before the folder exists
        self._epoch = 0  # the current one, counted from 1
        self._evaluated = 0.0
        self._best = 0.0  # AUC
        self._log(POINT, "cache_clear", False)  # the system's caches are not cleared
        self._log(START, "init_start")
        facts = {
            "submission_benchmark": "dlrm",
            "submission_org": f"robe_numba {__version__}",
            "submission_platform": f"{config.ranks} x {config.device}",
            "submission_division": "open",
            "submission_status": "research",
            "seed": config.seed,
            "global_batch_size": config.batch_size,
            "train_samples": train_rows,
            "eval_samples": validation_rows,
        }
        for key, value in facts.items():
            self._log(POINT, key, value)

    def begin(self, model: DLRM, steps: int, done: int) -> None:
        """Log how the model is trained, and start the clock."""
        config, schedule = self._config, self._config.schedule(steps)
        decay_steps = 0 if schedule.decay_start is None else schedule.decay_steps
        facts = {
            "opt_name": config.optimizer,
            "opt_base_learning_rate": config.lr,
            "opt_learning_rate_warmup_steps": schedule.warmup_steps,
            "lr_decay_start_steps": schedule.decay_start or 0,
            "sgd_opt_base_learning_rate": config.lr,
            "sgd_opt_learning_rate_decay_poly_power": 2,
            "sgd_opt_learning_rate_decay_steps": decay_steps,
            "embedding": config.embedding,
            "embedding_bytes": model.embedding.num_bytes,
        }
        for key, value in facts.items():
            self._log(POINT, key, value)
        lines, self._waiting = self._waiting or [], None
        self._write("".join(lines))
        self._log(STOP, "init_stop")
        self._log(START, "run_start")

    def epoch(self, epoch: int) -> None:
        self._stop_epoch()
        self._epoch = epoch + 1
        self._log(START, "epoch_start", None, epoch_num=self._epoch)

    def _stop_epoch(self) -> None:
        if self._epoch:
            self._log(STOP, "epoch_stop", None, epoch_num=self._epoch)
            self._epoch = 0

    def evaluating(self, step: int, epoch: float) -> None:
        self._evaluated = epoch
        self._log(START, "eval_start", None, epoch_num=epoch)

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Log the AUC, and stop the evaluation."""
        if "validation" in record:
            auc = record["validation"]["auc"]
            self._best = max(self._best, auc or 0.0)
            self._log(POINT, "eval_accuracy", auc, epoch_num=record["epoch"])
            self._log(STOP, "eval_stop", None, epoch_num=record["epoch"])

    def end(self, status: str) -> None:
        """Stop the clock; a run that missed its target is aborted."""
        self._stop_epoch()
        if self._best < (self._config.target_auc or 0.0):
            status = "aborted"
        self._log(STOP, "run_stop", None, status=status, epoch_num=self._evaluated)

    def _log(self, event: str, key: str, value: Any = None, **metadata: Any) -> None:
        fields = {
            "namespace": "",
            "time_ms": int(time.time() * 1000),
            "event_type": event,
            "key": key,
            "value": value,
            "metadata": metadata,
        }
        line = f":::MLLOG {json.dumps(fields)}\n"
        if self._waiting is None:
            self._write(line)
        else:
            self._waiting.append(line)

    def _write(self, lines: str) -> None:
        with open_own(self._path, "a", encoding="utf-8") as file:
            file.write(lines)
