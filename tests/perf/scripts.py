"""Run scripts of perf: in this process, in a process of their own, or several in one process."""

import contextlib
import importlib
import json
import os
import runpy
import subprocess
import sys
import warnings
from unittest import mock

import numba

SIMULATED = {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}


def call(script, *arguments):
    """Run a script in this process, as `python -m perf.<script>` would."""
    threads = numba.get_num_threads()
    with mock.patch.object(sys, "argv", [script, *map(str, arguments)]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, and runpy's about modules that are loaded
        try:
            module = importlib.import_module(f"perf.{script}")
            if hasattr(module, "main"):
                module.main()
            else:
                runpy.run_module(module.__name__, run_name="__main__")
        finally:
            numba.set_num_threads(threads)


def run(*command, **environment):
    """Run Python with arguments in a process of its own."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def run_several(calls, **environment):
    """Run [script, *arguments] one after the other in one process; messages of those that exit."""
    calls = [list(map(str, arguments)) for arguments in calls]
    finished = run("-m", "tests.perf.scripts", json.dumps(calls), **environment)
    assert finished.returncode == 0, finished.stderr
    return finished.stderr


def main():
    """Run the scripts of a JSON list; one that exits does not stop the rest."""
    if "NUMBA_ENABLE_CUDASIM" in os.environ:
        from tests.gpu import simulator

        simulator.install()
    for arguments in json.loads(sys.argv[1]):
        with contextlib.suppress(SystemExit):
            call(*arguments)


if __name__ == "__main__":
    main()
