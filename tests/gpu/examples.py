"""How many examples tests of a GPU try, and random specs and batches for them.

A simulated GPU thread is Python code, and a real GPU's kernels are compiled for each dtype, for a
second or two. So examples are few and small, and on a real GPU most are of float32 and int64.
"""

from hypothesis import settings
from hypothesis import strategies as st

from tests.gpu.conftest import SIMULATED
from tests.support import strategies
from tests.support.strategies import INDEX_DTYPES, REAL_DTYPES

few_examples = settings(max_examples=20)
# The simulator's rows are short where there are many tables.
MOST_ELEMENTS = 320 if SIMULATED else 26 * 300  # of a sample
specs = strategies.specs.filter(lambda spec: spec.num_tables * spec.embedding_dim <= MOST_ELEMENTS)
real_dtypes = st.sampled_from(REAL_DTYPES if SIMULATED else ("float32",))
ID_DTYPES = INDEX_DTYPES if SIMULATED else ("int64",)
# Reads of a single place, enough for even a real GPU to share them among several warps.
CROWD = 30 if SIMULATED else 3000


def indices_for(spec):
    """As `strategies.indices_for`."""
    return strategies.indices_for(spec, max_batch=2, dtypes=ID_DTYPES)


def bags_for(spec, dtype, whole=False):
    """As `strategies.bags_for`."""
    return strategies.bags_for(spec, dtype, max_batch=2, whole=whole, dtypes=ID_DTYPES)
