"""`python -m robe_numba` is the command `robe`."""

import sys

try:
    from robe_numba.cli import main

    main()
except KeyboardInterrupt:  # before `main` hears of it
    sys.exit(130)
