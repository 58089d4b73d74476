"""metrics.jsonl: a record per evaluation and per change of settings, and the test record last."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.storage.atomic import write_text
from data_tools.storage.json_files import convert, parse
from data_tools.storage.own_files import open_own, read_bytes
from robe_numba.training.run.config_file import Change, DamagedRunError

REMEDY = (
    "restore it from a copy, or pass --resume, which rewrites it while the run has checkpoints, or "
    "train again"
)


@dataclass(frozen=True)
class _Metrics:
    """Metrics of some rows; None if not defined."""

    rows: int
    click_rate: float | None
    auc: float | None
    log_loss: float | None
    normalized_entropy: float | None
    calibration: float | None


@dataclass(frozen=True)
class _Evaluation:
    step: int
    epoch: float
    seconds: float
    train_loss: float
    validation: _Metrics
    kept: bool
    communication: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Test:
    test: _Metrics


KINDS: dict[str, type] = {"validation": _Evaluation, "changed": Change, "test": _Test}


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records, without a last line that is incomplete.

    Raises
    ------
    DamagedRunError
        Another line is damaged.
    """
    content = read_bytes(path) if path.exists() else b""
    lines = enumerate(content.split(b"\n")[:-1], start=1)
    return [_record(line, f"{path} is damaged: line {number}") for number, line in lines]


def _record(line: bytes, place: str) -> dict[str, Any]:
    record: dict[str, Any] = parse(line, place, REMEDY, DamagedRunError)
    kinds = [kind for name, kind in KINDS.items() if isinstance(record, dict) and name in record]
    if len(kinds) != 1:
        raise DamagedRunError(f"{place} is not a record of an evaluation or a change; {REMEDY}")
    convert(record, kinds[0], place, REMEDY, DamagedRunError)
    return record


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line."""
    with open_own(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace the file atomically."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))
