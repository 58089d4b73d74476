"""Who hears of a run as it goes: progress bars and logs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robe_numba.dlrm import DLRM
    from robe_numba.parallel.exchange import ExchangePlan


class Watcher:
    """Hears of a run as it goes; what a subclass does not care for is left to these."""

    def counting(self, done: int, total: int) -> None:
        """Distinct ids are being counted: columns done, columns in all."""

    def begin(self, model: "DLRM", steps: int, done: int) -> None:
        """The run folder is there and the model is built; of so many steps so many are done."""

    def exchanging(self, plan: "ExchangePlan") -> None:
        """What processes that train together will bring each other."""

    def epoch(self, epoch: int) -> None:
        """An epoch begins or resumes; epochs count from 0."""

    def step(self, step: int, loss: float) -> None:
        """Step number `step`, counted from 1, is done; on a GPU it is begun, and the loss an array
        () there, until they are waited for.
        """

    def evaluating(self, step: int, epoch: float) -> None:
        """The validation rows will be scored; so many epochs are done."""

    def scoring(self, done: int, total: int) -> None:
        """Rows are being scored: rows done, rows in all."""

    def evaluated(self, record: dict[str, Any]) -> None:
        """A record was added to metrics.jsonl."""

    def end(self, status: str) -> None:
        """The steps are over: "success", or "aborted" by an error or Ctrl-C."""


class Watchers(Watcher):
    """Tells several what it hears, in their order."""

    def __init__(self, watchers: Sequence[Watcher]):
        self._watchers = tuple(watchers)

    def counting(self, done: int, total: int) -> None:
        """See `Watcher.counting`."""
        for watcher in self._watchers:
            watcher.counting(done, total)

    def begin(self, model: "DLRM", steps: int, done: int) -> None:
        """See `Watcher.begin`."""
        for watcher in self._watchers:
            watcher.begin(model, steps, done)

    def exchanging(self, plan: "ExchangePlan") -> None:
        """See `Watcher.exchanging`."""
        for watcher in self._watchers:
            watcher.exchanging(plan)

    def epoch(self, epoch: int) -> None:
        """See `Watcher.epoch`."""
        for watcher in self._watchers:
            watcher.epoch(epoch)

    def step(self, step: int, loss: float) -> None:
        """See `Watcher.step`."""
        for watcher in self._watchers:
            watcher.step(step, loss)

    def evaluating(self, step: int, epoch: float) -> None:
        """See `Watcher.evaluating`."""
        for watcher in self._watchers:
            watcher.evaluating(step, epoch)

    def scoring(self, done: int, total: int) -> None:
        """See `Watcher.scoring`."""
        for watcher in self._watchers:
            watcher.scoring(done, total)

    def evaluated(self, record: dict[str, Any]) -> None:
        """See `Watcher.evaluated`."""
        for watcher in self._watchers:
            watcher.evaluated(record)

    def end(self, status: str) -> None:
        """See `Watcher.end`."""
        for watcher in self._watchers:
            watcher.end(status)
