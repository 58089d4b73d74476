"""Run a check on cases that atheris makes, guided by coverage (`pip install atheris`).

Each module beside this one is a target: a function `check(data)` that takes the bytes of a case and
raises where something is wrong, and `SEEDS`, cases to begin with.

    python -m tests.fuzz.criteo -runs=1000000 CORPUS

The options are libFuzzer's. CORPUS is a folder for the cases that found something new; the seeds
are put there first, and without one it is a temporary folder. A case that fails is left in a file
`crash-*`, `timeout-*` or `oom-*`; give that file as the only argument to see it again.

With NUMBA_DISABLE_JIT=1 NUMBA_ENABLE_CUDASIM=1 before it the kernels are plain Python, so that
their branches guide as well. Otherwise they are compiled, as users run them, and all else guides.
"""

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest.mock import patch

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a folder that lies in memory
# Numba cannot compile functions with the calls that atheris adds to them.
COMPILED = [
    "data_tools.sources.criteo.kernels",
    "data_tools.synthetic.kernels",
    "data_tools.vocabulary.id_search",
]


def guided(name: str) -> AbstractContextManager:
    """Context in which imported modules of ours guide the fuzzer, where `name` is its program."""
    if name != "__main__":
        return nullcontext()
    try:
        import atheris
    except ModuleNotFoundError:
        sys.exit("atheris is not installed: pip install atheris")
    import numba

    return atheris.instrument_imports(
        include=[
            "data_tools",
            "robe_numba.serving.server",
            "robe_numba.training",
            "robe_numba.spec",
            "tests.support.slow_parser",
        ],
        exclude=[] if numba.config.DISABLE_JIT else COMPILED,
        enable_loader_override=False,
    )


def fuzz(check: Callable[[bytes], None], seeds: Sequence[bytes]) -> None:
    """Run atheris on the corpus folder among the arguments, after the seeds are put there."""
    import atheris

    def check_and_collect(data: bytes) -> None:
        check(data)
        gc.collect(0)

    with tempfile.TemporaryDirectory(dir=MEMORY) as scratch:
        named = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        corpus = Path(named[0] if named else scratch)
        if not corpus.is_file():
            corpus.mkdir(parents=True, exist_ok=True)
            for number, seed in enumerate(seeds):
                (corpus / f"seed-{number:02}").write_bytes(seed)
        arguments = [*sys.argv, *([] if named else [scratch])]
        # What a case leaves in cycles is collected after it: quickly, and not amid a lock.
        gc.freeze()
        gc.disable()
        atheris.Setup([arguments[0], "-timeout=30", *arguments[1:]], check_and_collect)
        # Nothing here needs to be safe on a disk.
        with patch.object(os, "fsync", lambda descriptor: None):
            atheris.Fuzz()
