"""Gradients of models on a GPU, carried by MPI and by a fake NCCL, in the simulator."""

import weakref
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import pytest
from mpi4py import MPI

from robe_numba._share_of import share_of
from robe_numba.dlrm import DLRM
from robe_numba.kernels.gpu import simulated
from robe_numba.parallel.carriers import gpu
from robe_numba.parallel.carriers.gpu import GPUMemoryCarrier, NCCLCarrier, StagedCarrier
from robe_numba.parallel.data_parallel import DataParallel
from robe_numba.parallel.gather_lists import gather_lists
from tests.dlrm import multi_hot
from tests.dlrm.test_model import batch_of
from tests.gpu.conftest import to_cpu, to_gpu
from tests.mpi.models import arrays_of, assert_close, assert_replicas, bits, model_of, share


class Stream:
    """A fake of CuPy's: it records calls, and all work is done at once."""

    current: ClassVar[list["Stream"]] = []

    def __init__(self, non_blocking=False):
        assert non_blocking, "the default stream would wait for this one"
        self.calls = []

    def record(self):
        self.calls.append("record")
        return self, len(self.calls)

    def wait_event(self, event):
        self.calls.append(event)

    def __enter__(self):
        Stream.current.append(self)
        return self

    def __exit__(self, *error):
        assert Stream.current.pop() is self


class CuPy:
    """A fake of CuPy: the simulated array library has no streams."""

    class cuda:  # noqa: N801 - CuPy's name
        Stream = Stream

        @staticmethod
        def get_current_stream():
            return Stream.current[-1]

    @staticmethod
    def concatenate(arrays):
        return np.concatenate(arrays).view(simulated.ndarray)

    def __getattr__(self, name):
        return getattr(simulated, name)


class FakeNCCL:
    """A fake of `cupyx.distributed.NCCLBackend`, by MPI."""

    def __init__(self, communicator):
        self.communicator, self.gathered = communicator, []

    def all_gather(self, in_array, out_array, count, stream=None):
        assert stream is Stream.current[-1]
        assert in_array.size == count
        assert out_array.size == count * self.communicator.size
        assert in_array.flags.c_contiguous
        self.gathered.append(in_array.shape)
        self.communicator.Allgather(in_array.view(np.ndarray), out_array.view(np.ndarray))

    def all_reduce(self, in_array, out_array, op="sum", stream=None):
        assert stream is Stream.current[-1]
        assert op == "sum"
        assert in_array is out_array
        assert in_array.flags.c_contiguous
        self.communicator.Allreduce(MPI.IN_PLACE, out_array.view(np.ndarray))


@pytest.fixture
def carriers(group, monkeypatch):
    """A context in which the group chooses the carrier of a name."""

    def nccl(communicator):
        return NCCLCarrier(FakeNCCL(communicator), communicator.rank, communicator.size, CuPy())

    @contextmanager
    def chosen(name):
        with Stream(non_blocking=True), pytest.MonkeyPatch.context() as patch:
            if name == "nccl":
                patch.setattr(gpu, "gpu_carrier", nccl)
            if name == "mpi":
                patch.setenv(gpu.CUDA_AWARE[0], "true")
            yield

    return chosen


def model_on_gpu(kind, optimizer="adagrad", dtype=np.float64):
    host = model_of(kind, optimizer, dtype)
    return DLRM(host.config, host.embedding.to("cuda"), dtype=dtype, optimizer=optimizer)


def test_the_host_carries_unless_mpi_is_said_to_take_gpu_arrays(group, carriers):
    for name, kind in (("staged", StagedCarrier), ("mpi", GPUMemoryCarrier)):
        with carriers(name):
            assert type(group.carrier("cuda")) is kind


@pytest.mark.parametrize(
    ("kind", "exchange", "carrier", "clip_norm"),
    [
        ("robe", "gather", "mpi", None),
        ("robe", "reduce", "nccl", 0.05),
        ("full", "reduce", "staged", 0.05),
        ("qr", "gather", "nccl", None),
    ],
)
def test_steps_are_those_of_a_single_gpu(group, carriers, kind, exchange, carrier, clip_norm):
    """With uneven shares, and with fewer rows than ranks."""
    single, model = model_on_gpu(kind), model_on_gpu(kind)
    before = arrays_of(single)
    with carriers(carrier):
        trainer = DataParallel(model, group, 5, np.uint32, exchange)
        for seed, count in enumerate((5, group.size - 1)):
            batch = batch_of(count, np.float64, seed=seed)
            expected = single.train_step(*map(to_gpu, batch), 0.3, 0.1, clip_norm)
            mine = map(to_gpu, share(group, batch))
            loss = trainer.train_step(*mine, count, 0.3, 0.1, clip_norm)
            assert float(loss) == pytest.approx(float(expected), rel=1e-12)
            assert_close(arrays_of(model), arrays_of(single), 1e-12)
            assert_replicas(group, model)
    assert all((before[name] != array).any() for name, array in arrays_of(single).items())


