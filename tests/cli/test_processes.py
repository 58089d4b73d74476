"""What `robe` does only as a process: at Ctrl-C, and when an import fails or is slow."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.support.commands import robe

ROBE = (sys.executable, "-m", "robe_numba")
SMALL = ("--num-parameters", "3000", "--bottom", "8", "--top", "8", "--batch-size", "256")


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_in_an_ingest_keeps_what_is_finished(dataset, tmp_path):
    log = tmp_path / "log.tsv"
    log.write_bytes((dataset.path.parent / "clicks.tsv").read_bytes() * 20)
    arguments = ("ingest", log, "-o", tmp_path / "out", "--shard-bytes", "20000")
    child = subprocess.Popen([*ROBE, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    records = tmp_path / "out" / ".ingest" / "parts"
    wait_for(lambda: len(list(records.glob("*.json"))) >= 5, child)
    child.send_signal(signal.SIGINT)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 130, output
    assert "interrupted; finished shards are kept" in output
    assert "run the same command again to resume" in output
    assert "50,000 rows" in robe(*arguments)
    assert "as they were written" in robe("data", "verify", tmp_path / "out")


def test_ctrl_c_leaves_a_usable_checkpoint_and_the_run_goes_on(dataset, tmp_path):
    run = tmp_path / "run"
    command = ("train", dataset.path, "-o", run, *SMALL, "--epochs", 10_000)
    process = subprocess.Popen([*ROBE, *map(str, command)])
    try:
        wait_for((run / "model.safetensors").is_file, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.wait()
    assert "AUC" in robe("evaluate", run, dataset.path, "--part", "test")
    assert (run / "report.html").is_file()
    # Settings that are left out stay as they were. One epoch is over, so only the test remains.
    text = robe("train", dataset.path, "-o", run, "--seed", 1, "--resume", code=1)
    assert "seed 0 (given: 1)" in text
    assert "test rows 250" in robe("train", dataset.path, "-o", run, "--resume", "--epochs", 1)
    settings = json.loads((run / "config.json").read_text())["training"]
    assert (settings["num_parameters"], settings["batch_size"], settings["epochs"]) == (
        3000,
        256,
        1,
    )
    assert not (run / "checkpoints").exists()


def test_without_the_extra_the_command_says_what_to_install():
    code = "import sys; sys.modules['typer'] = None; from robe_numba.cli import main; main()"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 1
    assert "pip install -e '.[cli]'" in finished.stderr
    assert "Traceback" not in finished.stderr


# `robe` with something that happens as a module is imported: which, what, and the command line.
CHILD = """
import os, signal, sys
module, deed = sys.argv[1:3]
del sys.argv[1:3]


class Finder:
    def find_spec(name, path, target=None):
        if name == module:
            exec(deed)


sys.meta_path.insert(0, Finder)
from robe_numba.cli import main
main()
"""
# Ctrl-C in a callback of Python's imports, which ignores errors.
PRESS = """
try: os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt: pass
"""
# A module that a command imports, and the command.
IMPORTS = [
    ("robe_numba.parallel.supervisor", ("--help",)),
    ("robe_numba.cli.app", ("--help",)),
    ("typer.main", ("--help",)),
    ("pyarrow", ("data", "info", "x")),
    ("numba", ("train", "x", "-o", "y", "--compression", "9")),
    ("numba", ("ingest", "x", "-o", "y")),
    ("matplotlib", ("demo", "-o", "y")),
    ("rich.progress", ("data", "verify", "x")),
]


def importing(module, deed, *command):
    """Exit code and errors of `robe` where that happens."""
    finished = subprocess.run(
        [sys.executable, "-c", CHILD, module, deed, *command],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.stdout == ""
    return finished.returncode, finished.stderr


@pytest.mark.parametrize(("module", "command"), IMPORTS)
def test_ctrl_c_while_modules_are_imported_ends_at_once(module, command):
    assert importing(module, PRESS, *command) == (130, "")


@pytest.mark.parametrize(
    ("error", "module", "command"),
    [
        ("ValueError", "numba", ("evaluate", "x", "y")),
        ("ImportError", "typer", ("--help",)),
        ("RuntimeError", "pyarrow", ("data", "info", "x")),
    ],
)
def test_an_error_of_an_import_is_one_sentence(error, module, command):
    deed = f"raise {error}('this is an odd machine')"
    assert importing(module, deed, *command) == (1, "error: this is an odd machine\n")


def test_a_package_that_is_missing_is_named_with_the_extra():
    code, errors = importing("pyarrow", "raise ModuleNotFoundError(name=name)", "data", "info", "x")
    assert code == 1
    assert errors.startswith("error: robe needs pyarrow: install the extra")
