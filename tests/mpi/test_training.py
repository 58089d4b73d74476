"""Runs of several ranks: reproducible, evaluated as by one process, and kept by rank 0 alone."""

import json
import os
import re
import sys
from collections import Counter
from dataclasses import replace

import numba
import numpy as np
import pytest
from mpi4py import MPI
from safetensors.numpy import load_file

import data_tools
from data_tools import Dataset
from data_tools.loader import shuffle
from robe_numba import metrics
from robe_numba._shares import share_of
from robe_numba.parallel.data_parallel import DataParallel
from robe_numba.parallel.group import Alone
from robe_numba.parallel.mpi_group import MPIGroup
from robe_numba.training import (
    RunFolder,
    TrainingConfig,
    TrainingError,
    TrainingInterrupted,
    Watcher,
    build_model,
    evaluate,
    loop,
    score,
    train,
    training_vocabulary,
)
from tests.training.test_checkpoints import Stop

CONFIG = TrainingConfig(
    compression=20, lr=0.02, batch_size=256, evaluations=2, bottom=(32,), top=(32,)
)  # 8 steps per epoch, the last of 208 rows
SIZES = {"robe": {}, "full": {"compression": None}, "hashed": {}, "qr": {"compression": 2}}


@pytest.fixture(scope="session")
def groups(group):
    """For each size the group of the first ranks, where this one is among them."""
    some = {1: Alone()} if group.is_root else {}
    for size in range(2, group.size + 1):
        member = group.rank < size
        part = MPI.COMM_WORLD.Split(0 if member else MPI.UNDEFINED, group.rank)
        if member:
            some[size] = MPIGroup(part)
    return some


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    """Several windows in an epoch, each of several shards."""
    monkeypatch.setattr(shuffle, "WINDOW_ROWS", 600)


def weights(run):
    return (run.path / "model.safetensors").read_bytes()


def records(run):
    """metrics.jsonl without what the clock decides."""
    found = run.metrics()
    for record in found:
        record.pop("seconds", None)
        for name in ("seconds", "waited"):
            record.get("communication", {}).pop(name, None)
    return found


def assert_alike(run, other, tolerance=1e-5):
    """Two runs differ by rounding alone."""
    steps = [[r["step"] for r in x.metrics() if "validation" in r] for x in (run, other)]
    assert steps[0] == steps[1]
    assert len(steps[0]) > 1
    for part in ("validation", "test"):
        losses = [[r[part]["log_loss"] for r in x.metrics() if part in r] for x in (run, other)]
        np.testing.assert_allclose(*losses, rtol=tolerance)
    found, expected = (load_file(x.path / "model.safetensors") for x in (run, other))
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=10 * tolerance, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "exchange"),
    [("robe", "gather"), ("robe", "reduce"), ("full", "gather"), ("hashed", "reduce"),
     ("qr", "auto")],
)  # fmt: skip
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


@pytest.fixture(scope="module")
def model(dataset):
    return build_model(dataset, CONFIG, training_vocabulary(dataset, CONFIG), 1)


@pytest.mark.parametrize("part", ["validation", "test", "train"])
def test_metrics_are_those_of_one_process(group, dataset, model, part):
    rows, heard = dataset.split(part), []
    found = evaluate(model, rows, lambda *progress: heard.append(progress), group)
    assert group.all_gather(found) == [found] * group.size
    mine = rows.part(group.rank, group.size)
    assert heard[-1] == (mine.num_rows, mine.num_rows)
    # To the bit where scores are the same; a row's last bit may depend on the rows beside it.
    parts = [rows.part(rank, group.size) for rank in range(group.size)]
    scores = np.concatenate([score(model, each) for each in parts])
    assert found["auc"] == metrics.auc(rows.labels(), scores)
    alone = evaluate(model, rows)
    np.testing.assert_allclose(scores, score(model, rows), rtol=1e-6)
    assert list(found) == list(alone)
    assert [found[name] for name in ("rows", "click_rate")] == [rows.num_rows, alone["click_rate"]]
    for name in ("log_loss", "normalized_entropy", "calibration"):
        assert found[name] == pytest.approx(alone[name], rel=1e-6)


