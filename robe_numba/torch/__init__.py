"""ROBE for PyTorch: modules that take the place of `nn.Embedding` and `nn.EmbeddingBag`.

`import robe_numba.torch as rt`. Needs the extra `torch`. See docs/pytorch.md.
"""

try:
    import ml_dtypes  # noqa: F401  (only whether they are missing matters here)
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"robe_numba.torch needs PyTorch and ml_dtypes ({error}): pip install 'robe-numba[torch]'",
        name=error.name,
    ) from error

from robe_numba.torch.array import RobeArray
from robe_numba.torch.compress import CompressionReport, compress
from robe_numba.torch.embedding import RobeEmbedding
from robe_numba.torch.embedding_bag import RobeEmbeddingBag
from robe_numba.torch.fused import FusedAdagrad, FusedSGD
from robe_numba.torch.projection import project
from robe_numba.torch.runs import RobeDLRM, load_run, save_run
from robe_numba.torch.tables import RobeTables

__all__ = [
    "CompressionReport",
    "FusedAdagrad",
    "FusedSGD",
    "RobeArray",
    "RobeDLRM",
    "RobeEmbedding",
    "RobeEmbeddingBag",
    "RobeTables",
    "compress",
    "load_run",
    "project",
    "save_run",
]