def test_the_same_bits_again(group):
    results = []
    for _ in range(2):
        model = model_on_gpu("robe", dtype=np.float32)
        mine = [to_gpu(array) for array in share(group, batch_of(6))]
        loss = float(DataParallel(model, group, 6).train_step(*mine, 6, 0.1))
        results.append((loss, bits(arrays_of(model))))
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["mpi", "nccl", "staged"])
@pytest.mark.parametrize("count", [1, 2, 5, 6, 7])
@pytest.mark.parametrize(("width", "dtype"), [((), "u4"), ((3,), "u8"), ((3, 2), "f4")])
def test_rows_are_gathered_in_the_order_of_ranks(group, carriers, name, count, width, dtype):
    whole = np.arange(count * int(np.prod(width)), dtype=dtype).reshape(count, *width) + 1
    mine = share_of(count, group.rank, group.size)
    with carriers(name):
        carrier = group.carrier("cuda")
        rows = to_gpu(whole[mine.start : mine.stop])
        gathered = carrier.wait(carrier.start(carrier.all_gather, rows, count))
        found = to_cpu(gathered)
    assert found.dtype == whole.dtype
    np.testing.assert_array_equal(found, whole)
    row_bytes = whole.itemsize * int(np.prod(width))
    if name == "nccl":  # all shares are padded to the longest
        most = -(-count // group.size)
        assert carrier._nccl.gathered == [(most, *width)]
        assert carrier.traffic.bytes == (group.size - 1) * most * row_bytes
    else:
        assert carrier.traffic.bytes == (count - len(mine)) * row_bytes


@pytest.mark.parametrize("name", ["mpi", "nccl", "staged"])
@pytest.mark.parametrize("rows", [1, 5])
def test_lists_are_gathered_in_the_order_of_the_batch(group, carriers, name, rows):
    whole = multi_hot.lists_of(rows, 2, weighted=(1,))
    mine = share_of(rows, group.rank, group.size)
    own = multi_hot.rows_of(whole, 2, mine.start, mine.stop)
    with carriers(name):
        carrier = group.carrier("cuda")
        there = [to_gpu(array) for array in own]
        found = carrier.wait(carrier.start(gather_lists, carrier, simulated, there, rows, 2))
    for array, expected in zip(found, whole, strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(to_cpu(array), expected)


@pytest.mark.parametrize("exchange", ["gather", "reduce"])
def test_steps_on_lists_are_those_of_a_single_gpu(group, carriers, exchange):
    modes, rows = ("sum", "mean", "max"), 5
    single, model = (
        DLRM(host.config, host.embedding.to("cuda"), dtype=np.float64, optimizer="adagrad")
        for host in (multi_hot.model_of("robe", modes, np.float64, "adagrad") for _ in range(2))
    )
    *inputs, lists = multi_hot.batch_of(rows, modes, np.float64)
    mine = share_of(rows, group.rank, group.size)
    own = multi_hot.rows_of(lists, 3, mine.start, mine.stop)
    there = [(*map(to_gpu, each[:2]), None) for each in (lists, own)]
    expected = single.train_step(*map(to_gpu, inputs), 0.3, multi_hot=there[0])
    with carriers("mpi"):
        trainer = DataParallel(model, group, rows, np.uint32, exchange)
        part = [to_gpu(array[mine.start : mine.stop]) for array in inputs]
        loss = trainer.train_step(*part, rows, 0.3, multi_hot=there[1])
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    assert_close(arrays_of(model), arrays_of(single), 1e-12)
    assert_replicas(group, model)


@pytest.mark.parametrize("name", ["mpi", "nccl", "staged"])
@pytest.mark.parametrize("shape", [(1,), (5,), (4, 3)])
def test_sums_are_those_of_all_in_place(group, carriers, name, shape):
    with carriers(name):
        carrier = group.carrier("cuda")
        array = to_gpu(np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + group.rank)
        found = carrier.wait(carrier.start(carrier.all_reduce, array))
    assert found is array
    extra = sum(range(group.size))
    np.testing.assert_array_equal(
        to_cpu(array), group.size * np.arange(np.prod(shape)).reshape(shape) + extra
    )
    assert carrier.traffic.bytes == carrier.all_reduce_bytes(array.size, 4)


@pytest.mark.parametrize("name", ["mpi", "nccl", "staged"])
def test_numbers_of_the_host_and_of_the_gpu_are_added(group, carriers, name):
    with carriers(name):
        carrier = group.carrier("cuda")
        there = to_gpu(np.array(0.5 + group.rank))
        found = carrier.wait(carrier.start(carrier.all_reduce_scalars, (there, 2.0)))
    expected = [sum(0.5 + rank for rank in range(group.size)), 2.0 * group.size]
    assert [float(number) for number in found] == expected


def test_streams_wait_for_each_other_and_nobody_else(group, carriers):
    with carriers("nccl"):
        current, carrier = Stream.current[-1], group.carrier("cuda")
        pending = carrier.start(carrier.all_reduce, to_gpu(np.ones(3)))
        assert current.calls == ["record"], "the work so far"
        assert carrier._stream.calls == [(current, 1), "record"]
        pending.result()
        assert current.calls == ["record", (carrier._stream, 2)]
        assert Stream.current == [current]


@pytest.mark.parametrize("name", ["all_gather", "all_reduce_scalars"])
def test_what_a_stream_reads_is_kept_until_another_waits_for_it(group, carriers, name):
    with carriers("nccl"):
        carrier = group.carrier("cuda")
        array = to_gpu(np.ones(() if name == "all_reduce_scalars" else 2))
        given = ([array],) if name == "all_reduce_scalars" else (array, 2 * group.size)
        pending, kept = carrier.start(getattr(carrier, name), *given), weakref.ref(array)
        del array, given
        assert kept() is not None
        pending.result()
        assert kept() is None


def test_arrays_of_rank_0_reach_every_gpu(group):
    arrays = [to_gpu(np.full(shape, group.rank + 1.0)) for shape in ((), (3,), (2, 2))]
    group.broadcast_arrays(arrays)
    for array in arrays:
        np.testing.assert_array_equal(to_cpu(array), 1.0)
