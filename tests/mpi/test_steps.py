"""Steps of a model whose batches are spread over ranks, against those of a single process."""

from dataclasses import replace

import numpy as np
import pytest

from robe_numba._share_of import share_of
from robe_numba.dlrm import DLRM, KINDS, make_embedding
from robe_numba.dlrm.thread_pool import micro_batches
from robe_numba.parallel.data_parallel import DataParallel
from robe_numba.parallel.group import Alone
from robe_numba.parallel.mpi_group import MPIGroup
from tests.dlrm.test_model import TINY, batch_of
from tests.mpi.models import (
    OPTIMIZERS,
    arrays_of,
    assert_close,
    assert_replicas,
    bits,
    model_of,
    share,
)

EXCHANGES = ("gather", "reduce")
ROWS = 301  # uneven shares; of two micro-batches in one process, of one on each rank


@pytest.fixture(scope="session")
def without_overlap():
    return MPIGroup(overlap=False)


def trained(group, model, batches, exchange, check=None, **step):
    """Losses of the steps that all ranks of a group make."""
    trainer = DataParallel(model, group, max(len(b[0]) for b in batches), np.uint32, exchange)
    losses = []
    for batch in batches:
        losses.append(trainer.train_step(*share(group, batch), len(batch[0]), **step))
        if check:
            check(trainer)
    return losses


def batches_of(dtype, rows=(ROWS, 40, ROWS)):
    return [batch_of(count, dtype, seed=seed) for seed, count in enumerate(rows)]


