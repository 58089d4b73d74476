"""The command `robe`; needs the `cli` extra."""

from robe_numba.cli.app import main

__all__ = ["main"]
