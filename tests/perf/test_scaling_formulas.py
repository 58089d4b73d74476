"""The model of several processes counts as they do and knows its limits."""

import math
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from perf.scaling import formulas as scaling
from perf.scaling.clusters import GPUS, gpu_link
from robe_numba.dlrm import DLRM, DLRMConfig, make_embedding
from robe_numba.parallel.carriers.base import Carrier, Traffic
from robe_numba.parallel.data_parallel import DataParallel

ODD = scaling.ScaledModel("odd", DLRMConfig(3, 5, 6, (7,), (9,)), 10_007, 4)
LINE = scaling.LinearCost
RATES = scaling.ProcessRates(  # seconds as good as any
    rows=LINE(1e-3, 2e-5),
    lookup=LINE(0.0, 1e-6),
    update=LINE(1e-5, 3e-6),
    gradient=LINE(1e-4, 2e-6),
    apply=LINE(1e-5, 1e-9),
    add=LINE(0.0, 1e-9),
    optimizer=1e-4,
)
SLOW = scaling.Link("slow", 1e-4, 1e8)


class CountingCarrier(Carrier):
    """Counts the bytes that would come to a rank, and carries nothing."""

    start = all_gather_parts = all_reduce = all_reduce_scalars = None

    def __init__(self, rank, size):
        self.rank, self.size, self.traffic = rank, size, Traffic()


def plans(model, batch, processes, exchange):
    """What each rank would plan if it knew of no other's bytes."""
    embedding = make_embedding(
        "robe",
        embedding_dim=model.config.embedding_dim,
        num_tables=model.config.num_tables,
        num_parameters=model.array_size,
        block_size=model.block_size,
    )
    dlrm = DLRM(model.config, embedding)
    for rank in range(processes):
        group = SimpleNamespace(
            rank=rank,
            size=processes,
            all_max=lambda value: value,
            carrier=lambda device, rank=rank: CountingCarrier(rank, processes),
        )
        yield DataParallel(dlrm, group, batch, np.uint32, exchange).plan


