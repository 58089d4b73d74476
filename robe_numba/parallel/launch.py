"""The group of the processes that an MPI launcher started."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from robe_numba._environment import check_environment
from robe_numba.parallel.group import Alone, Group, this_process
from robe_numba.parallel.supervisor import joined, launched

if TYPE_CHECKING:
    from robe_numba.parallel.mpi_group import MPIGroup

ALIKE_SECONDS = 2.0  # within which all processes meet an error that all of them have
# Errors whose message is enough, without a traceback.
KNOWN = (
    ArithmeticError,
    ImportError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def processes() -> Iterator[Group]:
    """Provide the group of all processes that a launcher such as mpiexec started.

    If all processes raise the same error in the block, it leaves the block at rank 0 and the others
    exit silently. Otherwise each writes its own error with its rank, and all exit.

    Yields
    ------
    Group
        Without a launcher, this process alone.

    Raises
    ------
    ImportError
        There are several processes, but no mpi4py, or Numba's compiler is disabled.
    ValueError
        NUMBA_NUM_THREADS is not a number of threads.
    OSError
        The launcher belongs to another MPI than mpi4py.
    """
    started = launched()
    if started is None:
        yield Alone()
        return
    rank, size = started
    check_environment()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # mpi4py raises the latter without an MPI
        raise ImportError(
            f"rank {rank} of {size} needs mpi4py and an MPI to train with the others ({error}); "
            f"pip install 'robe_numba[mpi]'"
        ) from error
    from robe_numba.parallel.mpi_group import MPIGroup

    group = MPIGroup()
    joined()
    if group.size != size:
        library = MPI.Get_library_version().splitlines()[0]
        if rank > 0:
            sys.exit(1)
        raise OSError(
            f"the launcher started {size} processes, but MPI sees {group.size}: it belongs to "
            f"another MPI than the one mpi4py uses, {library!r}; use the mpiexec of that one"
        )
    try:
        yield group
    except SystemExit as end:
        if end.code:
            _fail(group, end)
        raise
    except BaseException as error:
        _fail(group, error)
        raise


def _fail(group: "MPIGroup", error: BaseException) -> None:
    """Leave an error to rank 0 if all have it; else write which rank has which, and end all."""
    heard = group.failures(f"{type(error).__name__}: {error}", ALIKE_SECONDS)
    alike = heard is not None and len({reason for reason, _ in heard}) == 1
    # A process with a running transfer cannot exit normally: others do not take part in it.
    idle = heard is not None and all(idle for _, idle in heard)
    if alike and idle:
        if group.is_root:
            return
        sys.exit(error.code if isinstance(error, SystemExit) else 1)
    if group.is_root or not alike:
        name = f"rank {group.rank} of {group.size} ({this_process()})"
        sys.stderr.write(f"error: {name}: {reason(error)}\n")
        sys.stderr.flush()
    if heard is not None:
        group.failures("", ALIKE_SECONDS)  # wait until all have written
        if idle:
            sys.exit(1)
    group.abort()


def reason(error: BaseException) -> str:
    """The text of an error; with a traceback if it is a bug."""
    if isinstance(error, SystemExit):
        return f"exit {error.code}"
    if not isinstance(error, (*KNOWN, KeyboardInterrupt)):
        return "".join(traceback.format_exception(error))
    return "\n".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
