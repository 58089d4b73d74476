"""Settings of tests with PyTorch."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _no_old_graphs():
    """Compile anew: torch keeps graphs on disk by the names of operators, and not by their code."""
    import torch  # which may be missing, where this file is read all the same

    with (
        torch._inductor.config.patch(fx_graph_cache=False),
        torch._functorch.config.patch(enable_autograd_cache=False),
    ):
        yield
