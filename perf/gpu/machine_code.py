"""Machine code of every CUDA kernel, without a GPU.

Registers, spilled bytes, shared memory, instructions, and resident warps per multiprocessor.

python -m perf.gpu.machine_code                  as Markdown; --only NAME for kernels of that name
python -m perf.gpu.machine_code --json before.json, and later --against before.json for both

Instructions are counted where nvdisasm is installed (`pip install nvidia-cuda-nvdisasm`). "Loads"
counts global loads in the longest run of code without a branch: they are in flight together.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nvidia

from robe_numba.formatting import markdown_table
from robe_numba.kernels.gpu.interaction.backward import BACKWARD_THREADS
from robe_numba.kernels.gpu.interaction.forward import FORWARD_THREADS
from robe_numba.kernels.gpu.launch import THREADS
from robe_numba.kernels.gpu.lookup import LOOKUP_THREADS
from tests.support.ptx import compile_to_ptx, kernels

# Of a multiprocessor of compute capability 9.0.
REGISTERS, WARPS, SHARED_BYTES, WARP = 65_536, 64, 228 << 10, 32
BLOCK_SHARED_BYTES = 1 << 10  # that each thread block takes in addition
COLUMNS = ("registers", "spilled", "shared", "instructions", "loads", "warps")


def main() -> None:
    """Compile every kernel and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="kernels whose name has this")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--against", type=Path, help="earlier figures to compare with")
    options = parser.parse_args()
    before = json.loads(options.against.read_text()) if options.against else {}
    found = {}
    for name in kernels():
        if options.only in name:
            print(name, file=sys.stderr, flush=True)
            found[name] = figures(name)
    lines = [cells(name, figure, before.get(name, {})) for name, figure in found.items()]
    print(markdown_table(("kernel", *COLUMNS), lines))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def figures(name: str) -> dict[str, int | None]:
    """The figures of a kernel by column."""
    kernel = kernels()[name][0]
    ptx = compile_to_ptx(name)
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx)
        command = [tool("ptxas"), "-v", "-arch=sm_90", str(source), "-o", str(cubin)]
        if kernel.max_registers:
            command.append(f"-maxrregcount={kernel.max_registers}")
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        instructions = count_instructions(cubin)
    registers = number(r"Used (\d+) registers", report)
    shared = number(r"(\d+) bytes smem", report)
    stretches = re.split(r"\n\$L\w+:|\bbra\b", ptx)
    return {
        "registers": registers,
        "spilled": number(r"(\d+) bytes spill stores", report),
        "shared": shared,
        "instructions": instructions,
        "loads": max(len(re.findall(r"\bld\.global", stretch)) for stretch in stretches),
        "warps": warps(registers, shared, threads_of(kernel.__name__)),
    }


def threads_of(kernel: str) -> int:
    """Threads of a thread block of a kernel."""
    fewer = {"dot_forward": FORWARD_THREADS, "dot_backward": BACKWARD_THREADS}
    return LOOKUP_THREADS if kernel == "gather" else fewer.get(kernel, THREADS)


def warps(registers: int, shared: int, threads: int) -> int:
    """Warps that fit a multiprocessor, dynamic shared memory aside."""
    each = threads // WARP
    by_registers = REGISTERS // (-(-registers * WARP // 256) * 256 * each)
    by_memory = SHARED_BYTES // (shared + BLOCK_SHARED_BYTES)
    return min(WARPS // each, by_registers, by_memory) * each


def count_instructions(cubin: Path) -> int | None:
    """Instructions of the machine code; None without nvdisasm."""
    try:
        disassembler = tool("nvdisasm")
    except FileNotFoundError:
        return None
    code = subprocess.run([disassembler, "-c", str(cubin)], capture_output=True, text=True).stdout
    return len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?!NOP)", code, re.MULTILINE))


def tool(name: str) -> str:
    """One of NVIDIA's tools, from its packages or the PATH.

    Raises
    ------
    FileNotFoundError
        It is not installed.
    """
    found = [p for root in nvidia.__path__ for p in Path(root).glob(f"*/bin/{name}")]
    path = str(found[0]) if found else shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed: pip install nvidia-cuda-nvcc")
    return path


def number(pattern: str, text: str) -> int:
    """The number that a pattern finds, or 0."""
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def cells(name: str, figures: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """A row of the table, with the earlier figure where it differs."""
    row = [f"`{name}`"]
    for column in COLUMNS:
        now, then = figures[column], before.get(column)
        shown = "" if now is None else str(now)
        row.append(f"{then} -> {shown}" if then not in (None, now) else shown)
    return row


if __name__ == "__main__":
    main()
