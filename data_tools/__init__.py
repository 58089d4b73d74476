"""Click logs for training: from Criteo text, CSV or Parquet to mini-batches of NumPy arrays."""

from data_tools.batch import Batch
from data_tools.dataset import Dataset
from data_tools.errors import DatasetError, ParseError
from data_tools.ingest import ingest
from data_tools.manifest import Manifest
from data_tools.parquet_dataset import ParquetDataset
from data_tools.schema import CRITEO, Schema
from data_tools.sharing import Peers, share_of
from data_tools.split import Split
from data_tools.synth_presets import cardinalities
from data_tools.verify import verify

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
