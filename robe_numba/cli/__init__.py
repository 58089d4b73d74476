"""The command `robe`; needs the `cli` extra."""

import sys

from robe_numba.parallel.supervisor import supervise_if_launched


def main() -> None:
    """Run the command line, or say what is missing to run it."""
    supervise_if_launched()
    try:
        from robe_numba.cli.app import run
    except ModuleNotFoundError as error:
        sys.exit(f"robe needs {error.name}: install the extra, pip install -e '.[cli]' in a clone")
    except KeyboardInterrupt:
        sys.exit(130)
    run()
