"""Kernels for GPUs on a machine without one: simulated, and compiled for real ones."""

import os
import re
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

if sys.platform != "linux":
    pytest.skip("NVIDIA's compilers are installed on Linux alone", allow_module_level=True)

from numba import cuda
from numba.cuda import dispatcher, types
from numba.cuda.typing.typeof import typeof

from data_tools import ingest
from robe_numba import RobeSpec, TableSpec
from robe_numba.coefficients import hash_spec
from robe_numba.dlrm import PRESETS
from robe_numba.kernels.gpu import arrays, bag_reads, bag_stretches, launch, starts
from robe_numba.kernels.gpu import bags as pool
from robe_numba.kernels.gpu import layers as elementwise
from robe_numba.kernels.gpu import lookup as gather
from robe_numba.kernels.gpu.interaction import backward as dot_backward
from robe_numba.kernels.gpu.interaction import forward, tiles
from robe_numba.kernels.gpu.update import driver, state_blocks
from robe_numba.kernels.gpu.update import segments as segment_kernels
from robe_numba.ops.gpu import dense, vocabulary
from robe_numba.training import RunFolder
from tests.gpu import tiny_training

ROOT = Path(__file__).resolve().parent.parent


def run_simulated(*command):
    """Run Python with the simulator, which replaces numba.cuda when that is imported."""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, *map(str, command)]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_everything_passes_in_the_simulator():
    """In two processes at once."""
    options = ("-m", "pytest", "-q", "-n2", "--dist", "worksteal", "-p", "no:cacheprovider")
    run_simulated(*options, ROOT / "tests" / "gpu")


