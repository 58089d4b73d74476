"""The shape of the package: what imports what, what importing costs, and a cache never stale."""

import ast
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from robe_numba import _cache

ROOT = Path(__file__).resolve().parent.parent
# Imports point one way, to a lower number: cli, training, parallel, dlrm, ops, checks and arrays,
# kernels, hashing and update rules.
LAYERS = {
    "cli": 7,
    "training": 6,
    "parallel": 5,
    "dlrm": 4,
    "metrics": 4,
    "planning": 4,
    "ops": 3,
    "gpu": 2,
    "arrays": 2,
    "checks": 2,
    "cpu": 1,
    "coefficients": 1,
    "hashing": 0,
    "update_rules": 0,
    "formatting": 0,
    "spec": 0,
    "memory": 0,
    "searching": 0,
    "state_blocks": 0,
    "unsigned": 0,
    "_environment": 0,
    "_jit": 0,
    "_lazy": 0,
    "_locks": 0,
    "_shares": 0,
}


def imported_modules(path):
    """Absolute names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_point_one_way():
    for path in (ROOT / "robe_numba").rglob("*.py"):
        room = path.relative_to(ROOT / "robe_numba").parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        for module in imported_modules(path):
            target = module.split(".")[1] if module.startswith("robe_numba.") else None
            if target in LAYERS:
                assert LAYERS[target] <= LAYERS[room], f"{path.name} imports {module}"


def test_the_packages_do_not_know_each_other_but_in_training_and_cli():
    """Both compile, import lazily and lock in the same way, though."""
    shared = tuple(
        f"robe_numba._{name}" for name in ("environment", "jit", "lazy", "locks", "shares")
    )
    for path in (ROOT / "data_tools").rglob("*.py"):
        ours = [m for m in imported_modules(path) if m.split(".")[0] == "robe_numba"]
        assert all(module.startswith(shared) for module in ours), path
    for path in (ROOT / "robe_numba").rglob("*.py"):
        room = path.relative_to(ROOT / "robe_numba").parts[0]
        if room not in ("training", "cli"):
            assert not [m for m in imported_modules(path) if m.split(".")[0] == "data_tools"], path


def test_the_oracle_imports_nothing_of_the_package():
    assert set(imported_modules(ROOT / "tests" / "naive.py")) == {"numpy"}


def run_python(code, folder=ROOT, **environment):
    """Standard output of a fresh interpreter started in a folder, from which it imports."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_importing_needs_numba_and_numpy_alone():
    extras = "pyarrow typer rich safetensors matplotlib threadpoolctl scipy sklearn torch cupy"
    run_python(
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({extras.split()}))\n"  # None: the import fails
        "import robe_numba, robe_numba.dlrm, robe_numba.metrics\n"
        "from robe_numba.dlrm.thread_pool import ThreadPool\n"
        "assert ThreadPool(2).run(lambda part: part, 2) == [0, 1]"
    )


