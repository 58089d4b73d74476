"""A small process above each rank's worker, which says how the worker ended.

A launcher such as mpiexec starts a command once per rank. When a rank is killed it cannot say so,
and what the launcher says names no rank or no cause. So the process that the launcher started
becomes a supervisor (this file as a script, of the standard library alone). It runs the same
command again as its child, the worker, passes signals on to it, and ends as it does.
"""

import os
import signal
import sys
import time
from contextlib import suppress

# In a worker, and in whatever that starts: the process id of the worker's supervisor.
_MARK = "ROBE_RANK_WORKER"
# In a worker the number of the pipe through which it tells that it has joined the others.
_LINE = "ROBE_RANK_LINE"

# Rank and number of processes, as told by Open MPI; by MPICH, Intel MPI and srun --mpi=pmi2; by
# srun --mpi=pmix. SLURM_PROCID and SLURM_NTASKS would not do: a batch script has them as well. The
# first pair counts: an mpiexec may itself run within a step of Slurm.
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"),
)

_FORWARDED = {
    number
    for number in signal.Signals
    if number.name
    in {"SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGTSTP", "SIGCONT"}
}

_HINTS = {
    "SIGKILL": "; perhaps the machine ran out of memory",
    "SIGBUS": "; perhaps /dev/shm or a disk is full",
    "SIGSEGV": "; a crash in compiled code",
}


def launched() -> tuple[int, int] | None:
    """Rank and number of processes, if a launcher started this one among several.

    None in what a worker starts, although it inherits the variables of the launcher.
    """
    if os.environ.get(_MARK, "") not in ("", str(os.getppid())):
        return None
    for rank, size in _LAUNCHERS:
        if rank in os.environ and size in os.environ:
            found = int(os.environ[rank]), int(os.environ[size])
            return found if found[1] > 1 else None
    return None


def supervise_if_launched() -> None:
    """Become the supervisor of a worker that runs this same command, if a launcher started it.

    Returns in the worker, in what a worker starts, where there is one process, and on Windows. Call
    it before anything else: this process gives back all that it holds, and the worker begins anew.
    """
    if sys.platform == "win32" or launched() is None:
        return
    if _MARK in os.environ:
        if sys.platform != "linux":  # there `_become_worker` did better
            import threading

            supervisor = int(os.environ[_MARK])
            threading.Thread(target=_end_after, args=(supervisor,), daemon=True).start()
        return
    # From here on a signal waits until the supervisor can take it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    script = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
    os.execv(sys.executable, [*script, sys.executable, *sys.orig_argv[1:]])


def joined() -> None:
    """Tell the supervisor that this worker is now one of MPI's processes."""
    line = os.environ.pop(_LINE, None)
    if line is not None and launched() is not None:
        os.write(int(line), b"1")
        os.close(int(line))


def _end_after(supervisor: int) -> None:
    """End this process soon after its supervisor."""
    while os.getppid() == supervisor:
        time.sleep(0.5)
    os._exit(1)


def _supervise(command: list[str]) -> int:
    """Run a command as the worker and end as it does: its exit code, or by the same signal.

    MPICH's mpiexec ends the job for a process that a signal killed, but for an exit code only after
    MPI_Init, and until then the other ranks would wait. So an error of a worker that has not
    `joined` ends this process by a signal too.
    """
    import resource

    awaited = {signal.SIGCHLD, *_FORWARDED}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    # It never runs, but a signal without a handler may be dropped even while it is blocked.
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # for the worker, until its Python has begun
    supervisor = os.getpid()
    line, end = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.set_inheritable(end, True)
        os.environ[_LINE] = str(end)
        _become_worker(command, supervisor, awaited)
    os.close(end)
    asked = set()
    ended = status = 0
    while not ended:
        number = signal.sigwait(awaited)
        if number == signal.SIGCHLD:  # the worker ended, or stopped, or goes on
            ended, status = os.waitpid(worker, os.WNOHANG)
        else:
            asked.add(number)
            os.kill(worker, number)
    code = os.waitstatus_to_exitcode(status)
    os.set_blocking(line, False)  # others may have the other end still
    with suppress(BlockingIOError):
        if code == 0 or (code > 0 and os.read(line, 1)):
            return code
    if code > 0:
        code = -signal.SIGTERM
    elif -code not in asked:
        _report(worker, -code)
    # A core is for the worker to leave, not for this.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
    os.kill(supervisor, -code)
    return 128 - code  # as shells say it, for a signal that is ignored here


def _become_worker(command: list[str], supervisor: int, awaited: set[signal.Signals]) -> None:
    """Run the command in this process, which never outlives its supervisor."""
    # Launchers signal the supervisor's group; what it passes on must be all that comes here.
    os.setpgid(0, 0)
    if sys.platform == "linux":
        # By the kernel: a thread that watches could not run while compiled code holds the GIL. It
        # acts when the parent's thread ends, and the supervisor has but one.
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != supervisor:  # ended before that
        os._exit(1)
    os.environ[_MARK] = str(supervisor)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)
    os.execv(command[0], command)


def _report(worker: int, number: int) -> None:
    """Say in one line which rank a signal ended."""
    try:
        name = signal.Signals(number).name
    except ValueError:  # a real-time signal
        name = f"signal {number}"
    rank, size = launched() or (0, 1)
    line = (
        f"error: rank {rank} of {size} (process {worker} on {os.uname().nodename}) "
        f"was killed by {name}{_HINTS.get(name, '')}\n"
    )
    with suppress(OSError):  # nobody may listen
        os.write(2, line.encode())  # whole, among the lines of other ranks


if __name__ == "__main__":
    sys.exit(_supervise(sys.argv[1:]))
