"""The modules of `robe_numba.torch` against our kernels on NumPy arrays and torch's tables.

python perf/bench_torch.py
python perf/bench_torch.py --shape S1 --work lookup
python -m perf.harness.torch_first bench_torch      in a process that imports torch first
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import robe_numba as rn
import robe_numba.torch as rt
from perf import bench_dlrm, bench_update, peers
from perf.bench_bag import shape_for
from perf.harness import checks, command
from perf.harness.libraries import torch
from perf.harness.race import Contender, Row, Workload, race
from perf.harness.shapes import ROWS, BenchBatch, BenchShape, make_batch
from perf.peers.compressed import CompressedDLRM, fused
from perf.peers.dlrm import TorchDLRM

WORKS = ("lookup", "step", "dlrm")
DLRM_SHAPES = {"S2": "kaggle", "tiny": "tiny"}  # by the shape of the embeddings
SMALL_CALLS = 1000  # calls of batch 1 that are timed together: milliseconds are microseconds a call


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this benchmark has."""
    parser.add_argument("--work", choices=WORKS, action="append", help="may be repeated")


def measure(shape: BenchShape, options: Any) -> Iterator[Row]:
    """The races of the chosen works."""
    works = options.work or WORKS
    spec = shape.spec(shape.block_sizes[0])
    if "lookup" in works:
        yield from lookups(make_batch(shape, options.ids), spec, options)
    if "step" in works:
        for optimizer in bench_update.OPTIMIZERS:
            yield from steps(
                make_batch(shape_for(shape, optimizer), options.ids), optimizer, options
            )
    if "dlrm" in works and shape.name in DLRM_SHAPES:
        model = bench_dlrm.SHAPES[DLRM_SHAPES[shape.name]]
        small = replace(model, config=replace(model.config, bottom=(64,), top=(128, 64)))
        for optimizer, name in bench_update.OPTIMIZERS.items():
            yield from dlrm(model, f"{name} step, DLRM", optimizer, options)
            yield from dlrm(small, f"{name} step, DLRM of the example", optimizer, options)


def lookups(batch: BenchBatch, spec: rn.RobeSpec, options: Any) -> Iterator[Row]:
    """A race for the batch, and one for many calls of its first sample."""
    shape = batch.shape
    work = Workload("torch", shape.name, "lookup", shape.num_ids, shape.output_bytes)
    yield from race(work, list(readers(batch, spec, 1)), options.repeats)
    name, calls = f"{SMALL_CALLS} lookups of batch 1", SMALL_CALLS * shape.num_tables
    work = Workload("torch", shape.name, name, calls)
    yield from race(work, list(readers(batch.head(1), spec, SMALL_CALLS)), options.repeats)


def readers(batch: BenchBatch, spec: rn.RobeSpec, calls: int) -> Iterator[Contender]:
    """The module without and with gradients, and compiled; and the kernel on NumPy arrays."""
    array = rn.init_array(spec)
    tables = rt.RobeTables.from_spec(spec, rt.RobeArray.from_tensor(torch.from_numpy(array)))
    indices = torch.from_numpy(batch.indices)
    torch.compiler.reset()  # torch compiles a method for a few modules, then no longer
    modules = {"robe": tables, "robe, compiled": torch.compile(tables)}
    for name, module in modules.items():
        checks.check_forward(module(indices).detach().numpy(), array, batch, spec)
        run = partial(module, indices)
        yield Contender(name, repeated(run, calls, False), block_size=spec.block_size)
        recorded = repeated(run, calls, True)
        yield Contender(f"{name}, gradients recorded", recorded, block_size=spec.block_size)
    kernel = partial(rn.lookup, array, batch.indices, spec)
    yield Contender("NumPy", repeated(kernel, calls), "peer", spec.block_size)