def test_a_run_on_the_gpu_is_that_of_the_host_within_rounding(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", tiny_training.TINY)
    generator = np.random.default_rng(0)
    names = (*tiny_training.SCHEMA.dense, *tiny_training.SCHEMA.categorical)
    columns = {name: generator.integers(0, 9, 60) for name in names}
    columns["click"] = (generator.random(60) < 0.4).astype(np.int64)
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    ingest(tmp_path / "log.parquet", tmp_path / "data", schema=tiny_training.SCHEMA)
    arguments = tmp_path / "data", tmp_path / "cuda"
    run_simulated("-m", "tests.gpu.tiny_training", "cuda", *arguments)
    host = tiny_training.main("cpu", tmp_path / "data", tmp_path / "cpu")
    gpu = RunFolder(tmp_path / "cuda")
    assert (gpu.config["training"]["device"], host.config["training"]["device"]) == ("cuda", "cpu")
    records = list(zip(gpu.metrics(), host.metrics(), strict=True))
    assert len(records) == 3
    for there, here in records[:2]:
        assert there["train_loss"] == pytest.approx(here["train_loss"], rel=1e-5)
        assert there["validation"] == pytest.approx(here["validation"], rel=1e-5)
    assert records[2][0]["test"] == pytest.approx(records[2][1]["test"], rel=1e-5)
    weights, expected = (load_file(run.path / "model.safetensors") for run in (gpu, host))
    for name, array in expected.items():
        np.testing.assert_allclose(weights[name], array, rtol=1e-4, atol=1e-6, err_msg=name)
    there, here = (pq.read_table(run.path / "scores.parquet") for run in (gpu, host))
    assert there["label"] == here["label"]
    np.testing.assert_allclose(there["probability"], here["probability"], rtol=1e-5)


def flat(dtype):
    """A device array (n,)."""
    return types.Array(dtype, 1, "C")


# As on a device, where constants are not read-only.
SPEC = typeof(
    hash_spec(RobeSpec(1000, 8, 16, 3))._replace(
        coefficients=np.empty((3, 3, 2), np.uint64), sign_keys=np.empty((3, 1), np.uint64)
    )
)
WORD, NUMBER, FLAG = types.uint64, types.int64, types.boolean
WORDS, NUMBERS = flat(WORD), flat(NUMBER)
RANGES = types.NamedTuple([WORDS, WORDS, WORDS, WORD], driver.Ranges)


class Dtypes(NamedTuple):
    """Types of what kernels are given."""

    real: Any = types.float32
    stored: Any = None  # of the array that is read; `real` unless given
    ids: Any = types.int64
    rate: Any = None  # type of the learning rate; a tuple of one `real` unless given

    def moved(self):
        """An array, its state, the learning rate and eps."""
        rate = self.rate or types.UniTuple(self.real, 1)
        return flat(self.real), flat(self.real), rate, self.real


def named(name, flags, words):
    """A kernel's name with the words of the flags it has."""
    return " ".join([name, *(word for word, has in zip(words.split(), flags, strict=True) if has)])


def reading(dtypes):
    """The kernels that hash, and that read rows: with lanes that all share a block, and not."""
    ids, out = flat(dtypes.ids), flat(dtypes.real)
    read = (flat(dtypes.stored or dtypes.real), ids, SPEC, FLAG, WORDS, out, WORD)
    return {
        "block_starts": (starts.block_starts, (ids, SPEC, WORDS)),
        "gather": (gather.gather_kernel(False, False, 32), read),
        "gather signed ragged": (gather.gather_kernel(True, True, 8), read),
        "gather_vectors": (gather.gather_vectors_kernel(False, 32), read),
        "gather_vectors signed": (gather.gather_vectors_kernel(True, 4), read),
    }


def sorting():
    """The kernels that sort blocks by segment."""
    bounds = (WORDS, WORD, WORD)
    return {
        "number_segments": (driver.number_segments, (WORDS, WORD, flat(types.uint32))),
        "arrange": (driver.arrange, (NUMBERS, WORDS, NUMBERS, SPEC, WORDS, WORDS)),
        "count_reached": (driver.count_reached, (*bounds, NUMBERS)),
        "list_reached": (driver.list_reached, (*bounds, NUMBERS, WORDS)),
        "fill_ranges": (driver.fill_ranges, (*bounds, RANGES)),
    }


def updating(dtypes):
    """The kernels that go through segments, and those that move what has a gradient."""
    real, ids, moved = flat(dtypes.real), flat(dtypes.ids), dtypes.moved()
    fields = [NUMBERS, WORDS, WORDS, ids, real, NUMBERS, real]
    reads = types.NamedTuple(fields, driver.Reads)
    heavy = types.NamedTuple([NUMBERS, WORDS, WORDS, WORDS, WORDS, real], driver.Heavy)
    found = {
        "move_state_blocks": (state_blocks.move_state_blocks, (real, NUMBER, NUMBER, *moved)),
        "move_each": (dense.move_each, (NUMBER, real, *moved)),
    }
    for flags in [
        (False, False, False, False),
        (True, True, False, True),
        (True, False, True, True),
    ]:
        light, chunks, heavies = segment_kernels.kernels(segment_kernels.Form(*flags))
        words = "signed scaled chosen ragged"
        found |= {
            named("update_light", flags, words): (
                light,
                (NUMBER, reads, SPEC, RANGES, heavy, *moved),
            ),
            named("add_chunks", flags, words): (chunks, (reads, SPEC, RANGES, heavy)),
        }
    return found | {"move_heavy": (heavies, (NUMBER, heavy, RANGES, *moved))}


def interacting(dtypes):
    """The kernels of the dot interaction."""
    real, ids = flat(dtypes.real), flat(dtypes.ids)
    shape = types.NamedTuple([WORD] * 4, tiles.Shape)
    fields = [flat(dtypes.stored or dtypes.real), ids, WORDS, SPEC]
    rest = (real, shape, WORD, real)
    found = {}
    for flags in [
        (False, False, False, False),
        (True, False, False, True),
        (True, True, True, True),
    ]:
        name = named("lookup_dot", flags, "signed kept fours split")
        lookup = types.NamedTuple(fields, forward.Lookup)
        found[name] = (forward.lookup_kernel(*flags), (lookup, *rest))
    for flags in [(False, False), (True, True)]:
        found[named("given_dot", flags, "fours split")] = (
            forward.given_kernel(*flags),
            (real, *rest),
        )
    for fours in (False, True):
        backward = (real, real, real, shape, WORD, real, real)
        name = named("dot_backward", [fours], "fours")
        found[name] = (dot_backward.backward_kernel(fours), backward)
    return found


def pooling(dtypes):
    """The kernels of bags: warps for a stretch each, and for several."""
    real, ids = flat(dtypes.real), flat(dtypes.ids)
    bags = types.NamedTuple([ids, ids, real, WORD, NUMBER, FLAG, WORD], bag_reads.Bags)
    arguments = (flat(dtypes.stored or dtypes.real), bags, SPEC, WORDS, real, NUMBERS)
    found = {"expand": (bag_reads.expand, (bags, SPEC, WORDS, NUMBERS, real))}
    # Maxima, vectors, signs, weights, padding, 32 bits; lanes, columns, and the step between them.
    for *flags, lanes, columns, step in [
        (False, False, False, False, False, True, 32, 2, 32),
        (False, True, False, False, False, True, 32, 4, 1),
        (False, True, True, True, True, True, 16, 4, 1),
        (True, False, True, False, True, True, 32, 2, 32),
        (False, False, True, True, True, False, 8, 1, 8),
        (True, True, False, False, False, False, 16, 4, 1),
    ]:
        form = bag_stretches.Form(*flags, lanes=lanes, columns=columns, step=step)
        wide = (*flags[:-1], not form.narrow)
        name = named("pool_bags", wide, "largest vectors signed weighted padded wide")
        found[name] = (pool.pool_kernel(form), arguments)
    return found


def layers(dtypes):
    """The kernels around a model's matrix products, and of its vocabulary."""
    real = flat(dtypes.real)
    known = (WORDS, NUMBERS, flat(dtypes.ids), NUMBERS)
    return {
        "add_bias_elements": (elementwise.add_bias_elements, (real, real, FLAG)),
        "add_bias_vectors": (elementwise.add_bias_vectors, (real, real, FLAG)),
        "mask_and_add": (elementwise.mask_and_add, (real, real, FLAG, WORD, WORD, real)),
        "add_columns": (elementwise.add_chunks, (real, WORD, real)),
        "entropy": (elementwise.entropy, (real, real, dtypes.real, real, real)),
        "find_rows": (vocabulary.find_rows, known),
    }


@cache
def kernels(dtypes=Dtypes()):  # noqa: B008 - a constant
    """Every kernel and the types of its arguments: of factories, kernels with each flag and without
    it.
    """
    families = (reading, updating, interacting, pooling, layers)
    return sorting() | {
        name: kernel for family in families for name, kernel in family(dtypes).items()
    }


@cache
def compile_to_ptx(name, dtypes=Dtypes(), capability=(9, 0)):  # noqa: B008 - a constant
    """PTX of a kernel."""
    kernel, arguments = kernels(dtypes)[name]
    signature = types.void(*arguments)
    ptx, _ = cuda.compile(
        kernel.py_func, signature, device=False, cc=capability, abi="numba", output="ptx"
    )
    return ptx


@pytest.fixture
def ptx_of(monkeypatch):
    """`compile_to_ptx`. Typing a call of a device function asks which GPU is there; any will do."""
    monkeypatch.setattr(
        dispatcher, "get_current_device", lambda: type("GPU", (), {"compute_capability": (9, 0)})
    )
    return compile_to_ptx


def assemble(ptx, capability, folder):
    """What ptxas reports of the machine code; it fails on code that the GPU could not run."""
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    import nvidia

    (ptxas,) = {p for root in nvidia.__path__ for p in Path(root).glob("*/bin/ptxas*")}
    target = f"-arch=sm_{capability[0]}{capability[1]}"
    command = [str(ptxas), "-v", target, str(source), "-o", str(folder / "kernel.cubin")]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stderr


def test_no_kernel_is_left_out():
    sources = [path.read_text() for path in (ROOT / "robe_numba" / "gpu").glob("*.py")]
    pattern = r"@Kernel\s+def (\w+)|\bKernel\((\w+)[,)]"
    written = {a or b for source in sources for a, b in re.findall(pattern, source)}
    assert len(written) > 20
    assert {kernel.__name__ for kernel, _ in kernels().values()} == written


def most_registers(name):
    """That a kernel may use, so that enough of its threads fit a multiprocessor."""
    if name in ("gather", "update_light", "add_chunks"):
        return 48  # five thread blocks of 256
    if name.startswith(("lookup_dot", "given_dot", "dot_backward")):
        return 80  # twelve of 64, or six of 128
    if name.startswith("pool_bags") and "wide" not in name:
        return 64  # four of 256
    return 128  # two of 256


OLDER = ["gather_vectors", "update_light", "lookup_dot signed kept fours split", "pool_bags"]


@pytest.mark.parametrize(
    ("name", "capability"),
    [*((name, (9, 0)) for name in kernels()), *((name, (8, 0)) for name in OLDER)],
)
def test_kernels_become_machine_code_that_keeps_to_registers_and_float32(
    name, capability, ptx_of, tmp_path
):
    ptx = ptx_of(name, capability=capability)
    assert f".target sm_{capability[0]}{capability[1]}" in ptx
    assert not re.search(r"\.f64|%fd\d", ptx), "float64 arithmetic in a float32 kernel"
    report = assemble(ptx, capability, tmp_path)
    in_memory = re.findall(r"(\d+) bytes (?:spill|stack)", report)
    assert in_memory
    assert set(in_memory) == {"0"}, report
    registers = int(re.search(r"Used (\d+) registers", report)[1])
    assert registers <= (most_registers(name) if capability == (9, 0) else 128)


@pytest.mark.parametrize("name", kernels())
def test_launches_write_parameters_where_kernels_read_them(name, ptx_of):
    declared = re.search(r"\.visible \.entry [^(]*\(([^)]*)\)", ptx_of(name))[1]
    sizes = [int(bits) // 8 for bits in re.findall(r"\.param \.\w(\d+)", declared)]
    layout = "".join(launch._layout(kind) for kind in kernels()[name][1])
    assert [struct.calcsize(field) for field in layout] == sizes
    # As CUDA lays parameters out: each at a multiple of its size.
    places, end = [], 0
    for size in sizes:
        places.append(-(-end // size) * size)
        end = places[-1] + size
    assert launch.offsets(layout) == places


@pytest.mark.parametrize(
    "name",
    [
        "gather_vectors signed",
        "update_light signed scaled ragged",
        "move_heavy",
        "move_state_blocks",
        "lookup_dot signed kept fours split",
        "dot_backward fours",
        "pool_bags vectors signed weighted padded",
        "expand",
        "mask_and_add",
        "entropy",
    ],
)
def test_kernels_compile_for_float64(name, ptx_of, tmp_path):
    ptx = ptx_of(name, Dtypes(types.float64))
    assert ".f64" in ptx
    if name != "entropy":  # whose exponential begins with a float32
        assert not re.search(r"\.f32|%f\d", ptx), "float32 arithmetic in a float64 kernel"
    assemble(ptx, (9, 0), tmp_path)


@pytest.mark.parametrize("name", ["update_light", "move_heavy", "move_state_blocks", "move_each"])
def test_learning_rates_may_be_on_the_gpu(name, ptx_of, tmp_path):
    ptx = ptx_of(name, Dtypes(rate=flat(types.float32)))
    assert not re.search(r"\.f64|%fd\d", ptx)
    assemble(ptx, (9, 0), tmp_path)


HASHING = [
    "block_starts",
    "gather_vectors",
    "update_light signed scaled ragged",
    "lookup_dot signed split",
    "pool_bags signed weighted padded wide",
    "expand",
    "find_rows",
]


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        *((name, types.int32) for name in HASHING),
        *((name, types.uint32) for name in HASHING[1::2]),
        *((name, types.uint64) for name in HASHING[::2]),
    ],
)
def test_kernels_compile_for_every_dtype_of_ids(name, ids, ptx_of, tmp_path):
    assemble(ptx_of(name, Dtypes(ids=ids)), (9, 0), tmp_path)


@pytest.mark.parametrize("half", [types.float16, types.int16])
@pytest.mark.parametrize(
    "name",
    [
        "gather",
        "gather_vectors",
        "lookup_dot",
        "lookup_dot signed kept fours split",
        "pool_bags",
        "pool_bags vectors signed weighted padded",
    ],
)
def test_halves_are_read_by_fours_where_the_others_are(name, half, ptx_of, tmp_path):
    ptx = ptx_of(name, Dtypes(stored=half))
    assert not re.search(r"\.f64|%fd\d", ptx)
    fours = re.search(r"ld\.global(\.\w+)*\.v4\.\w16", ptx)
    assert (fours is not None) == ("vectors" in name or "fours" in name)
    assemble(ptx, (9, 0), tmp_path)


def looping(ptx):
    """The code of a kernel's loops: its basic blocks that can be reached from themselves."""
    blocks = [block.strip() for block in re.split(r"\n\n|\n(?=\$L)", ptx)]
    labels = {block.partition(":")[0]: i for i, block in enumerate(blocks)}
    following = []
    for i, block in enumerate(blocks):
        targets = [labels[label] for label in re.findall(r"\bbra\S*\s+(\$L\w+)", block)]
        ends = re.match(r"bra|ret|}", block.rpartition("\n")[2].strip())
        following.append(targets if ends else [*targets, i + 1])

    def reaches_itself(i):
        reached, waiting = set(), [i]
        while waiting:
            found = set(following[waiting.pop()]) - reached
            reached |= found
            waiting += found
        return i in reached

    return "\n".join(block for i, block in enumerate(blocks) if reaches_itself(i))


def count_vectors(ptx, access):
    """How many instructions access 16 bytes, and how many a float32 alone, in this memory."""
    access = access.replace(".", r"\.")
    together = re.findall(rf"\b{access}(?:\.\w+)*\.v4\.[fbu]32", ptx)
    return len(together), len(re.findall(rf"\b{access}(?:\.(?!v4)\w+)*\.f32", ptx))


@pytest.mark.parametrize("name", ["gather_vectors", "gather_vectors signed", "pool_bags vectors"])
def test_aligned_blocks_are_read_and_written_16_bytes_at_a_time(name, ptx_of):
    for access in ("ld.global", "st.global"):
        together, alone = count_vectors(ptx_of(name), access)
        assert together
        assert not alone


@pytest.mark.parametrize(
    "name", ["lookup_dot signed kept fours split", "given_dot fours split", "dot_backward fours"]
)
def test_vectors_of_fours_go_to_shared_memory_16_bytes_at_a_time(name, ptx_of):
    for access in ("ld.global", "st.shared"):
        together, _ = count_vectors(ptx_of(name), access)
        assert together
    together, _ = count_vectors(ptx_of(name), "st.global")
    assert bool(together) == name.startswith("dot_backward")


@pytest.mark.parametrize("name", [n for n in kernels() if "dot" in n])
def test_products_read_shared_memory_16_bytes_at_a_time(name, ptx_of):
    """12 times for 128 products."""
    together, _ = count_vectors(ptx_of(name), "ld.shared")
    assert together == 12
    assert len(re.findall(r"fma\.rn\.f32", looping(ptx_of(name)))) == 128


@pytest.mark.parametrize(
    ("name", "loads"),
    [
        ("gather", 4),
        ("gather_vectors", 4),
        ("update_light", 4),
        ("add_chunks", 4),
        ("move_heavy", 4),
        ("lookup_dot", 4),
        ("given_dot fours split", 4),
        ("dot_backward", 4),
        ("mask_and_add", 4),
        ("pool_bags", 16),
        ("pool_bags vectors", 4),
    ],
)
def test_several_reads_are_under_way_together(name, loads, ptx_of):
    straight = re.split(r"\n\$L\w+:|\bst\.", ptx_of(name))
    assert max(sum(count_vectors(code, "ld.global")) for code in straight) >= loads


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("gather", 0),
        ("gather_vectors signed", 0),
        ("update_light", 0),
        ("add_chunks", 0),
        ("given_dot", 0),
        ("dot_backward", 0),
        ("mask_and_add", 0),
        ("lookup_dot", 1),  # for all vectors of a column
        ("pool_bags", 3),  # of the modular families of hashes
    ],
)
def test_loops_hardly_divide_numbers_of_64_bits(name, most, ptx_of):
    """Which takes about a hundred instructions."""
    assert len(re.findall(r"\b(?:div|rem)\.[su]64", looping(ptx_of(name)))) <= most


