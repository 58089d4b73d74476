"""The learning rate over the steps of a run."""

from dataclasses import dataclass

from robe_numba.spec import MAX_SIZE, check_int


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then constant, then quadratic decay; by default constant throughout.

    Parameters
    ----------
    warmup_steps : int
        Steps of the warm-up; 0 for none.
    decay_start : int, optional
        Step at which the decay begins, counted from 1; None for no decay.
    decay_steps : int
        Steps of the decay, after which the learning rate stays at its last value.

    Raises
    ------
    TypeError, ValueError
        A number is not an integer or is negative, or the decay begins during the warm-up.

    Notes
    -----
    Source: MLPerf Training, the reference implementation of DLRM (its `LRPolicyScheduler`).
    """

    warmup_steps: int = 0
    decay_start: int | None = None
    decay_steps: int = 1

    def __post_init__(self) -> None:
        check_int("warmup_steps", self.warmup_steps, 0, MAX_SIZE)
        check_int("decay_steps", self.decay_steps, 1, MAX_SIZE)
        if self.decay_start is not None:
            check_int("decay_start", self.decay_start, 0, MAX_SIZE)
            if self.decay_start < self.warmup_steps:
                raise ValueError(
                    f"decay_start is {self.decay_start}, within the warm-up of "
                    f"{self.warmup_steps} steps; begin the decay after it"
                )

    def factor(self, step: int) -> float:
        """Factor in (0, 1] of the base learning rate at a step, counted from 1."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        if self.decay_start is None or step < self.decay_start:
            return 1.0
        decayed = min(step - self.decay_start, self.decay_steps - 1)
        return ((self.decay_steps - decayed) / self.decay_steps) ** 2
