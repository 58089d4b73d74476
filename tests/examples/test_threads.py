import subprocess
import sys

import pytest

CODE = """
import torch
import robe_numba.torch as rt

torch.set_num_threads(1)
module = rt.RobeEmbeddingBag(1000, 16, mode="sum")
{}
assert torch.get_num_threads() == 1, torch.get_num_threads()
"""


@pytest.mark.parametrize(
    "call",
    [
        "module(torch.arange(200).view(20, 10)).sum().backward()",
        "rt.RobeTables(2, 8, array_size=99)(torch.zeros(5, 2, dtype=torch.int64))",
        "rt.project({module: torch.ones(1000, 16)})",
    ],
)
def test_kernels_leave_torch_its_number_of_threads(call):
    subprocess.run([sys.executable, "-c", CODE.format(call)], check=True)
