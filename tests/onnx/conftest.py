"""Small runs of every kind, which tests export and do not change."""

import pytest

from robe_numba.training import train
from tests.training.runs import small_config


@pytest.fixture(scope="session")
def runs(dataset, tmp_path_factory):
    """Paths of finished runs by their kind of embedding."""
    folder = tmp_path_factory.mktemp("runs")
    kinds = ("robe", "full", "hashed", "qr")
    return {kind: train(dataset, small_config(kind), folder / kind).path for kind in kinds}
