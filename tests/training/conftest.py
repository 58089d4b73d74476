"""Runs that several test files resume or damage."""

import pytest

from tests.training.runs import config, stopped


@pytest.fixture(scope="session")
def stopped_twice(dataset, tmp_path_factory):
    """Path of a run with checkpoints of steps 11 and 5; copy it before you change it."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    stopped(dataset, config(), folder, 5)
    return stopped(dataset, config(), folder, 11, resume=True).path
