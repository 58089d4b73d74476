"""Click logs for training: from Criteo text, CSV or Parquet to mini-batches of NumPy arrays."""

from typing import TYPE_CHECKING

from robe_numba._lazy import attributes

if TYPE_CHECKING:
    from data_tools.batch import Batch
    from data_tools.errors import DatasetError, ParseError
    from data_tools.format.manifest import Manifest
    from data_tools.format.verification import verify
    from data_tools.ingestion.coordinator import ingest
    from data_tools.loader.dataset import Dataset
    from data_tools.loader.parquet_dataset import ParquetDataset
    from data_tools.loader.peers import Peers
    from data_tools.loader.split import Split
    from data_tools.schema import CRITEO, Schema
    from data_tools.sources.text_ids import text_ids
    from data_tools.synthetic.presets import cardinalities
    from robe_numba._share_of import share_of

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
    "text_ids",
    "verify",
]

__getattr__, __dir__ = attributes(
    __name__,
    {
        "CRITEO": "data_tools.schema",
        "Batch": "data_tools.batch",
        "Dataset": "data_tools.loader.dataset",
        "DatasetError": "data_tools.errors",
        "Manifest": "data_tools.format.manifest",
        "ParquetDataset": "data_tools.loader.parquet_dataset",
        "ParseError": "data_tools.errors",
        "Peers": "data_tools.loader.peers",
        "Schema": "data_tools.schema",
        "Split": "data_tools.loader.split",
        "cardinalities": "data_tools.synthetic.presets",
        "ingest": "data_tools.ingestion.coordinator",
        "share_of": "robe_numba._share_of",
        "text_ids": "data_tools.sources.text_ids",
        "verify": "data_tools.format.verification",
    },
)
