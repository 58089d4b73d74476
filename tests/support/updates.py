"""Updates with chosen workers and ways of finding what they touch."""

import numpy as np
import pytest

import robe_numba as rn
from robe_numba import RobeSpec
from robe_numba.kernels.coefficients import hash_spec
from robe_numba.kernels.cpu.update import driver
from robe_numba.kernels.cpu.update.apply import make_step
from robe_numba.kernels.cpu.update.partition import Reads
from tests.support.strategies import array_for

BIG = RobeSpec(300_000, 24, 80, 3, sign=True)  # many segments, wraps, partial blocks
RULES = {"gradient": {}, "sgd": {"lr": 0.1}, "adagrad": {"lr": 0.1}}


def update_with(
    spec, grad_out, indices, rule="adagrad", workers=1, array=None, state_block=1, **settings
):
    """Bytes of array and state after the kernel ran with some workers and settings of its own."""
    reads = Reads(
        indices=indices.view(np.uint64).reshape(-1),
        starts=rn.block_starts(indices, spec).view(np.uint64).reshape(-1),
        rows=np.empty(0, np.uint64),
        scales=np.empty(0, grad_out.dtype),
        argmax=np.empty(0, np.int64),
        grad_out=grad_out.reshape(-1),
    )
    array = array_for(spec, grad_out.dtype, seed=10) if array is None else array.copy()
    state = np.zeros(-(-array.size // state_block), array.dtype)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setattr(driver, name, value)
        options = RULES[rule] | ({"state_sum": state} if rule == "adagrad" else {})
        update_step = make_step(array, state_block=state_block, **options)
        driver.update(update_step, reads, hash_spec(spec), workers)
    return array.tobytes(), state.tobytes()


SCAN = {"MAX_SCANS": 99, "MAX_SCANNED_SUMS": 1 << 40, "SUMS_PER_OUTPUT": 1e12}
SCAN_LITTLE = {**SCAN, "SCAN_CAPACITY": 1}  # one read at a time
SORT = {"MAX_SCANS": 0}
SORT_SMALL = {**SORT, "MIN_SHIFT": 0, "MAX_SHIFT": 5}  # the smallest ranges that blocks allow
SORT_LARGE = {**SORT, "MIN_SHIFT": 20}  # one range


def grad_for(spec, batch, dtype, whole=False):
    generator = np.random.default_rng(5)
    shape = (batch, spec.num_tables, spec.embedding_dim)
    values = generator.integers(-9, 10, shape) if whole else generator.standard_normal(shape)
    return values.astype(dtype)
