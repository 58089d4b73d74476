"""Where compiled functions are kept: never beside the sources, and nowhere is no error."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numba
import pytest
from numba.core import types

from robe_numba import _cache, _jit
from tests.test_structure import ROOT

# Calls a function that compiles quickly.
FUNCTION = (
    "import numpy as np; from robe_numba.kernels.scalar.hashing import mix; "
    "print(mix(np.uint64(5)))"
)
ALL = """
import numpy as np
import robe_numba as rn
import data_tools
with open("clicks.tsv", "w") as log:
    log.write("\\t".join(["1", *["3"] * 13, *["0000000a"] * 26]) + "\\n")
data_tools.ingest("clicks.tsv", "data")
batch = next(data_tools.Dataset("data").batches(1, threads=0))
spec = rn.RobeSpec(1000, 8, 8, batch.indices.shape[1])
print(rn.lookup(np.ones(1000, np.float32), batch.indices, spec).sum())
"""
# Even root can make no folder in this home.
NO_HOME = {"HOME": "/dev/null/home", "XDG_CACHE_HOME": "", "NUMBA_CACHE_DIR": ""}


@pytest.fixture
def copies(tmp_path):
    """A folder with a copy of both packages, for which nothing has been compiled yet."""
    for package in ("robe_numba", "data_tools"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path


def run(code, folder, **environment):
    """What a fresh interpreter that imports from a folder writes to standard output and error."""
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout, finished.stderr


def compiled_files(folder):
    return [path for path in folder.rglob("*") if path.suffix in (".nbi", ".nbc")]


def test_a_home_is_not_needed_and_nothing_is_written_beside_the_sources(copies, tmp_path):
    """As in a container; nor does a setting of Numba's for other programs lead there."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    locators = {"NUMBA_CACHE_LOCATOR_CLASSES": "InTreeCacheLocator", "TMPDIR": str(temporary)}
    output, errors = run(ALL, copies, **NO_HOME | locators)
    assert output == f"{26 * 8:.1f}\n"
    assert errors == ""
    assert compiled_files(copies) == []
    assert list(temporary.glob("robe_numba*")) == []  # of the process alone


def test_a_temporary_folder_is_not_removed_by_a_child(copies):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom robe_numba import _cache\n"
        "if os.fork() == 0:\n    sys.exit()\n"
        "os.wait()\nprint(_cache._CACHE_ROOT.is_dir())"
    )
    if hasattr(os, "fork"):
        assert run(code, copies, **NO_HOME)[0] == "True\n"


def test_a_folder_that_is_missing_is_made(copies):
    expected = run(FUNCTION, ROOT)[0]
    assert run(FUNCTION, copies, NUMBA_CACHE_DIR="a/b") == (expected, "")
    assert compiled_files(copies / "a" / "b")


# Where the folder cannot be made or written to, and what makes it so before or after the import.
UNUSABLE = {
    "below a file": ({"NUMBA_CACHE_DIR": "file/cache"}, ""),
    "no space": (
        {"NUMBA_CACHE_DIR": "cache"},
        "import resource; from robe_numba.kernels.scalar import hashing\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n",
    ),
}


@pytest.mark.skipif(sys.platform == "win32", reason="no limits there")
@pytest.mark.parametrize("where", UNUSABLE)
def test_a_folder_that_cannot_be_written_is_a_warning_that_names_the_remedy(copies, where):
    environment, before = UNUSABLE[where]
    (copies / "file").write_text("")
    code = FUNCTION + "; mix(np.uint32(5)); mix(np.uint16(5))"
    output, errors = run(before + code, copies, **environment)
    assert output == run(FUNCTION, ROOT)[0]
    assert errors.count("RuntimeWarning") == 1
    assert "compiled functions cannot be kept in " in errors
    assert "set NUMBA_CACHE_DIR to a folder that can be written" in errors
    assert compiled_files(copies) == []


def test_no_folder_at_all_is_no_error(copies):
    code = "import tempfile; tempfile.tempdir = '/dev/null'\n" + FUNCTION
    assert run(code, copies, **NO_HOME) == (run(FUNCTION, ROOT)[0], "")
    assert compiled_files(copies) == []


def test_sources_in_a_zip_file_are_compiled_in_each_process(copies, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "packages"), "zip", copies, "robe_numba")
    code = f"import sys; sys.path.insert(0, {archive!r})\n{FUNCTION}"
    code += "; import robe_numba; print(robe_numba.__file__)"
    empty = tmp_path / "empty"
    empty.mkdir()
    output, errors = run(code, empty, NUMBA_CACHE_DIR=str(empty))
    assert output.startswith(run(FUNCTION, ROOT)[0])
    assert archive in output
    assert errors == ""


@pytest.mark.parametrize("size", [0, -10])
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_damaged_file_is_replaced(copies, suffix, size):
    cache = {"NUMBA_CACHE_DIR": "cache"}
    hits = FUNCTION + "; print(sum(mix.stats.cache_hits.values()))"
    expected = run(FUNCTION, copies, **cache)[0]
    (path,) = (p for p in compiled_files(copies) if p.suffix == suffix and ".mix-" in p.name)
    content = path.read_bytes()
    path.write_bytes(content[:size])
    assert run(hits, copies, **cache) == (f"{expected}0\n", "")
    assert run(hits, copies, **cache) == (f"{expected}1\n", "")


