"""Scoring call by call, as a server does it: `full` tables of Kaggle's size against `robe`.

    python perf/bench_latency.py                             3 minutes, 5 GB of memory
    python perf/bench_latency.py --shape tiny --repeats 1    a second, to see that it works

`robe` hashes raw ids, `full` finds their rows among the known ids. "full, by row" reads the same
tables but is given the numbers of the rows, as if finding them cost nothing.
"""

import argparse
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import numba
import numpy as np

import robe_numba as rn
from data_tools.synthetic.presets import PRESETS as LOGS
from perf.harness import checks
from perf.harness.places import here
from perf.harness.race import PAUSE, keep_busy, keep_memory, no_garbage_collection
from perf.harness.shapes import Shape, make_batch
from perf.peers.indexing import random_rows
from robe_numba.dlrm import DLRM, KINDS, PRESETS, DLRMConfig, Embedding, Vocabulary
from robe_numba.dlrm.embeddings.trained_array import TrainedArray

COMPRESSION, BLOCK_SIZE = 1000, 16
CHECKED = 64  # rows
SCATTER = 2_654_435_761  # a prime: frequent ids lie anywhere in a table, as those of a log do
ROBE, FULL, BY_ROW = CONTENDERS = ("robe", "full", "full, by row")


@dataclass(frozen=True)
class Served:
    """A model to serve.

    Parameters
    ----------
    config : its layers.
    sizes : rows of each uncompressed table; the first is that of unknown ids.
    calls : for each batch size the timed calls of a turn.
    """

    config: DLRMConfig
    sizes: tuple[int, ...]
    calls: Mapping[int, int]

    @property
    def table(self) -> rn.TableSpec:
        """The uncompressed tables."""
        return rn.TableSpec(self.sizes, self.config.embedding_dim)

    @property
    def robe(self) -> rn.RobeSpec:
        """The array in their place."""
        size = self.table.array_size // COMPRESSION
        return rn.RobeSpec(size, BLOCK_SIZE, self.config.embedding_dim, len(self.sizes))

    @cached_property
    def known(self) -> list[np.ndarray]:
        """uint64 (size - 1,) for each table: random ids of 32 bits, rising."""
        draw = np.random.default_rng(0).integers
        return [draw(1, 2**32 // n, n - 1, dtype=np.uint64).cumsum() for n in self.sizes]

    def rows(self, count: int, ids: str, seed: int) -> np.ndarray:
        """int64 (count, num_tables): rows of known ids, "uniform" or "zipf"."""
        rows = np.empty((count, len(self.sizes)), np.int64)
        for t, size in enumerate(self.sizes):
            column = Shape("", 1, 1, (), batch=count, num_tables=1, table_bytes=4 * (size - 1))
            drawn = make_batch(column, ids, seed + t).flat
            rows[:, t] = 1 + drawn * SCATTER % (size - 1)
        return rows

    def raw(self, rows: np.ndarray) -> np.ndarray:
        """uint32, as in a dataset: the ids of rows."""
        columns = [known[rows[:, t] - 1] for t, known in enumerate(self.known)]
        return np.stack(columns, axis=1).astype(np.uint32)


CARDINALITIES = tuple(column.cardinality for column in LOGS["kaggle"].categorical)
SHAPES = {
    "kaggle": Served(
        PRESETS["kaggle"].config, CARDINALITIES, {1: 200, 64: 200, 2048: 40, 16_384: 10}
    ),
    "tiny": Served(DLRMConfig(4, 3, 16, (8,), (8,)), (3, 500, 5000), {1: 10, 4: 5}),
}


@dataclass(frozen=True)
class Latency:
    """What the calls of one contender took."""

    threads: int
    ids: str
    batch: int
    contender: str
    calls: int
    p50: float  # milliseconds
    p99: float
    rows_per_second: float


def make_embeddings(served: Served) -> dict[str, Embedding]:
    """The contenders; both forms of `full` read one array."""
    table = random_rows(sum(served.sizes), served.config.embedding_dim).reshape(-1)
    tables = {"array": TrainedArray(served.table, table, "sgd", 0.0)}
    small = {"array": TrainedArray(served.robe, rn.init_array(served.robe), "sgd", 0.0)}
    return {
        ROBE: KINDS["robe"]("robe", small, None),
        FULL: KINDS["full"]("full", tables, Vocabulary.from_columns(served.known)),
        BY_ROW: KINDS["full"]("full", tables, None),
    }


def check(served: Served, models: Mapping[str, DLRM]) -> None:
    """Compare the logits of some rows with NumPy."""
    rows = served.rows(CHECKED, "uniform", seed=0)
    raw, first = served.raw(rows), np.cumsum([0, *served.sizes[:-1]])
    dense = random_dense(served, CHECKED)
    for name, model in models.items():
        parameters = model.parameters()
        array = parameters["embedding.array"]
        if name == ROBE:
            embeddings = array[checks.positions(raw, served.robe)]
        else:
            embeddings = array.reshape(-1, served.config.embedding_dim)[first + rows]
        expected = checks.dlrm_logits(parameters, dense, embeddings)
        logits = model.logits(dense, rows if name == BY_ROW else raw)
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def random_dense(served: Served, batch: int) -> np.ndarray:
    """float32 (batch, num_dense)"""
    return np.random.default_rng(0).random((batch, served.config.num_dense), np.float32)


def draw(served: Served, ids: str, batch: int, calls: int) -> dict[str, np.ndarray]:
    """What each contender is asked in one race: (calls, batch, num_tables).

    All have ids of their own: who came second would find the rows of a table in the caches.
    """
    requests = {}
    for number, name in enumerate(CONTENDERS):
        rows = served.rows(calls * batch, ids, seed=1000 * batch + 100 * number)
        asked = rows if name == BY_ROW else served.raw(rows)
        requests[name] = asked.reshape(calls, batch, -1)
    return requests


def race(
    served: Served, models: Mapping[str, DLRM], requests: Mapping[str, np.ndarray], repeats: int
) -> dict[str, np.ndarray]:
    """Milliseconds (calls,) of each contender, call by call, each call with ids not seen before.

    Turns are shuffled and begin as those of `timing.race`, with one untimed call.
    """
    batch = requests[ROBE].shape[1]
    turn, dense = served.calls[batch], random_dense(served, batch)
    times: dict[str, list[float]] = {name: [] for name in models}
    order = np.random.default_rng(0)
    with no_garbage_collection():
        for repeat in range(repeats):
            for name in order.permutation(list(models)):
                score, asked = models[name].logits, requests[name]
                keep_busy(PAUSE)
                score(dense, asked[-1])
                for indices in asked[repeat * turn : (repeat + 1) * turn]:
                    times[name].append(here().milliseconds(partial(score, dense, indices)))
    return {name: np.array(taken) for name, taken in times.items()}


def measure(served: Served, threads: list[int], repeats: int) -> Iterator[Latency]:
    """Every contender with every number of threads, kind of ids and batch size.

    All threads are asked the same; what was read half of the whole run ago is in no cache.
    """
    embeddings = make_embeddings(served)
    print(memory(served), flush=True)
    requests = {
        (ids, batch): draw(served, ids, batch, calls * repeats + 1)
        for ids in ("uniform", "zipf")
        for batch, calls in served.calls.items()
    }
    for number in threads:
        models = {
            name: DLRM(served.config, embedding, threads=number)
            for name, embedding in embeddings.items()
        }
        check(served, models)
        for (ids, batch), asked in requests.items():
            print(f"threads {number}, {ids} ids, batch {batch:,} ...", flush=True)
            for name, ms in race(served, models, asked, repeats).items():
                p50, p99 = map(float, np.percentile(ms, (50, 99)))
                speed = 1e3 * batch * len(ms) / float(ms.sum())
                yield Latency(number, ids, batch, name, len(ms), p50, p99, speed)


def memory(served: Served) -> str:
    """Bytes of both embeddings."""
    table, known = served.table, sum(column.nbytes for column in served.known)
    return (
        f"Memory: robe {served.robe.num_bytes / 1e6:,.2f} MB; full {table.num_bytes / 1e6:,.2f} MB "
        f"({sum(served.sizes):,} rows) and {known / 1e6:,.2f} MB of known ids."
    )


def markdown(results: list[Latency]) -> str:
    """A line for each race."""
    heads = [f"{name}, {what}" for name in CONTENDERS for what in ("p50 / p99, ms", "rows/s")]
    heads = ["threads", "ids", "batch", "calls", *heads, "p50, full / robe"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for first in range(0, len(results), len(CONTENDERS)):
        race = results[first : first + len(CONTENDERS)]
        robe, full, _ = race
        cells = [str(robe.threads), robe.ids, f"{robe.batch:,}", f"{robe.calls:,}"]
        for r in race:
            cells += [f"{r.p50:,.3f} / {r.p99:,.3f}", f"{r.rows_per_second:,.0f}"]
        lines.append(f"| {' | '.join(cells)} | {full.p50 / robe.p50:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    most = numba.config.NUMBA_NUM_THREADS
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="kaggle")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({most, 1}, reverse=True))
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contender")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    keep_memory()
    about = (
        f"{here().describe()}; {options.repeats} turns of each contender; python "
        f"{platform.python_version()}, numba {numba.__version__}, numpy {np.__version__}."
    )
    print(about, flush=True)
    served = SHAPES[options.shape]
    results = list(measure(served, options.threads, options.repeats))
    if options.json:
        content = {"about": about, "memory": memory(served), "rows": list(map(asdict, results))}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    print("\n" + markdown(results))


if __name__ == "__main__":
    main()
