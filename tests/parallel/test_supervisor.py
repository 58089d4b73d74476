"""A supervisor reports how its worker ended, and neither outlives the other."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from robe_numba.parallel import supervisor
from tests.parallel.jobs import COUNT, RANK_1_OF_8, VARIABLES, finish

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no supervisors on Windows")


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        (RANK_1_OF_8, (1, 8)),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, None),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "0"}, (0, 2)),
        ({"PMIX_RANK": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}, (3, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),  # a batch script
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"}, None),  # no MPI
        (RANK_1_OF_8 | {"ROBE_RANK_WORKER": str(os.getppid())}, (1, 8)),
        (RANK_1_OF_8 | {"ROBE_RANK_WORKER": str(os.getpid())}, None),  # a child of a worker
    ],
)
def test_launchers_are_known_by_their_variables(monkeypatch, variables, found):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert supervisor.launched() == found


@pytest.mark.parametrize("variables", [{}, {"PMI_RANK": "0", "PMI_SIZE": "1"}])
def test_a_single_process_has_no_supervisor(start, variables):
    process = start("say(os.getpid(), os.environ.get('ROBE_RANK_WORKER'))", variables=variables)
    assert finish(process) == (f"{process.pid} None\n", "")


def test_the_worker_is_the_same_command_with_the_same_files(start):
    reading, writing = os.pipe()
    process = start(
        "say(supervisor.launched(), os.getppid(), sys.argv[1:], input())\n"
        "os.write(int(sys.argv[1]), b'here')\n"
        "print('there', file=sys.stderr)",
        str(writing),
        pass_fds=[writing],
        stdin=subprocess.PIPE,
    )
    os.close(writing)
    output, errors = process.communicate("a line\n", timeout=30)
    assert output == f"(1, 8) {process.pid} ['{writing}'] a line\n"
    assert errors == "there\n"
    with open(reading) as received:
        assert received.read() == "here"


@pytest.mark.parametrize("code", [0, 1, 130, 255])
def test_exit_codes_pass_through(start, code):
    process = start(f"supervisor.joined()\nsys.exit({code})")
    assert finish(process) == ("", "")
    assert process.returncode == code


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, -signal.SIGTERM)])
def test_an_error_before_a_worker_has_joined_is_one_to_launchers(start, code, expected):
    process = start(f"print('why', file=sys.stderr)\nsys.exit({code})")
    assert finish(process) == ("", "why\n")
    assert process.returncode == expected


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (signal.SIGKILL, "; perhaps the machine ran out of memory"),
        (signal.SIGSEGV, "; a crash in compiled code"),
        (signal.SIGTERM, ""),
    ],
)
def test_a_killed_worker_is_named(start, number, hint):
    process = start("say(os.getpid())\ntime.sleep(60)")
    worker = int(process.stdout.readline())
    os.kill(worker, number)
    killed = time.monotonic()
    _, errors = finish(process)
    assert time.monotonic() - killed < 5
    assert errors == (
        f"error: rank 1 of 8 (process {worker} on {os.uname().nodename}) was killed by "
        f"{number.name}{hint}\n"
    )
    assert process.returncode == -number


def test_ctrl_c_reaches_the_worker_once(start):
    process = start(COUNT + "supervisor.joined()\nsay('ready')\nsay(count())\nsys.exit(130)")
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    assert finish(process) == ("1\n", "")
    assert process.returncode == 130


def press_ctrl_c(process):
    """Standard error of a process that Ctrl-C ends.

    It is pressed again if Python lost it: it ignores errors in callbacks of its imports.
    """
    for _ in range(4):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=8)[1]
    pytest.fail("it does not end")


def test_ctrl_c_at_any_time_ends_both_without_a_word_of_killing(start):
    for delay in (0.02, 0.04, 0.06, 0.08, 0.1):
        process = start("time.sleep(60)")
        time.sleep(delay)
        assert "killed" not in press_ctrl_c(process)
        assert process.returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_that_the_launcher_sends_ends_both_silently(start, number):
    process = start("say('ready')\ntime.sleep(60)")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert finish(process) == ("", "")
    assert process.returncode == -number


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT"])
def test_a_signal_that_is_ignored_at_the_start_stays_ignored(start, name):
    """As under nohup or in the background of a shell, also if the whole process group gets it."""
    launcher = ["sh", "-c", f"trap '' {name}; exec \"$@\"", "sh"]
    code = "say('ready')\nfor line in sys.stdin:\n    say(line)"
    process = start(code, launcher=launcher, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    for send in (os.kill, os.killpg):
        send(process.pid, signal.Signals[f"SIG{name}"])
        time.sleep(0.1)
    output, errors = process.communicate("on", timeout=30)
    assert (output, errors, process.returncode) == ("on\n", "", 0)


def test_the_worker_stops_and_continues_as_asked(start):
    process = start("say('ready')\nfor line in sys.stdin:\n    say(line)", stdin=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    for number in (signal.SIGTSTP, signal.SIGCONT):
        process.send_signal(number)
        time.sleep(0.1)
    output, errors = process.communicate("on", timeout=30)
    assert (output, errors, process.returncode) == ("on\n", "", 0)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems wait for the GIL")
def test_a_worker_ends_with_its_supervisor_even_in_compiled_code(start):
    process = start("say('ready')\nctypes.PyDLL(None).sleep(60)")  # which keeps the GIL
    assert process.stdout.readline() == "ready\n"
    process.kill()
    killed = time.monotonic()
    assert finish(process) == ("", "")  # the worker had them open
    assert time.monotonic() - killed < 5


def test_where_the_kernel_cannot_a_thread_ends_the_worker(start):
    """As in a worker on macOS: a child of the script, which has no supervisor here."""
    process = start(
        "import threading\n"
        "parent = os.getpid()\n"
        "if os.fork():\n"
        "    time.sleep(60)\n"
        "threading.Thread(target=supervisor._end_after, args=(parent,), daemon=True).start()\n"
        "say('ready')\n"
        "time.sleep(60)",
        variables={},
    )
    assert process.stdout.readline() == "ready\n"
    process.kill()
    assert finish(process) == ("", "")


def test_what_a_worker_starts_is_no_rank(start):
    process = start(
        "say(supervisor.launched(), os.getpid() if sys.argv[1:] == [] else os.getppid())\n"
        "if len(sys.argv) == 1:\n"
        "    subprocess.run([sys.executable, __file__, 'child'], check=True)"
    )
    output, errors = finish(process)
    worker, child = output.splitlines()
    assert worker.startswith("(1, 8) ")
    assert child == f"None {worker.split()[-1]}"  # its parent is the worker
    assert errors == ""
