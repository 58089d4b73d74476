"""What `bench_scaling.py` asks of its ranks, what these find, and medians of that."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any, TypeVar

from perf.scaling.formulas import MODELS
from robe_numba.parallel.carriers.base import Traffic


@dataclass(frozen=True)
class Setting:
    """What is measured: a batch of all ranks together, and how they train on it."""

    shape: str
    ranks: int
    threads: int
    batch: int
    exchange: str = ""  # one rank has none
    overlap: bool = False


@dataclass(frozen=True)
class Task:
    """What one start of mpiexec is for.

    Parameters
    ----------
    settings : for each number of threads.
    round : which; -1 checks and measures nothing.
    seconds : about how long a turn is timed.
    messages : bytes of the transfers that are timed alone.
    output : where the first rank leaves what all found.
    """

    shape: str
    ranks: int
    settings: list[Setting]
    round: int
    seconds: float
    ids: str
    messages: Sequence[int]
    output: str = ""

    @classmethod
    def read(cls, content: dict[str, Any]) -> "Task":
        """From JSON."""
        return cls(**content | {"settings": [Setting(**each) for each in content["settings"]]})


@dataclass(frozen=True)
class Step(Setting):
    """What a step took.

    Parameters
    ----------
    auto : whether "auto" takes this exchange.
    bytes : that came to a rank.
    ms, transfers_ms, waited_ms : the whole step, its transfers from begin to end, and what of them
        the rank did nothing else in; the last two are means over ranks.
    """

    auto: bool = False
    bytes: int = 0
    ms: float = 0.0
    transfers_ms: float = 0.0
    waited_ms: float = 0.0

    @property
    def rows_per_second(self) -> float:
        """Of all ranks together."""
        return 1e3 * self.batch / self.ms

    @property
    def hidden(self) -> float:
        """Share of the transfers in which ranks computed."""
        return Traffic(self.bytes, self.transfers_ms, self.waited_ms).hidden


@dataclass(frozen=True)
class Phase:
    """What a part of a step took, all ranks at once doing it: the slowest."""

    shape: str
    ranks: int
    threads: int
    name: str
    count: int  # rows; elements of all arrays added up; dense parameters
    ms: float


@dataclass(frozen=True)
class Transfer:
    """What MPI took for so many bytes to each rank."""

    ranks: int
    name: str  # "gather" (Allgatherv), "sum" (Alltoallv, adding, Allgatherv), "numbers" (Allgather)
    bytes: int
    ms: float


Found = TypeVar("Found", Step, Phase, Transfer)


@dataclass(frozen=True)
class Results:
    """What was found, and where: the machine and how it was used, or of one start which MPI."""

    about: str
    steps: Sequence[Step] = ()
    phases: Sequence[Phase] = ()
    transfers: Sequence[Transfer] = ()

    @classmethod
    def read(cls, content: dict[str, Any]) -> "Results":
        """From JSON."""

        def rows(name: str, kind: Callable[..., Found]) -> list[Found]:
            return [kind(**row) for row in content[name]]

        found = rows("steps", Step), rows("phases", Phase), rows("transfers", Transfer)
        return cls(content["about"], *found)

    @classmethod
    def merge(cls, about: str, several: Sequence["Results"]) -> "Results":
        """Medians of what several starts found."""
        return cls(
            about,
            medians(step for results in several for step in results.steps),
            medians(phase for results in several for phase in results.phases),
            medians(transfer for results in several for transfer in results.transfers),
        )


def medians(found: Iterable[Found]) -> list[Found]:
    """One for each that differs in more than what was measured, in the order of tables."""
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
    """Where it stands among others: shapes as listed, then ranks and all that was not measured."""
    listed = 0 if isinstance(found, Transfer) else list(MODELS).index(found.shape)
    return listed, *(getattr(found, f.name) for f in fields(found) if f.type is not float)
