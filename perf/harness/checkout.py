"""Imported before robe_numba: measure this checkout, here and in child processes, whether it is
installed or not.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
_paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
if str(ROOT) not in _paths:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *_paths])