# `gather` with each optimizer is also compared to the bit, below.
@pytest.mark.parametrize(
    ("exchange", "optimizer", "clip_norm"),
    [
        ("gather", "adagrad", None),
        ("gather", "two", 0.05),
        ("reduce", "sgd", None),
        ("reduce", "adagrad", 0.05),
        ("reduce", "adagrad of blocks", None),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_a_single_process(
    group, without_overlap, kind, exchange, optimizer, clip_norm
):
    batches, step = batches_of(np.float64), {"lr": 0.3, "embedding_lr": 0.1, "clip_norm": clip_norm}
    single = model_of(kind, dtype=np.float64, **OPTIMIZERS[optimizer])
    before = arrays_of(single)
    expected = [single.train_step(*batch, **step) for batch in batches]
    assert all((before[name] != array).any() for name, array in arrays_of(single).items())
    results = []
    for processes in (group, without_overlap):
        model = model_of(kind, dtype=np.float64, **OPTIMIZERS[optimizer])
        check = lambda trainer, model=model: assert_replicas(group, model)  # noqa: E731
        losses = trained(processes, model, batches, exchange, check, **step)
        np.testing.assert_allclose(losses, expected, rtol=1e-12)
        assert_close(arrays_of(model), arrays_of(single), 1e-12)
        results.append((losses, bits(arrays_of(model))))
    assert results[0] == results[1], "overlap changes no bit"


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_two_ranks_are_those_of_a_single_process(group, groups, kind, exchange):
    if 2 in groups:
        batches, step = batches_of(np.float64), {"lr": 0.3, "embedding_lr": 0.1, "clip_norm": 0.05}
        single, model = (model_of(kind, "adagrad", np.float64) for _ in range(2))
        expected = [single.train_step(*batch, **step) for batch in batches]
        losses = trained(groups[2], model, batches, exchange, **step)
        np.testing.assert_allclose(losses, expected, rtol=1e-12)
        assert_close(arrays_of(model), arrays_of(single), 1e-12)
        assert_replicas(groups[2], model)
    group.all_gather(None)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_number_of_ranks_gives_the_same_bits_again(group, kind, exchange):
    batches, results = batches_of(np.float32), []
    for _ in range(2):
        model = model_of(kind, "adagrad")
        losses = trained(group, model, batches, exchange, lr=0.1, clip_norm=1.0)
        results.append((losses, bits(arrays_of(model))))
        assert_replicas(group, model)
    assert results[0] == results[1]
    assert group.all_gather(results[0][0]) == [results[0][0]] * group.size


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adagrad of blocks"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_gathered_moves_the_embedding_as_a_single_process_does(group, kind, optimizer):
    """In float32, to the bit, if the ranks' shares are the parts of a single process."""
    count, lr = 128 * group.size, 0.5
    assert len(micro_batches(count)) == group.size, "each rank has one of the parts"
    batch = batch_of(count)
    options = OPTIMIZERS[optimizer] | {"dense_optimizer": "sgd"}
    single, model, fresh = (model_of(kind, **options) for _ in range(3))
    before = arrays_of(single)
    loss = single.train_step(*batch, lr)
    (found,) = trained(group, model, [batch], "gather", lr=lr)
    np.testing.assert_allclose(found, loss, rtol=1e-12)  # a sum in float64
    after, moved = arrays_of(single), arrays_of(model)
    embedded = [name for name in after if name.startswith("embedding.")]
    assert {name: moved[name].tobytes() for name in embedded} == bits(
        {name: after[name] for name in embedded}
    )
    # Each dense gradient is a sum of `size` terms in either order. Each addition rounds, and so do
    # the product with lr and the difference.
    summands = [
        fresh.backpropagate(*(a[rows] for a in batch), count=count).dense.astype(np.float64)
        for rows in micro_batches(count)
    ]
    magnitude, unit = lr * sum(np.abs(summand) for summand in summands), np.finfo(np.float32).eps
    dense = [name for name in before if name not in embedded]

    def flat(arrays):
        return np.concatenate([arrays[name].reshape(-1) for name in dense]).astype(np.float64)

    bound = unit * (group.size * magnitude + magnitude + np.abs(flat(before)))
    assert (np.abs(flat(moved) - flat(after)) <= bound).all()
    assert (np.abs(flat(before) - flat(after)) > bound).mean() > 0.9, "the bound is not loose"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_a_step_carries_what_its_plan_says(group, kind, exchange, clip_norm):
    count = 30 * group.size
    model, batch = model_of(kind, "adagrad"), batch_of(count)
    trainer = DataParallel(model, group, count, np.uint32, exchange)
    assert trainer.plan.exchange == exchange
    for _ in range(2):
        trainer.train_step(*share(group, batch), count, lr=0.1, clip_norm=clip_norm)
        traffic = trainer.traffic.take()
        assert max(group.all_gather(traffic.bytes)) == trainer.plan.bytes
        assert traffic.seconds > 0
        assert 0 <= traffic.hidden <= 1
    # By hand: ids of 4 bytes and gradients of 4 d; or each array twice, less the shares that need
    # not travel.
    others = count - count // group.size
    arrays = sum(array.size for array in model.embedding.parameters().values())
    assert trainer.plan.choices["gather"] == others * 3 * (4 + 4 * 4)
    whole = 2 * 4 * arrays * (group.size - 1) / group.size
    assert whole <= trainer.plan.choices["reduce"] < whole + 4 * group.size * 2 * len(KINDS)
    embedding = trainer.plan.choices[exchange]
    assert trainer.plan.bytes == embedding + trainer.plan.dense + 16 * (group.size - 1)


@pytest.mark.parametrize(
    ("elements", "rows", "better"), [(80, 200, "reduce"), (20_000, 12, "gather")]
)
def test_the_way_that_carries_less_is_chosen(group, elements, rows, better):
    trainer = DataParallel(model_of("robe", num_parameters=elements), group, rows)
    plan = trainer.plan
    (worse,) = set(EXCHANGES) - {better}
    assert plan.exchange == better
    assert plan.choices[better] < plan.choices[worse]
    assert str(plan).startswith(f"{better} brings")
    batch = batch_of(rows)
    trainer.train_step(*share(group, batch), rows, lr=0.1)
    assert max(group.all_gather(trainer.traffic.bytes)) == plan.bytes


@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_last_batch_may_have_fewer_rows_than_ranks(group, kind, exchange, clip_norm):
    rows = group.size - 1
    assert min(len(share_of(rows, rank, group.size)) for rank in range(group.size)) == 0
    batches, step = batches_of(np.float64, (40, rows, 40)), {"lr": 0.1, "clip_norm": clip_norm}
    single, model = (model_of(kind, "adagrad", np.float64) for _ in range(2))
    expected = [single.train_step(*batch, **step) for batch in batches]
    losses = trained(group, model, batches, exchange, **step)
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    assert_close(arrays_of(model), arrays_of(single), 1e-12)
    assert_replicas(group, model)


def test_a_batch_has_a_row_for_each_rank(group):
    DataParallel(model_of("robe"), group, group.size)
    with pytest.raises(ValueError, match=rf"batch_size is {group.size - 1} but {group.size} proc"):
        DataParallel(model_of("robe"), group, group.size - 1)
    with pytest.raises(ValueError, match="exchange is 'mail'; choose one of auto, gather, reduce"):
        DataParallel(model_of("robe"), group, 100, exchange="mail")


BAD = {
    "another share": (lambda batch: batch, "was given 60 rows; its share of 60 is", {}),
    "labels": (lambda batch: (*batch[:2], batch[2] - 1), "labels must be 0 or 1", {}),
    "lr": (lambda batch: batch, "lr is -1", {"lr": -1.0}),
    "embedding_lr": (lambda batch: batch, "embedding_lr is nan", {"embedding_lr": float("nan")}),
    "clip_norm": (lambda batch: batch, "clip_norm is -1", {"clip_norm": -1.0}),
}


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("bad", BAD)
def test_what_all_ranks_refuse_moves_nothing(group, exchange, bad):
    spoil, words, change = BAD[bad]
    batch, single, model = batch_of(60), model_of("qr", "adagrad"), model_of("qr", "adagrad")
    trainer = DataParallel(model, group, 60, exchange=exchange)
    before = bits(arrays_of(model))
    rows = batch if bad == "another share" else share(group, batch)
    with pytest.raises(ValueError, match=words):
        trainer.train_step(*spoil(rows), 60, **{"lr": 0.1} | change)
    assert bits(arrays_of(model)) == before
    loss = trainer.train_step(*share(group, batch), 60, 0.1)
    np.testing.assert_allclose(loss, single.train_step(*batch, 0.1), rtol=1e-6)
    assert_replicas(group, model)


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_finite_moves_nothing_anywhere(group, kind, exchange, clip_norm):
    """Only one rank has the row."""
    count, step = 20 * group.size, {"lr": 0.1, "clip_norm": clip_norm}
    good, bad = batch_of(count, np.float64), batch_of(count, np.float64, seed=1)
    bad[0][-1, 1] = np.nan
    mine = share(group, bad)[0]
    assert group.all_gather(bool(np.isfinite(mine).all())) == [True] * (group.size - 1) + [False]
    single, model = (model_of(kind, "adagrad", np.float64) for _ in range(2))
    trainer = DataParallel(model, group, count, exchange=exchange)
    for _ in range(2):  # without sums of earlier steps, then with
        before = bits(arrays_of(model))
        loss = trainer.train_step(*share(group, bad), count, **step)
        assert np.isnan(loss)
        assert bits(arrays_of(model)) == before
        loss = trainer.train_step(*share(group, good), count, **step)
        np.testing.assert_allclose(loss, single.train_step(*good, **step), rtol=1e-12)
        assert_close(arrays_of(model), arrays_of(single), 1e-12)
    assert_replicas(group, model)


def test_one_process_trains_as_without_a_group():
    single, model = model_of("robe", "adagrad"), model_of("robe", "adagrad")
    trainer = DataParallel(model, Alone(), 8, exchange="reduce")
    assert trainer.plan is None
    for batch in batches_of(np.float32):
        loss = trainer.train_step(*batch, len(batch[0]), 0.1, 0.2, 0.5)
        assert loss == single.train_step(*batch, 0.1, 0.2, 0.5)
    assert bits(arrays_of(model)) == bits(arrays_of(single))
    assert trainer.traffic.bytes == 0


def test_a_model_without_dense_features_and_with_concatenation(group):
    config = replace(TINY, num_dense=0, interaction="cat")
    batch = batch_of(50, np.float64, config)

    def make():
        embedding = make_embedding(
            "robe", embedding_dim=4, num_tables=3, num_parameters=80, dtype=np.float64
        )
        return DLRM(config, embedding, dtype=np.float64, threads=1)

    single, model = make(), make()
    expected = [single.train_step(*batch, 0.1) for _ in range(2)]
    np.testing.assert_allclose(
        trained(group, model, [batch] * 2, "gather", lr=0.1), expected, rtol=1e-12
    )
    assert_close(arrays_of(model), arrays_of(single), 1e-12)
