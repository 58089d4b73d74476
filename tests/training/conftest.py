"""Runs that several files of tests resume or damage: they copy them and never change them."""

import pytest

from robe_numba.training import train
from tests.training.runs import config, small_config, stopped


@pytest.fixture(scope="session")
def stopped_twice(dataset, tmp_path_factory):
    """Path of a run with checkpoints of steps 11 and 5."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    stopped(dataset, config(), folder, 5)
    return stopped(dataset, config(), folder, 11, resume=True).path


@pytest.fixture(scope="session")
def finished(dataset, tmp_path_factory):
    """Path of a finished run."""
    return train(dataset, small_config(), tmp_path_factory.mktemp("finished") / "run").path


@pytest.fixture(scope="session")
def unfinished(dataset, tmp_path_factory):
    """Path of a run that was stopped after step 6."""
    return stopped(dataset, small_config(), tmp_path_factory.mktemp("unfinished") / "run", 6).path
