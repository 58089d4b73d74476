"""The command `robe`; needs the `cli` extra.

`robe --help` and `robe COMMAND --help` are quick: a command's module imports only what its
signature needs, and the function imports the rest, within `loading`. The packages `data_tools` and
`robe_numba.training` are imported lazily.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def main() -> None:
    """Run the command line, or name the package that is missing."""
    try:
        with loading():
            from robe_numba.parallel.supervisor import supervise_if_launched
        supervise_if_launched()
        with loading():
            from robe_numba.cli.app import run
        run()
    except ModuleNotFoundError as error:
        sys.exit(f"error: {needs(error)}")
    except (
        ImportError,
        RuntimeError,
        ValueError,
    ) as error:  # while importing
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def loading() -> Iterator[None]:
    """Let Ctrl-C end the program at once while the block imports modules.

    No work has started yet, and a KeyboardInterrupt could be lost: Python ignores errors in some
    callbacks of its imports.
    """
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where it is ignored
    if ours:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def needs(error: ModuleNotFoundError) -> str:
    """What to install; our own errors, which have a cause, say so themselves."""
    if error.__cause__ is not None:
        return str(error)
    return f"robe needs {error.name}: install the extra, pip install -e '.[cli]' in a clone"
