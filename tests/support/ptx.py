"""Every CUDA kernel with the types of its arguments, compiled without a GPU."""

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import nvidia
from numba import cuda
from numba.cuda import dispatcher, types
from numba.cuda.typing.typeof import typeof

from robe_numba import RobeSpec
from robe_numba.kernels.coefficients import hash_spec
from robe_numba.kernels.gpu import bag_reads, bags, layers, lookup, starts, vocabulary
from robe_numba.kernels.gpu.bag_stretches import PoolVariant
from robe_numba.kernels.gpu.interaction import backward, forward, tiles
from robe_numba.kernels.gpu.update import dense, driver, partition, segments, state_blocks
from robe_numba.kernels.scalar.bags import Bags


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
RANGES = types.NamedTuple([WORDS, WORDS, WORDS, WORD], partition.Ranges)


class Dtypes(NamedTuple):
    """Types of what kernels are given."""

    real: Any = types.float32
    stored: Any = None  # of the array that is read; `real` unless given
    ids: Any = types.int64
    rate: Any = None  # type of the learning rate; a tuple of one `real` unless given

    def updated(self):
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
        "gather": (lookup.gather_kernel(False, False, False, 32), read),
        "gather signed ragged": (lookup.gather_kernel(True, True, False, 8), read),
        "gather_vectors": (lookup.gather_kernel(False, False, True, 32), read),
        "gather_vectors signed": (lookup.gather_kernel(True, False, True, 4), read),
    }


def sorting():
    """The kernels that sort blocks by segment."""
    bounds = (WORDS, WORD, WORD)
    return {
        "number_segments": (partition.number_segments, (WORDS, WORD, flat(types.uint32))),
        "arrange": (partition.arrange, (NUMBERS, WORDS, NUMBERS, SPEC, WORDS, WORDS)),
        "count_reached": (partition.count_reached, (*bounds, NUMBERS)),
        "list_reached": (partition.list_reached, (*bounds, NUMBERS, WORDS)),
        "fill_ranges": (partition.fill_ranges, (*bounds, RANGES)),
    }


def updating(dtypes):
    """The kernels that go through segments, and those that update what has a gradient."""
    real, ids, updated = flat(dtypes.real), flat(dtypes.ids), dtypes.updated()
    fields = [NUMBERS, WORDS, WORDS, ids, real, NUMBERS, FLAG, real]
    reads = types.NamedTuple(fields, partition.SortedReads)
    heavy = types.NamedTuple([NUMBERS, WORDS, WORDS, WORDS, WORDS, real], driver.Heavy)
    found = {
        "apply_heavy": (segments.apply_heavy, (NUMBER, heavy, RANGES, *updated)),
        "apply_state_blocks": (state_blocks.apply_state_blocks, (real, NUMBER, NUMBER, *updated)),
        "apply_each": (dense.apply_each, (NUMBER, real, *updated)),
    }
    for flags in [
        (False, False, False, False, False),
        (True, True, False, False, True),
        (True, False, True, False, True),
        (True, True, True, True, True),
    ]:
        made = segments.segment_kernels(segments.UpdateVariant(*flags))
        words = "signed scaled argmax mixed ragged"
        light = (NUMBER, reads, SPEC, RANGES, heavy, *updated)
        found[named("update_light", flags, words)] = made.update_light, light
        chunks = (reads, SPEC, RANGES, heavy)
        found[named("add_chunks", flags, words)] = made.add_chunks, chunks
    return found


def interacting(dtypes):
    """The kernels of the dot interaction."""
    real, ids = flat(dtypes.real), flat(dtypes.ids)
    shape = types.NamedTuple([WORD] * 4, tiles.InteractionShape)
    fields = [flat(dtypes.stored or dtypes.real), ids, WORDS, SPEC]
    rest = (real, shape, WORD, real)
    found = {}
    for flags in [
        (False, False, False, False),
        (True, False, False, True),
        (True, True, True, True),
    ]:
        name = named("lookup_dot", flags, "signed kept fours split")
        source = types.NamedTuple(fields, forward.LookupSource)
        found[name] = (forward.lookup_kernel(*flags), (source, *rest))
    for flags in [(False, False), (True, True)]:
        found[named("given_dot", flags, "fours split")] = (
            forward.given_kernel(*flags),
            (real, *rest),
        )
    for fours in (False, True):
        arguments = (real, real, real, shape, WORD, real, real)
        name = named("dot_backward", [fours], "fours")
        found[name] = (backward.backward_kernel(fours), arguments)
    return found


