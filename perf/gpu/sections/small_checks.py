"""Every public function once on the GPU, against plain NumPy and the oracle of the tests.

No kernel of the host is compiled: that would take longer than everything else here.
"""

import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import robe_numba as rn
from perf.gpu.checker.report import Report
from perf.gpu.sections import large_checks
from perf.harness.places import here
from robe_numba.dlrm import DLRM, DLRMConfig, make_embedding
from tests.support import naive

BATCH = 6
SPECS = {
    "multiply-shift": rn.RobeSpec(1000, 8, 16, 3),
    "aligned, Z=4": rn.RobeSpec(1024, 4, 16, 3, alignment=4),
    "signs, odd sizes": rn.RobeSpec(211, 7, 17, 3, sign=True),
    "paper, Z=1": rn.RobeSpec(97, 1, 5, 3, hash="paper"),
    "uma": rn.RobeSpec(300, 8, 16, 3, (50, 60, 70), "uma"),
    "tables": rn.TableSpec((50, 60, 70), 8),
}
TINY_SPECS = ("signs, odd sizes",)
Check = Callable[[], object]


def run(report: Report, options: Any) -> None:
    """Run all checks; a failure is printed, and the other checks still run."""
    failed = 0
    checks = [*small(options.tiny), *large_checks.checks(options.tiny)]
    for name, check in checks:
        begun = time.perf_counter()
        try:
            check()
            result = "right"
        except Exception:
            traceback.print_exc(limit=6)
            result, failed = "WRONG", failed + 1
        report.add(name, result=result, seconds=time.perf_counter() - begun)
        here().release()
    if failed:
        report.failed.append(f"{failed} checks")
    report.add("all checks", right=len(checks) - failed, wrong=failed)


def small(tiny: bool) -> Iterator[tuple[str, Check]]:
    """Checks at shapes small enough for the oracle."""
    for name in TINY_SPECS if tiny else SPECS:
        inputs = Inputs(SPECS[name])
        yield f"starts and rows, {name}", inputs.check_rows
        yield f"gradient and updates, {name}", inputs.check_updates
        yield f"lookup and dot, {name}", inputs.check_interaction
        for mode in ("sum",) if tiny else ("sum", "mean", "max"):
            yield f"bags, {mode}, {name}", partial(inputs.check_bags, mode)
    if tiny:
        return
    yield "dense gradient", Inputs(SPECS["signs, odd sizes"]).check_dense
    yield "halves", Inputs(SPECS["multiply-shift"]).check_halves
    yield "model", check_model