def test_a_few_rows_are_evaluated_too(group, dataset, model):
    """Of some ranks no row; of one row no AUC."""
    for count in range(3):
        rows = dataset.split("test").part(0, 250 // count if count else 10**6)
        assert rows.num_rows == count
        found, alone = evaluate(model, rows, group=group), evaluate(model, rows)
        assert found["auc"] == alone["auc"]
        assert [value is None for value in found.values()] == [
            value is None for value in alone.values()
        ]
        assert (found["log_loss"] is None) == (count == 0)


def test_scores_that_are_no_numbers_are_counted_on_all_ranks(group, dataset, model):
    rows = dataset.split("test")
    broken = build_model(dataset, CONFIG, training_vocabulary(dataset, CONFIG), 1)
    broken.load(model.parameters() | model.state())
    if group.rank == group.size - 1:
        broken.parameters()["top.1.bias"][:] = np.nan
    bad = rows.part(group.size - 1, group.size).num_rows
    with pytest.raises(FloatingPointError, match=f"{bad} of 250 scores are not finite"):
        evaluate(broken, rows, group=group)


def test_ids_are_counted_by_all_as_by_one(group, dataset):
    heard = []
    found = training_vocabulary(dataset, CONFIG, lambda *progress: heard.append(progress), group)
    expected = training_vocabulary(dataset, CONFIG)
    assert len(found) == len(expected) == 26
    for ids, wanted in zip(found, expected, strict=True):
        assert ids.dtype == wanted.dtype
        np.testing.assert_array_equal(ids, wanted)
    assert heard == [(min(n, 26), 26) for n in range(group.size, 26 + group.size, group.size)]
    assert max(map(len, found)) > 1


heard_paths = None  # a list while somebody listens


def _listen(event, arguments):
    if heard_paths is not None:
        heard_paths.extend(
            os.fsdecode(a) for a in arguments if isinstance(a, str | bytes | os.PathLike)
        )


@pytest.fixture
def touched():
    """Paths of all files and folders that this process opened, listed or changed."""
    global heard_paths
    if not hasattr(sys, "_heard_by_tests"):  # such a hook stays for ever
        sys.addaudithook(_listen)
        sys._heard_by_tests = True
    heard_paths = []
    yield heard_paths
    heard_paths = None


def test_rank_0_alone_uses_the_folder(group, dataset, folder, touched):
    """Also to stop, to write checkpoints, to go on from them and to finish."""
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
    """Of each step of this rank: rows of the whole batch, and the bytes of each row of its own."""
    steps, train_step = [], DataParallel.train_step

    def recorded(trainer, dense, indices, labels, rows, *rest):
        steps.append((rows, row_bytes(dense, indices, labels)))
        return train_step(trainer, dense, indices, labels, rows, *rest)

    monkeypatch.setattr(DataParallel, "train_step", recorded)
    return steps


def row_bytes(dense, indices, labels):
    return [b"".join(a.tobytes() for a in row) for row in zip(dense, indices, labels, strict=True)]


def collected(group, steps, size):
    """What `size` ranks were given in each step, one after the other; their shares are even."""
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


@pytest.mark.parametrize("exchange", ["gather", "reduce"])
def test_every_row_is_trained_on_once_in_an_epoch_however_often_the_ranks_change(
    group, groups, dataset, folder, trained_rows, exchange
):
    """Ctrl-C on one rank stops all; so many others go on."""
    config = replace(CONFIG, epochs=2, exchange=exchange)
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

    sizes = (2, 1, 2) if group.size == 2 else (2, 3, 1)
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
    """With as many ranks; stopped by the last, and written after each step."""
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
        for record in found + expected:  # what was carried before the stop was counted then
            record.get("communication", {}).pop("bytes", None)
        assert found == expected
        assert not run.checkpoints.folder.exists()


class Flip(Watcher):
    """Changes one bit of an array after a step."""

    def __init__(self, at, name):
        self.at, self.name = at, name

    def begin(self, model, steps, done):
        self.arrays = model.parameters() | model.state()

    def step(self, step, loss):
        if step == self.at:
            self.arrays[self.name].reshape(-1).view(np.uint32)[-1] ^= 1 << 20


@pytest.mark.parametrize(
    ("name", "step"),
    [("embedding.array", 6), ("top.0.weight", 5), ("embedding.array.state_sum", 8)],
)
@pytest.mark.parametrize("changed", [0, -1])
def test_a_changed_bit_ends_the_run_on_all_ranks_with_its_place(
    group, dataset, folder, name, step, changed
):
    """Of two ranks the first is held to be right."""
    changed %= group.size
    named = changed if group.size > 2 else 1
    watcher = Flip(step, name) if group.rank == changed else None
    with pytest.raises(TrainingError, match=r"after step 8 .* no longer have the same") as error:
        train(dataset, CONFIG, folder / "run", group=group, watcher=watcher)
    processes = group.all_gather(os.getpid())
    ((rank, process, names),) = re.findall(
        r"rank (\d+) \(process (\d+) on [^)]*\): ([\w., ]+)\. ", str(error.value)
    )
    assert (int(rank), int(process), names) == (named, processes[named], name)
    assert group.all_gather(str(error.value)) == [str(error.value)] * group.size
    if group.is_root:
        assert [r["step"] for r in RunFolder(folder / "run").metrics()] == [4]


@pytest.fixture(scope="session")
def other_dataset(group, shared_folder):
    """As many rows of the same log, cut into shards otherwise."""
    path = shared_folder / "other"
    group.at_root(lambda: data_tools.ingest(shared_folder / "clicks.tsv", path))
    return Dataset(path)


@pytest.mark.parametrize("what", ["dataset", "settings", "versions"])
def test_ranks_that_were_asked_for_another_thing_are_named(
    group, dataset, other_dataset, folder, monkeypatch, what
):
    odd = group.size - 2 if group.size > 2 else 1
    data, config = dataset, CONFIG
    if group.rank == odd and what == "dataset":
        data = other_dataset
    if group.rank == odd and what == "settings":
        config = replace(CONFIG, lr=0.03)
    if group.rank == odd and what == "versions":
        monkeypatch.setattr(loop, "__version__", "0.0")
    with pytest.raises(ValueError, match="must have the same versions") as error:
        train(data, config, folder / "run", group=group)
    pid = group.all_gather(os.getpid())[odd]
    assert re.findall(r"rank (\d+) \(process (\d+) on [^)]*\): (\w+)", str(error.value)) == [
        (str(odd), str(pid), what)
    ]
    assert not (folder / "run").exists()


def test_a_loss_that_is_no_number_ends_all_ranks_and_names_the_batch(
    group, dataset, folder, monkeypatch
):
    """The weights of the last rank alone are spoilt."""

    class Spoil(Watcher):
        def begin(self, model, steps, done):
            self.model = model

        def step(self, step, loss):
            if step == 5:
                self.model.parameters()["top.1.bias"][:] = np.nan

    watcher = Spoil() if group.rank == group.size - 1 else None
    with pytest.raises(TrainingError, match=r"the loss of step 6 is nan, at batch 5 of epoch 0"):
        train(dataset, CONFIG, folder / "run", group=group, watcher=watcher)


def test_what_stands_in_the_output_is_left_alone_by_all(group, dataset, folder):
    group.at_root(lambda: (folder / "thesis.txt").write_text("mine"))
    with pytest.raises(FileExistsError, match="is not a run"):
        train(dataset, CONFIG, folder, group=group, overwrite=True)
    assert os.listdir(folder) == ["thesis.txt"]


def test_a_batch_of_fewer_rows_than_ranks_is_refused(group, dataset, folder):
    config = replace(CONFIG, batch_size=group.size - 1)
    with pytest.raises(ValueError, match="give each at least one row, or start fewer"):
        train(dataset, config, folder / "run", group=group)


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

    def noted(trainer, *arguments):
        seen.append((numba.get_num_threads(), trainer.model._threads))
        return train_step(trainer, *arguments)

    monkeypatch.setattr(DataParallel, "train_step", noted)
    monkeypatch.setattr(group, "threads", 1)
    numba.set_num_threads(2)  # to be left for its own share
    config = replace(CONFIG, batch_size=1000)
    train(dataset, config, folder / "run", group=group, threads=threads)
    assert seen == [(expected, expected)] * 2


def test_rank_0_alone_reads_the_model_that_all_score_with(group, dataset, folder):
    config = replace(CONFIG, embedding="full", compression=None)
    run = train(dataset, config, folder / "run", group=group)
    if not group.is_root:
        run.path = folder / "there is none"
    model = run.load_model(1, "cpu", group)
    result = evaluate(model, dataset.split("test"), group=group)
    if group.is_root:
        assert result == run.metrics()[-1]["test"]
        alone = run.load_model(1)
        assert {n: a.tobytes() for n, a in model.parameters().items()} == {
            n: a.tobytes() for n, a in alone.parameters().items()
        }
        (run.path / "model.safetensors").write_bytes(b"damaged")
    group.all_gather(None)
    with pytest.raises(ValueError, match=r"does not hold the model of config\.json"):
        run.load_model(1, "cpu", group)
