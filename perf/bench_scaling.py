"""Training in several processes over MPI: weak and strong scaling, bytes, parts of a step.

    python perf/bench_scaling.py                             7 minutes, 6 GB of memory
    python perf/bench_scaling.py --json scaling.json         for perf.scaling.model
    python perf/bench_scaling.py --shape tiny --rounds 1     seconds, to see that it works

Each round starts every number of ranks once for each shape, by mpiexec. Within a start all settings
take turns, in another order each round. Every rank has --threads threads; one rank with all threads
of the machine is measured for comparison.
"""

import argparse
import json
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path

import msgspec
import numba
import numpy as np

from perf.harness import machine
from perf.scaling.formulas import MODELS, TINY, ScaledModel
from perf.scaling.results import RankTask, Results, StepSetting
from perf.scaling.tables import parts_table, steps_table, transfers_table
from robe_numba.parallel.exchange import EXCHANGES

STRONG, WEAK = 2048, (256, 2048)  # rows of all ranks together; of each rank
MESSAGES = tuple(4**k << 10 for k in range(9))  # bytes that come to a rank, up to 64 MiB


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=MODELS, action="append", help="may be repeated")
    parser.add_argument("--ranks", default="1,2", help="numbers of ranks, with commas")
    parser.add_argument("--threads", type=int, help="of each rank; cores / most ranks by default")
    parser.add_argument("--ids", choices=("uniform", "zipf"), default="uniform")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each setting in each round")
    parser.add_argument("--mpiexec", default=find_mpiexec(), help="the command, with its options")
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--plot", type=Path, help="draw the steps there (needs matplotlib)")
    options = parser.parse_args()
    options.shape = options.shape or [name for name in MODELS if name != TINY.name]
    check(parser, options)
    return options


def find_mpiexec() -> str:
    """The mpiexec beside the interpreter, else on the PATH, where mpi4py finds its MPI too."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec") or "mpiexec"


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Reject options that cannot be met; turn `--ranks` into a list of numbers."""
    try:
        options.ranks = sorted({int(ranks) for ranks in options.ranks.split(",")})
    except ValueError:
        parser.error(f"--ranks is {options.ranks!r}; give numbers with commas, such as 1,2")
    if not 1 <= min(options.ranks) <= max(options.ranks) <= STRONG // 64:
        parser.error(f"--ranks is {options.ranks}; they must be in [1, {STRONG // 64}]")
    cores = numba.config.NUMBA_NUM_THREADS
    options.threads = options.threads or max(1, cores // max(options.ranks))
    if not 1 <= options.threads <= cores:
        parser.error(f"--threads is {options.threads}; it must be in [1, {cores}]")
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; it must be at least 1")


def settings_of(model: ScaledModel, ranks: int, most: int, threads: int) -> list[StepSetting]:
    """All settings of a shape with `ranks` ranks; `most` is the highest number of ranks."""
    small = 64 if model == TINY else 1

    def batches(ranks: int) -> list[int]:
        return sorted({STRONG // small, *(ranks * rows // small for rows in WEAK)})

    cores = numba.config.NUMBA_NUM_THREADS
    if ranks > 1:
        ways = product([threads], batches(ranks), EXCHANGES, (True, False))
        return [StepSetting(model.name, ranks, *way) for way in ways]
    alone = [(threads, rows) for rows in batches(1)]
    alone += [(cores, rows) for rows in batches(most) if cores > threads]
    return [StepSetting(model.name, 1, *way) for way in alone]


def tasks_of(options: argparse.Namespace) -> Iterator[RankTask]:
    """The check, then all rounds: every shape, with the numbers of ranks in another order."""
    for number in range(-1, options.rounds):
        order = np.random.default_rng(number + 1).permutation(options.ranks)
        for name, ranks in product(options.shape, map(int, order)):
            settings = settings_of(MODELS[name], ranks, max(options.ranks), options.threads)
            tiny = name == TINY.name
            seconds, messages = (0.02, MESSAGES[:4]) if tiny else (options.seconds, MESSAGES)
            if name != options.shape[0]:
                messages = ()  # transfers do not depend on the shape
            if number >= 0 or ranks > 1:
                yield RankTask(name, ranks, settings, number, seconds, options.ids, messages)


def measure(options: argparse.Namespace) -> Results:
    """Run all tasks; medians over the rounds."""
    taken: dict[tuple[str, int], float] = {}
    found, library, tasks = [], "no MPI", list(tasks_of(options))
    for position, task in enumerate(tasks):
        usual = statistics.mean(taken.values()) if taken else 0.0
        left = sum(taken.get((t.shape, t.ranks), usual) for t in tasks[position:]) / 60
        what = f"round {task.round + 1} of {options.rounds}" if task.round >= 0 else "check"
        what += f", about {left:.1f} minutes left" if taken else ""
        which = f"[{position + 1}/{len(tasks)}] {task.shape}, ranks: {task.ranks}"
        print(f"{which}, {what}", flush=True)
        begun = time.monotonic()
        results = start(task, options.mpiexec)
        if task.round >= 0:
            taken[task.shape, task.ranks] = time.monotonic() - begun
            found.append(results)
        else:
            library = results.about
    about = (
        f"{machine.describe()}; threads of a rank: {options.threads}; {options.ids} ids; medians; "
        f"rounds: {options.rounds}; python {platform.python_version()}, numba {numba.__version__}, "
        f"numpy {np.__version__}, {library}."
    )
    return Results.merge(about, found)


def start(task: RankTask, mpiexec: str) -> Results:
    """Run a task; return the results of its ranks."""
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder, "task.json"), Path(folder, "result.json")
        path.write_bytes(msgspec.json.encode(task))
        command = [*shlex.split(mpiexec), "-n", str(task.ranks), sys.executable]
        command += ["-m", "perf.scaling.worker", str(path), str(output)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode or not output.exists():
            print(finished.stdout + finished.stderr, file=sys.stderr)
            sys.exit(f"{task.shape} with {task.ranks} ranks failed; see above")
        return msgspec.json.decode(output.read_bytes(), type=Results)


def main() -> None:
    """Measure and print."""
    options = parse()
    if options.json:  # fail before measuring, not after
        options.json.parent.mkdir(parents=True, exist_ok=True)
    results = measure(options)
    steps, phases = results.steps, results.phases
    print(f"\n{results.about}\n\n{steps_table(steps)}\n\n{parts_table(steps, phases)}")
    if results.transfers:
        print(f"\n{transfers_table(results.transfers)}")
    if options.json:
        content = {"bench": "scaling", **asdict(results)}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.plot:
        from perf.harness.plots import save  # imports matplotlib
        from perf.scaling import plots

        save(plots.parts(steps, phases), options.plot)


if __name__ == "__main__":
    main()