class Inputs:
    """Random inputs of a spec, and checks on them; sums of whole numbers are exact in any order."""

    def __init__(self, spec: Any):
        generator = np.random.default_rng(0)
        self.spec = spec
        rows = min(spec.num_embeddings or (1 << 40,))
        self.indices = generator.integers(0, rows, (BATCH, spec.num_tables))
        self.indices[1:4] = self.indices[0]  # rows that are read several times
        self.array = generator.integers(-8, 9, spec.array_size).astype(np.float32)
        shape = (BATCH, spec.num_tables, spec.embedding_dim)
        self.grad_out = generator.integers(-4, 5, shape).astype(np.float32)
        self.sizes = generator.integers(0, 4, spec.num_tables * BATCH)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        self.ids = generator.integers(0, rows, self.offsets[-1])
        self.weights = generator.integers(1, 5, self.ids.size).astype(np.float32) / 4

    def check_rows(self) -> None:
        """Hashes, and rows read by them."""
        spec, put = self.spec, here().put
        places = naive.block_starts(self.indices, spec)
        equal(rn.block_starts(put(self.indices), spec), places)
        starts = put(np.full_like(places, -7))
        out = rn.lookup(put(self.array), put(self.indices), spec, starts=starts)
        equal(out, naive.lookup(self.array, self.indices, spec))
        equal(starts, places)

    def check_updates(self) -> None:
        """The gradient, SGD, and Adagrad with two sizes of state blocks."""
        spec, put = self.spec, here().put
        gradient, _ = naive.lookup_gradient(self.grad_out, self.indices, spec)
        step = put(self.grad_out), put(self.indices), spec
        equal(rn.lookup_backward(*step), gradient)
        moved = put(self.array)
        rn.sgd_update(moved, *step, lr=0.5)
        equal(moved, self.array - gradient / 2)
        for state_block in (1, 4):
            sums = np.ones(-(-spec.array_size // state_block), np.float32)
            moved, found = put(self.array), put(sums)
            rn.adagrad_update(moved, found, *step, lr=0.5, eps=1e-3, state_block=state_block)
            expected = naive.block_adagrad(self.array, sums, gradient, 0.5, 1e-3, state_block)
            close(found, expected[1])
            close(moved, expected[0])

    def check_interaction(self) -> None:
        """Lookup and dot interaction in one pass."""
        spec, put = self.spec, here().put
        dense = self.grad_out[:, 0].copy()
        found = rn.lookup_dot_interaction(put(self.array), put(self.indices), put(dense), spec)
        rows = naive.lookup(self.array, self.indices, spec)
        close(found, naive.interaction(rows, dense)[0])

    def check_bags(self, mode: str) -> None:
        """Pooling, its gradient and both updates."""
        spec, put = self.spec, here().put
        weights = self.weights if mode == "sum" else None
        bags = put(self.ids), put(self.offsets), spec, mode
        weighted = {} if weights is None else {"per_sample_weights": put(weights)}
        padding = int(self.ids[0])
        options: dict[str, Any] = weighted | {"padding_idx": padding}
        given = self.ids, self.offsets, spec
        out = rn.embedding_bag(put(self.array), *bags, **options)
        close(out, naive.embedding_bag(self.array, *given, mode, weights, padding))
        of_array = self.array if mode == "max" else None
        gradient, _ = naive.embedding_bag_gradient(
            self.grad_out, *given, mode, weights, padding, of_array
        )
        kept: dict[str, Any] = {} if of_array is None else {"array": put(of_array)}
        options_backward = options | kept
        close(rn.embedding_bag_backward(put(self.grad_out), *bags, **options_backward), gradient)
        moved = put(self.array)
        rn.embedding_bag_sgd_update(moved, put(self.grad_out), *bags, **options, lr=0.5)
        close(moved, self.array - gradient / 2)
        moved, sums = put(self.array), put(np.zeros_like(self.array))
        step = put(self.grad_out), *bags
        rn.embedding_bag_adagrad_update(moved, sums, *step, **options, lr=0.5, eps=1e-3)
        zeros = np.zeros_like(self.array)
        expected = naive.adagrad(self.array, zeros, gradient, 0.5, 1e-3)
        close(sums, expected[1])
        close(moved, expected[0])

    def check_dense(self) -> None:
        """Steps of a dense gradient."""
        put = here().put
        gradient = np.random.default_rng(1).integers(-2, 3, self.array.size).astype(np.float32)
        moved = put(self.array)
        rn.apply_gradient(moved, None, put(gradient), 0.5)
        equal(moved, self.array - gradient / 2)
        for state_block in (1, 4):
            sums = np.ones(-(-self.array.size // state_block), np.float32)
            moved, found = put(self.array), put(sums)
            rn.apply_gradient(moved, found, put(gradient), 0.5, 1e-3, state_block)
            expected = naive.block_adagrad(
                self.array, sums, gradient.astype(float), 0.5, 1e-3, state_block
            )
            close(found, expected[1])
            close(moved, expected[0])

    def check_halves(self) -> None:
        """A lookup from float16."""
        put, half = here().put, self.array.astype(np.float16)
        found = rn.lookup(put(half), put(self.indices), self.spec)
        equal(found, naive.lookup(half.astype(np.float32), self.indices, self.spec))


def check_model() -> None:
    """Logits of a model, and the loss before a step."""
    config = DLRMConfig(4, 3, 8, (8,), (8,))
    embedding = make_embedding(
        "robe", embedding_dim=8, num_tables=3, num_parameters=256, block_size=8
    )
    model = DLRM(config, embedding.to("cuda"), threads=1)
    generator = np.random.default_rng(2)
    dense = generator.random((BATCH, config.num_dense), np.float32)
    indices = generator.integers(0, 1000, (BATCH, 3))
    labels = generator.integers(0, 2, BATCH).astype(np.float32)
    parameters = {name: here().fetch(array) for name, array in model.parameters().items()}
    spec = rn.RobeSpec(256, 8, 8, 3)
    rows = naive.lookup(parameters["embedding.array"], indices, spec)
    logits = naive.dlrm_logits(parameters, rows, dense, "dot")
    inputs = here().put(dense), here().put(indices)
    close(model.logits(*inputs), logits, 1e-4)
    loss = model.train_step(*inputs, here().put(labels), 0.1)
    close(here().xp.asarray(loss), naive.cross_entropy(logits, labels), 1e-4)


def equal(found: Any, expected: np.ndarray) -> None:
    """Require the same bits; float32 must hold the expected numbers."""
    np.testing.assert_array_equal(here().fetch(found), expected)


def close(found: Any, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Require equality within rounding."""
    np.testing.assert_allclose(here().fetch(found), expected, rtol=tolerance, atol=tolerance)