@pytest.mark.parametrize("package", ["robe_numba", "data_tools"])
def test_an_edited_source_never_leaves_a_stale_kernel(copies, package):
    """The edited function is in another file, and Numba's own cache would not notice."""
    cache, jit = {"NUMBA_CACHE_DIR": "cache"}, "from robe_numba._jit import jit\n"
    callee = copies / package / "callee.py"
    callee.write_text(f"{jit}@jit\ndef callee(x):\n    return x + 1\n")
    (copies / package / "caller.py").write_text(
        f"from {package}.callee import callee\n{jit}@jit\ndef caller(x):\n    return callee(x)\n"
    )
    (copies / package / "command.py").write_text("HELP = 'before'\n")
    code = f"from {package}.caller import caller; print(caller(1))"
    assert run(code, copies, **cache) == ("2\n", "")
    (copies / package / "command.py").write_text("HELP = 'after'\n")
    files = compiled_files(copies)
    assert run(code, copies, **cache) == ("2\n", "")
    assert compiled_files(copies) == files  # nothing is compiled again for an edit elsewhere
    status = callee.stat()
    callee.write_text(callee.read_text().replace("x + 1", "x - 1"))
    os.utime(callee, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run(code, copies, **cache) == ("0\n", "")


def doubled(x):
    return x + x


def test_processes_that_keep_a_function_at_once_do_not_mix_their_forms(tmp_path, monkeypatch):
    """One has looked at the index, and writes only once the other has written its own form."""
    monkeypatch.setattr(_cache, "_CACHE_ROOT", tmp_path)
    whole, real, later = (_jit.jit(doubled) for _ in range(3))
    first, second = whole._cache._cache_file, real._cache._cache_file
    save_data = first._save_data

    def overtaken(name, data):
        monkeypatch.setattr(second, "_load_index", dict)  # as it was before either wrote
        assert real(0.25) == 0.5
        save_data(name, data)

    monkeypatch.setattr(first, "_save_data", overtaken)
    assert whole(1) == 2
    assert later(0.25) == 0.5
    assert sum(later.stats.cache_hits.values()) == 1
    assert later.overloads[(types.float64,)].signature.return_type == types.float64


def test_a_setting_of_numbas_is_left_alone(monkeypatch):
    """Other threads may compile functions of their own meanwhile, or import our modules."""

    class Config:
        CACHE_DIR = ""

        def __setattr__(self, name, value):
            raise AssertionError(name)

    monkeypatch.setattr(numba, "config", Config())
    _jit.jit(doubled)


DAYS_AGO = {"used": 29, "unused": 31, "just made": 0}


@pytest.fixture
def old_folders(tmp_path):
    """A cache root and its folders, by their name in `DAYS_AGO`; others are as old as "unused"."""
    folders = {name: f"{i:016x}" for i, name in enumerate(DAYS_AGO)}
    others = {name: name for name in ("0123456789abcdeg", "0123456789abcdef0", "notes")}
    (tmp_path / "elsewhere").mkdir()
    made = {}
    for name, folder in (folders | others).items():
        made[name] = tmp_path / "robe_numba" / folder
        made[name].mkdir(parents=True)
        (made[name] / "kernel.nbc").write_bytes(b"compiled")
    made["link"] = tmp_path / "robe_numba" / ("f" * 16)
    made["link"].symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    for name, path in made.items():
        age = time.time() - 86400 * DAYS_AGO.get(name, 31)
        os.utime(path, (age, age), follow_symlinks=False)
    return tmp_path, made


def test_only_our_folders_that_were_not_used_for_a_month_are_removed_once_a_day(old_folders):
    root, folders = old_folders
    _cache.prune(root)
    assert {name for name, path in folders.items() if not path.exists()} == {"unused"}
    again = folders["unused"]
    again.mkdir()
    os.utime(again, (0, 0))
    _cache.prune(root)
    assert again.exists()
    os.utime(root / "robe_numba" / "pruned", (0, 0))  # yesterday or before
    _cache.prune(root)
    assert not again.exists()


def test_a_root_that_cannot_be_pruned_is_left_alone(tmp_path, monkeypatch):
    _cache.prune(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()

    def refuse(*_):
        raise PermissionError

    (tmp_path / "robe_numba").mkdir()
    monkeypatch.setattr(Path, "touch", refuse)
    _cache.prune(tmp_path)


def test_a_folder_that_a_function_is_loaded_from_counts_as_used(copies):
    cache = {"NUMBA_CACHE_DIR": "cache"}
    run(FUNCTION, copies, **cache)
    files = compiled_files(copies)
    (folder,) = {path.parent for path in files if ".mix-" in path.name}
    age = time.time() - 10 * 86400
    os.utime(folder, (age, age))
    run(FUNCTION, copies, **cache)
    assert compiled_files(copies) == files  # nothing was compiled again
    assert folder.stat().st_mtime > time.time() - 86400
