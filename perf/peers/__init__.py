"""The peers: PyTorch, FBGEMM, CuPy indexing, and the published formula in torch operations.

Each peer is checked against NumPy when it is made. A peer that is not installed still gets a
contender, whose note says so.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from perf.harness.libraries import torch
from perf.harness.places import here
from perf.harness.race import Contender
from perf.harness.shapes import BenchBatch
from robe_numba.formatting import format_bytes

LABELS = {
    "torch": "torch",
    "torch-huge": "torch, huge pages",
    "fbgemm": "FBGEMM",
    "published": "published formula",
    "cupy": "CuPy indexing",
}
UNSUPPORTED = {"cpu": {"cupy"}, "cuda": {"torch-huge"}}  # by device


@cache
def missing(name: str) -> str | None:
    """Why a peer cannot run here; None if it can."""
    if name == "cupy":
        return None  # a GPU needs CuPy anyway
    if torch is None:
        return "torch is not installed"
    if name == "fbgemm":
        try:
            import_module("fbgemm_gpu")
        except (ImportError, OSError) as error:  # OSError: built for another torch
            return f"fbgemm_gpu cannot be imported ({str(error).splitlines()[0]})"
    return None


def absent(name: str, block_size: int | None = None) -> Contender:
    """A peer that cannot run here."""
    return Contender(LABELS[name], None, "peer", block_size, f"absent: {missing(name)}")


def contenders(
    names: Sequence[str], batch: BenchBatch, optimizer: str | None = None, weighted: bool = False
) -> Iterator[Contender]:
    """The named peers that do this work: a forward pass, or with an optimizer a whole step.

    Parameters
    ----------
    names : sequence of str
        Keys of `LABELS`.
    batch : BenchBatch
        The ids and the gradient.
    optimizer : {"sgd", "adagrad"}, optional
        None is the forward pass alone.
    weighted : bool
        Bags with per_sample_weights.

    Yields
    ------
    Contender
        Checked, or with a note that says why it cannot run.
    """
    here().release()
    for name in names:
        if name in UNSUPPORTED[here().device]:
            continue
        if name == "published" and (batch.shape.bag > 1 or optimizer == "adagrad"):
            continue  # the release supports neither
        if name == "cupy" and (batch.shape.bag > 1 or optimizer is not None):
            continue  # only indexing
        for block_size in batch.shape.block_sizes if name == "published" else (None,):
            if missing(name):
                yield absent(name, block_size)
                continue
            peer = _make(name, batch, optimizer, weighted, block_size)
            peer.check()
            run = peer.forward if optimizer is None else peer.step
            tables = f"tables of {format_bytes(batch.shape.table_bytes, 2)}"
            note = tables if block_size is None else ""
            yield Contender(LABELS[name], run, "peer", block_size, note)


def _make(
    name: str, batch: BenchBatch, optimizer: str | None, weighted: bool, block_size: int | None
) -> Any:
    """The peer of a name; its module is imported here since it may need torch."""
    if name == "fbgemm":
        from perf.peers.fbgemm import FbgemmTables

        return FbgemmTables(batch, optimizer, weighted)
    if block_size is not None:
        from perf.peers.published import PublishedFormula

        return PublishedFormula(batch, optimizer, block_size)
    if name == "cupy":
        from perf.peers.indexing import IndexedTable

        return IndexedTable(batch)
    from perf.peers.tables import TorchTable

    return TorchTable(batch, optimizer, weighted, huge_pages=name == "torch-huge")


def set_threads(threads: int) -> None:
    """Set the threads of torch, which FBGEMM uses too."""
    if torch is not None:
        torch.set_num_threads(threads)


def versions() -> dict[str, str | None]:
    """Versions of the peers' libraries; None where one is absent."""
    found: dict[str, str | None] = {"torch": None if torch is None else torch.__version__}
    found["fbgemm_gpu"] = (
        None if missing("fbgemm") else str(import_module("fbgemm_gpu").__version__)
    )
    return found
