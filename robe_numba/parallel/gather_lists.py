"""Lists of ids that are spread over processes, put together."""

from itertools import pairwise
from typing import Any

import numpy as np

from robe_numba.dlrm.backends import to_numpy
from robe_numba.dlrm.bags import MultiHot, offsets_of
from robe_numba.parallel.carriers.base import Carrier


def gather_lists(
    carrier: Carrier, xp: Any, lists: MultiHot, rows: int, num_features: int
) -> MultiHot:
    """Gather the lists of a batch, as a single process would have them.

    First the lengths travel, which say how many ids follow. On a GPU this waits for them, because
    memory is allocated by them.

    Parameters
    ----------
    carrier : Carrier
        Of the device of the lists.
    xp : module
        NumPy or CuPy.
    lists : (values, offsets, weights)
        Of this process's rows, table-major, as `check_ids` returns them.
    rows : int
        Of the batch, of which each process has its share.
    num_features : int
        Multi-hot features.

    Returns
    -------
    (values, offsets, weights)
        Of all rows, table-major.
    """
    values, offsets, weights = lists
    lengths = xp.diff(offsets).reshape(num_features, -1).T.copy()
    lengths = carrier.all_gather(lengths, rows)  # (rows, num_features)
    bounds = pairwise(np.cumsum([0, *carrier.shares(rows)]).tolist())
    sums = xp.concatenate([lengths[first:last].sum(axis=0) for first, last in bounds])
    counts = to_numpy(sums).reshape(carrier.size, num_features)
    ends = np.cumsum(counts).reshape(counts.shape)

    def gathered(array: Any) -> Any:
        parts = carrier.all_gather_parts(array, counts.sum(axis=1).tolist())
        stretches = zip((ends - counts).T.flat, ends.T.flat, strict=True)  # by feature, then rank
        return xp.concatenate([parts[first:last] for first, last in stretches])

    offsets = offsets_of(xp, lengths.T.reshape(-1))
    return gathered(values), offsets, None if weights is None else gathered(weights)
