"""Small models, and each rank's share of small batches."""

from itertools import product

import numpy as np

from robe_numba._share_of import share_of
from robe_numba.dlrm import DLRM, KINDS, make_embedding
from robe_numba.dlrm.backends import to_numpy
from robe_numba.parallel.replica_check import check_replicas
from tests.dlrm import multi_hot
from tests.dlrm.test_model import TINY, VOCABULARY, batch_of

OPTIMIZERS = {
    "sgd": {"optimizer": "sgd"},
    "adagrad": {"optimizer": "adagrad"},
    "adagrad of blocks": {"optimizer": "adagrad", "block_state": True},
    "two": {"optimizer": "adagrad", "dense_optimizer": "sgd"},
}


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


def compile_steps():
    """Compile what steps of every kind and optimizer call, into the cache that all ranks share."""
    for kind, options, dtype in product(KINDS, OPTIMIZERS.values(), (np.float32, np.float64)):
        model, batch = model_of(kind, dtype=dtype, **options), batch_of(301, dtype)
        gradients = model.backpropagate(*batch)
        dense = model.embedding.gradients(gradients.embeddings, gradients.context)
        model.embedding.apply(dense, 0.1)
        model.train_step(*batch, 0.1, clip_norm=0.01)
        model.logits(*batch[:2])
    for kind, optimizer, dtype in product(KINDS, ("sgd", "adagrad"), (np.float32, np.float64)):
        for pooling in (("sum", "mean", "max"), ("sum", "sum"), ("max", "max")):
            model = multi_hot.model_of(kind, pooling, dtype, optimizer)
            weighted = (0,) if set(pooling) == {"sum"} else ()
            *inputs, lists = batch = multi_hot.batch_of(40, pooling, dtype, weighted=weighted)
            model.loss_and_gradients(*batch)
            model.train_step(*inputs, 0.1, clip_norm=0.01, multi_hot=lists)


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
