"""Optimizers that step during backward and update only the elements that were read."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

import robe_numba as rn
from robe_numba.checks.arrays import check_shared_array
from robe_numba.checks.bags import BagArguments
from robe_numba.checks.ids import as_uint64
from robe_numba.checks.scalars import check_scalar
from robe_numba.kernels.coefficients import side_by_side
from robe_numba.kernels.cpu.update import driver
from robe_numba.kernels.cpu.update.apply import UpdateStep, make_step
from robe_numba.ops.bags import reads_of_bags
from robe_numba.ops.rows import reads_of_rows
from robe_numba.ops.updating import check_grad_out, check_step
from robe_numba.torch import kernels
from robe_numba.torch.kernels import Bags, Rows, view


class Use(NamedTuple):
    """One read of an array, and the gradient of what was read."""

    reads: Rows | Bags
    grad_out: Tensor
    starts: Tensor  # kept by the forward pass, or (0,): hash again

    def gradient(self, array: Tensor) -> Tensor:
        """The dense gradient (array_size,) of the array."""
        if isinstance(self.reads, Rows):
            return kernels.lookup_gradient(self.grad_out, self.reads, self.starts)
        return kernels.bag_gradient(array, self.grad_out, self.reads, self.starts)

    @property
    def is_hashed(self) -> bool:
        """Whether its starts were kept, for the CPU's kernels."""
        return self.starts.numel() > 0 and not self.grad_out.is_cuda

    def alike(self) -> Hashable:
        """A key, equal for uses that `_side_by_side` can merge; None for one that it cannot.

        Such uses differ only in their hash, as the modules that `compress` makes usually do.
        """
        reads, spec = self.reads, self.reads.spec
        if not self.is_hashed or spec.hash == "uma":
            return None
        batch = self.grad_out.numel() // (spec.num_tables * spec.embedding_dim)
        hashes = (spec.array_size, spec.block_size, spec.embedding_dim, spec.hash, spec.sign)
        key = (*hashes, spec.alignment, batch, reads.padding_idx, reads.indices.dtype)
        if isinstance(reads, Rows):
            return key
        return None if reads.mode == "max" else (*key, reads.mode, reads.weights is None)


class FusedOptimizer:
    """The base class of `FusedSGD` and `FusedAdagrad`, which are the ones to use.

    Pass one to `compress`, to a `RobeArray` or to a module that makes its own array. Each backward
    pass is then a step, which updates only the elements that were read. Modules that share the
    array, or are used several times in one forward pass, step once with the sum of their
    gradients. The array has `requires_grad=False`, so `torch.optim` does not touch it. In
    evaluation mode (`model.eval()`) nothing is updated.

    With several processes (`torch.distributed`) each array is updated with the mean of all
    processes' gradients, as `DistributedDataParallel` does for its parameters: the dense gradients
    are summed by an all-reduce, so all processes keep the same bits. All of them must then use the
    array in every step.

    Attributes
    ----------
    lr : float or Tensor of one element
        Learning rate. It is read at each step, so it may be changed: assign a new value, or share
        one tensor with a `torch.optim` optimizer whose scheduler changes it.
    """

    has_sums = False

    def __init__(self, lr: float | Tensor):
        if not isinstance(lr, Tensor):  # the value of a tensor is checked at each step
            check_scalar("lr", lr, 0)
        self.lr = lr
        self.holds = False

    def __repr__(self) -> str:
        rates = {"lr": float(self.lr), **self._constants()}
        return f"{type(self).__name__}({', '.join(f'{name}={rates[name]:g}' for name in rates)})"

    @contextmanager
    def no_step(self) -> Iterator[None]:
        """Accumulate gradients: backward passes within the block do not step.

        The first backward pass after the block steps with the sum of all gradients, its own
        included. Until then the gradients are kept in memory.
        """
        held, self.holds = self.holds, True
        try:
            yield
        finally:
            self.holds = held

    def step(self, array: Tensor, state_sum: Tensor | None, uses: Sequence[Use]) -> None:
        """Update an array in place with the sum of the gradients of all uses."""
        if self.has_sums != (state_sum is not None):
            raise ValueError(
                f"the array was made for another optimizer than {self!r}; make a RobeArray with "
                f"optimizer={self!r}, and copy the weight"
            )
        sums = None if state_sum is None else view(state_sum)
        rates: dict[str, Any] = {"lr": float(self.lr), **self._constants()}
        world = distributed.get_world_size() if _is_distributed() else 1
        groups = _groups(uses) if len(uses) > 1 else [list(uses)]
        if world == 1 and (len(groups) == 1 or self._may_step_in_turn(uses)):
            for group in groups:
                _update(view(array), sums, group, rates)
            return
        gradient = torch.zeros_like(array)
        for group in groups:
            _add_gradient(gradient, array, group)
        if world > 1:
            distributed.all_reduce(gradient)
            gradient /= world
        rn.apply_gradient(view(array), sums, view(gradient), **rates)

    def _constants(self) -> dict[str, float]:
        """What a step needs besides `lr`."""
        return {}

    def _may_step_in_turn(self, uses: Sequence[Use]) -> bool:
        """Whether one step per use has the same effect as one step with the sum."""
        raise NotImplementedError


class FusedSGD(FusedOptimizer):
    """SGD during backward: array -= lr * gradient, with the same bits every time.

    Parameters
    ----------
    lr : float or Tensor of one element
        Learning rate, finite and not negative; see `FusedOptimizer`.
    """

    def _may_step_in_turn(self, uses: Sequence[Use]) -> bool:
        # The gradient of a maximum depends on the array, which the first step would change.
        return not any(isinstance(use.reads, Bags) and use.reads.mode == "max" for use in uses)


