"""Kernels for GPUs on a machine without one: simulated, and compiled for real ones."""

import importlib
import os
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

if sys.platform != "linux":
    pytest.skip("NVIDIA's compilers are installed on Linux alone", allow_module_level=True)

from numba import cuda
from numba.cuda import dispatcher, types
from numba.cuda.core.errors import NumbaPerformanceWarning
from numba.cuda.typing.typeof import typeof

from data_tools import ingest
from robe_numba import RobeSpec, TableSpec
from robe_numba.coefficients import hash_spec
from robe_numba.dlrm import PRESETS
from robe_numba.gpu import (
    dense,
    device,
    dot,
    elementwise,
    gather,
    pool,
    segments,
    starts,
    state_blocks,
    vocabulary,
)
from robe_numba.hashing import NOWHERE
from robe_numba.training import RunFolder
from tests.gpu import tiny_training

ROOT = Path(__file__).resolve().parent.parent
CAPABILITIES = [(8, 0), (9, 0)]


def run_simulated(*command):
    """Run Python with the simulator, which replaces numba.cuda when that is imported."""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, *map(str, command)]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_everything_passes_in_the_simulator():
    """In two processes at once, of about equal length."""
    folder = ROOT / "tests" / "gpu"
    first = [folder / f"test_{name}.py" for name in ("bags", "interaction", "layers")]
    halves = first, sorted(set(folder.glob("test_*.py")) - set(first))
    options = ("-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda half: run_simulated(*options, *half), halves))


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
IDS, WORDS, PLACES = flat(types.int64), flat(types.uint64), flat(types.int64)


def reads_of(real, starts=types.uint32):
    """Type of `segments.Reads`."""
    lengths = flat(types.uint32)
    fields = [PLACES, flat(starts), WORDS, lengths, PLACES, IDS, flat(real), PLACES, flat(real)]
    return types.NamedTuple(fields, segments.Reads)


def bags_of(real):
    """Type of `pool.Bags`."""
    scalars = [types.uint64, types.int64, types.boolean, types.uint64]
    return types.NamedTuple([IDS, PLACES, flat(real), *scalars], pool.Bags)


def kernels(real):
    """Every kernel and the types of its arguments, for an array of `real`."""
    read = (flat(real), IDS, SPEC, types.boolean, WORDS, flat(real), types.uint64)
    update = (types.int64, reads_of(real), SPEC, flat(real), flat(real), real, real)
    update += (PLACES, PLACES, types.int64)
    blocks = (flat(real), types.int64, types.int64, flat(real), flat(real), real, real)
    fused = (flat(real), IDS, flat(real), SPEC, WORDS, flat(real), types.uint64)
    pooled = (flat(real), bags_of(real), SPEC, WORDS, flat(real))
    vectors, sizes = (flat(real), flat(real)), (types.uint64, types.uint64)
    matrix = types.Array(real, 2, "C")
    return {
        "block_starts": (starts.block_starts, (IDS, SPEC, WORDS)),
        "gather": (gather.gather, read),
        "gather_vectors": (gather.gather_vectors, read),
        "fill_bounds": (segments.fill_bounds, (flat(types.uint32), PLACES)),
        "fill_sources": (segments.fill_sources, (PLACES, PLACES, SPEC, WORDS, flat(types.uint32))),
        "update_light": (segments.update_light, update),
        "update_heavy": (segments.update_heavy, update),
        "move_state_blocks": (state_blocks.move_state_blocks, blocks),
        "lookup_dot": (dot.lookup_dot, fused),
        "dot_forward": (dot.dot_forward, (*vectors, *sizes, flat(real), types.uint64)),
        "dot_backward": (
            dot.dot_backward,
            (*vectors, flat(real), *sizes, types.uint64, *vectors),
        ),
        "add_bias": (elementwise.add_bias, (matrix, flat(real), types.boolean)),
        "mask": (elementwise.mask, vectors),
        "entropy": (elementwise.entropy, (*vectors, real, *vectors)),
        "move_each": (dense.move_each, (types.int64, *vectors, flat(real), real, real)),
        "find_rows": (vocabulary.find_rows, (WORDS, PLACES, IDS, PLACES)),
        "bag_starts": (pool.bag_starts, (bags_of(real), SPEC, WORDS)),
        "pool_sums": (pool.pool_sums, pooled),
        "pool_sums_vectors": (pool.pool_sums_vectors, pooled),
        "pool_maxima": (pool.pool_maxima, (*pooled, PLACES)),
        "expand": (pool.expand, (bags_of(real), SPEC, PLACES, flat(real))),
    }


@pytest.fixture
def no_device(monkeypatch):
    """Typing a call of a device function asks which GPU is there; any will do."""
    monkeypatch.setattr(
        dispatcher, "get_current_device", lambda: type("GPU", (), {"compute_capability": (9, 0)})
    )


def compile_to_ptx(kernel, arguments, capability):
    """PTX of a kernel."""
    signature = types.void(*arguments)
    ptx, _ = cuda.compile(
        kernel.py_func, signature, device=False, cc=capability, abi="numba", output="ptx"
    )
    return ptx


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


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", kernels(types.float32))
def test_kernels_become_machine_code_that_keeps_to_registers_and_float32(
    name, capability, no_device, tmp_path
):
    kernel, arguments = kernels(types.float32)[name]
    ptx = compile_to_ptx(kernel, arguments, capability)
    assert f".target sm_{capability[0]}{capability[1]}" in ptx
    assert not re.search(r"\.f64|%fd\d", ptx), "float64 arithmetic in a float32 kernel"
    report = assemble(ptx, capability, tmp_path)
    spills = re.findall(r"(\d+) bytes spill", report)
    assert spills
    assert set(spills) == {"0"}, report
    registers = int(re.search(r"Used (\d+) registers", report)[1])
    assert registers <= 128, "fewer than two thread blocks of 256 fit a multiprocessor"


@pytest.mark.parametrize("name", kernels(types.float64))
def test_kernels_compile_for_float64(name, no_device, tmp_path):
    assemble(compile_to_ptx(*kernels(types.float64)[name], (9, 0)), (9, 0), tmp_path)


@pytest.mark.parametrize("dtype", [types.int32, types.uint32, types.uint64])
@pytest.mark.parametrize("name", ["block_starts", "gather", "gather_vectors"])
def test_kernels_compile_for_every_dtype_of_ids(name, dtype, no_device, tmp_path):
    kernel, arguments = kernels(types.float32)[name]
    arguments = [flat(dtype) if a is IDS else a for a in arguments]
    assemble(compile_to_ptx(kernel, arguments, (9, 0)), (9, 0), tmp_path)


@pytest.mark.parametrize("name", ["fill_bounds", "update_light", "update_heavy"])
def test_updates_compile_for_arrays_of_more_than_32_bits(name, no_device, tmp_path):
    kernel, arguments = kernels(types.float32)[name]
    wide = {reads_of(types.float32): reads_of(types.float32, types.uint64)}
    wide[flat(types.uint32)] = WORDS
    arguments = [wide.get(argument, argument) for argument in arguments]
    assemble(compile_to_ptx(kernel, arguments, (9, 0)), (9, 0), tmp_path)


@pytest.mark.parametrize("half", [types.float16, types.int16])
@pytest.mark.parametrize(
    "name",
    ["gather", "gather_vectors", "pool_sums", "pool_sums_vectors", "pool_maxima", "lookup_dot"],
)
def test_halves_compile(name, half, no_device, tmp_path):
    kernel, arguments = kernels(types.float32)[name]
    ptx = compile_to_ptx(kernel, (flat(half), *arguments[1:]), (9, 0))
    assert not re.search(r"\.f64|%fd\d", ptx)
    assemble(ptx, (9, 0), tmp_path)


@pytest.mark.parametrize("name", ["gather_vectors", "pool_sums_vectors"])
def test_aligned_blocks_are_read_and_written_16_bytes_at_a_time(name, no_device):
    ptx = compile_to_ptx(*kernels(types.float32)[name], (9, 0))
    assert re.search(r"ld\.global(\.\w+)*\.v4\.(f32|b32|u32)", ptx)
    assert re.search(r"st\.global(\.\w+)*\.v4\.(f32|b32|u32)", ptx)
    alone = len(re.findall(r"(?:ld|st)\.global(?:\.(?!v4)\w+)*\.f32", ptx))
    assert alone == 0 or name == "pool_sums_vectors"  # which reads weights


@pytest.mark.parametrize("name", ["update_light", "update_heavy"])
def test_gradients_of_several_blocks_are_read_without_a_branch_between_them(name, no_device):
    ptx = compile_to_ptx(*kernels(types.float32)[name], (9, 0))
    straight = re.split(r"\n\$L\w+:|\bbra\b", ptx)
    reads = max(len(re.findall(r"ld\.global(?:\.\w+)*\.f32", code)) for code in straight)
    assert reads >= segments.UNROLL


@pytest.mark.parametrize("name", ["pool_sums", "pool_sums_vectors"])
def test_weighted_sums_are_rounded_twice_as_on_the_cpu(name, no_device):
    ptx = compile_to_ptx(*kernels(types.float32)[name], (9, 0))
    assert "mul.rn.f32" in ptx
    assert "fma.rn.f32" not in ptx


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
        ({"sign": True}, False),
    ],
)
def test_vectors_are_for_what_is_aligned_throughout(change, moved, monkeypatch):
    spec = RobeSpec(**ALIGNED | change)
    array, out = np.empty(1, np.float32), np.empty(1, np.float32)
    monkeypatch.setattr(gather, "address", lambda memory: 64)
    assert gather.in_vectors(spec, array, out) == moved
    for misplaced in (array, out):
        monkeypatch.setattr(gather, "address", lambda memory, m=misplaced: 64 + 8 * (memory is m))
        assert not gather.in_vectors(spec, array, out)


