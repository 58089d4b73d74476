"""The command `robe`; needs the `cli` extra.

`robe --help` and `robe COMMAND --help` answer at once: at its top a module of a command imports
only what its signature needs. Its functions import the rest, and the packages `data_tools` and
`robe_numba.training` import what is used of them.
"""

import sys


def main() -> None:
    """Run the command line, or say what is missing to run it."""
    try:
        from robe_numba.parallel.supervisor import supervise_if_launched

        supervise_if_launched()
        from robe_numba.cli.app import run

        run()
    except ModuleNotFoundError as error:
        sys.exit(f"error: {needs(error)}")
    except ImportError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def needs(error: ModuleNotFoundError) -> str:
    """What to install; an error with a cause is one of ours, which says it itself."""
    if error.__cause__ is not None:
        return str(error)
    return f"robe needs {error.name}: install the extra, pip install -e '.[cli]' in a clone"
