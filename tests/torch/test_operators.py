"""Every operator keeps the rules that `torch.library.opcheck` checks."""

import pytest
import torch

import robe_numba.torch as rt
from robe_numba import RobeSpec
from robe_numba.torch import kernels

SPEC = RobeSpec(17, 2, 5, 1, (9,), sign=True).to_json()
TWO = RobeSpec(17, 2, 5, 2).to_json()
ROWS = torch.tensor([[1, 8, 3], [3, 3, 0]])
IDS = torch.tensor([1, 8, 3, 3, 0])
OFFSETS, OF_TWO = torch.tensor([0, 2, 2, 5]), torch.tensor([0, 1, 2, 4, 5])
NO_STARTS = torch.empty(0, dtype=torch.int64)
NOT_FUSED = (None, 0, 0)
POOLED = (IDS, OFFSETS, None)


def real(*shape, requires_grad=False):
    return torch.randn(shape, dtype=torch.float64, requires_grad=requires_grad)


def leaf(*shape):
    return real(*shape, requires_grad=True)


CASES = {
    "lookup": [
        lambda: (leaf(17), ROWS, SPEC, None, False, *NOT_FUSED),
        lambda: (leaf(17), ROWS, SPEC, 3, True, *NOT_FUSED),
        lambda: (leaf(17), ROWS.int()[:, :2], TWO, None, True, *NOT_FUSED),
    ],
    "lookup_gradient": [lambda: (leaf(2, 3, 5), ROWS, NO_STARTS, SPEC, 3)],
    "embedding_bag": [
        lambda: (leaf(17), IDS, OFFSETS, leaf(5), SPEC, "sum", None, True, *NOT_FUSED),
        lambda: (leaf(17), *POOLED, SPEC, "mean", 3, True, *NOT_FUSED),
        lambda: (leaf(17), *POOLED, SPEC, "max", 3, False, *NOT_FUSED),
        lambda: (leaf(17), IDS, OF_TWO, None, TWO, "sum", None, False, *NOT_FUSED),
    ],
    "embedding_bag_gradient": [
        lambda: (real(17), real(3, 1, 5), *POOLED, NO_STARTS, SPEC, "max", None),
        lambda: (None, real(3, 1, 5), *POOLED, NO_STARTS, SPEC, "mean", 3),
    ],
    "embedding_bag_weights_gradient": [
        lambda: (real(17), real(3, 1, 5), IDS, OFFSETS, SPEC, 3),
    ],
}
# They hand over a gradient within a backward pass, so they are checked with the pass.
WITHIN_BACKWARD = {"lookup": "collect_lookup", "embedding_bag": "collect_embedding_bag"}


def test_every_operator_is_checked():
    names = torch._C._dispatch_get_all_op_names()
    registered = {name for name in names if name.startswith("robe_numba::")}
    assert registered == {f"robe_numba::{name}" for name in (*CASES, *WITHIN_BACKWARD.values())}


@pytest.mark.parametrize("name", CASES)
def test_operators(name):
    operator = getattr(torch.ops.robe_numba, name).default
    for arguments in CASES[name]:
        torch.library.opcheck(operator, arguments())


@pytest.mark.parametrize("name", WITHIN_BACKWARD)
def test_operators_of_fused_arrays(name):
    array = rt.RobeArray(17, dtype=torch.float64, optimizer=rt.FusedSGD(0.1))
    operator = getattr(torch.ops.robe_numba, name).default
    # Not that of compiled graphs, which asks for a gradient of the anchor: test_compile.py does.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for arguments in CASES[name]:
        given = (array.weight, *arguments()[1:-3], array.anchor, array.number, 0)
        torch.library.opcheck(operator, given, test_utils=checks)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32], ids=str
)
def test_kernels_take_tensors_without_a_copy(dtype):
    tensor = torch.arange(5, dtype=dtype).requires_grad_(dtype.is_floating_point)
    taken = kernels.view(tensor)
    assert taken.ctypes.data == tensor.data_ptr()
    assert taken.astype("float64").tolist() == [0, 1, 2, 3, 4]
