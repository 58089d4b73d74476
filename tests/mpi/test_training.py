"""Runs of several ranks: reproducible, resumed by other numbers of ranks, and kept by rank 0."""

import json
import os
import sys
from collections import Counter
from dataclasses import replace

import numba
import pytest

from data_tools import Dataset
from robe_numba._share_of import share_of
from robe_numba.parallel.data_parallel import DataParallel
from robe_numba.training import TrainingInterrupted, evaluate, train
from tests.mpi.runs import CONFIG, assert_alike, records
from tests.training.list_logs import make_dataset
from tests.training.runs import Stop, weights

SIZES = {"robe": {}, "full": {"compression": None}, "hashed": {}, "qr": {"compression": 2}}


@pytest.mark.parametrize(
    ("kind", "exchange"),
    [("robe", "reduce"), ("full", "gather"), ("qr", "auto")],
)
def test_as_many_ranks_leave_the_same_bytes_and_others_the_same_run(
    group, groups, dataset, folder, kind, exchange
):
    config = replace(CONFIG, embedding=kind, exchange=exchange, **SIZES[kind])
    runs = [train(dataset, config, folder / name, group=group) for name in ("first", "second")]
    fewer = group.size - 1
    if fewer in groups:
        runs.append(train(dataset, config, folder / "fewer", group=groups[fewer]))
    group.all_gather(None)
    if not group.is_root:
        return
    assert weights(runs[0]) == weights(runs[1])
    assert records(runs[0]) == records(runs[1])
    communication = [r["communication"] for r in records(runs[0]) if "communication" in r]
    chosen = {c["exchange"] for c in communication}
    assert len(communication) == 2
    assert len(chosen) == 1
    assert exchange in (*chosen, "auto")
    assert all(c["bytes"] > 0 for c in communication)
    assert_alike(runs[0], runs[2])
    assert runs[0].config["training"]["ranks"] == group.size
    assert runs[2].config["training"]["ranks"] == fewer
    assert sorted(path.name for path in runs[0].path.iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
    ]


def test_a_run_on_lists_is_that_of_any_number_of_ranks(group, groups, folder):
    place = group.at_root(lambda: make_dataset(folder).path)
    dataset = Dataset(place)
    config = replace(CONFIG, compression=5, batch_size=150, pooling="genres=mean")
    runs = []
    for exchange in ("gather", "reduce"):
        chosen = replace(config, exchange=exchange)
        paths = (folder / f"{exchange} {name}" for name in ("first", "second"))
        runs.append([train(dataset, chosen, path, group=group) for path in paths])
    alone = train(dataset, config, folder / "alone", group=groups[1]) if group.is_root else None
    group.all_gather(None)
    for first, second in runs if group.is_root else ():
        assert weights(first) == weights(second)
        assert_alike(first, alone)
        assert evaluate(first.load_model(1), dataset.split("test")) == pytest.approx(
            first.metrics()[-1]["test"], rel=1e-6
        )


heard_paths = None  # a list while `touched` records


def _listen(event, arguments):
    if heard_paths is not None:
        heard_paths.extend(
            os.fsdecode(a) for a in arguments if isinstance(a, str | bytes | os.PathLike)
        )


@pytest.fixture
def touched():
    """Paths of all files and folders that this process opened, listed or changed."""
    global heard_paths
    if not hasattr(sys, "_heard_by_tests"):  # a hook cannot be removed
        sys.addaudithook(_listen)
        sys._heard_by_tests = True
    heard_paths = []
    yield heard_paths
    heard_paths = None


def test_rank_0_alone_uses_the_folder(group, dataset, folder, touched):
    """Also to stop, to write checkpoints, to resume from them and to finish."""
    output = folder / "run" if group.is_root else folder / "nowhere" / str(group.rank)
    with pytest.raises(TrainingInterrupted):
        train(dataset, CONFIG, output, group=group, watcher=Stop(3), checkpoint_seconds=0)
    run = train(dataset, CONFIG, output, group=group, resume=True, checkpoint_seconds=0)
    uses = [path for path in touched if path.startswith((str(run.path), str(output)))]
    assert bool(uses) == group.is_root
    if group.is_root:
        assert run.finished
        assert os.listdir(folder) == ["run"]


@pytest.fixture
def trained_rows(monkeypatch):
    """For each step: rows of the whole batch, and the bytes of each row of this rank."""
    steps, train_step = [], DataParallel.train_step

    def recorded(trainer, dense, indices, labels, rows, *rest):
        steps.append((rows, row_bytes(dense, indices, labels)))
        return train_step(trainer, dense, indices, labels, rows, *rest)

    monkeypatch.setattr(DataParallel, "train_step", recorded)
    return steps


def row_bytes(dense, indices, labels):
    return [b"".join(a.tobytes() for a in row) for row in zip(dense, indices, labels, strict=True)]


