"""Two small runs of the same columns, and one of ids alone."""

import pytest

from tests.training.runs import small_config


@pytest.fixture(scope="session")
def run(dataset, tmp_path_factory):
    """Path of a finished run."""
    from robe_numba.training import train

    return train(dataset, small_config(), tmp_path_factory.mktemp("served") / "run").path


@pytest.fixture(scope="session")
def other_run(dataset, tmp_path_factory):
    """Path of a run with other weights."""
    from robe_numba.training import train

    settings = small_config(seed=1, lr=0.5)
    return train(dataset, settings, tmp_path_factory.mktemp("served") / "other").path


@pytest.fixture(scope="session")
def run_of_ids(tmp_path_factory):
    """Path of a run without dense columns, whose 64-bit ids are taken modulo 1000."""
    from data_tools import Dataset, Schema, ingest
    from robe_numba.training import train

    folder = tmp_path_factory.mktemp("ids")
    lines = [f"{k % 3 == 0:d},{k * 7919},{-k}" for k in range(900)]
    (folder / "log.csv").write_text("\n".join(["clicked,user,item", *lines]) + "\n")
    schema = Schema("clicked", (), ("user", "item"))
    ingest(folder / "log.csv", folder / "data", schema=schema, max_ind_range=1000)
    settings = small_config(batch_size=64, compression=None, num_parameters=4096)
    return train(Dataset(folder / "data"), settings, folder / "run").path


@pytest.fixture(scope="session")
def scorer(run):
    from robe_numba.serving import Scorer

    return Scorer(run)