class FusedAdagrad(FusedOptimizer):
    """Adagrad during backward, with a sum of squares for each element, as in `torch.optim.Adagrad`.

    state_sum += gradient**2; array -= lr * gradient / (sqrt(state_sum) + eps). The gradient of an
    element is summed over all its reads before it is squared. `state_sum` is a buffer of the
    `RobeArray`, as large as the array, and part of its `state_dict`.

    Parameters
    ----------
    lr : float or Tensor of one element
        Learning rate, finite and not negative; see `FusedOptimizer`.
    eps : float
        Added to the divisor; finite and not negative. A larger one slows down rare ids.
    """

    has_sums = True

    def __init__(self, lr: float | Tensor, eps: float = 1e-10):
        super().__init__(lr)
        self.eps = check_scalar("eps", eps, 0)

    def _constants(self) -> dict[str, float]:
        return {"eps": self.eps}

    def _may_step_in_turn(self, uses: Sequence[Use]) -> bool:
        return False


def _groups(uses: Iterable[Use]) -> list[list[Use]]:
    """The uses, grouped so that one call of the kernels can take each group."""
    groups: dict[Hashable, list[Use]] = defaultdict(list)
    for number, use in enumerate(uses):
        key = use.alike()
        groups[number if key is None else key].append(use)
    return list(groups.values())


def _update(array: Any, state_sum: Any, uses: list[Use], rates: dict[str, Any]) -> None:
    """One sparse step for a group of uses: Adagrad if `state_sum` is given, else SGD."""
    written = {"array": array} if state_sum is None else {"array": array, "state_sum": state_sum}
    if uses[0].is_hashed:
        check_step(uses[0].reads.spec, rates["lr"], written, {})
        check_scalar("eps", rates.get("eps", 0), 0, array.dtype)
        _take_step(make_step(array, state_sum, **rates), uses)
        return
    update: Any
    use = uses[0]
    if isinstance(use.reads, Rows):
        arguments = kernels.lookup_arguments(use.grad_out, use.reads, use.starts)
        update = rn.sgd_update if state_sum is None else rn.adagrad_update
    else:
        arguments = kernels.bag_arguments(use.grad_out, use.reads, use.starts)
        update = rn.embedding_bag_sgd_update
        if state_sum is not None:
            update = rn.embedding_bag_adagrad_update
    update(**written, **arguments, **rates)


def _add_gradient(gradient: Tensor, array: Tensor, uses: list[Use]) -> None:
    """Add the dense gradient of a group of uses."""
    if uses[0].alike() is not None:  # not of a maximum, which depends on the array
        check_shared_array(view(gradient), uses[0].reads.spec)
        _take_step(make_step(view(gradient)), uses)
    else:
        gradient += uses[0].gradient(array)


def _take_step(step: UpdateStep, uses: list[Use]) -> None:
    """Make a step of the kernels with all reads of a group of uses that kept their starts."""
    use = _side_by_side(uses) if len(uses) > 1 else uses[0]
    spec = use.reads.spec
    if isinstance(use.reads, Rows):
        given = kernels.lookup_arguments(use.grad_out, use.reads, use.starts)
        batch, dtypes = len(given["indices"]), (step.array.dtype,)
        grads = check_grad_out(given["grad_out"], batch, spec, dtypes)
        ids = as_uint64(given["indices"]).reshape(-1)
        reads, threads = reads_of_rows(ids, grads, spec, given["starts"])
    else:
        given = kernels.bag_arguments(use.grad_out, use.reads, use.starts)
        bags = BagArguments(**{name: given[name] for name in BagArguments._fields})
        reads, threads = reads_of_bags(given["grad_out"], bags, step.array, spec, given["starts"])
    driver.update(step, reads, side_by_side(tuple(u.reads.spec for u in uses)), threads)


def _side_by_side(uses: list[Use]) -> Use:
    """One use that reads the tables of all; its spec has only the hash of the first."""
    every: list[Any] = [use.reads for use in uses]
    first, specs = every[0], [reads.spec for reads in every]
    tables, d = [spec.num_tables for spec in specs], specs[0].embedding_dim
    spec = replace(specs[0], num_tables=sum(tables), num_embeddings=None)
    grads = [use.grad_out.reshape(-1, t, d) for use, t in zip(uses, tables, strict=True)]
    grad_out = torch.cat(grads, 1)
    if isinstance(first, Rows):
        ids = [reads.indices.reshape(-1, t) for reads, t in zip(every, tables, strict=True)]
        starts = [
            use.starts.reshape(-1, t, spec.num_blocks) for use, t in zip(uses, tables, strict=True)
        ]
        rows = Rows(torch.cat(ids, 1), spec, first.padding_idx)
        return Use(rows, grad_out, torch.cat(starts, 1))
    begins = accumulate([reads.indices.numel() for reads in every[:-1]], initial=0)
    ends = [reads.offsets[1:].long() + begin for reads, begin in zip(every, begins, strict=True)]
    bags = first._replace(
        indices=torch.cat([reads.indices for reads in every]),
        offsets=torch.cat([ends[0].new_zeros(1), *ends]),
        weights=None if first.weights is None else torch.cat([r.weights for r in every]),
        spec=spec,
    )
    return Use(bags, grad_out, torch.cat([use.starts for use in uses]))


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
