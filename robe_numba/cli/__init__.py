"""The command `robe`; needs the `cli` extra.

`robe --help` and `robe COMMAND --help` answer at once: at its top a module of a command imports
only what its signature needs, and its function the rest, within `loading`. The packages
`data_tools` and `robe_numba.training` import what is used of them.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def main() -> None:
    """Run the command line, or say what is missing to run it."""
    try:
        with loading():
            from robe_numba.parallel.supervisor import supervise_if_launched
        supervise_if_launched()
        with loading():
            from robe_numba.cli.app import run
        run()
    except ModuleNotFoundError as error:
        sys.exit(f"error: {needs(error)}")
    except (ImportError, RuntimeError, ValueError) as error:  # of an import; `run` has its own
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def loading() -> Iterator[None]:
    """Within the block, which imports, let Ctrl-C end the program at once.

    Nothing is begun yet, and KeyboardInterrupt might be lost: Python's imports have callbacks whose
    errors it ignores.
    """
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it is ignored
    if ours:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def needs(error: ModuleNotFoundError) -> str:
    """What to install; an error with a cause is one of ours, which says it itself."""
    if error.__cause__ is not None:
        return str(error)
    return f"robe needs {error.name}: install the extra, pip install -e '.[cli]' in a clone"
