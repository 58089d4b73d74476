"""Train and score the smallest of models on a device: `python -m tests.gpu.tiny_training`.

Arguments: the device, a dataset of `SCHEMA` or `LISTS`, and the folder of the run.
"""

import sys
from pathlib import Path

from data_tools import Dataset
from data_tools.schema import Schema
from robe_numba.dlrm import PRESETS, DLRMConfig, Preset
from robe_numba.training import RunFolder, TrainingConfig, computing, predict, train
from tests.gpu.conftest import SIMULATED

SCHEMA = Schema("click", ("a", "b"), ("x", "y", "z"))
LISTS = Schema("click", ("a", "b"), ("x",), ("y", "z"), weights=(None, "w"))

TINY = Preset(DLRMConfig(2, 3, 2, (3,), (4,)), "adagrad", batch_size=5, lr=0.1)


def main(device: str, data: Path, output: Path) -> RunFolder:
    """Leave the run and the scores of every row, with `TINY` in place of the preset "kaggle"."""
    config = TrainingConfig(preset="kaggle", num_parameters=40, evaluations=2, device=device)
    run = train(Dataset(data), config, output)
    with computing(device, None):
        predict(run.load_model(device=device), Dataset(data), run.path / "scores.parquet")
    return run


if __name__ == "__main__":
    if SIMULATED:
        from tests.gpu import simulator

        simulator.install()
    PRESETS["kaggle"] = TINY
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
