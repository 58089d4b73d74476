"""How far a command is, in lines where stderr is no terminal."""

import os
import re
import select
import subprocess
import sys
import time

import pytest
from rich.console import Console
from typer.testing import CliRunner

from robe_numba.cli import display
from robe_numba.cli.app import app
from robe_numba.cli.display import LineDisplay
from robe_numba.cli.progress import TrainingProgress

pty = pytest.importorskip("pty", reason="no terminals on Windows")


@pytest.fixture
def lines():
    """A display whose clock is `lines.now`, and which is not started."""
    made = LineDisplay(Console())
    made.now = 100.0
    made.get_time = lambda: made.now
    return made


def told(lines):
    return [display.line(task) for task in lines.tasks]


def test_a_line_tells_what_how_far_how_fast_and_how_long(lines):
    task = lines.add("reading", "bytes")
    assert told(lines) == ["reading: started"]
    lines.update(task, completed=5e6, total=50e6)  # the clock begins after it
    assert told(lines) == ["reading: 5 MB of 50 MB (10%)"]
    lines.now += 10
    lines.update(task, completed=25e6)
    assert told(lines) == ["reading: 25 MB of 50 MB (50%), 2 MB/s, 0:00:13 left"]
    lines.update(task, completed=50e6)
    assert told(lines)[0].startswith("reading: 50 MB of 50 MB (100%)")


def test_what_takes_hours_has_a_rate_too(lines):
    task = lines.add("runs", "runs", 12)
    for done in (1, 2, 3):
        lines.now += 1800
        lines.update(task, completed=done)
    assert told(lines) == ["runs: 3 runs of 12 runs (25%), 2.0 runs/h, 4:30:00 left"]


def test_a_run_tells_its_loss_its_evaluations_and_what_it_waits_for(lines, capsys, monkeypatch):
    monkeypatch.setattr(display, "FIRST_LINE_SECONDS", 0.0)
    lines._begun = time.monotonic()
    run = TrainingProgress(lines, "robe", batch_size=256)
    run.begin(None, steps=160, done=16)
    for step in (32, 48):
        lines.now += 2
        run.step(step, 0.5)
    training = "robe: 12,288 rows of 40,960 rows (30%), 2,048 rows/s, 0:00:14 left, loss 0.5000"
    assert told(lines) == [training]
    run.scoring(100, 500)
    assert told(lines) == [training, "scoring: 100 rows of 500 rows (20%)"]
    run.scoring(500, 500)
    carried = {"exchange": "gather", "bytes": 2_500_000, "seconds": 1.26, "waited": 0.5}
    run.evaluated({"step": 48, "validation": {"auc": 0.75}, "communication": carried})
    assert capsys.readouterr().err == (
        "robe: step 48, validation AUC 0.7500; received 2.5 MB in 1.3 s of communication, waited "
        "0.5 s for it\n"
    )
    run.step(64, 0.5)
    assert told(lines)[0].endswith("loss 0.5000, validation AUC 0.7500")
    run.evaluated({"test": {"auc": 0.7}})
    assert told(lines) == []
    assert capsys.readouterr().err == ""


def test_a_command_of_seconds_tells_nothing_and_one_of_minutes_a_line_a_minute(capsys, monkeypatch):
    assert 5 <= display.FIRST_LINE_SECONDS <= 30
    assert 30 <= display.LINE_SECONDS <= 90
    monkeypatch.setattr(display, "FIRST_LINE_SECONDS", 0.2)
    monkeypatch.setattr(display, "LINE_SECONDS", 0.5)
    begun = time.monotonic()
    with LineDisplay(Console()) as lines:
        lines.add("scoring", "rows", 10)
        lines.tell("too early")
        lines.tell("always", early=True)
        assert capsys.readouterr().err == "always\n"
        time.sleep(1)
    due = (time.monotonic() - begun - 0.2) // 0.5 + 1
    text = capsys.readouterr().err
    assert set(text.splitlines()) == {"scoring: 0 rows of 10 rows (0%)"}
    assert 2 <= text.count("\n") <= due
    time.sleep(0.6)
    assert capsys.readouterr().err == ""


def robe(*arguments):
    """What a command that must succeed wrote to stdout and to stderr."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


TRAIN = ("--batch-size", "256", "--bottom", "8", "--top", "8", "--overwrite")
SWEEP = ("num_parameters=3000,4000", "batch_size=512", "bottom=8", "top=8")


@pytest.fixture(scope="module")
def work(dataset, tmp_path_factory):
    """A folder with a run; and the dataset and its log."""
    folder = tmp_path_factory.mktemp("work")
    robe("train", dataset.path, "-o", folder / "run", "--num-parameters", 3000, *TRAIN)
    return {"data": dataset.path, "log": dataset.path.parent / "clicks.tsv", "work": folder}


LONG = {
    "synth": (("{work}/log.tsv", "--rows", "100000", "--overwrite"), "writing log.tsv"),
    "ingest": (("{log}", "-o", "{work}/data", "--overwrite"), "reading"),
    "data verify": (("{data}",), "reading"),
    "plan": (("--data", "{data}", "--compression", "9"), "counting ids"),
    "train": (("{data}", "-o", "{work}/again", "--num-parameters", "3000", *TRAIN), "robe"),
    "sweep": (("{data}", *SWEEP, "-o", "{work}/{quiet}"), "runs"),
    "evaluate": (("{work}/run", "{data}"), "scoring"),
    "predict": (("{work}/run", "{data}", "-o", "{work}/p.parquet", "--overwrite"), "scoring"),
}


@pytest.mark.parametrize("command", LONG)
def test_long_commands_tell_how_far_they_are_unless_they_shall_not(work, command, monkeypatch):
    arguments, title = LONG[command]
    monkeypatch.setattr(display, "FIRST_LINE_SECONDS", 0.0)
    monkeypatch.setattr(display, "LINE_SECONDS", 0.01)
    stop = LineDisplay.stop
    monkeypatch.setattr(LineDisplay, "stop", lambda lines: (time.sleep(0.1), stop(lines)))

    def run(*more):
        places = {**work, "quiet": len(more)}
        words = (word.format(**places) for word in arguments)
        return robe(*command.split(), *words, *more)

    results, lines = run()
    assert re.search(rf"^{title}: ", lines, re.MULTILINE), lines
    assert title + ":" not in results
    silent, nothing = run("--quiet")
    assert nothing == ""
    if command != "sweep":  # whose table has times
        assert silent == results
    assert "\x1b" not in results + lines


def test_a_terminal_gets_bars(work):
    main, other = pty.openpty()
    command = ("evaluate", work["work"] / "run", work["data"])
    with subprocess.Popen(
        [sys.executable, "-m", "robe_numba", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=other,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(other)
        drawn = b""
        while True:
            select.select([main], [], [], 60)
            try:
                piece = os.read(main, 4096)
            except OSError:  # how Linux says that nobody writes any more
                piece = b""
            if not piece:
                break
            drawn += piece
        results = process.stdout.read().decode()
    os.close(main)
    assert b"scoring" in drawn
    assert b"\x1b[" in drawn
    assert b"started" not in drawn
    assert results.startswith("test rows 250, AUC ")
    assert "\x1b" not in results
