"""Which CUDA kernels and dtypes are chosen for a call, on a machine without a GPU."""

import numpy as np
import pytest

from tests.support.needs import GPU, need

need(*GPU)

from robe_numba import RobeSpec, TableSpec
from robe_numba.kernels.gpu import arrays, launch
from robe_numba.kernels.gpu.lookup import LOOKUP_THREADS, in_vectors
from robe_numba.kernels.gpu.update import partition


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
    assert in_vectors(spec, memory(64), memory(128)) == moved
    assert not in_vectors(spec, memory(72), memory(128))
    assert not in_vectors(spec, memory(64), memory(136))
    assert in_vectors(spec, memory(72, np.float16), memory(128)) == moved


def test_rows_of_tables_are_aligned_if_their_length_is():
    assert in_vectors(TableSpec((3, 5), 8), memory(64), memory(64))
    assert not in_vectors(TableSpec((3, 5), 6), memory(64), memory(64))


@pytest.mark.parametrize("num_segments", [1, 2**16 - 1, 2**16, 2**32 - 1, 2**32])
def test_one_more_than_the_last_segment_fits_what_is_sorted(num_segments):
    info = np.iinfo(partition.number_dtype(num_segments))
    assert num_segments <= info.max
    assert info.bits == 16 or num_segments > np.iinfo(f"uint{info.bits // 2}").max


def test_constants_of_launches_suit_the_hardware():
    assert (LOOKUP_THREADS, launch.THREADS) == (128, 256)
    assert launch.LANES == partition.WIDTH == 32
    assert np.uint64(partition.WIDTH) == np.uint64(1) << partition.SHIFT
