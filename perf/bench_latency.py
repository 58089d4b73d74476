"""Score call by call, as a server does: `full` tables of Kaggle's size against `robe`.

    python perf/bench_latency.py                             3 minutes, 5 GB of memory
    python perf/bench_latency.py --shape tiny --repeats 1    a second, to see that it works

`robe` hashes raw ids; `full` finds their rows among the known ids. "full, by row" reads the same
tables but is given row numbers, as if finding them cost nothing.
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
from perf.harness.race import keep_memory, take_turns
from perf.harness.shapes import BenchShape, make_batch
from perf.peers.indexing import random_rows
from robe_numba.dlrm import DLRM, KINDS, PRESETS, DLRMConfig, Embedding, Vocabulary
from robe_numba.dlrm.embeddings.trained_array import TrainedArray
from robe_numba.formatting import format_bytes, markdown_table

COMPRESSION, BLOCK_SIZE = 1000, 16
CHECKED = 64  # rows
SCATTER = 2_654_435_761  # a prime: spreads frequent ids over a table, as in a real log
ROBE, FULL, BY_ROW = CONTENDERS = ("robe", "full", "full, by row")


@dataclass(frozen=True)
class Served:
    """A model to serve.

    Parameters
    ----------
    config : DLRMConfig
        Its layers.
    sizes : tuple of int
        Rows of each uncompressed table; the first row is that of unknown ids.
    calls : mapping of int to int
        The timed calls of a turn, for each batch size.
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
        """The array that replaces them."""
        size = self.table.array_size // COMPRESSION
        return rn.RobeSpec(size, BLOCK_SIZE, self.config.embedding_dim, len(self.sizes))

    @cached_property
    def known(self) -> list[np.ndarray]:
        """Known ids of each table, random and increasing: (size - 1,) uint64."""
        draw = np.random.default_rng(0).integers
        return [draw(1, 2**32 // n, n - 1, dtype=np.uint64).cumsum() for n in self.sizes]

    def rows(self, count: int, ids: str, seed: int) -> np.ndarray:
        """Rows of known ids, "uniform" or "zipf": (count, num_tables) int64."""
        rows = np.empty((count, len(self.sizes)), np.int64)
        for t, size in enumerate(self.sizes):
            column = BenchShape("", 1, 1, (), batch=count, num_tables=1, table_bytes=4 * (size - 1))
            drawn = make_batch(column, ids, seed + t).flat
            rows[:, t] = 1 + drawn * SCATTER % (size - 1)
        return rows

    def raw(self, rows: np.ndarray) -> np.ndarray:
        """The ids of rows as in a dataset: (count, num_tables) uint32."""
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
    """How long the calls of one contender took."""

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
    """Dense features: (batch, num_dense) float32."""
    return np.random.default_rng(0).random((batch, served.config.num_dense), np.float32)


def draw(served: Served, ids: str, batch: int, calls: int) -> dict[str, np.ndarray]:
    """The requests of each contender in one race: (calls, batch, num_tables).

    Each contender has its own ids; otherwise the second one would find rows in the caches.
    """
    requests = {}
    for number, name in enumerate(CONTENDERS):
        rows = served.rows(calls * batch, ids, seed=1000 * batch + 100 * number)
        asked = rows if name == BY_ROW else served.raw(rows)
        requests[name] = asked.reshape(calls, batch, -1)
    return requests


def time_calls(
    served: Served, models: Mapping[str, DLRM], requests: Mapping[str, np.ndarray], repeats: int
) -> dict[str, list[float]]:
    """Milliseconds of each contender's calls, each call with new ids.

    A turn begins with one untimed call.
    """
    batch = requests[ROBE].shape[1]
    calls, dense = served.calls[batch], random_dense(served, batch)

    def turn(name: str, number: int) -> list[float]:
        score, asked = models[name].logits, requests[name]
        score(dense, asked[-1])
        return [
            here().milliseconds(partial(score, dense, indices))
            for indices in asked[number * calls : (number + 1) * calls]
        ]

    return take_turns({name: partial(turn, name) for name in models}, repeats)


def measure(served: Served, threads: list[int], repeats: int) -> Iterator[Latency]:
    """Time every contender with every number of threads, kind of ids and batch size.

    Every number of threads gets the same requests; by then, no cache holds what they read before.
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
            for name, ms in time_calls(served, models, asked, repeats).items():
                p50, p99 = map(float, np.percentile(ms, (50, 99)))
                speed = 1e3 * batch * len(ms) / sum(ms)
                yield Latency(number, ids, batch, name, len(ms), p50, p99, speed)


def memory(served: Served) -> str:
    """The memory of both embeddings."""
    table, known = served.table, sum(column.nbytes for column in served.known)
    return (
        f"Memory: robe {format_bytes(served.robe.num_bytes)}; full {format_bytes(table.num_bytes)} "
        f"({sum(served.sizes):,} rows) and {format_bytes(known)} of known ids."
    )


def table_of(results: list[Latency]) -> str:
    """A line for each race, as Markdown."""
    columns = [f"{name}, {what}" for name in CONTENDERS for what in ("p50 / p99, ms", "rows/s")]
    lines = []
    for first in range(0, len(results), len(CONTENDERS)):
        race = results[first : first + len(CONTENDERS)]
        robe, full, _ = race
        cells = [str(robe.threads), robe.ids, f"{robe.batch:,}", f"{robe.calls:,}"]
        for r in race:
            cells += [f"{r.p50:,.3f} / {r.p99:,.3f}", f"{r.rows_per_second:,.0f}"]
        lines.append([*cells, f"{full.p50 / robe.p50:.2f}"])
    return markdown_table(["threads", "ids", "batch", "calls", *columns, "p50, full / robe"], lines)


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
    print("\n" + table_of(results))


if __name__ == "__main__":
    main()
