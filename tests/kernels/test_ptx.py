"""CUDA kernels compiled for real GPUs by NVIDIA's compilers, on a machine without one."""

import re
import struct
from pathlib import Path

import pytest

from tests.support.needs import GPU, need

need(*GPU)

from numba.cuda import types

from robe_numba.kernels import gpu
from robe_numba.kernels.gpu import launch
from tests.support.ptx import (
    Dtypes,
    assemble,
    compile_to_ptx,
    count_vectors,
    flat,
    kernels,
    looping,
)


def test_no_kernel_is_left_out():
    sources = [path.read_text() for path in Path(gpu.__file__).parent.rglob("*.py")]
    pattern = r"@Kernel\s+def (\w+)|\bKernel\((\w+)[,)]"
    written = {a or b for source in sources for a, b in re.findall(pattern, source)}
    assert len(written) > 20
    assert {kernel.__name__ for kernel, _ in kernels().values()} == written


def most_registers(name):
    """The most registers of a kernel, so that enough of its threads fit a multiprocessor."""
    if name in ("gather", "update_light", "add_chunks"):
        return 48  # five thread blocks of 256
    if name.startswith(("lookup_dot", "given_dot", "dot_backward")):
        return 80  # twelve of 64, or six of 128
    if name.startswith("pool_bags") and "wide" not in name:
        return 64  # four of 256
    return 128  # two of 256


# Kernels that are compiled for an older GPU, too: a short one, and one of many registers.
OLDER = ["gather_vectors", "lookup_dot signed kept fours split"]


@pytest.mark.parametrize(
    ("name", "capability"),
    [*((name, (9, 0)) for name in kernels()), *((name, (8, 0)) for name in OLDER)],
)
def test_kernels_become_machine_code_that_keeps_to_registers_and_float32(
    name, capability, tmp_path
):
    ptx = compile_to_ptx(name, capability=capability)
    assert f".target sm_{capability[0]}{capability[1]}" in ptx
    assert not re.search(r"\.f64|%fd\d", ptx), "float64 arithmetic in a float32 kernel"
    report = assemble(ptx, tmp_path, capability)
    in_memory = re.findall(r"(\d+) bytes (?:spill|stack)", report)
    assert in_memory
    assert set(in_memory) == {"0"}, report
    registers = int(re.search(r"Used (\d+) registers", report)[1])
    assert registers <= (most_registers(name) if capability == (9, 0) else 128)


@pytest.mark.parametrize("name", kernels())
def test_launches_write_parameters_where_kernels_read_them(name):
    declared = re.search(r"\.visible \.entry [^(]*\(([^)]*)\)", compile_to_ptx(name))[1]
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
        "apply_heavy",
        "apply_state_blocks",
        "lookup_dot signed kept fours split",
        "dot_backward fours",
        "pool_bags vectors signed weighted padded",
        "expand",
        "mask_and_sum",
        "cross_gradient",
        "bce_with_logits",
    ],
)
def test_kernels_compile_for_float64(name, tmp_path):
    ptx = compile_to_ptx(name, Dtypes(types.float64))
    assert ".f64" in ptx
    if name != "bce_with_logits":  # whose exponential begins with a float32
        assert not re.search(r"\.f32|%f\d", ptx), "float32 arithmetic in a float64 kernel"
    assemble(ptx, tmp_path)


@pytest.mark.parametrize(
    "name", ["update_light", "apply_heavy", "apply_state_blocks", "apply_each"]
)
def test_learning_rates_may_be_on_the_gpu(name):
    ptx = compile_to_ptx(name, Dtypes(rate=flat(types.float32)))
    assert not re.search(r"\.f64|%fd\d", ptx)


HASHING = [
    "block_starts",
    "gather_vectors",
    "update_light signed scaled ragged",
    "lookup_dot signed split",
    "pool_bags signed weighted padded wide",
    "expand",
    "find_rows",
    "find_bag_rows",
]


@pytest.mark.parametrize(
    ("name", "ids", "loaded"),
    [
        *((name, types.int32, "s32") for name in HASHING),
        ("block_starts", types.uint32, "u32"),
        ("block_starts", types.uint64, "u64"),
    ],
)
def test_ids_of_every_dtype_are_read_with_their_bits_and_sign(name, ids, loaded):
    assert re.search(rf"\bld\.global\.{loaded}\b", compile_to_ptx(name, Dtypes(ids=ids)))


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("gather", types.float16),
        ("gather_vectors", types.int16),
        ("lookup_dot", types.int16),
        ("lookup_dot signed kept fours split", types.float16),
        ("pool_bags", types.float16),
        ("pool_bags vectors signed weighted padded", types.int16),
    ],
)
def test_halves_are_read_by_fours_where_the_others_are(name, half):
    ptx = compile_to_ptx(name, Dtypes(stored=half))
    assert not re.search(r"\.f64|%fd\d", ptx)
    fours = re.search(r"ld\.global(\.\w+)*\.v4\.\w16", ptx)
    assert (fours is not None) == ("vectors" in name or "fours" in name)


@pytest.mark.parametrize("name", ["gather_vectors", "gather_vectors signed", "pool_bags vectors"])
def test_aligned_blocks_are_read_and_written_16_bytes_at_a_time(name):
    for access in ("ld.global", "st.global"):
        together, alone = count_vectors(compile_to_ptx(name), access)
        assert together
        assert not alone


@pytest.mark.parametrize(
    "name", ["lookup_dot signed kept fours split", "given_dot fours split", "dot_backward fours"]
)
def test_vectors_of_fours_go_to_shared_memory_16_bytes_at_a_time(name):
    for access in ("ld.global", "st.shared"):
        together, _ = count_vectors(compile_to_ptx(name), access)
        assert together
    together, _ = count_vectors(compile_to_ptx(name), "st.global")
    assert bool(together) == name.startswith("dot_backward")


@pytest.mark.parametrize("name", [n for n in kernels() if "dot" in n])
def test_products_read_shared_memory_16_bytes_at_a_time(name):
    """12 times for 128 products."""
    together, _ = count_vectors(compile_to_ptx(name), "ld.shared")
    assert together == 12
    assert len(re.findall(r"fma\.rn\.f32", looping(compile_to_ptx(name)))) == 128


@pytest.mark.parametrize(
    ("name", "loads"),
    [
        ("gather", 4),
        ("gather_vectors", 4),
        ("update_light", 4),
        ("add_chunks", 4),
        ("apply_heavy", 4),
        ("lookup_dot", 4),
        ("given_dot fours split", 4),
        ("dot_backward", 4),
        ("mask_and_sum", 4),
        ("pool_bags", 16),
        ("pool_bags vectors", 4),
    ],
)
def test_several_reads_are_in_flight_together(name, loads):
    straight = re.split(r"\n\$L\w+:|\bst\.", compile_to_ptx(name))
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
        ("mask_and_sum", 0),
        ("lookup_dot", 1),  # for all vectors of a column
        ("pool_bags", 3),  # of the modular families of hashes
    ],
)
def test_loops_hardly_divide_numbers_of_64_bits(name, most):
    """Which takes about a hundred instructions."""
    assert len(re.findall(r"\b(?:div|rem)\.[su]64", looping(compile_to_ptx(name)))) <= most


@pytest.mark.parametrize(
    "name", ["pool_bags vectors signed weighted padded", "pool_bags signed weighted padded wide"]
)
def test_weighted_sums_are_rounded_twice_as_on_the_cpu(name):
    assert "mul.rn.f32" in compile_to_ptx(name)
    assert "fma.rn.f32" not in compile_to_ptx(name)
