"""What describes bags of ids, for any target.

Bags are CSR and table-major: bag t * batch + b holds indices[offsets[bag]:offsets[bag + 1]] and is
pooled into out[b, t], which is row b * num_tables + t of the flat output.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from robe_numba._jit import inlined

SUM, MEAN, MAX = 0, 1, 2
MODES = {"sum": SUM, "mean": MEAN, "max": MAX}
EVERY_READ = -2  # in `argmax`, at the first element of a block that all reads of its bag share


class Modes(NamedTuple):
    """How the bags of each table are pooled, as `Bags` has it."""

    modes: Any  # uint8 (num_tables,), SUM, MEAN or MAX
    some_mean: bool
    some_max: bool
    all_max: bool


@lru_cache(maxsize=64)
def modes_of(modes: tuple[int, ...]) -> Modes:
    """The modes of tables as kernels on the CPU take them; they only read them."""
    all_max = modes.count(MAX) == len(modes)
    return Modes(np.array(modes, np.uint8), MEAN in modes, MAX in modes, all_max)


class Bags(NamedTuple):
    """The bags of one call as kernels read them: checked NumPy arrays, or arrays on a GPU.

    On a GPU offsets are not checked, and ids may have any integer dtype.
    """

    indices: Any  # uint64 (n,)
    offsets: Any  # int64 (num_tables * batch + 1,)
    weights: Any  # dtype of the output (n,); (0,) for none
    batch: Any
    modes: Any  # uint8 (num_tables,), and what follows is of them: see `Modes`
    some_mean: bool
    some_max: bool
    all_max: bool
    padded: bool
    padding_idx: Any  # uint64, read only where padded


@inlined
def is_padding(index: Any, bags: Any) -> Any:
    """Whether an index is left out of its bag."""
    return bags.padded and index == bags.padding_idx