@pytest.mark.parametrize(
    "name", ["pool_bags vectors signed weighted padded", "pool_bags signed weighted padded wide"]
)
def test_weighted_sums_are_rounded_twice_as_on_the_cpu(name, ptx_of):
    assert "mul.rn.f32" in ptx_of(name)
    assert "fma.rn.f32" not in ptx_of(name)


def memory(pointer, dtype=np.float32):
    """An array that begins there."""
    return arrays.DeviceArray(pointer, (4,), np.dtype(dtype), None)


ALIGNED = {"array_size": 400, "block_size": 8, "embedding_dim": 16, "num_tables": 2, "alignment": 4}


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ({}, True),
        ({"alignment": 8}, True),
        ({"alignment": 6}, False),
        ({"alignment": 1}, False),
        ({"array_size": 402}, False),
        ({"block_size": 6, "embedding_dim": 12}, False),
        ({"embedding_dim": 20}, False),
        ({"block_size": 32, "embedding_dim": 18}, False),
        ({"block_size": 32, "embedding_dim": 20}, True),
        ({"sign": True}, True),
    ],
)
def test_vectors_are_for_what_is_aligned_throughout(change, moved):
    spec = RobeSpec(**ALIGNED | change)
    assert gather.in_vectors(spec, memory(64), memory(128)) == moved
    assert not gather.in_vectors(spec, memory(72), memory(128))
    assert not gather.in_vectors(spec, memory(64), memory(136))
    assert gather.in_vectors(spec, memory(72, np.float16), memory(128)) == moved


def test_rows_of_tables_are_aligned_if_their_length_is():
    assert gather.in_vectors(TableSpec((3, 5), 8), memory(64), memory(64))
    assert not gather.in_vectors(TableSpec((3, 5), 6), memory(64), memory(64))


@pytest.mark.parametrize("num_segments", [1, 2**16 - 1, 2**16, 2**32 - 1, 2**32])
def test_one_more_than_the_last_segment_fits_what_is_sorted(num_segments):
    info = np.iinfo(driver.number_dtype(num_segments))
    assert num_segments <= info.max
    assert info.bits == 16 or num_segments > np.iinfo(f"uint{info.bits // 2}").max


def test_constants_of_launches_suit_the_hardware():
    assert (gather.THREADS, segment_kernels.THREADS) == (128, 256)
    assert gather.LANES == segment_kernels.WIDTH == 32
    assert np.uint64(segment_kernels.WIDTH) == np.uint64(1) << segment_kernels.SHIFT
