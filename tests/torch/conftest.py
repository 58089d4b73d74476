"""Settings of tests with PyTorch, which may be missing where this file is read all the same."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _no_old_graphs():
    """Compile anew: torch keeps graphs on disk by the names of operators, and not by their code."""
    import torch

    with (
        torch._inductor.config.patch(fx_graph_cache=False),
        torch._functorch.config.patch(enable_autograd_cache=False),
    ):
        yield


@pytest.fixture(autouse=True)
def _same_values_every_time():
    import torch

    torch.manual_seed(0)


@pytest.fixture(params=("sgd", "adagrad"))
def optimizers(request):
    """A fused optimizer, and a function that makes torch's of the parameters that it is given."""
    from tests.torch.twins import OPTIMIZERS

    fused, dense = OPTIMIZERS[request.param]
    return fused(lr=0.1), lambda parameters: dense(parameters, lr=0.1)
