"""Click logs for training: from Criteo text, CSV or Parquet to mini-batches of NumPy arrays."""

from typing import TYPE_CHECKING

from robe_numba._lazy import attributes

if TYPE_CHECKING:
    from data_tools.batch import Batch
    from data_tools.coordinator import ingest
    from data_tools.dataset import Dataset
    from data_tools.errors import DatasetError, ParseError
    from data_tools.manifest import Manifest
    from data_tools.parquet_dataset import ParquetDataset
    from data_tools.schema import CRITEO, Schema
    from data_tools.sharing import Peers, share_of
    from data_tools.split import Split
    from data_tools.synth_presets import cardinalities
    from data_tools.verification import verify

__all__ = [
    "CRITEO",
    "Batch",
    "Dataset",
    "DatasetError",
    "Manifest",
    "ParquetDataset",
    "ParseError",
    "Peers",
    "Schema",
    "Split",
    "cardinalities",
    "ingest",
    "share_of",
    "verify",
]

__getattr__, __dir__ = attributes(
    __name__,
    {
        "CRITEO": "data_tools.schema",
        "Batch": "data_tools.batch",
        "Dataset": "data_tools.dataset",
        "DatasetError": "data_tools.errors",
        "Manifest": "data_tools.manifest",
        "ParquetDataset": "data_tools.parquet_dataset",
        "ParseError": "data_tools.errors",
        "Peers": "data_tools.sharing",
        "Schema": "data_tools.schema",
        "Split": "data_tools.split",
        "cardinalities": "data_tools.synth_presets",
        "ingest": "data_tools.coordinator",
        "share_of": "data_tools.sharing",
        "verify": "data_tools.verification",
    },
)
