"""Any edits of our JSON files: each reader takes the file, or says which file is wrong.

python -m tests.fuzz.json_files -runs=1000000 CORPUS
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tests.fuzz import harness
from tests.fuzz.json_edits import edited

with harness.guided(__name__):
    from data_tools.errors import DatasetError
    from data_tools.format.manifest import MANIFEST_NAME, ListFacts, Manifest
    from data_tools.ingestion.coordinator import ingest
    from data_tools.ingestion.output_folder import PLAN_NAME, State, _found
    from data_tools.ingestion.plan import IngestPlan, make_plan
    from data_tools.ingestion.shard_records import PARTS, ShardRecord, load_record
    from data_tools.loader.dataset import Dataset
    from data_tools.schema import Schema
    from robe_numba.dlrm import DLRM, DLRMConfig, make_embedding
    from robe_numba.spec import RobeSpec, TableSpec
    from robe_numba.training.config import TrainingConfig
    from robe_numba.training.run.checkpoints import CheckpointError, TrainingState, _read_state
    from robe_numba.training.run.config_file import new_config, read_config, write_config
    from robe_numba.training.run.metrics_file import read_records

SCHEMA = Schema("y", ("a",), ("p", "q"))
METRICS = {
    "rows": 4, "click_rate": 0.5, "auc": None, "log_loss": 0.7, "normalized_entropy": 1.0,
    "calibration": 1.0,
}  # fmt: skip
RECORDS = [
    {
        "step": 3, "epoch": 0.5, "seconds": 1.5, "train_loss": 0.7, "validation": METRICS,
        "kept": True,
    },
    {"step": 3, "changed": {"lr": 0.1}},
    {"test": METRICS},
]  # fmt: skip


class MemoryFolder:
    """A folder with one file, as readers of datasets see it."""

    def __init__(self, name: str, content: bytes) -> None:
        self._name, self._content = name, content

    def path(self, name: str) -> str:
        """Address of a file, for messages."""
        return f"memory/{name}"

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        return len(self._content) if name == self._name else None

    def open(self, name: str) -> io.BytesIO:
        """Open the file for reading."""
        assert name == self._name
        return io.BytesIO(self._content)


class Target(NamedTuple):
    """A kind of file: one that is right, how it is read, and what a fault of it raises."""

    document: Any
    read: Callable[[bytes], Any]
    error: type[Exception] | tuple[type[Exception], ...]
    name: str  # in the message


@cache
def targets() -> list[Target]:
    """Every kind of JSON file of ours."""
    folder = Path(tempfile.mkdtemp(dir=harness.MEMORY))
    (folder / "log.tsv").write_bytes(b"1\t5\tff\t1\n0\t\t\t2\n")
    manifest = ingest(folder / "log.tsv", folder / "data", schema=SCHEMA, threads=1)
    source = str(folder / "log.tsv")
    plan = make_plan([source], SCHEMA, manifest.options, None, None, None)
    state = State("shards-0", plan.to_json())
    shard = manifest.shards[0]
    lists = [ListFacts(7, 4, 1), ListFacts(0, None, 0)]
    record = ShardRecord(
        shard.name,
        0,
        0,
        shard.rows,
        shard.bytes,
        shard.crc32,
        1,
        shard.rows,
        0,
        [],
        17,
        True,
        lists,
    )
    with_lists = replace(
        manifest,
        schema=Schema("y", (), (), ("p", "q"), ("w", None)),
        options=replace(manifest.options, list_separator="|", max_length=4),
        lists=tuple(lists),
    )
    return [
        Target(manifest.to_json(), read_manifest, DatasetError, MANIFEST_NAME),
        Target(as_document(state), lambda content: read_plan(content, plan), DatasetError, "plan"),
        Target(as_document(record), read_shard_record, (), ""),
        Target(json.loads(RobeSpec(1000, 8, 16, 1).to_json()), RobeSpec.from_json, SPEC_ERRORS, ""),
        Target(json.loads(TableSpec((7, 9), 8).to_json()), TableSpec.from_json, SPEC_ERRORS, ""),
        config_target(folder),
        Target(RECORDS, lambda content: read_metrics(content, folder), ValueError, "metrics.jsonl"),
        state_target(folder),
        Target(with_lists.to_json(), read_manifest, DatasetError, MANIFEST_NAME),
    ]


SPEC_ERRORS = (TypeError, ValueError)


def as_document(value: Any) -> Any:
    """A dataclass as JSON has it."""
    return json.loads(json.dumps(asdict(value)))


def read_manifest(content: bytes) -> None:
    """Read a manifest; one that is taken says the same again."""
    manifest = Manifest.load(MemoryFolder(MANIFEST_NAME, content))  # type: ignore[arg-type]
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    assert len(manifest.shards) <= len(content)


def read_plan(content: bytes, plan: IngestPlan) -> None:
    """Read the state of an ingest."""
    state, _ = _found(MemoryFolder(PLAN_NAME, content), PLAN_NAME, plan, False)  # type: ignore[arg-type]
    assert state is not None
    assert ".." not in state.folder
    assert "/" not in state.folder


def read_shard_record(content: bytes) -> None:
    """Read the record of a shard, which counts as not there where it is damaged."""
    name = f".ingest/{PARTS}/000-00000.json"
    record = load_record(MemoryFolder(name, content), PARTS, 0, 0)  # type: ignore[arg-type]
    if record is not None:
        assert "/" not in record.name
        assert min(record.rows, record.bytes, record.lines, record.source_bytes) >= 0


def config_target(folder: Path) -> Target:
    """The config.json of a run."""
    dataset = Dataset(folder / "data")
    config = TrainingConfig(compression=10, embedding_dim=8, bottom=(8,), top=(8,)).resolved()
    embedding = make_embedding("robe", embedding_dim=8, num_tables=2, num_parameters=100)
    model = DLRM(DLRMConfig(1, 2, 8, (8,), (8,)), embedding)
    path = folder / "config.json"
    write_config(path, new_config(config, dataset, model))

    def read(content: bytes) -> None:
        path.write_bytes(content)
        read_config(path)

    return Target(json.loads(path.read_bytes()), read, ValueError, path.name)


def read_metrics(content: bytes, folder: Path) -> None:
    """Read a metrics.jsonl: where the content is a list, its items are the lines."""
    try:
        records = json.loads(content)
        lines = [json.dumps(record).encode() for record in records]
    except (RecursionError, TypeError, ValueError):
        lines = [content]
    path = folder / "metrics.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    for record in read_records(path):
        assert {"validation", "changed", "test"} & record.keys()


def state_target(folder: Path) -> Target:
    """The state.json of a checkpoint, whose digest is that of its text, damaged or not."""
    document = {
        "format": "robe checkpoint 1", "run": "r", "arrays": "d", **as_document(TrainingState())
    }  # fmt: skip
    path = folder / "state.json"

    def read(content: bytes) -> None:
        text = content.replace(b"\n", b" ")
        path.write_bytes(text + b"\n" + hashlib.blake2b(text).hexdigest().encode() + b"\n")
        _read_state(path)

    return Target(document, read, CheckpointError, path.name)


def check(data: bytes) -> None:
    """Edit and read a file; raises AssertionError, or what reading should not raise."""
    target = targets()[(data[0] if data else 0) % len(targets())]
    content = edited(target.document, data[1:])
    try:
        target.read(content)
    except target.error as error:
        if target.name not in str(error) or not str(error).strip():
            raise AssertionError(f"an error that names no file: {error}") from error


SEEDS = [bytes([number]) for number in range(9)]
SEEDS += [bytes([number, 7, 0, 20, 255]) for number in range(9)]  # nested deeply
SEEDS += [bytes([number, 3, 0, place, 13]) for number in range(9) for place in (0, 3, 9)]

if __name__ == "__main__":
    harness.fuzz(check, SEEDS)
