"""Optimizers that step during backward, and move only the elements that were read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, distributed

import robe_numba as rn
from robe_numba.torch import kernels
from robe_numba.torch.kernels import Bags, Rows, view


class Use(NamedTuple):
    """One reading of an array, and the gradient of what was read."""

    reads: Rows | Bags
    grad_out: Tensor
    starts: Tensor  # of the forward pass; (0,) to hash again

    def gradient(self, array: Tensor) -> Tensor:
        """The dense gradient (array_size,) of the array."""
        if isinstance(self.reads, Rows):
            return kernels.lookup_gradient(self.grad_out, self.reads, self.starts)
        return kernels.bag_gradient(array, self.grad_out, self.reads, self.starts)


class FusedOptimizer:
    """What `FusedSGD` and `FusedAdagrad` share; make one of these.

    It is given to a `RobeArray`, or to the module that makes one. Each backward pass is then a
    step, which moves the elements that were read and touches no others. Modules that share the
    array, or are used several times in one forward pass, step once, by the sum of their gradients.
    The array needs no gradient, so `torch.optim` leaves it alone. In evaluation mode
    (`model.eval()`) nothing is updated.

    In a job of several processes (`torch.distributed`) each array is moved by the mean of all
    processes' gradients, as `DistributedDataParallel` does with its parameters: the dense gradient
    is added up by an all-reduce, and all processes keep the same bits. All of them must then use
    the array in every step.

    Attributes
    ----------
    lr : float or Tensor of one element
        Learning rate. It is read at each step, so it may be changed: assign another, or pass
        `torch.optim` and its scheduler the same tensor.
    """

    has_sums = False

    def __init__(self, lr: float | Tensor):
        self.lr = lr
        self.holds = False

    @contextmanager
    def no_step(self) -> Iterator[None]:
        """Collect gradients within the block; the first backward pass after it steps by their sum.

        For gradient accumulation. What was collected is kept in memory until that step.
        """
        held, self.holds = self.holds, True
        try:
            yield
        finally:
            self.holds = held

    def step(self, array: Tensor, state_sum: Tensor | None, uses: Sequence[Use]) -> None:
        """Move an array in place by the sum of the gradients of all uses."""
        written = [view(array)] if state_sum is None else [view(array), view(state_sum)]
        rates: dict[str, Any] = {"lr": float(self.lr), **self._constants()}
        world = distributed.get_world_size() if _is_distributed() else 1
        if world == 1 and (len(uses) == 1 or self._may_step_in_turn(uses)):
            for use in uses:
                _update(written, use, rates)
            return
        gradient = uses[0].gradient(array)
        for use in uses[1:]:
            gradient += use.gradient(array)
        if world > 1:
            distributed.all_reduce(gradient)
            gradient /= world
        sums = None if state_sum is None else view(state_sum)
        rn.apply_gradient(view(array), sums, view(gradient), **rates)

    def _constants(self) -> dict[str, float]:
        """What a step needs besides `lr`."""
        return {}

    def _may_step_in_turn(self, uses: Sequence[Use]) -> bool:
        """Whether stepping for one use after the other moves the array as their sum does."""
        raise NotImplementedError


class FusedSGD(FusedOptimizer):
    """SGD during backward: array -= lr * gradient, exactly and with the same bits every time.

    Parameters
    ----------
    lr : float or Tensor of one element
        Learning rate, finite and not negative; see `FusedOptimizer`.
    """

    def _may_step_in_turn(self, uses: Sequence[Use]) -> bool:
        # The gradient of a maximum depends on the array, which the first use would move.
        return not any(isinstance(use.reads, Bags) and use.reads.mode == "max" for use in uses)


class FusedAdagrad(FusedOptimizer):
    """Adagrad during backward: sums of squares for each element, as `torch.optim.Adagrad` has.

    state_sum += gradient**2; array -= lr * gradient / (sqrt(state_sum) + eps). The gradient of an
    element is complete before it is squared. The sums are a buffer of the `RobeArray`, so they are
    in its `state_dict`.

    Parameters
    ----------
    lr : float or Tensor of one element
        Learning rate, finite and not negative; see `FusedOptimizer`.
    eps : float
        Keeps the divisor from 0; finite and not negative.
    """

    has_sums = True

    def __init__(self, lr: float | Tensor, eps: float = 1e-10):
        super().__init__(lr)
        self.eps = eps

    def _constants(self) -> dict[str, float]:
        return {"eps": self.eps}

    def _may_step_in_turn(self, uses: Sequence[Use]) -> bool:
        return False


def _update(written: list[Any], use: Use, rates: dict[str, float]) -> None:
    """One exact sparse step; `written` is the array, and for Adagrad its sums."""
    adagrad = len(written) == 2
    update: Any
    if isinstance(use.reads, Rows):
        arguments = kernels.lookup_arguments(use.grad_out, use.reads, use.starts)
        update = rn.adagrad_update if adagrad else rn.sgd_update
    else:
        arguments = kernels.bag_arguments(use.grad_out, use.reads, use.starts)
        update = rn.embedding_bag_adagrad_update if adagrad else rn.embedding_bag_sgd_update
    update(*written, **arguments, **rates)


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
