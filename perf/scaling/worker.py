"""The program of each rank of `bench_scaling.py`: a check, or a turn of every setting.

It reads a `RankTask` from one JSON file, and the first rank writes `Results` to another.
"""

import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import cycle
from pathlib import Path

import msgspec
import numba
import numpy as np
from mpi4py import MPI

from perf.harness.race import PAUSE, keep_busy, no_garbage_collection
from perf.harness.shapes import BenchShape, make_batch
from perf.scaling.formulas import MODELS, ScaledModel
from perf.scaling.results import MeasuredStep, Phase, RankTask, Results, StepSetting, Transfer
from robe_numba._share_of import share_of
from robe_numba.dlrm import DLRM, make_embedding
from robe_numba.dlrm.gradient_buffer import sum_rows
from robe_numba.parallel.data_parallel import DataParallel
from robe_numba.parallel.exchange import AUTO
from robe_numba.parallel.mpi_group import MPIGroup
from robe_numba.parallel.replica_check import check_replicas

TABLE_ROWS = 160_000  # of each table; ids are drawn from them
BATCHES = 4  # that take turns, so that no cache holds what the next step reads
LEAD, FEWEST, MOST = 3, 4, 200  # steps of a turn: untimed, timed at least, timed at most
LR = 1e-3  # so small that a thousand steps do not change the speed
STILL = 1e-9  # a learning rate that changes almost nothing
CHECKED, CHECK_STEPS = 2, 4  # batches, and steps over them
# Learning rates, dense and embedding: changes are large against the rounding of weights.
CHECK_LR = {"sgd": (0.1, 10.0), "adagrad": (0.01, 0.01)}
STRAY = 0.01  # relative to the change of weights: rounding may turn a few ReLUs on or off
REPEATS = 5  # of each part of a step
PER_SIZE = 0.1  # seconds of transfers for each size

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # as `DLRM.train_step` takes them
Part = tuple[str, int, Callable[[], object]]  # part of a step: a name, a count, a call


def make_rows(model: ScaledModel, count: int, ids: str, seed: int) -> Rows:
    """A batch, the same in all ranks."""
    config, generator = model.config, np.random.default_rng(seed)
    drawn = BenchShape(
        "", 1, 1, (), 1, count, config.num_tables, 4 * TABLE_ROWS * config.num_tables
    )
    return (
        generator.random((count, config.num_dense), np.float32),
        make_batch(drawn, ids, seed).indices.astype(np.uint32),
        generator.integers(0, 2, count).astype(np.float32),
    )


def make_dlrm(model: ScaledModel, threads: int) -> DLRM:
    """The model, with the same bits in all ranks."""
    embedding = make_embedding(
        "robe",
        embedding_dim=model.config.embedding_dim,
        num_tables=model.config.num_tables,
        num_parameters=model.array_size,
        block_size=model.block_size,
        optimizer=model.optimizer,
    )
    return DLRM(model.config, embedding, optimizer=model.optimizer, threads=threads)


def contents(dlrm: DLRM) -> dict[str, np.ndarray]:
    """Everything that training changes."""
    return dlrm.parameters() | dlrm.state()


