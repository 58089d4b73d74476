"""Our Scorer and ONNX Runtime, call by call, with the same runs and the same rows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from perf.harness.places import here
from perf.harness.race import take_turns
from perf.serving.runs import Served
from robe_numba.onnx import export_run
from robe_numba.serving import Scorer

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
OURS, THEIRS, FULL, THEIR_FULL = CONTENDERS = (
    "Scorer, robe",
    "ONNX Runtime, robe",
    "Scorer, full",
    "ONNX Runtime, full",
)


@dataclass(frozen=True)
class Latency:
    """How long the calls of one contender took."""

    threads: int
    batch: int
    contender: str
    calls: int
    p50: float  # microseconds
    p99: float
    rows_per_second: float


def measure(
    served: Served, runs: Mapping[str, Path], calls: Mapping[int, int], threads: int, repeats: int
) -> Iterator[Latency]:
    """Time all contenders with every batch size; `calls` are those of a turn, for each size."""
    scorers = make_scorers(runs, threads)
    check(served, scorers)
    for batch, number in calls.items():
        asked = {
            name: requests(served, batch, 1 + number * repeats, seed)
            for seed, name in enumerate(scorers)
        }

        def turn(name: str, turn: int, asked: Any = asked, number: int = number) -> list[float]:
            score, (dense, ids) = scorers[name], asked[name]
            score(dense[-1], ids[-1])  # untimed
            return [
                here().milliseconds(partial(score, dense[call], ids[call]))
                for call in range(turn * number, (turn + 1) * number)
            ]

        turns = take_turns({name: partial(turn, name) for name in scorers}, repeats)
        for name, ms in turns.items():
            p50, p99 = (1e3 * float(p) for p in np.percentile(ms, (50, 99)))
            yield Latency(threads, batch, name, len(ms), p50, p99, 1e3 * batch * len(ms) / sum(ms))


def make_scorers(runs: Mapping[str, Path], threads: int) -> dict[str, Score]:
    """The contenders."""
    return {
        OURS: Scorer(runs["robe"], threads=threads),
        THEIRS: onnx_scorer(runs["robe"], threads),
        FULL: Scorer(runs["full"], threads=threads),
        THEIR_FULL: onnx_scorer(runs["full"], threads),
    }


def onnx_scorer(run: Path, threads: int) -> Score:
    """ONNX Runtime on what `robe export` makes of a run."""
    import onnxruntime

    exported = export_run(run, run.with_suffix(".onnx"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(exported.path), options, providers=["CPUExecutionProvider"]
    )
    return lambda dense, ids: session.run(None, {"dense": dense, "ids": ids})[0]


def requests(served: Served, batch: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `count` calls, (count, batch, columns): each contender has its own."""
    rows = count * batch
    dense, ids = served.dense(rows, seed), served.ids(rows, 1000 * seed + batch)
    return dense.reshape(count, batch, -1), ids.reshape(count, batch, -1)


def check(served: Served, scorers: Mapping[str, Score]) -> None:
    """Compare both scorers of each run, and require that rows differ."""
    dense, ids = served.dense(64, 0), served.ids(64, 0)
    scores = {name: score(dense, ids) for name, score in scorers.items()}
    for ours, theirs in ((OURS, THEIRS), (FULL, THEIR_FULL)):
        np.testing.assert_allclose(scores[ours], scores[theirs], rtol=0, atol=1e-6)
        assert np.ptp(scores[ours]) > 0
