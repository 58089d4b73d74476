"""Checks at sizes that only a GPU meets.

Frequent ids, arrays that are updated in two parts, more than 2**32 elements, and foreign streams.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np

import robe_numba as rn
from perf.gpu.device_times import wait
from perf.harness import checks as arithmetic
from perf.harness.libraries import torch
from perf.harness.places import here
from tests.support import naive

SIZE = 25_000_000  # elements: two parts, where state blocks are summed part by part
HUGE = 2**32 + 2**28  # elements; one start in 17 lies beyond 2**32
PERIOD = 2039  # each element is its position modulo this, exact in float16
# Ids, and how many elements share one of Adagrad's sums; None is SGD.
ROUNDS = (
    ("frequent", None),
    ("frequent", 32),
    ("frequent", 1),
    ("frequent", 4096),
    ("uniform", None),
    ("uniform", 32),
)
LR, EPS = 2.0**-10, 1e-10
Check = Callable[[], object]


def checks(tiny: bool) -> Iterator[tuple[str, Check]]:
    """Names, and functions that raise if anything is wrong."""
    size, batch = (256, 24) if tiny else (SIZE, 4096)
    spec = rn.RobeSpec(size, 16 if tiny else 128, 16 if tiny else 128, 2 if tiny else 26)
    for ids, state_block in ROUNDS[:2] if tiny else ROUNDS:
        rule = "SGD" if state_block is None else f"Adagrad, state blocks of {state_block}"
        name = f"{rule}, {size:,} elements, {ids} ids"
        yield name, partial(check_step, spec, batch, ids, state_block)
    short = rn.RobeSpec(500 if tiny else 540_000, 8, 16, 2)
    yield (
        "SGD, one id that all read",
        partial(check_step, short, 40 if tiny else 65_536, "one", None),
    )
    yield "updates have the same bits each time", partial(check_same_bits, spec, batch)
    if here().simulated:
        print("  skipped: an array of 2**32 elements and streams need a GPU", flush=True)
        return
    yield "an array of more than 2**32 elements", check_huge
    yield "a stream of CuPy", check_cupy_stream
    if torch is not None:
        yield "tensors on torch's own stream", partial(check_tensors, True)
        yield "tensors on torch's default stream", partial(check_tensors, False)


def inputs(spec: rn.RobeSpec, batch: int, ids: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids and integer gradients; of frequent ids half are the same and others are common."""
    generator = np.random.default_rng(3)
    shape = batch, spec.num_tables
    indices = generator.integers(0, 2**40, shape)
    if ids == "one":
        indices[:] = 5
    elif ids == "frequent":
        indices = np.minimum(generator.zipf(1.2, shape), 2**40)
        indices[: batch // 2] = 7
    grad_out = generator.integers(-4, 5, (*shape, spec.embedding_dim), np.int8)
    return indices, grad_out.astype(np.float32)


@lru_cache(maxsize=1)
def dense_gradient(
    spec: rn.RobeSpec, batch: int, ids: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `inputs`, with the gradient of the whole array by NumPy."""
    indices, grad_out = inputs(spec, batch, ids)
    gradient = np.zeros(spec.array_size)
    np.add.at(gradient, arithmetic.positions(indices, spec).ravel(), grad_out.ravel())
    return indices, grad_out, gradient


def check_step(spec: rn.RobeSpec, batch: int, ids: str, state_block: int | None) -> None:
    """Check an update against NumPy, which sums the dense gradient at the starts of the blocks.

    The first starts are checked against the oracle.
    """
    indices, grad_out, gradient = dense_gradient(spec, batch, ids)
    put = here().put
    starts = rn.block_starts(put(indices), spec)
    np.testing.assert_array_equal(here().fetch(starts[:4]), naive.block_starts(indices[:4], spec))
    array = rn.init_array(spec)
    moved, step = put(array), (put(grad_out), put(indices), spec)
    if state_block is None:
        rn.sgd_update(moved, *step, lr=LR, starts=starts)
        expected = array - LR * gradient
    else:
        rule: dict[str, Any] = {"lr": LR, "eps": EPS, "starts": starts, "state_block": state_block}
        sums = here().xp.zeros((-(-spec.array_size // state_block),), np.float32)
        rn.adagrad_update(moved, sums, *step, **rule)
        expected_sums, rates = adagrad_rates(gradient, state_block)
        np.testing.assert_allclose(here().fetch(sums), expected_sums, rtol=1e-5)
        expected = array - rates * gradient
    found = here().fetch(moved)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    still = gradient == 0
    np.testing.assert_array_equal(found[still], array[still])


def adagrad_rates(gradient: np.ndarray, state_block: int) -> tuple[np.ndarray, np.ndarray]:
    """The sums of state blocks after a first step, and the rate of each element."""
    size, blocks = gradient.size, -(-gradient.size // state_block)
    squares = np.zeros(blocks * state_block)
    squares[:size] = gradient**2
    counts = np.full(blocks, state_block)
    counts[-1] = size - (blocks - 1) * state_block
    sums = squares.reshape(blocks, state_block).sum(axis=1) / counts
    return sums, np.repeat(LR / (np.sqrt(sums) + EPS), state_block)[:size]


def check_same_bits(spec: rn.RobeSpec, batch: int) -> None:
    """Repeat an update of gradients that round, and compare the bits."""
    indices, grad_out = inputs(spec, batch, "frequent")
    array, step = rn.init_array(spec), (here().put(grad_out / 7), here().put(indices), spec)
    found = set()
    for _ in range(3):
        moved = here().put(array)
        rn.sgd_update(moved, *step, lr=LR)
        found.add(here().fetch(moved).tobytes())
    assert len(found) == 1, f"{len(found)} results of one update"


def check_huge() -> None:
    """Check that neither positions nor products of them wrap at 32 bits."""
    xp = here().xp
    spec = rn.RobeSpec(HUGE, 32, 64, 4)
    pattern = (xp.arange(PERIOD << 14) % PERIOD).astype(np.float16)
    array = xp.empty((HUGE,), np.float16)
    for first in range(0, HUGE, pattern.size):
        part = array[first : first + pattern.size]
        part[...] = pattern[: part.size]
    indices = np.arange(4000).reshape(1000, 4)
    starts = naive.block_starts(indices, spec)
    assert np.count_nonzero(starts >= 2**32) > 100
    np.testing.assert_array_equal(here().fetch(rn.block_starts(here().put(indices), spec)), starts)
    places = (starts[..., None] + np.arange(32)).reshape(1000, 4, 64) % HUGE
    out = here().fetch(rn.lookup(array, here().put(indices), spec))
    np.testing.assert_array_equal(out, (places % PERIOD).astype(np.float32))


def reads() -> tuple[rn.RobeSpec, np.ndarray, np.ndarray, np.ndarray]:
    """A spec, an array, ids, and the rows that they read."""
    spec = rn.RobeSpec(540_000, 16, 16, 26)
    array, indices = rn.init_array(spec), np.arange(26 * 4096).reshape(4096, 26) * 977
    return spec, array, indices, array[arithmetic.positions(indices, spec)]


def check_cupy_stream() -> None:
    """Check that a call sees earlier work of its stream, though nothing waits for either."""
    spec, array, indices, rows = reads()
    xp = here().xp
    source, ids = here().put(array), here().put(indices)
    wait()
    with xp.cuda.Stream(non_blocking=True) as stream:
        values = xp.zeros_like(source)
        for _ in range(200):
            values *= 1  # keeps the stream busy
        values += source
        out = rn.lookup(values, ids, spec)
        out *= 3
        rn.sgd_update(values, out, ids, spec, lr=LR)
        found = xp.asnumpy(out, stream=stream)
        stream.synchronize()
    np.testing.assert_array_equal(found, rows * np.float32(3))
    assert not np.array_equal(here().fetch(values), array)


def check_tensors(own: bool) -> None:
    """Check calls on a stream of torch's own, or on its default stream."""
    spec, array, indices, rows = reads()
    stream = torch.cuda.Stream() if own else torch.cuda.default_stream()
    with torch.cuda.stream(stream):
        tensor, ids = torch.from_numpy(array).cuda(), torch.from_numpy(indices).cuda()
        out = torch.empty(rows.shape, device="cuda")
        returned: Any = rn.lookup(tensor, ids, spec, out=out)
        assert returned is out
        half = rn.lookup(tensor.bfloat16(), ids, spec)
        rn.sgd_update(tensor, out, ids, spec, lr=LR)
        stream.synchronize()
    np.testing.assert_array_equal(out.cpu().numpy(), rows)
    rounded = torch.from_numpy(rows).bfloat16().float().numpy()
    np.testing.assert_array_equal(here().fetch(here().xp.asarray(half)), rounded)
    assert not np.array_equal(tensor.cpu().numpy(), array)
