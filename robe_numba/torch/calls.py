"""Whether a call learns, and whether torch looks into it.

An array with a fused optimizer is not differentiated. Its number and its `anchor`, an empty tensor
that requires a gradient, are passed instead, and the backward of each use hands its gradient over.
"""

import torch
from torch import Tensor

from robe_numba.torch.array import RobeArray

_PLAIN = (Tensor, torch.nn.Parameter)


def learning(array: RobeArray) -> tuple[int, Tensor | None, bool]:
    """The number and the anchor of an array that steps, else 0 and None; and whether it learns."""
    if not torch.is_grad_enabled():
        return 0, None, False
    if array.steps:
        return array.number, array.anchor, True
    return 0, None, array.weight.requires_grad


def is_eager(*tensors: Tensor) -> bool:
    """Whether torch runs plain code on plain tensors."""
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack()
        or any(type(tensor) not in _PLAIN for tensor in tensors)
    )
