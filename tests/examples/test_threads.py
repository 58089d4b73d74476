import subprocess
import sys

CODE = """
import torch
import robe_numba.torch as rt

torch.set_num_threads(1)
module = rt.RobeEmbeddingBag(1000, 16, mode="sum")
module(torch.arange(200).view(20, 10)).sum().backward()
assert torch.get_num_threads() == 1, torch.get_num_threads()
"""


def test_kernels_leave_torch_its_number_of_threads():
    subprocess.run([sys.executable, "-c", CODE], check=True)