def collected(group, steps, size):
    """The rows of `size` ranks in each step, in the order of ranks; their shares are even."""
    ranks = group.all_gather(list(steps))
    steps.clear()
    assert ranks[size:] == [[]] * (group.size - size)
    batches = []
    for step in zip(*ranks[:size], strict=True):
        (count,) = {rows for rows, _ in step}
        assert [len(rows) for _, rows in step] == [
            len(share_of(count, rank, size)) for rank in range(size)
        ]
        batches.append([row for _, rows in step for row in rows])
    return batches


def test_every_row_is_trained_on_once_in_an_epoch_however_often_the_ranks_change(
    group, groups, dataset, folder, trained_rows
):
    """Ctrl-C on one rank stops all; other numbers of ranks resume."""
    config = replace(CONFIG, epochs=2, exchange="reduce")
    unstopped = train(dataset, config, folder / "unstopped", group=group)
    whole = collected(group, trained_rows, group.size)
    rows = dataset.split("train")
    expected = [list(rows.batches(256, config.seed, epoch)) for epoch in range(2)]
    expected = [row_bytes(b.dense, b.indices, b.labels) for epoch in expected for b in epoch]
    assert whole == expected
    halves = whole[:8], whole[8:]
    (all_rows,) = rows.batches(rows.num_rows)
    everything = Counter(row_bytes(all_rows.dense, all_rows.indices, all_rows.labels))
    assert [Counter(row for batch in epoch for row in batch) for epoch in halves] == [
        everything
    ] * 2
    assert all(set(one) != set(other) for one, other in zip(*halves, strict=True))

    sizes = (2, 3, 1)
    batches = []
    for size, stop in zip(sizes, (3, 11, None), strict=True):
        if size in groups:
            options = {"group": groups[size], "resume": True}
            if group.rank == size - 1:
                options["watcher"] = Stop(stop)
            if stop is None:
                run = train(dataset, config, folder / "run", **options)
            else:
                with pytest.raises(TrainingInterrupted):
                    train(dataset, config, folder / "run", **options)
        batches += collected(group, trained_rows, size)
    assert batches == whole
    if group.is_root:
        assert_alike(run, unstopped)
        changes = [{"step": 3, "changed": {"ranks": sizes[1]}}]
        changes.append({"step": 11, "changed": {"ranks": sizes[2]}})
        assert [record for record in run.metrics() if "changed" in record] == changes
        kept = json.loads((run.path / "config.json").read_text())
        assert kept["changes"] == changes
        assert kept["training"]["ranks"] == sizes[2]


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(group, dataset, folder):
    """With the same number of ranks; the last one stops it, with a checkpoint after each step."""
    unstopped = train(dataset, CONFIG, folder / "unstopped", group=group)
    watcher = Stop(5) if group.rank == group.size - 1 else None
    with pytest.raises(TrainingInterrupted) as stopped:
        train(dataset, CONFIG, folder / "run", group=group, watcher=watcher, checkpoint_seconds=0)
    assert group.at_root(stopped.value.run.checkpoints.steps) == [5, 4]
    run = train(dataset, CONFIG, folder / "run", group=group, resume=True)
    again = train(dataset, CONFIG, folder / "run", group=group, resume=True)  # is finished
    if group.is_root:
        assert weights(run) == weights(unstopped) == weights(again)
        found, expected = records(run), records(unstopped)
        for record in found + expected:  # those before the stop were counted then
            record.get("communication", {}).pop("bytes", None)
        assert found == expected
        assert not run.checkpoints.folder.exists()


def test_more_ranks_than_rows_of_the_last_batch(group, dataset, folder):
    """2000 rows in batches of 1999: the last has one."""
    config = replace(CONFIG, batch_size=1999)
    run = train(dataset, config, folder / "run", group=group)
    if group.is_root:
        assert [r["step"] for r in run.metrics() if "validation" in r] == [1, 2]
        assert_alike(run, train(dataset, config, folder / "alone"))


@pytest.mark.parametrize(("threads", "expected"), [(None, 1), (2, 2)])
def test_steps_run_on_the_threads_that_were_asked_for(
    group, dataset, folder, monkeypatch, threads, expected
):
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("Numba was started for one thread")
    seen, train_step = [], DataParallel.train_step

    def recorded_threads(trainer, *arguments):
        seen.append((numba.get_num_threads(), trainer.model._threads))
        return train_step(trainer, *arguments)

    monkeypatch.setattr(DataParallel, "train_step", recorded_threads)
    monkeypatch.setattr(group, "threads", 1)
    numba.set_num_threads(2)  # its own share is smaller
    config = replace(CONFIG, batch_size=1000)
    train(dataset, config, folder / "run", group=group, threads=threads)
    assert seen == [(expected, expected)] * 2