def test_rows_of_tables_are_aligned_if_their_length_is(monkeypatch):
    monkeypatch.setattr(gather, "address", lambda memory: 64)
    array = np.empty(1, np.float32)
    assert gather.in_vectors(TableSpec((3, 5), 8), array, array)
    assert not gather.in_vectors(TableSpec((3, 5), 6), array, array)


@pytest.mark.parametrize("array_size", [1, 33, 2**32 - 33, 2**32 - 32, 2**32 - 31, 2**32, 2**40])
def test_padding_stays_beyond_the_last_segment_in_the_bits_that_are_sorted(array_size):
    nowhere = int(np.array(NOWHERE).astype(segments.key_dtype(array_size)))
    assert nowhere >> int(segments.SHIFT) >= -(-array_size // segments.WIDTH)


def test_small_launches_are_not_warned_of():
    with warnings.catch_warnings(record=True) as heard:
        warnings.resetwarnings()
        importlib.reload(device)
        message = "Grid size 8 will likely result in GPU under-utilization due to low occupancy."
        warnings.warn(NumbaPerformanceWarning(message), stacklevel=1)
    assert not heard


def test_constants_of_launches_suit_the_hardware():
    assert gather.THREADS == segments.THREADS == 256
    assert gather.UNROLL * gather.THREADS * 8 * gather.SECTIONS <= 48 << 10, "of shared memory"
    assert np.uint64(segments.WIDTH) == np.uint64(1) << segments.SHIFT
