"""Named shapes of a DLRM with the settings to train them."""

from dataclasses import dataclass, replace

from robe_numba.dlrm.config import DLRMConfig
from robe_numba.dlrm.learning_rate import Schedule

CONSTANT = Schedule()


@dataclass(frozen=True)
class Preset:
    """A DLRM and its training settings: batch size in rows, base learning rate and its schedule."""

    config: DLRMConfig
    optimizer: str
    batch_size: int
    lr: float
    schedule: Schedule = CONSTANT


_MLPERF = DLRMConfig(embedding_dim=128, bottom=(512, 256), top=(1024, 1024, 512, 256))

# "kaggle" and "mlperf" are as published; "mlperf-32k" and "mlperf-55k" are MLPerf's large batches.
# "default" has the shape of "kaggle" and learns more from fewer rows.
# "mlperf-dcnv2" is MLPerf's benchmark from its version 3.0 on, with multi-hot features.
_DCNV2 = replace(_MLPERF, bottom=(512, 256), interaction="dcn", cross_layers=3, cross_rank=512)
PRESETS: dict[str, Preset] = {
    "default": Preset(DLRMConfig(), optimizer="adagrad", batch_size=256, lr=0.01),
    "kaggle": Preset(DLRMConfig(), optimizer="sgd", batch_size=128, lr=0.1),
    "mlperf": Preset(_MLPERF, optimizer="sgd", batch_size=2048, lr=1.0),
    "mlperf-32k": Preset(
        _MLPERF, "sgd", batch_size=32_768, lr=18.0, schedule=Schedule(8_000, 70_000, 30_000)
    ),
    "mlperf-55k": Preset(
        _MLPERF, "sgd", batch_size=55_296, lr=24.0, schedule=Schedule(2_750, 49_315, 27_772)
    ),
    "mlperf-dcnv2": Preset(_DCNV2, "adagrad", batch_size=65_536, lr=0.005),
}
