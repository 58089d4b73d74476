"""`python -m robe_numba` is the command `robe`."""

from robe_numba.cli import main

main()
