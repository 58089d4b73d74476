"""`robe train` on a generated log, on the host and on the GPU with the same settings.

python -m perf.gpu.sections.training cpu FOLDER ROWS     makes the log and the dataset first
python -m perf.gpu.sections.training cuda FOLDER ROWS    waits for these
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

BATCHES = (2048, 16_384)
NUM_PARAMETERS = 540_000  # 1000 times smaller than the tables of the real log
EPOCHS = 4  # with an evaluation after each
READY = "ready"  # a file in the folder, once the dataset is there


class TrainingSpeed(NamedTuple):
    """Speed in the last two epochs, when everything is compiled."""

    rows_per_second: float  # of training; the time includes two validations
    losses: list[float]  # of training, at each evaluation
    seconds: float  # from the start to the last evaluation


def main(device: str, folder: Path, rows: int) -> None:
    """Train once for each batch size."""
    folder.mkdir(parents=True, exist_ok=True)
    if device == "cpu":
        log, data = folder / "log.tsv", folder / "data"
        robe("synth", str(log), "--rows", str(rows))
        robe("ingest", str(log), "-o", str(data))
        (folder / READY).touch()
    else:
        while not (folder / READY).exists():
            time.sleep(0.2)
    for batch in BATCHES:
        robe(*train_command(device, folder, batch))


def train_command(device: str, folder: Path, batch: int) -> list[str]:
    """Kaggle's model with another batch size."""
    return [
        *("train", str(folder / "data"), "-o", str(run_folder(device, folder, batch))),
        *("--device", device, "--preset", "kaggle", "--num-parameters", str(NUM_PARAMETERS)),
        *("--batch-size", str(batch), "--epochs", str(EPOCHS), "--evaluations", "1"),
    ]


def run_folder(device: str, folder: Path, batch: int) -> Path:
    """The folder of a run."""
    return folder / f"{device}-{batch}"


def robe(*arguments: str) -> None:
    """Run one command and print its time."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "robe_numba", *arguments], check=True)
    print(f"robe {arguments[0]}: {time.perf_counter() - begun:.1f} s", flush=True)


def result(device: str, folder: Path, batch: int) -> TrainingSpeed | None:
    """The result of a run; None if it has not reached its last evaluation."""
    path = run_folder(device, folder, batch) / "metrics.jsonl"
    if not path.is_file():
        return None
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records = [record for record in records if "train_loss" in record]
    if len(records) < EPOCHS:
        return None
    second, last = records[1], records[-1]
    rows = (last["step"] - second["step"]) * batch
    return TrainingSpeed(
        rows / (last["seconds"] - second["seconds"]),
        [record["train_loss"] for record in records],
        last["seconds"],
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
