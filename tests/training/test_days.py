"""A split by days says which day is the last, and warns of days out of order."""

import pytest

import data_tools
from data_tools import Dataset
from data_tools.synthetic.generator import Generator
from robe_numba.training import TrainingConfig, train, write_report
from robe_numba.training.days import latest_by_number

SMALL = ("--num-parameters", 3000, "--bottom", "8", "--top", "8", "--evaluations", 1)


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Logs of 400 rows: day_0.tsv, day_1.tsv, day_2.tsv and day_10.tsv."""
    folder = tmp_path_factory.mktemp("days")
    for place, day in enumerate((0, 1, 2, 10)):
        name = folder / f"day_{day}.tsv"
        Generator(seed=5, scale=0.001).write(name, 400, start=400 * place)
    return folder


def ingested(days, folder, order):
    data_tools.ingest([days / f"day_{day}.tsv" for day in order], folder)
    return folder


def test_training_says_which_file_is_the_last_day(days, tmp_path, robe):
    data = ingested(days, tmp_path / "data", (0, 1, 2, 10))
    status, text = robe("train", data, "-o", tmp_path / "run", *SMALL, "--split-by", "day")
    assert status == 0, text
    (line,) = [line for line in text.splitlines() if "last day" in line]
    assert "day_10.tsv (400 rows)" in line
    assert "warning" not in text
    assert "test rows 200," in text
    assert "day_10.tsv" in (tmp_path / "run" / "report.html").read_text().split("last day")[1]
    text = robe("train", data, "-o", tmp_path / "other", *SMALL)[1]
    assert "last day" not in text


def test_days_that_are_not_in_the_order_of_their_numbers_are_warned_of(days, tmp_path, robe):
    """As the names come from a shell."""
    data = ingested(days, tmp_path / "data", (0, 1, 10, 2))
    text = robe("train", data, "-o", tmp_path / "run", *SMALL, "--split-by", "day")[1]
    (line,) = [line for line in text.splitlines() if "warning" in line]
    assert "day_0.tsv, day_1.tsv, day_10.tsv, day_2.tsv" in line
    assert "day_2.tsv counts as the last day and not day_10.tsv" in line
    grid = ("num_parameters=3000", "bottom=8", "top=8", "evaluations=1", "split_by=day")
    text = robe("sweep", data, "-o", tmp_path / "sweep", *grid)[1]
    assert "day_2.tsv counts as the last day and not day_10.tsv" in text


def test_of_a_single_file_the_last_part_is_the_last_day(days, tmp_path):
    data = Dataset(ingested(days, tmp_path / "data", (1,)))
    config = TrainingConfig(
        num_parameters=3000, bottom=(8,), top=(8,), evaluations=1, split_by="day"
    )
    run = train(data, config, tmp_path / "run")
    write_report(run)
    assert "the last of 7 parts of day_1.tsv" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("names", "latest"),
    [
        (["day_0", "day_1", "day_10", "day_2"], "day_10"),
        (["day_0.gz", "day_1.gz", "day_2.gz", "day_10.gz"], None),
        (["2024-01-31.csv", "2024-02-01.csv"], None),
        (["2024-02-01.csv", "2024-01-31.csv"], "2024-02-01.csv"),
        (["monday", "tuesday"], None),
        (["b1", "a2"], None),  # of another kind each
        (["train.txt"], None),
        (["part.parquet", "part.parquet"], None),
        (["9", "08"], "9"),
    ],
)
def test_which_name_is_the_latest_by_number(names, latest):
    assert latest_by_number(names) == latest