def pooling(dtypes):
    """The kernels of bags: warps for a stretch each, and for several."""
    real, ids = flat(dtypes.real), flat(dtypes.ids)
    read = types.NamedTuple([ids, ids, real, WORD, flat(types.uint8), *[FLAG] * 4, WORD], Bags)
    arguments = (flat(dtypes.stored or dtypes.real), read, SPEC, WORDS, real, NUMBERS)
    found = {"expand": (bag_reads.expand, (read, SPEC, WORDS, NUMBERS, real))}
    # Maxima, mixed modes, vectors, signs, weights, padding, 32 bits; lanes, columns, their step.
    for *flags, lanes, columns, step in [
        (False, False, False, False, False, False, True, 32, 2, 32),
        (False, False, True, False, False, False, True, 32, 4, 1),
        (False, False, True, True, True, True, True, 16, 4, 1),
        (True, False, False, True, False, True, True, 32, 2, 32),
        (False, False, False, True, True, True, False, 8, 1, 8),
        (True, False, True, False, False, False, False, 16, 4, 1),
        (False, True, True, True, True, True, True, 16, 4, 1),
        (True, True, False, True, False, True, True, 32, 2, 32),
    ]:
        variant = PoolVariant(*flags, lanes, columns, step, reads=4 if flags[2] else 8)
        wide = (*flags[:-1], not variant.narrow)
        name = named("pool_bags", wide, "largest mixed vectors signed weighted padded wide")
        found[name] = (bags.pool_kernel(variant), arguments)
    return found


def around_products(dtypes):
    """The kernels around a model's matrix products, and of its vocabulary."""
    real = flat(dtypes.real)
    known = (WORDS, NUMBERS, flat(dtypes.ids), NUMBERS)
    return {
        "add_bias_elements": (layers.add_bias_elements, (real, real, FLAG)),
        "add_bias_vectors": (layers.add_bias_vectors, (real, real, FLAG)),
        "mask_and_sum": (layers.mask_and_sum, (real, real, FLAG, WORD, WORD, real)),
        "sum_chunks": (layers.sum_chunks, (real, WORD, real)),
        "add_cross": (layers.add_cross, (*[real] * 5, WORD)),
        "cross_gradient": (layers.cross_gradient, (*[real] * 6, WORD)),
        "bce_with_logits": (layers.bce_with_logits, (real, real, dtypes.real, real, real)),
        "find_rows": (vocabulary.find_rows, known),
        "find_bag_rows": (vocabulary.find_bag_rows, (*known[:3], NUMBERS, NUMBERS)),
    }


@cache
def kernels(dtypes=Dtypes()):  # noqa: B008 - a constant
    """Every kernel and the types of its arguments, by name.

    Kernels that are made in variants are there with and without each flag.
    """
    families = (reading, updating, interacting, pooling, around_products)
    return sorting() | {
        name: kernel for family in families for name, kernel in family(dtypes).items()
    }


CAPABILITY = (9, 0)
# Typing the call of a device function asks for the compute capability of the GPU.
GPU = type("GPU", (), {"compute_capability": CAPABILITY})


def compile_to_ptx(name, dtypes=Dtypes(), capability=CAPABILITY):  # noqa: B008 - a constant
    """PTX of a kernel, compiled once."""
    return _compile_to_ptx(name, dtypes, capability)


@cache
def _compile_to_ptx(name, dtypes, capability):
    kernel, arguments = kernels(dtypes)[name]
    with mock.patch.object(dispatcher, "get_current_device", return_value=GPU):
        ptx, _ = cuda.compile(
            kernel.py_func,
            types.void(*arguments),
            device=False,
            cc=capability,
            abi="numba",
            output="ptx",
        )
    return ptx


def assemble(ptx, folder, capability=CAPABILITY):
    """Compile PTX to machine code, which fails if a GPU could not run it; ptxas's report."""
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    (ptxas,) = {p for root in nvidia.__path__ for p in Path(root).glob("*/bin/ptxas*")}
    target = f"-arch=sm_{capability[0]}{capability[1]}"
    command = [str(ptxas), "-v", target, str(source), "-o", str(folder / "kernel.cubin")]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stderr


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
    """The number of instructions that access 16 bytes, and of those that access one float32."""
    access = access.replace(".", r"\.")
    together = re.findall(rf"\b{access}(?:\.\w+)*\.v4\.[fbu]32", ptx)
    return len(together), len(re.findall(rf"\b{access}(?:\.(?!v4)\w+)*\.f32", ptx))
