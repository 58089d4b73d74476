"""Steps on lists of ids that are spread over ranks, against those of a single process."""

import numpy as np
import pytest

from robe_numba._share_of import share_of
from robe_numba.dlrm import KINDS
from robe_numba.dlrm.thread_pool import micro_batches
from robe_numba.parallel.data_parallel import DataParallel
from robe_numba.parallel.exchange import ListSizes
from robe_numba.parallel.gather_lists import gather_lists
from robe_numba.parallel.group import Alone
from tests.dlrm.multi_hot import POOLINGS, batch_of, lists_of, model_of, rows_of
from tests.mpi.models import arrays_of, assert_close, assert_replicas, bits

EXCHANGES = ("gather", "reduce")
MODES = POOLINGS["mixed"]


def share(group, batch, rows):
    """This rank's rows of a batch."""
    mine = share_of(rows, group.rank, group.size)
    *arrays, lists = batch
    own = rows_of(lists, (len(lists[1]) - 1) // max(rows, 1), mine.start, mine.stop)
    return [array[mine.start : mine.stop] for array in arrays], own


def trained(group, model, batches, exchange, **step):
    """Losses of the steps that all ranks of a group make."""
    trainer = DataParallel(model, group, max(len(b[0]) for b in batches), np.uint32, exchange)
    losses = []
    for batch in batches:
        rows = len(batch[0])
        inputs, lists = share(group, batch, rows)
        losses.append(trainer.train_step(*inputs, rows, **step, multi_hot=lists))
    return losses


def stepped(model, batches, **step):
    """Losses of a single process."""
    return [model.train_step(*inputs, **step, multi_hot=lists) for *inputs, lists in batches]


def batches_of(group, dtype=np.float64, pooling=MODES, **options):
    """The second batch has fewer rows than there are ranks; in the third all bags are empty."""
    empty = {"lengths": np.zeros(len(pooling) * 40, np.int64)}
    return [
        batch_of(301, pooling, dtype, 0, **options),
        batch_of(group.size - 1, pooling, dtype, 1, **options),
        batch_of(40, pooling, dtype, 2, **options | empty),
        batch_of(40, pooling, dtype, 3, **options),
    ]


@pytest.mark.parametrize(
    ("kind", "pooling", "clip_norm"),
    [*((kind, "mixed", None) for kind in KINDS), ("robe", "weighted", 0.05), ("full", "max", 0.05)],
)
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_steps_are_those_of_a_single_process(group, groups, kind, pooling, exchange, clip_norm):
    """Of two ranks and of all; of lists alone, too."""
    modes, weighted = POOLINGS[pooling], (0,) if pooling == "weighted" else ()
    step = {"lr": 0.3, "embedding_lr": 0.1, "clip_norm": clip_norm}
    for size in {2, group.size} & groups.keys():
        batches = batches_of(groups[size], pooling=modes, weighted=weighted)
        single, model = (model_of(kind, modes, np.float64, "adagrad") for _ in range(2))
        before = arrays_of(single)
        expected = stepped(single, batches, **step)
        losses = trained(groups[size], model, batches, exchange, **step)
        np.testing.assert_allclose(losses, expected, rtol=1e-12)
        assert_close(arrays_of(model), arrays_of(single), 1e-12)
        assert_replicas(groups[size], model)
        assert all((before[name] != array).any() for name, array in arrays_of(model).items())


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_gathered_moves_the_embedding_as_a_single_process_does(group, kind, optimizer):
    """In float32, to the bit, if the ranks' shares are the parts of a single process."""
    rows = 128 * group.size
    assert len(micro_batches(rows)) == group.size
    batch = batch_of(rows, MODES)
    single, model = (model_of(kind, MODES, optimizer=optimizer, threads=1) for _ in range(2))
    stepped(single, [batch], lr=0.5)
    trained(group, model, [batch], "gather", lr=0.5)
    found, expected = arrays_of(model), arrays_of(single)
    for name, array in expected.items():
        if name.startswith("embedding."):
            assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("weighted", [(), (0, 1)])
@pytest.mark.parametrize("rows", [0, 1, 2, 30])
def test_lists_are_gathered_in_the_order_of_the_batch(group, rows, weighted):
    whole = lists_of(rows, 2, weighted)
    mine = share_of(rows, group.rank, group.size)
    own = rows_of(whole, 2, mine.start, mine.stop)
    carrier = group.carrier("cpu")
    found = carrier.wait(carrier.start(gather_lists, carrier, np, own, rows, 2))
    for array, expected in zip(found, whole, strict=True):
        assert (array is None) == (expected is None)
        if expected is not None:
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)
    itemsize = 4 + 4 * bool(weighted)
    others = (len(whole[0]) - len(own[0])) * itemsize + 8 * 2 * (rows - len(mine))
    assert carrier.traffic.bytes == others


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("weighted", [(), (1,)])
def test_a_step_carries_what_its_plan_says(group, exchange, weighted):
    """With lists of equal lengths the mean is exact."""
    rows, length, pooling = 30 * group.size, 3, ("sum", "sum")
    batch = batch_of(rows, pooling, weighted=weighted, lengths=np.full(2 * rows, length))
    model = model_of("robe", pooling, optimizer="adagrad")
    sizes = ListSizes(2.0 * length, bool(weighted))
    trainer = DataParallel(model, group, rows, np.uint32, exchange, sizes)
    inputs, lists = share(group, batch, rows)
    for _ in range(2):
        trainer.train_step(*inputs, rows, 0.1, multi_hot=lists)
        assert max(group.all_gather(trainer.traffic.take().bytes)) == trainer.plan.bytes
    # By hand: 4 features of 4 floats, 2 single ids, 2 lengths of 8 bytes, and 6 ids.
    row = 4 * 4 * 4 + 2 * 4 + 2 * 8 + 2 * length * (4 + 4 * bool(weighted))
    assert trainer.plan.choices["gather"] == (rows - rows // group.size) * row
    assert "with 6.0 ids per row in lists" in str(trainer.plan)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_what_all_ranks_refuse_moves_nothing(group, exchange):
    batch, rows = batch_of(60, MODES), 60
    model, single = (model_of("robe", MODES, optimizer="adagrad") for _ in range(2))
    trainer = DataParallel(model, group, rows, np.uint32, exchange)
    before = bits(arrays_of(model))
    inputs, (values, offsets, _) = share(group, batch, rows)
    for lists, message in (
        (None, "but multi_hot is None"),
        ((values[:-1], offsets, None), "offsets must begin at 0, never fall"),
        ((values, offsets[:-1], None), "offsets has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer.train_step(*inputs, rows, 0.1, multi_hot=lists)
        assert bits(arrays_of(model)) == before
    loss = trainer.train_step(*inputs, rows, 0.1, multi_hot=(values, offsets, None))
    np.testing.assert_allclose(loss, stepped(single, [batch], lr=0.1)[0], rtol=1e-6)
    assert_replicas(group, model)


def test_one_process_trains_as_without_a_group():
    single, model = (model_of("robe", MODES, optimizer="adagrad") for _ in range(2))
    trainer = DataParallel(model, Alone(), 30)
    *inputs, lists = batch_of(30, MODES)
    loss = trainer.train_step(*inputs, 30, 0.1, 0.2, 0.5, lists)
    assert loss == single.train_step(*inputs, 0.1, 0.2, 0.5, lists)
    assert bits(arrays_of(model)) == bits(arrays_of(single))
