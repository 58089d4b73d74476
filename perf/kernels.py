"""Time of each kernel on the shapes of two published models, beside a copy of its output.

    python perf/kernels.py
    python perf/kernels.py --repeats 5 --shape kaggle

Medians over interleaved repeats, after a warm-up. The copy moves the output's bytes once and is the
floor of the forward pass; reading the array comes on top.
"""

import argparse
import time
from collections.abc import Callable

import machine
import numba
import numpy as np

import robe_numba as rn

BATCH, TABLES = 2048, 26
SHAPES = {"mlperf": (25_000_000, 128, (128, 32, 8)), "kaggle": (540_000, 16, (16, 8, 1))}


def main() -> None:
    """Time every kernel and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--shape", choices=SHAPES, action="append")
    options = parser.parse_args()
    print(f"{machine.describe()}, {numba.get_num_threads()} threads, batch {BATCH}, ms")
    print("| shape | Z | copy | lookup | sgd_update | adagrad_update |\n|---|---|---|---|---|---|")
    for name in options.shape or SHAPES:
        array_size, dim, block_sizes = SHAPES[name]
        for block_size in block_sizes:
            spec = rn.RobeSpec(array_size, block_size, dim, TABLES)
            cells = " | ".join(f"{ms:.2f}" for ms in measure(spec, options.repeats))
            print(f"| {name} | {block_size} | {cells} |", flush=True)


def measure(spec: rn.RobeSpec, repeats: int) -> list[float]:
    """Milliseconds of copy, lookup, SGD and Adagrad step (gradient and update)."""
    generator = np.random.default_rng(0)
    array, indices = rn.init_array(spec), generator.integers(0, 2**32, (BATCH, TABLES))
    grad_out = generator.standard_normal((BATCH, TABLES, spec.embedding_dim), dtype=np.float32)
    check(array, indices, grad_out, spec)
    state, target = np.zeros_like(array), np.empty_like(grad_out)
    work: list[Callable[[], object]] = [
        lambda: np.copyto(target, grad_out),
        lambda: rn.lookup(array, indices, spec),
        lambda: rn.sgd_update(array, grad_out, indices, spec, lr=1e-6),
        lambda: rn.adagrad_update(array, state, grad_out, indices, spec, lr=1e-6),
    ]
    times = np.empty((repeats + 1, len(work)))
    for repeat in range(repeats + 1):  # the first warms up
        for column, function in enumerate(work):
            begun = time.perf_counter()
            function()
            times[repeat, column] = 1e3 * (time.perf_counter() - begun)
    return list(np.median(times[1:], axis=0))


def check(array: np.ndarray, indices: np.ndarray, grad_out: np.ndarray, spec: rn.RobeSpec) -> None:
    """Compare with NumPy on the package's own starts."""
    elements = np.arange(spec.embedding_dim)
    starts = rn.block_starts(indices, spec)[:, :, elements // spec.block_size]
    positions = (starts + elements % spec.block_size) % spec.array_size
    assert np.array_equal(rn.lookup(array, indices, spec), array[positions])
    expected = np.bincount(positions.ravel(), grad_out.ravel(), spec.array_size)
    gradient = rn.lookup_backward(grad_out, indices, spec)
    assert np.allclose(gradient, expected, rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    main()
