"""Small models, and each rank's share of small batches."""

import numpy as np

from robe_numba._shares import share_of
from robe_numba.dlrm import DLRM, make_embedding
from robe_numba.dlrm.backends import to_numpy
from robe_numba.parallel.replica_check import check_replicas
from tests.dlrm.test_model import TINY, VOCABULARY


def model_of(kind, optimizer="sgd", dtype=np.float32, dense_optimizer=None, **options):
    """The same on every rank; options of the embedding."""
    defaults = {"num_parameters": 80, "block_size": 3, "sign": kind == "robe"}
    embedding = make_embedding(
        kind,
        embedding_dim=TINY.embedding_dim,
        num_tables=TINY.num_tables,
        vocabulary=VOCABULARY,
        optimizer=optimizer,
        dtype=dtype,
        seed=3,
        **(defaults | options),
    )
    return DLRM(TINY, embedding, dtype=dtype, optimizer=dense_optimizer or optimizer, threads=1)


def share(group, batch):
    """This rank's rows of arrays (rows, ...)."""
    rows = share_of(len(batch[0]), group.rank, group.size)
    return tuple(array[rows.start : rows.stop] for array in batch)


def arrays_of(model):
    """Copies of everything that a step may update."""
    arrays = model.parameters() | model.state()
    return {name: to_numpy(array).copy() for name, array in arrays.items()}


def bits(arrays):
    """By name, for exact comparisons."""
    return {name: array.tobytes() for name, array in arrays.items()}


def assert_replicas(group, model, when=""):
    """All ranks have the same bits: compared here, and by the check of training."""
    mine = bits(arrays_of(model))
    assert all(theirs == mine for theirs in group.all_gather(mine))
    check_replicas(group, model.parameters() | model.state(), when)


def assert_close(found, expected, tolerance):
    """Compare arrays by name, with an absolute and relative tolerance."""
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, tolerance, tolerance, err_msg=name)
