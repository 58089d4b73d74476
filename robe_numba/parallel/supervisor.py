"""A small parent process for each rank's worker, which reports how the worker ended.

A launcher such as mpiexec starts a command once per rank. A rank that is killed cannot report it,
and the launcher's own message lacks the rank or the cause. So the process that the launcher started
becomes a supervisor (this file as a script, with the standard library alone). It runs the same
command again as its child, the worker, forwards signals to it, and ends as it does.
"""

import os
import signal
import sys
import time
from contextlib import suppress

# In a worker and its children: the process id of the worker's supervisor.
_SUPERVISOR = "ROBE_RANK_WORKER"
# In a worker: the file descriptor of the pipe through which it reports that it joined the others.
_PIPE = "ROBE_RANK_PIPE"

# Variables with rank and number of processes of Open MPI; of MPICH, Intel MPI and srun --mpi=pmi2;
# of srun --mpi=pmix. (SLURM_PROCID and SLURM_NTASKS are also set in a batch script.) The first pair
# that is set counts: an mpiexec may itself run within a step of Slurm.
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
    """Rank and number of processes, if a launcher started this process among several.

    None in children of a worker, although they inherit the launcher's variables.
    """
    if os.environ.get(_SUPERVISOR, "") not in ("", str(os.getppid())):
        return None
    for rank, size in _LAUNCHERS:
        if rank in os.environ and size in os.environ:
            found = int(os.environ[rank]), int(os.environ[size])
            return found if found[1] > 1 else None
    return None


def supervise_if_launched() -> None:
    """Become the supervisor of a worker that runs the same command, if a launcher started this.

    It returns in the worker, in a worker's children, if there is only one process, and on Windows.
    Call it before anything else: this process is replaced, and the worker starts from scratch.
    """
    if sys.platform == "win32" or launched() is None:
        return
    if _SUPERVISOR in os.environ:
        if sys.platform != "linux":  # there `_become_worker` has set this up
            import threading

            supervisor = int(os.environ[_SUPERVISOR])
            threading.Thread(target=_end_after, args=(supervisor,), daemon=True).start()
        return
    # From here on signals wait until the supervisor can take them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    script = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
    os.execv(sys.executable, [*script, sys.executable, *sys.orig_argv[1:]])


def joined() -> None:
    """Tell the supervisor that this worker has joined the other MPI processes."""
    line = os.environ.pop(_PIPE, None)
    if line is not None and launched() is not None:
        os.write(int(line), b"1")
        os.close(int(line))


def _end_after(supervisor: int) -> None:
    """End this process soon after its supervisor."""
    while os.getppid() == supervisor:
        time.sleep(0.5)
    os._exit(1)


def _supervise(command: list[str]) -> int:
    """Run a command as the worker and end as it does: with its exit code or by the same signal.

    MPICH's mpiexec ends the job if a signal killed a process, but before MPI_Init it ignores exit
    codes and the other ranks would wait. So if a worker fails that has not `joined`, this process
    ends by a signal too.
    """
    import resource

    awaited = {signal.SIGCHLD, *_FORWARDED}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    # Never called, but a blocked signal without a handler may be dropped.
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # for the worker, until Python starts there
    supervisor = os.getpid()
    line, end = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.set_inheritable(end, True)
        os.environ[_PIPE] = str(end)
        _become_worker(command, supervisor, awaited)
    os.close(end)
    code, forwarded = _forward_signals(worker, awaited)
    os.set_blocking(line, False)  # children may still have the other end
    with suppress(BlockingIOError):
        if code == 0 or (code > 0 and os.read(line, 1)):
            return code
    if code > 0:
        code = -signal.SIGTERM
    elif -code not in forwarded:
        _report(worker, -code)
    # The worker may leave a core dump; this process should not.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
    os.kill(supervisor, -code)
    return 128 - code  # as shells do, if the signal is ignored here


def _forward_signals(worker: int, awaited: set[signal.Signals]) -> tuple[int, set[int]]:
    """Forward signals to the worker until it ends.

    Returns its exit code, or minus the signal that ended it, and the signals that were forwarded.
    """
    forwarded: set[int] = set()
    ended = status = 0
    while not ended:
        number = signal.sigwait(awaited)
        if number == signal.SIGCHLD:  # the worker ended, stopped or continued
            ended, status = os.waitpid(worker, os.WNOHANG)
        else:
            forwarded.add(number)
            os.kill(worker, number)
    return os.waitstatus_to_exitcode(status), forwarded


def _become_worker(command: list[str], supervisor: int, awaited: set[signal.Signals]) -> None:
    """Run the command in this process, and make it end with its supervisor."""
    # Launchers signal the supervisor's process group; the worker gets only what is forwarded.
    os.setpgid(0, 0)
    if sys.platform == "linux":
        # The kernel does it: a watching thread could not run while compiled code holds the GIL. It
        # acts when the parent's thread ends, and the supervisor has only one.
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != supervisor:  # it ended before
        os._exit(1)
    os.environ[_SUPERVISOR] = str(supervisor)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)
    os.execv(command[0], command)


def _report(worker: int, number: int) -> None:
    """Write one line that says which rank a signal ended."""
    try:
        name = signal.Signals(number).name
    except ValueError:  # a real-time signal
        name = f"signal {number}"
    rank, size = launched() or (0, 1)
    line = (
        f"error: rank {rank} of {size} (process {worker} on {os.uname().nodename}) "
        f"was killed by {name}{_HINTS.get(name, '')}\n"
    )
    with suppress(OSError):  # standard error may be closed
        os.write(2, line.encode())  # in one piece, among the lines of other ranks


if __name__ == "__main__":
    sys.exit(_supervise(sys.argv[1:]))