@pytest.mark.parametrize(
    ("model", "batch", "processes"),
    [
        *product([scaling.KAGGLE], (2048, 2050), (2, 8)),
        *product([ODD], (11, 64, 100), (2, 3, 5, 8)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_bytes_are_those_of_the_plan(model, batch, processes):
    for exchange in ("gather", "reduce"):
        found = list(plans(model, batch, processes, exchange))
        most = max(plan.choices[exchange] for plan in found)
        assert most == scaling.exchange_bytes(model, exchange, batch, processes)
        dense = max(plan.dense for plan in found)
        assert dense == scaling.sum_bytes(model.dense_size, processes)


@pytest.mark.parametrize("design", scaling.DESIGNS)
def test_one_process_has_nobody_to_talk_to(design):
    assert scaling.exchange_bytes(scaling.KAGGLE, design, 2048, 1) == 0
    assert scaling.sum_bytes(scaling.KAGGLE.dense_size, 1) == 0
    alone = scaling.step(scaling.KAGGLE, design, RATES, SLOW, 2048, 1)
    assert alone == (RATES.rows.at(2048), RATES.update.at(2048), RATES.optimizer, 0)


def test_gather_depends_on_the_batch_and_reduce_on_the_array():
    large = replace(scaling.KAGGLE, array_size=10 * scaling.KAGGLE.array_size)

    def both(model, batch):
        ways = {way: (model, way, batch, 8) for way in ("gather", "reduce")}
        return {
            way: (
                scaling.exchange_bytes(*of),
                scaling.step(*of[:2], RATES, SLOW, *of[2:]).transfers,
            )
            for way, of in ways.items()
        }

    small = both(scaling.KAGGLE, 2048)
    more_rows, more_elements = both(scaling.KAGGLE, 65_536), both(large, 2048)
    assert more_elements["gather"] == small["gather"]
    assert more_elements["reduce"][0] == 10 * small["reduce"][0]
    assert more_rows["gather"][0] == 32 * small["gather"][0]
    # Applying hides more of the dense gradient where more elements are touched.
    assert more_rows["reduce"][0] == small["reduce"][0]
    assert more_rows["reduce"][1] <= small["reduce"][1]


@pytest.mark.parametrize(("size", "processes"), [*product((40_000, 540_000), (2, 5, 8, 64))])
def test_reduce_brings_fewer_bytes_above_the_crossover(size, processes):
    model = replace(scaling.KAGGLE, array_size=size)

    def fewer(batch):
        ways = (
            scaling.exchange_bytes(model, way, batch, processes) for way in ("gather", "reduce")
        )
        return next(ways) > next(ways)

    # Shares of rows are even at multiples of P.
    first = next(b for b in range(processes, 10_000, processes) if fewer(b))
    # An uneven share of the array may be an element larger for each other process.
    slack = 4 * processes**2 / (26 * (4 * 16 + 4))
    assert first - processes - slack <= scaling.crossover(model) <= first + slack


def test_an_owner_gets_starts_and_gradients_and_gives_blocks():
    model, batch, processes = scaling.MLPERF, 65_536, 16
    row = 26 * (2 * 128 * 4 + 8)  # Z is d, so one start for each table
    expected = batch / processes * row * (processes - 1) / processes
    assert scaling.exchange_bytes(model, "sharded", batch, processes) == expected
    finer = replace(model, block_size=32)
    more = scaling.exchange_bytes(finer, "sharded", batch, processes) - expected
    assert more == batch / processes * 26 * 3 * 8 * (processes - 1) / processes


@pytest.mark.parametrize(("design", "processes"), [*product(scaling.DESIGNS, (2, 64))])
def test_overlap_hides_no_more_than_there_is_to_hide_behind(design, processes):
    steps = [
        scaling.step(scaling.MLPERF, design, RATES, SLOW, 2048, processes, overlap)
        for overlap in (True, False)
    ]
    assert steps[0][:3] == steps[1][:3]
    hidden = steps[1].transfers - steps[0].transfers
    assert 0 < hidden <= steps[0].rows + steps[0].embedding + 1e-12


def test_a_step_is_the_sum_of_its_parts():
    """By hand, for two processes of which nothing hides anything."""
    model, rates, batch = scaling.TINY, RATES, 100
    place, arrays = 3 * (16 * 4 + 4), (4096, model.dense_size)  # bytes of a row; elements
    loss, sums = 1e-4 + 16 / 1e8, [2e-4 + size * (4 / 1e8 + 1e-9) for size in arrays]
    computing = 1e-3 + 50 * 2e-5 + 1e-4  # layers and optimizer
    applying = 1e-5 + 1e-9 * model.touched(batch)
    expected = {
        "gather": 1e-5 + 100 * 3e-6 + 2e-4 + 50 * place / 1e8 + sums[1],
        "reduce": 1e-4 + 50 * 2e-6 + applying + sum(sums),
        "sharded": 1e-5 + 50 * 4e-6 + 3e-4 + 25 * 3 * (2 * 16 * 4 + 8) / 1e8 + sums[1],
    }
    for design, seconds in expected.items():
        step = scaling.step(model, design, rates, SLOW, batch, 2, overlap=False)
        assert step.seconds == pytest.approx(computing + loss + seconds)


@pytest.mark.parametrize("design", scaling.DESIGNS)
def test_no_network_takes_no_time(design):
    nothing = scaling.Link("none", 0.0, math.inf)
    rates = replace(RATES, add=LINE(0.0, 0.0))
    assert scaling.step(scaling.KAGGLE, design, rates, nothing, 2048, 64).transfers == 0


def test_reduce_is_faster_from_where_it_is_said_to_be():
    processes = 8
    first = GPUS.faster_by_reduce(scaling.KAGGLE, processes)
    for batch in range(processes, 2 * first, 97 * processes):
        of = (scaling.KAGGLE, ("gather", "reduce"), batch, processes)
        gather, reduce = (GPUS.seconds(of[0], way, *of[2:]) for way in of[1])
        assert (reduce < gather) == (batch >= first)


def test_machines_of_gpus_share_what_all_get_and_not_what_one_gets():
    inside, outside = gpu_link(8), gpu_link(64)
    assert inside.seconds(0, 450e9) == inside.seconds(0, 450e9, pairs=True) == 1
    assert outside.seconds(0, 400e9) == 1
    # 56 of the 63 others send over the network.
    assert outside.seconds(0, 63 * 50e9, pairs=True) == pytest.approx(56)


def test_copies_of_the_array():
    assert scaling.copies("gather", "sgd") == scaling.copies("sharded", "sgd") == 1
    assert scaling.copies("reduce", "adagrad") == 3
    assert scaling.copies("gather", "adagrad", 128) == 1 + 1 / 128


def test_lines_are_found_again_and_never_fall_below_nothing():
    line = LINE(0.25, 0.5)
    assert LINE.fit((x, line.at(x)) for x in (1, 10, 100)) == pytest.approx(line)
    assert LINE.fit([(4, 2.0)]) == (0.0, 0.5)
    assert LINE.fit([(1, 1.0), (2, 4.0)]).fixed == 0
    assert LINE.fit([(1, 4.0), (2, 1.0)]).each == 0