class RankBench:
    """One rank of one start of mpiexec."""

    def __init__(self, task: RankTask):
        self.task, self.model = task, MODELS[task.shape]
        self.groups = {overlap: MPIGroup(overlap=overlap) for overlap in (True, False)}
        self.group = self.groups[True]
        self.batches = {
            rows: [make_rows(self.model, rows, task.ids, seed) for seed in range(BATCHES)]
            for rows in {setting.batch for setting in task.settings}
        }

    def shares(self, rows: int) -> list[Rows]:
        """Each batch's rows of this rank."""
        mine = share_of(rows, self.group.rank, self.group.size)
        part = slice(mine.start, mine.stop)
        return [(dense[part], ids[part], y[part]) for dense, ids, y in self.batches[rows]]

    def trainer(self, dlrm: DLRM, setting: StepSetting) -> DataParallel:
        """The trainer of a setting."""
        group, exchange = self.groups[setting.overlap], setting.exchange or AUTO
        return DataParallel(dlrm, group, setting.batch, np.uint32, exchange)

    def run(self) -> Results:
        """Check, or measure every setting once."""
        library = " ".join(MPI.Get_library_version().split()[:3])
        if self.task.round < 0:
            self.check()
            return Results(library)
        steps: list[MeasuredStep] = []
        phases: list[Phase] = []
        for threads in dict.fromkeys(setting.threads for setting in self.task.settings):
            numba.set_num_threads(threads)
            dlrm = make_dlrm(self.model, threads)
            settings = [s for s in self.task.settings if s.threads == threads]
            trainers = [self.trainer(dlrm, setting) for setting in settings]
            order = np.random.default_rng(self.task.round).permutation(len(settings))
            steps += [self.turn(trainers[at], settings[at]) for at in order]
            phases += self.phases(dlrm, threads)
        return Results(library, steps, phases, list(self.transfers()))

    def check(self) -> None:
        """Require the losses and weights of a single process, and the same bits in all ranks."""
        lr, order = CHECK_LR[self.model.optimizer], [n % CHECKED for n in range(CHECK_STEPS)]
        alone: dict[int, tuple[list[float], DLRM]] = {}
        begin = make_dlrm(self.model, self.task.settings[0].threads)
        for setting in self.task.settings:
            rows, shares = setting.batch, self.shares(setting.batch)
            numba.set_num_threads(setting.threads)
            if rows not in alone:
                dlrm, batches = make_dlrm(self.model, setting.threads), self.batches[rows]
                alone[rows] = [dlrm.train_step(*batches[n], *lr) for n in order], dlrm
            dlrm = make_dlrm(self.model, setting.threads)
            trainer, (expected, right) = self.trainer(dlrm, setting), alone[rows]
            losses = [trainer.train_step(*shares[n], rows, *lr) for n in order]
            np.testing.assert_allclose(losses, expected, rtol=1e-5, err_msg=str(setting))
            for name, array in contents(dlrm).items():
                goal, start = contents(right)[name], contents(begin)[name]
                stray = np.linalg.norm(array - goal) / np.linalg.norm(goal - start)
                if not stray <= STRAY:
                    raise ArithmeticError(
                        f"{name} is off by {stray:.1e} of its change in {setting}"
                    )
            check_replicas(self.group, contents(dlrm), f"in {setting}")

    def turn(self, trainer: DataParallel, setting: StepSetting) -> MeasuredStep:
        """Time steps of one setting, and require that the planned bytes came to the ranks."""
        times = self.step_times(trainer, setting)
        took, count = trainer.traffic.take(), len(times)
        mean = [1e3 * value / count for value in (took.seconds, took.waited)]
        ranks = self.group.all_gather((took.bytes, 1e3 * statistics.median(times), *mean))
        bytes_, ms, carried, waited = zip(*ranks, strict=True)
        plan, auto = trainer.plan, self.trainer(trainer.model, replace(setting, exchange=AUTO)).plan
        if plan is not None and max(bytes_) != count * plan.bytes:
            raise RuntimeError(
                f"{setting}: {max(bytes_):,} bytes came to a rank in {count} steps, "
                f"but the plan said {plan.bytes:,} in each"
            )
        return MeasuredStep(
            **asdict(setting),
            auto=auto is not None and auto.exchange == setting.exchange,
            bytes=0 if plan is None else plan.bytes,
            ms=max(ms),
            transfers_ms=statistics.mean(carried),
            waited_ms=statistics.mean(waited),
        )

    def step_times(self, trainer: DataParallel, setting: StepSetting) -> list[float]:
        """Seconds of the steps of a turn; their traffic stays in `trainer.traffic`."""
        rows, batches = setting.batch, cycle(self.shares(setting.batch))

        def seconds() -> float:
            begun = time.perf_counter()
            loss = trainer.train_step(*next(batches), rows, LR)
            taken = time.perf_counter() - begun
            if not math.isfinite(loss):  # such a step updates nothing
                raise ArithmeticError(f"a loss of {loss} in {setting}")
            return taken

        with no_garbage_collection():
            self.group.all_gather(None)
            keep_busy(PAUSE)
            lead = [seconds() for _ in range(LEAD)][-1]
            count = self.group.broadcast(round(self.task.seconds / lead))
            trainer.traffic.take()
            return [seconds() for _ in range(max(FEWEST, min(count, MOST)))]

    def phases(self, dlrm: DLRM, threads: int) -> Iterator[Phase]:
        """Time the parts of a step, over the rows of a rank or of the whole batch."""
        for name, count, run in self.parts(dlrm, threads):
            taken = self.slowest(run)
            yield Phase(self.model.name, self.group.size, threads, name, count, taken)

    def parts(self, dlrm: DLRM, threads: int) -> Iterator[Part]:
        """The parts; each must be called before the next is taken."""
        totals = sorted({s.batch for s in self.task.settings if s.threads == threads})
        for total in totals:
            yield from self.parts_of_rank(dlrm, self.shares(total)[0])
            yield from self.parts_of_all(dlrm, self.batches[total][0][1])
        dense = dlrm.backpropagate(*self.shares(totals[-1])[0]).dense
        yield "dense optimizer", len(dense), partial(dlrm.update_dense, dense, STILL)
        numba.set_num_threads(1)  # as in a carrier's thread
        summands = max(2, self.group.size)
        for size in (1 << 16, self.model.array_size):
            terms = np.ones((summands, size // summands), np.float32)
            yield "adding up", terms.size, partial(sum_rows, terms, np.empty_like(terms[0]))

    def parts_of_rank(self, dlrm: DLRM, batch: Rows) -> Iterator[Part]:
        """The parts that work on the rows of a rank."""
        embedding, ids = dlrm.embedding, batch[1]
        yield "forward and backward", len(ids), partial(dlrm.backpropagate, *batch)
        found = dlrm.backpropagate(*batch)
        grads = found.embeddings.copy()  # later calls overwrite the original
        kept = embedding.gradients(grads, found.context)
        yield "dense gradient", len(ids), partial(embedding.gradients, grads, found.context, kept)
        yield "lookup", len(ids), partial(embedding.lookup, ids, False, np.empty_like(grads))

    def parts_of_all(self, dlrm: DLRM, ids: np.ndarray) -> Iterator[Part]:
        """The parts that work on the gradients of a whole batch."""
        embedding, total = dlrm.embedding, len(ids)
        grads = np.random.default_rng(0).random((*ids.shape, embedding.embedding_dim), "f4")
        yield "update", total, lambda: embedding.update(grads, embedding.context(ids), STILL)
        summed = embedding.gradients(grads, embedding.context(ids))
        yield "apply", total, partial(embedding.apply, summed, STILL)

    def slowest(self, run: Callable[[], object]) -> float:
        """Milliseconds of the slowest rank, all working at once."""
        run()
        times = []
        for _ in range(REPEATS):
            self.group.all_gather(None)
            begun = time.perf_counter()
            run()
            times.append(time.perf_counter() - begun)
        return 1e3 * max(self.group.all_gather(statistics.median(times)))

    def transfers(self) -> Iterator[Transfer]:
        """Time transfers while nothing else is done."""
        ranks = self.group.size
        if not self.task.messages or ranks == 1:
            return
        carrier = self.groups[False].carrier("cpu")

        def transfer(name: str, run: Callable[[], object]) -> Transfer:
            count = max(3, min(200, round(1e3 * PER_SIZE / self.slowest(run))))
            carrier.traffic.take()
            begun = time.perf_counter()
            for _ in range(count):
                run()
            ms = 1e3 * (time.perf_counter() - begun) / count
            came = self.group.all_gather((carrier.traffic.take().bytes // count, ms))
            return Transfer(ranks, name, *map(max, zip(*came, strict=True)))

        yield transfer("numbers", partial(carrier.all_reduce_scalars, (0.0, 0.0)))
        for nbytes in self.task.messages:
            each = nbytes // 4 // (ranks - 1)
            rows, array = (np.full(n, 0, np.float32) for n in (each, each * ranks // 2))
            yield transfer("gather", partial(carrier.all_gather, rows, each * ranks))
            yield transfer("sum", partial(carrier.all_reduce, array))


def main() -> None:
    """Run a task; an error in one rank ends all."""
    task, output = map(Path, sys.argv[1:])
    bench = RankBench(msgspec.json.decode(task.read_bytes(), type=RankTask))
    try:
        results = bench.run()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        bench.group.abort()
        raise
    if bench.group.is_root:
        output.write_bytes(msgspec.json.encode(results))


if __name__ == "__main__":
    main()