@pytest.mark.parametrize("package", ["robe_numba", "data_tools", "robe_numba.training"])
def test_every_public_name_is_found_and_static_tools_see_where(package):
    """What type checkers read, what `__getattr__` imports and `__all__` are the same names."""
    tree = ast.parse((ROOT.joinpath(*package.split(".")) / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    module = importlib.import_module(package)
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert set(seen) == set(module.__all__) == set(dir(module))
    for name, home in seen.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="has no attribute 'Robe'"):
        module.Robe  # noqa: B018


# A program whose help shows what ours does: commands with options, and a group of commands.
PLAIN = """
import typer

app, data = typer.Typer(rich_markup_mode="markdown"), typer.Typer()
app.add_typer(data, name="data")

@data.command("info")
@app.command("train")
def train(number: int = 1) -> None:
    pass

app()
"""
COMMANDS = ("demo", "synth", "ingest", "data", "data info", "data verify", "plan", "train")
COMMANDS += ("sweep", "evaluate", "predict", "")


def imported_by(code, *arguments):
    """What a program has imported: modules of some packages, and the other packages' names."""
    report = "import atexit, sys\natexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
    finished = subprocess.run(
        [sys.executable, "-c", report + code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    whole = ("robe_numba.", "data_tools.", "rich.", "pyarrow.")
    names = (name for name in finished.stderr.split() if "._" not in f".{name}")
    found = {name if name.startswith(whole) else name.split(".")[0] for name in names}
    return found - set(sys.stdlib_module_names)


@pytest.fixture(scope="module")
def imported_for_help():
    return imported_by(PLAIN, "train", "--help")


ROBE = "from robe_numba.cli import main\nmain()"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_waits_for_nothing_but_typer(command, imported_for_help):
    found = imported_by(ROBE, *command.split(), "--help")
    ours = {name for name in found if name.split(".")[0] in ("robe_numba", "data_tools")}
    assert found - ours <= imported_for_help - {"pydantic"}  # which takes longer than all others
    assert "robe_numba.cli.train" in ours
    rooms = {name.split(".")[1] for name in ours if name.startswith("robe_numba.")}
    assert rooms <= {"_lazy", "cli", "formatting", "parallel", "training"}


def test_showing_a_dataset_waits_for_no_kernels(dataset):
    found = imported_by(ROBE, "data", "info", str(dataset.path))
    assert "pyarrow" in found
    assert not found & {"numba", "pyarrow.parquet", "pyarrow.dataset", "matplotlib", "distributed"}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        *((f"NUMBA_NUM_THREADS={value}", "at least 1") for value in ("0", "-1", "abc", "1.5")),
        ("NUMBA_DISABLE_JIT=1", "run only when they are compiled"),
    ],
)
@pytest.mark.parametrize(
    "start",
    [
        ["-c", "from robe_numba import lookup"],
        ["-c", "import robe_numba.dlrm"],
        ["-c", "from robe_numba.training import train"],
        ["-c", "from data_tools import ingest"],
        ["-m", "robe_numba", "plan"],
        ["-m", "robe_numba", "evaluate", "run", "data"],
        ["-m", "robe_numba", "sweep", "data", "lr=1"],
        ["-m", "robe_numba", "ingest", "log", "-o", "data"],
    ],
    ids=lambda start: start[-1],
)
def test_what_numba_cannot_be_told_is_one_sentence(start, setting, words):
    variable, value = setting.split("=")
    finished = subprocess.run(
        [sys.executable, *start],
        cwd=ROOT,
        env=os.environ | {variable: value},
        capture_output=True,
        text=True,
    )
    *before, sentence = finished.stderr.splitlines()
    assert finished.returncode == 1
    assert variable in sentence
    assert words in sentence
    assert before == [] or start[0] == "-c"  # Python's own traceback


def sources_of_kernels():
    """Files that compile functions, but for the ways to compile themselves."""
    for package in ("robe_numba", "data_tools"):
        for path in (ROOT / package).rglob("*.py"):
            ways = {"robe_numba._jit", "robe_numba.kernels.gpu.compiler"} & set(
                imported_modules(path)
            )
            if ways and path.name != "compiler.py":
                yield path


def test_a_kernel_is_compiled_again_after_an_edit_of_any_file_it_may_call():
    def closure(path, found):
        found.add(path)
        for name in imported_modules(path):
            file = ROOT.joinpath(*name.split(".")).with_suffix(".py")
            if file.is_file() and file not in found:
                closure(file, found)
        return found

    paths = list(sources_of_kernels())
    assert len(paths) > 30
    for path in paths:
        assert closure(path, set()) <= _cache.sources(path), path
        assert ROOT / "robe_numba" / "cli" / "app.py" not in _cache.sources(path)


@pytest.fixture
def package_copy(tmp_path):
    shutil.copytree(ROOT / "robe_numba", tmp_path / "robe_numba")
    return tmp_path


def test_an_edited_source_never_leaves_a_stale_kernel(package_copy):
    """The edited function is a callee in another file, which Numba's own cache would not see."""
    code = (
        "import numpy as np, robe_numba as rn\n"
        "spec = rn.RobeSpec(1000, 8, 8, 1)\n"
        "print(rn.block_starts(np.array([[5]]), spec)[0, 0, 0])"
    )
    cache = package_copy / "cache"
    before = int(run_python(code, package_copy, NUMBA_CACHE_DIR=str(cache)))
    assert list(cache.rglob("*.nbi"))
    hashing = package_copy / "robe_numba" / "hashing.py"
    text = hashing.read_text()
    line = "return (product >> U32) * (spec.alignment & LOW_WORD)"
    assert text.count(line) == 1
    status = hashing.stat()
    hashing.write_text(text.replace(line, "return (product >> U32) ^ ONE"))
    os.utime(hashing, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert int(run_python(code, package_copy, NUMBA_CACHE_DIR=str(cache))) == before ^ 1
