"""What describes bags of ids, for any target.

Bags are CSR and table-major: bag t * batch + b holds indices[offsets[bag]:offsets[bag + 1]] and is
pooled into out[b, t], which is row b * num_tables + t of the flat output.
"""

from typing import Any, NamedTuple

from robe_numba._jit import inlined

SUM, MEAN, MAX = 0, 1, 2
MODES = {"sum": SUM, "mean": MEAN, "max": MAX}
EVERY_READ = -2  # in `argmax`, at the first element of a block that all reads of its bag share


class Bags(NamedTuple):
    """The bags of one call as kernels read them: checked NumPy arrays, or arrays on a GPU.

    On a GPU offsets are not checked, and ids may have any integer dtype.
    """

    indices: Any  # uint64 (n,)
    offsets: Any  # int64 (num_tables * batch + 1,)
    weights: Any  # dtype of the output (n,); (0,) for none
    batch: Any
    modes: Any  # uint8 (num_tables,), SUM, MEAN or MAX
    some_mean: bool  # of the modes
    some_max: bool
    all_max: bool
    padded: bool
    padding_idx: Any  # uint64, read only where padded


@inlined
def is_padding(index: Any, bags: Any) -> Any:
    """Whether an index is left out of its bag."""
    return bags.padded and index == bags.padding_idx
