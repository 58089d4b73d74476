"""Ingest on a Dask cluster: the same dataset, also when a worker is killed in mid-task."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import data_tools
from data_tools.ingestion.plan import make_plan
from data_tools.ingestion.schedulers import run_tasks
from data_tools.ingestion.worker import ShardMaker
from data_tools.options import Options
from data_tools.storage.folders import RemoteFolder, folder_at
from tests.data_tools.ingestion.test_ingest import SCHEMA, make_lines, shard_bytes, write
from tests.data_tools.ingestion.test_list_preparation import LONG, long_log
from tests.support.needs import need

need("distributed")

import distributed

ROWS = 3000
OPTIONS = {"schema": SCHEMA, "shard_bytes": 4000}


@pytest.fixture
def sources(tmp_path):
    """Three files, one of them gzipped and so one task."""
    lines = make_lines(3 * ROWS)
    names = ("day_0", "day_1.gz", "day_2")
    parts = [lines[n * ROWS : (n + 1) * ROWS] for n in range(3)]
    return [write(tmp_path / name, part) for name, part in zip(names, parts, strict=True)]


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0"
    ) as local:
        yield local


def pids(client):
    return client.run(os.getpid).values()


def test_a_cluster_gives_the_same_bytes(tmp_path, sources, cluster):
    data_tools.ingest(sources, tmp_path / "threads", **OPTIONS)
    calls = []
    manifest = data_tools.ingest(
        sources,
        tmp_path / "cluster",
        scheduler=cluster.scheduler_address,
        progress=lambda *call: calls.append(call),
        **OPTIONS,
    )
    assert manifest.rows_per_source() == [ROWS] * 3
    assert shard_bytes(tmp_path / "cluster") == shard_bytes(tmp_path / "threads")
    assert data_tools.verify(tmp_path / "cluster") == []
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]


def test_a_killed_worker_costs_its_task_alone(tmp_path, sources, cluster):
    """One of two workers is killed as soon as a few shards are there."""
    data_tools.ingest(sources, tmp_path / "threads", **OPTIONS)
    out = tmp_path / "out"
    finished = {}

    def kill():
        records = out / ".ingest" / "parts"
        while not records.is_dir() or len(list(records.glob("*.json"))) < 5:
            time.sleep(0.001)
        with distributed.Client(cluster) as client:
            victim = next(iter(pids(client)))
        for record in records.glob("*.json"):
            shard = out / "shards-0" / f"part-{record.stem}.arrow"
            if shard.exists():
                finished[shard] = shard.stat().st_ino
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    manifest = data_tools.ingest(sources, out, scheduler=cluster.scheduler_address, **OPTIONS)
    killer.join()
    assert len(finished) >= 5
    assert finished == {shard: shard.stat().st_ino for shard in finished}
    assert manifest.rows == 3 * ROWS
    assert shard_bytes(out) == shard_bytes(tmp_path / "threads")
    assert data_tools.verify(out) == []


def test_a_bad_line_on_a_worker_is_the_same_error(tmp_path, cluster):
    lines = make_lines(ROWS)
    lines[2000] = lines[2000].replace("\t", "\tx", 1)
    lines[2900] = "0"
    source = write(tmp_path / "log.tsv", lines)
    messages = []
    for scheduler in ("threads", cluster.scheduler_address):
        with pytest.raises(data_tools.ParseError) as caught:
            data_tools.ingest(source, tmp_path / scheduler[:3], scheduler=scheduler, **OPTIONS)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert f"{source}:2001: field 2 (a) is 'x" in messages[0]


def test_of_a_bad_line_only_the_sentence_is_printed(tmp_path):
    """Nothing of Dask's, whose workers print by themselves."""
    lines = make_lines(ROWS, schema=data_tools.CRITEO)
    lines[1000] = "0"
    names = [str(write(tmp_path / f"day_{number}", lines)) for number in range(2)]
    command = [sys.executable, "-m", "robe_numba", "ingest", "-q", *names, "-o", f"{tmp_path}/out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    sentence, *notes = done.stderr.splitlines()
    assert sentence == f"error: {names[0]}:1001: expected 40 fields (labelled), found 1"
    assert notes == [note for note in notes if note.startswith("finished shards are kept (")]


def test_an_error_that_names_a_file_which_is_not_utf8(tmp_path, cluster):
    """It comes over the network as it is."""
    source = write(tmp_path / "log\udce9.tsv", make_lines(ROWS))
    out = str(tmp_path / "out\udce9")
    data_tools.ingest(source, out, scheduler=cluster.scheduler_address, **OPTIONS)
    assert data_tools.verify(out) == []
    plan = make_plan([str(source)], SCHEMA, Options(), None, 4000, None)
    source.unlink()
    maker = ShardMaker(plan, out, "shards-1", "parts")
    with pytest.raises(FileNotFoundError) as caught:
        run_tasks(maker, list(plan.tasks()), cluster.scheduler_address, 1, lambda: None)
    assert caught.value.filename == str(source)


@pytest.mark.parametrize("options", [{}, {"ids": "appearance", "min_count": 2}])
def test_output_at_an_address(tmp_path, sources, cluster, options):
    """The file protocol of fsspec, which all processes reach; nothing of it is special to it."""
    address = f"file://{tmp_path}/remote"
    assert isinstance(folder_at(address), RemoteFolder)
    data_tools.ingest(sources, address, scheduler=cluster.scheduler_address, **OPTIONS, **options)
    data_tools.ingest(sources, tmp_path / "local", **OPTIONS, **options)
    assert shard_bytes(tmp_path / "remote") == shard_bytes(tmp_path / "local")
    assert data_tools.verify(address) == []
    remote, local = data_tools.Dataset(address), data_tools.Dataset(tmp_path / "local")
    assert remote.manifest == local.manifest
    for here, there in zip(
        local.split("all").batches(1000, shuffle_seed=1),
        remote.split("all").batches(1000, shuffle_seed=1),
        strict=True,
    ):
        for one, two in zip(here[:3], there[:3], strict=True):
            assert one.tobytes() == two.tobytes()


def test_lists_on_a_cluster(tmp_path, cluster):
    sources, _ = long_log(tmp_path)
    data_tools.ingest(sources, tmp_path / "threads", **LONG)
    manifest = data_tools.ingest(
        sources, tmp_path / "cluster", scheduler=cluster.scheduler_address, **LONG
    )
    assert manifest == data_tools.Dataset(tmp_path / "threads").manifest
    assert manifest.lists[0].shortened > 0
    assert shard_bytes(tmp_path / "cluster") == shard_bytes(tmp_path / "threads")


def test_sources_at_an_address(tmp_path, sources):
    addresses = [f"file://{source}" for source in sources]
    data_tools.ingest(addresses, tmp_path / "remote", **OPTIONS)
    data_tools.ingest(sources, tmp_path / "local", **OPTIONS)
    assert shard_bytes(tmp_path / "remote") == shard_bytes(tmp_path / "local")
    with pytest.raises(FileNotFoundError, match="no source file"):
        data_tools.ingest(f"file://{tmp_path}/absent", tmp_path / "out")


def test_a_local_cluster_of_its_own(tmp_path, sources):
    manifest = data_tools.ingest(sources, tmp_path / "out", scheduler="local", threads=2, **OPTIONS)
    assert manifest.rows == 3 * ROWS