def repeated(run: Callable[[], object], calls: int, gradients: bool = True) -> Callable[[], object]:
    """A function that makes a call several times, with or without recording gradients."""

    def run_all() -> None:
        with torch.set_grad_enabled(gradients):
            for _ in range(calls):
                run()

    return run_all


def steps(batch: BenchBatch, optimizer: str, options: Any) -> list[Row]:
    """Forward, backward and fused step, against `bench_update`'s and torch's tables."""
    shape = batch.shape
    spec, name = shape.spec(shape.block_sizes[0]), bench_update.OPTIMIZERS[optimizer]
    array, head = rn.init_array(spec), batch.head(checks.SAMPLES)
    torch.compiler.reset()
    contenders = []
    for name_of, wrap in (("robe", None), ("robe, compiled", torch.compile)):
        checks.check_step(
            partial(first_step, batch=head, spec=spec, optimizer=optimizer, wrap=wrap),
            array,
            head,
            spec,
            optimizer == "adagrad",
        )
        tables = make_tables(array, spec, optimizer)
        run = step_of(batch, tables if wrap is None else wrap(tables))
        contenders.append(Contender(name_of, run, block_size=spec.block_size))
    state_sum = np.zeros_like(array) if optimizer == "adagrad" else None
    run = partial(bench_update.step_of(batch, spec), array, state_sum)
    contenders.append(Contender("NumPy", run, "peer", spec.block_size))
    tables_of_torch = [name for name in options.peers if name in ("torch", "torch-huge")]
    contenders += peers.contenders(tables_of_torch, batch, optimizer)
    work = Workload("torch", shape.name, f"{name} step", shape.num_ids, shape.output_bytes)
    return race(work, contenders, options.repeats)


def make_tables(array: np.ndarray, spec: rn.RobeSpec, optimizer: str) -> rt.RobeTables:
    """Tables over a copy of the array that step during backward."""
    stored = rt.RobeArray.from_tensor(torch.from_numpy(array), fused(optimizer))
    return rt.RobeTables.from_spec(spec, stored)


def step_of(batch: BenchBatch, tables: Any) -> Callable[[], object]:
    """A whole step of a module."""
    indices, grad_out = torch.from_numpy(batch.indices), torch.from_numpy(batch.grad_out)
    return lambda: tables(indices).backward(grad_out)


def first_step(
    array: np.ndarray,
    state_sum: np.ndarray | None,
    batch: BenchBatch,
    spec: rn.RobeSpec,
    optimizer: str,
    wrap: Callable[[Any], Any] | None,
) -> None:
    """Move array and state_sum in place by a step of a new module."""
    tables = make_tables(array, spec, optimizer)
    step_of(batch, tables if wrap is None else wrap(tables))()
    array[:] = tables.array.weight.detach().numpy()
    if state_sum is not None:
        assert tables.array.state_sum is not None
        state_sum[:] = tables.array.state_sum.numpy()


def dlrm(model: bench_dlrm.BenchModel, name: str, optimizer: str, options: Any) -> list[Row]:
    """A training step of a compressed DLRM, against the same with an EmbeddingBag per table."""
    data = bench_dlrm.make_data(model, options.ids)
    arguments = model.config, data.batch, data.dense, data.labels
    torch.compiler.reset()
    contenders = []
    for name_of, wrap in (("robe", None), ("robe, compiled", torch.compile)):
        compressed: Any = CompressedDLRM(*arguments, optimizer=optimizer)
        compressed.check()
        if wrap is not None:
            compressed.forward = wrap(compressed.forward)
        contenders.append(Contender(name_of, compressed.step))
    if "torch" in options.peers:
        peer = TorchDLRM(*arguments, apart=True, optimizer=optimizer)
        peer.check()
        contenders.append(Contender("torch", peer.step, "peer"))
    work = Workload("torch", model.shape.name, name, model.shape.batch)
    return race(work, contenders, options.repeats)


if __name__ == "__main__":
    command.main("torch", __doc__, ROWS, measure, devices=("cpu",), add_options=add_options)
