"""What the processes of a server count, in memory that they share, and how Prometheus reads it."""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

CODES = (200, 400, 401, 404, 405, 411, 413, 415, 500, 503)
SECONDS = tuple(0.00025 * 2**k for k in range(14))  # 250 µs to 2 s
ROWS = tuple(float(2**k) for k in range(14))  # 1 to 8192

# Where each number of a model lies.
_CODE = 0
_ROWS = _CODE + len(CODES)
_QUEUE = _ROWS + 1
_RELOADS = _QUEUE + 1  # done, refused
_LATENCY = _RELOADS + 2  # a bucket per bound, one for more, and the sum
_BATCHES = _LATENCY + len(SECONDS) + 2
_SIZE = _BATCHES + len(ROWS) + 2
_CODE_AT = {code: _CODE + k for k, code in enumerate(CODES)}


class ModelCounters:
    """The numbers of one model in one process.

    Parameters
    ----------
    numbers : memoryview, (_SIZE,) float64
        Zeros, or what was counted before.
    """

    def __init__(self, numbers: Any):
        self._numbers = numbers

    def request(self, code: int, seconds: float) -> None:
        """Count an answer and the time that it took."""
        numbers = self._numbers
        numbers[_CODE_AT[code]] += 1
        numbers[_LATENCY + bisect_left(SECONDS, seconds)] += 1
        numbers[_BATCHES - 1] += seconds

    def batch(self, rows: int) -> None:
        """Count a scored batch."""
        numbers = self._numbers
        numbers[_ROWS] += rows
        numbers[_BATCHES + bisect_left(ROWS, rows)] += 1
        numbers[_SIZE - 1] += rows

    def queue(self, requests: int) -> None:
        """Note how many requests wait."""
        self._numbers[_QUEUE] = requests

    def reload(self, done: bool) -> None:
        """Count a reload that was done, or one that was refused."""
        self._numbers[_RELOADS + (not done)] += 1


class Counters:
    """The numbers of all models in all processes of a server; each process writes only its own.

    Parameters
    ----------
    names : sequence of str
        Of the models. Requests for none of them are counted under "".
    processes : int
        How many share the memory.
    process : int
        Which of them this is.
    memory : buffer of float64, optional
        `size_for(len(names), processes)` numbers that all processes see; by default new zeros.
    """

    def __init__(
        self, names: Sequence[str], processes: int = 1, process: int = 0, memory: Any = None
    ):
        size = self.size_for(len(names), processes)
        buffer = array("d", bytes(8 * size)) if memory is None else memory
        self._all = memoryview(buffer).cast("B").cast("d")
        self._places = {name: k for k, name in enumerate(("", *names))}
        self._processes, self._process = processes, process

    @staticmethod
    def size_for(models: int, processes: int) -> int:
        """Numbers of the shared memory."""
        return (models + 1) * processes * _SIZE

    def of(self, name: str) -> ModelCounters:
        """What this process counts of a model."""
        return ModelCounters(self._part(name, self._process))

    def _part(self, name: str, process: int) -> Any:
        start = (process * len(self._places) + self._places[name]) * _SIZE
        return self._all[start : start + _SIZE]

    def total(self, name: str) -> dict[str, Any]:
        """The sums over all processes, of one model.

        Returns
        -------
        dict
            "codes" {int: count}, "rows", "queue", "reloads", "refused_reloads", and of "seconds"
            and "batches" the counts per bucket (not cumulative) and "..._sum".
        """
        parts = [self._part(name, process) for process in range(self._processes)]
        sums = [sum(numbers) for numbers in zip(*parts, strict=True)]
        return {
            "codes": {code: int(sums[place]) for code, place in _CODE_AT.items() if sums[place]},
            "rows": int(sums[_ROWS]),
            "queue": int(sums[_QUEUE]),
            "reloads": int(sums[_RELOADS]),
            "refused_reloads": int(sums[_RELOADS + 1]),
            "seconds": [int(count) for count in sums[_LATENCY : _BATCHES - 1]],
            "seconds_sum": sums[_BATCHES - 1],
            "batches": [int(count) for count in sums[_BATCHES : _SIZE - 1]],
            "batches_sum": sums[_SIZE - 1],
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Of the models, "" first."""
        return tuple(self._places)


def exposition(counters: Counters, loaded: Mapping[str, tuple[str, int]]) -> bytes:
    """The text that Prometheus scrapes.

    Parameters
    ----------
    counters : Counters
        What was counted.
    loaded : mapping of str to (str, int)
        For each model its version and its bytes.
    """
    from prometheus_client import CollectorRegistry, generate_latest

    class Source:
        def collect(self) -> Iterator[Any]:
            return _families(counters, loaded)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Source())
    return generate_latest(registry)


def _families(counters: Counters, loaded: Mapping[str, tuple[str, int]]) -> Iterator[Any]:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    totals = {name: counters.total(name) for name in counters.names}
    requests = CounterMetricFamily(
        "robe_requests", "Answers, by model and status.", labels=["model", "code"]
    )
    for name, total in totals.items():
        for code, count in total["codes"].items():
            requests.add_metric([name, str(code)], count)
    yield requests
    latency = HistogramMetricFamily(
        "robe_request_seconds", "From the headers of a request to its answer.", labels=["model"]
    )
    for name, total in totals.items():
        latency.add_metric([name], _buckets(SECONDS, total["seconds"]), total["seconds_sum"])
    yield latency
    totals.pop("")
    batches = HistogramMetricFamily("robe_batch_rows", "Rows scored together.", labels=["model"])
    rows = CounterMetricFamily("robe_rows", "Rows scored.", labels=["model"])
    queue = GaugeMetricFamily("robe_queue_requests", "Requests that wait.", labels=["model"])
    reloads = CounterMetricFamily(
        "robe_reloads", "Changed runs, loaded or refused.", labels=["model", "result"]
    )
    memory = GaugeMetricFamily("robe_model_bytes", "Memory of a model.", labels=["model"])
    info = GaugeMetricFamily("robe_model_info", "The model.", labels=["model", "version"])
    for name, total in totals.items():
        batches.add_metric([name], _buckets(ROWS, total["batches"]), total["batches_sum"])
        rows.add_metric([name], total["rows"])
        queue.add_metric([name], total["queue"])
        reloads.add_metric([name, "loaded"], total["reloads"])
        reloads.add_metric([name, "refused"], total["refused_reloads"])
        version, num_bytes = loaded[name]
        memory.add_metric([name], num_bytes)
        info.add_metric([name, version], 1)
    yield from (batches, rows, queue, reloads, memory, info)


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Cumulative counts by bound, as Prometheus wants them."""
    names = [*(f"{bound:g}" for bound in bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(counts)), strict=True))
