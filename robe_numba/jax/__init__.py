"""ROBE in JAX: rows and bags read with `jax.numpy` operations only, on anything XLA supports.

Starts and signs have the same bits as in `robe_numba`, so each can read arrays that the other
trained. `lookup` and `embedding_bag` are differentiable and work under `jax.jit` and `jax.vmap`.
The spec is static: close over it, or name it in `static_argnames`. See docs/jax.md.
"""

try:
    import jax as _jax  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "jax":
        raise
    message = "robe_numba.jax needs JAX: pip install 'robe-numba[jax]'"
    raise ModuleNotFoundError(message, name="jax") from None

from robe_numba.jax.bags import embedding_bag
from robe_numba.jax.rows import block_starts, lookup
from robe_numba.jax.words import Words, to_words

__all__ = ["Words", "block_starts", "embedding_bag", "lookup", "to_words"]
