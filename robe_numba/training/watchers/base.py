"""Watchers follow a run as it trains: progress bars and logs."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robe_numba.dlrm import DLRM
    from robe_numba.parallel.exchange import ExchangePlan


class Watcher:
    """Is told of the events of a run; subclasses override those that they need."""

    def counting(self, done: int, total: int) -> None:
        """Distinct ids are being counted: columns done, all columns."""

    def begin(self, model: "DLRM", steps: int, done: int) -> None:
        """The run folder and the model exist; steps in all, and steps done already."""

    def exchanging(self, plan: "ExchangePlan") -> None:
        """What processes that train together will exchange."""

    def epoch(self, epoch: int) -> None:
        """An epoch starts or resumes, counted from 0."""

    def step(self, step: int, loss: float) -> None:
        """A step is done, counted from 1.

        On a GPU the step is only queued, and the loss is an array () there: reading it waits.
        """

    def evaluating(self, step: int, epoch: float) -> None:
        """The validation rows are about to be scored, after these steps and epochs."""

    def scoring(self, done: int, total: int) -> None:
        """Rows are being scored: rows done, all rows."""

    def evaluated(self, record: dict[str, Any]) -> None:
        """A record was added to metrics.jsonl."""

    def end(self, status: str) -> None:
        """Training is over: "success", or "aborted" by an error or Ctrl-C."""


class Watchers(Watcher):
    """Passes every event to several watchers, in their order."""

    def __init__(self, watchers: Sequence[Watcher]):
        self._watchers = tuple(watchers)


def _to_all(event: str) -> Callable[..., None]:
    def tell(self: Watchers, *facts: Any, **named: Any) -> None:
        for watcher in self._watchers:
            getattr(watcher, event)(*facts, **named)

    return tell


for _event in [name for name in vars(Watcher) if not name.startswith("_")]:
    setattr(Watchers, _event, _to_all(_event))
