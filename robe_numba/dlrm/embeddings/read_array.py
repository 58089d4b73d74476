"""An array that embeddings are read from."""

from typing import Any, NamedTuple

import numpy as np

from robe_numba.checks.arrays import StoredArray, is_bfloat16, parts_of, real_dtype
from robe_numba.dlrm.backends import backend_for
from robe_numba.dlrm.bags import Bags
from robe_numba.ops import embedding_bag, lookup
from robe_numba.quantization.quantized import QuantizedArray
from robe_numba.quantization.storages import store
from robe_numba.spec import Spec


class Read(NamedTuple):
    """What a lookup read, as its backward pass needs it."""

    rows: np.ndarray | Bags  # (batch, num_tables)
    starts: np.ndarray | None  # int64 (batch, num_tables, blocks) or, of bags, (n, blocks)
    spec: Spec


class ReadArray:
    """An array that embeddings are read from, for scoring alone.

    Parameters
    ----------
    spec : Spec
        How rows are read from the array.
    array : ndarray or QuantizedArray, (array_size,)
        Of NumPy or, but for int8 and bfloat16, of CuPy.
    """

    state_sum: Any = None  # of an optimizer

    def __init__(self, spec: Spec, array: StoredArray):
        self.spec, self.array = spec, array

    @property
    def dtype(self) -> np.dtype:
        """The dtype of embeddings."""
        return real_dtype(self.array)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """What is stored, live: by this name, or of int8 by "<name>.values" and "<name>.scales"."""
        return parts_of(name, self.array)

    def lookup(
        self,
        rows: np.ndarray | Bags,
        keep: bool,
        out: np.ndarray | None = None,
        spec: Spec | None = None,
    ) -> tuple[np.ndarray, Read]:
        """Embeddings of rows (batch, num_tables), or of bags of them pooled.

        `keep` keeps the starts for the backward pass; `spec` is another way to read the rows.
        """
        spec, starts = spec or self.spec, None
        ids = rows.values if isinstance(rows, Bags) else rows
        if keep:
            shape = (*ids.shape, spec.num_blocks)
            starts = np.empty_like(ids, dtype=np.int64, shape=shape)  # on the device of the ids
        if isinstance(rows, Bags):
            given = rows.arguments()
            embeddings = embedding_bag(self.array, **given, spec=spec, out=out, starts=starts)
        else:
            embeddings = lookup(self.array, rows, spec, out=out, starts=starts)
        return embeddings, Read(rows, starts, spec)

    def to(self, device: str) -> "ReadArray":
        """The same on a device, "cpu" or "cuda"; an array that is there already is shared."""
        backend = backend_for(device)
        if isinstance(self.array, QuantizedArray) or is_bfloat16(self.array):
            if device != "cpu":
                raise ValueError("int8 and bfloat16 are for the CPU; use float16 or float32")
            return self
        return ReadArray(self.spec, backend.asarray(self.array))

    def stored_as(self, storage: str) -> "ReadArray":
        """The same for scoring alone, stored as `store` does."""
        return ReadArray(self.spec, store(self.array, storage))
