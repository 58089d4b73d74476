"""The shape of the package: what imports what, what importing costs, and a cache never stale."""

import ast
import importlib
import os
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from robe_numba import _cache

ROOT = Path(__file__).resolve().parent.parent
CODE = ("robe_numba", "data_tools", "perf", "examples", "tests")
MOST_MODULES = 14  # of a folder
# What both packages stand on.
SHARED = tuple(f"robe_numba._{name}" for name in ("cache", "environment", "jit", "lazy", "locks"))
SHARED += ("robe_numba._share_of",)


@cache
def parsed(path):
    return ast.parse(path.read_text())


def imported_modules(path, at_import=False):
    """Absolute names of the modules that a file imports, or only of those that it imports first."""
    tree = parsed(path)
    for node in tree.body if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layers():
    """The rooms of robe_numba, each with the number of its layer, from docs/design.md."""
    text = (ROOT / "docs" / "design.md").read_text().partition("## Layers\n")[2]
    lines = re.findall(r"^    (.+)$", text.partition("\n## ")[0], re.MULTILINE)
    return {
        f"robe_numba.{room}": number
        for number, line in enumerate(reversed(lines))
        for room in line.split(" | ")
    }


def room_of(module, rooms):
    """The innermost room that a module is in; None for modules of others."""
    parts = module.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in rooms), None)


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_imports_point_down_in_the_diagram_of_the_design():
    rooms, found = layers(), set()
    for path in (ROOT / "robe_numba").rglob("*.py"):
        module = module_of(path)
        room = room_of(module, rooms)
        if room is None:
            assert module in ("robe_numba", "robe_numba.__main__", "robe_numba.kernels"), module
            continue
        found.add(room)
        for name in imported_modules(path):
            target = room_of(name, rooms)
            if target not in (None, room):
                assert rooms[target] < rooms[room], f"{module} imports {name}"
    assert found == set(rooms)  # the diagram names no room that is gone


def test_the_packages_know_each_other_only_above_the_model():
    """Both compile, import lazily and lock in the same way, though."""
    for path in (ROOT / "data_tools").rglob("*.py"):
        ours = [m for m in imported_modules(path) if m.split(".")[0] == "robe_numba"]
        assert all(module.startswith(SHARED) for module in ours), path
    for path in (ROOT / "robe_numba").rglob("*.py"):
        room = path.relative_to(ROOT / "robe_numba").parts[0]
        if room not in ("training", "serving", "onnx", "cli"):
            assert not [m for m in imported_modules(path) if m.split(".")[0] == "data_tools"], path


@pytest.mark.parametrize("package", CODE)
def test_no_modules_import_each_other_in_a_circle(package):
    paths = {module_of(path): path for path in (ROOT / package).rglob("*.py")}
    graph = {
        module: {m for m in imported_modules(path, at_import=True) if m in paths}
        for module, path in paths.items()
    }
    for module in graph:  # a package is imported before its modules, which may name it
        graph[module] -= {module.rpartition(".")[0]}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_no_folder_has_more_modules_than_one_can_look_over():
    crowded = {}
    for folder in {path.parent for package in CODE for path in (ROOT / package).rglob("*.py")}:
        modules = [path for path in folder.glob("*.py") if has_code(path)]
        if len(modules) > MOST_MODULES:
            crowded[str(folder.relative_to(ROOT))] = len(modules)
    assert crowded == {}


def has_code(path):
    """Whether a module has more than a docstring."""
    return any(not isinstance(node, ast.Expr) for node in parsed(path).body)


def test_the_oracle_imports_nothing_of_the_package():
    assert set(imported_modules(ROOT / "tests" / "support" / "naive.py")) == {"numpy"}


def test_importing_needs_numba_and_numpy_alone():
    extras = "pyarrow typer rich safetensors matplotlib threadpoolctl scipy sklearn torch cupy jax"
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({extras.split()}))\n"  # None: the import fails
        "import robe_numba, robe_numba.dlrm, robe_numba.metrics\n"
        "from robe_numba.dlrm.thread_pool import ThreadPool\n"
        "assert ThreadPool(2).run(lambda part: part, 2) == [0, 1]"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)


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
COMMANDS += ("sweep", "evaluate", "predict", "serve", "")


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
    assert "robe_numba.cli.commands.train" in ours
    rooms = {name.split(".")[1] for name in ours if name.startswith("robe_numba.")}
    assert rooms <= {"_lazy", "cli", "formatting", "parallel", "training"}


def test_showing_a_dataset_waits_for_no_kernels(dataset):
    found = imported_by(ROBE, "data", "info", str(dataset.path))
    assert "pyarrow" in found
    assert not found & {"numba", "pyarrow.parquet", "pyarrow.dataset", "matplotlib", "distributed"}


STARTS = [
    ["-c", "from robe_numba import lookup"],
    ["-m", "robe_numba", "evaluate", "run", "data"],
    ["-c", "import robe_numba.dlrm"],
    ["-c", "from robe_numba.training import train"],
    ["-c", "from data_tools import ingest"],
    ["-m", "robe_numba", "sweep", "data", "lr=1"],
    ["-m", "robe_numba", "ingest", "log", "-o", "data"],
]
TOO_FEW, NOT_COMPILED = "at least 1", "run only when they are compiled"


@pytest.mark.parametrize(
    ("start", "setting", "words"),
    [
        *((start, "NUMBA_NUM_THREADS=0", TOO_FEW) for start in STARTS),
        *((STARTS[0], f"NUMBA_NUM_THREADS={value}", TOO_FEW) for value in ("-1", "abc", "1.5")),
        *((start, "NUMBA_DISABLE_JIT=1", NOT_COMPILED) for start in STARTS[:2]),
    ],
    ids=lambda part: part[-1] if isinstance(part, list) else part.partition("=")[2],
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
    """Files that compile functions."""
    for package in ("robe_numba", "data_tools"):
        for path in (ROOT / package).rglob("*.py"):
            imported = set(imported_modules(path, at_import=True))
            if imported & {"robe_numba._jit", "robe_numba.kernels.gpu.compiler"}:
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


@pytest.mark.parametrize("missing", ["torch", "ml_dtypes", "jax"])
def test_a_missing_package_is_named_with_its_extra(missing):
    layer = "jax" if missing == "jax" else "torch"
    code = (
        f"import sys\nsys.modules[{missing!r}] = None\n"
        f"try:\n    import robe_numba.{layer}\n"
        f"except ModuleNotFoundError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"pip install 'robe-numba[{layer}]'" in done.stdout
