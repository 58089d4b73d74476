"""The settings and results of `bench_scaling.py`, and their medians."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, groupby
from typing import Any, TypeVar

from perf.scaling.formulas import MODELS
from robe_numba.parallel.carriers.base import Traffic


@dataclass(frozen=True)
class StepSetting:
    """A batch over all ranks, and how they train on it."""

    shape: str
    ranks: int
    threads: int
    batch: int
    exchange: str = ""  # none with one rank
    overlap: bool = False


@dataclass(frozen=True)
class RankTask:
    """The work of one start of mpiexec."""

    shape: str
    ranks: int
    settings: list[StepSetting]
    round: int  # -1 checks and measures nothing
    seconds: float  # of a timed turn, about
    ids: str
    messages: Sequence[int]  # bytes of the transfers that are timed alone


@dataclass(frozen=True)
class MeasuredStep(StepSetting):
    """The time of a step; those of transfers are means over ranks."""

    auto: bool = False  # whether "auto" chooses this exchange
    bytes: int = 0  # that came to a rank
    ms: float = 0.0
    transfers_ms: float = 0.0  # from their beginning to their end
    waited_ms: float = 0.0  # the part of it in which the rank did nothing else

    @property
    def rows_per_second(self) -> float:
        """Rows per second of all ranks together."""
        return 1e3 * self.batch / self.ms

    @property
    def hidden(self) -> float:
        """The share of the transfers' time in which ranks computed."""
        return Traffic(self.bytes, self.transfers_ms, self.waited_ms).hidden


@dataclass(frozen=True)
class Phase:
    """The time of a part of a step, done by all ranks at once: that of the slowest."""

    shape: str
    ranks: int
    threads: int
    name: str
    count: int  # rows; elements of all arrays added up; dense parameters
    ms: float


@dataclass(frozen=True)
class Transfer:
    """The time of one MPI transfer of `bytes` bytes to each rank."""

    ranks: int
    name: str  # "gather" (Allgatherv), "sum" (Alltoallv, adding, Allgatherv), "numbers" (Allgather)
    bytes: int
    ms: float


Found = TypeVar("Found", MeasuredStep, Phase, Transfer)


@dataclass(frozen=True)
class Results:
    """Results, and the machine and settings, or for one start the MPI library."""

    about: str
    steps: Sequence[MeasuredStep] = ()
    phases: Sequence[Phase] = ()
    transfers: Sequence[Transfer] = ()

    @classmethod
    def merge(cls, about: str, several: Sequence["Results"]) -> "Results":
        """Medians over several starts."""
        return cls(
            about,
            medians([results.steps for results in several]),
            medians([results.phases for results in several]),
            medians([results.transfers for results in several]),
        )


def medians(several: Iterable[Sequence[Found]]) -> list[Found]:
    """Merge results that differ only in what was measured; sorted as in the tables."""
    found = chain.from_iterable(several)
    alike = [list(same) for _, same in groupby(sorted(found, key=place), place)]
    return [
        replace(same[0], **{
            field.name: statistics.median(getattr(one, field.name) for one in same)
            for field in fields(same[0])
            if field.type is float
        })
        for same in alike
    ]  # fmt: skip


def place(found: Found) -> tuple[Any, ...]:
    """The sort key: shapes as listed, then everything that was not measured."""
    listed = 0 if isinstance(found, Transfer) else list(MODELS).index(found.shape)
    return listed, *(getattr(found, f.name) for f in fields(found) if f.type is not float)
