"""ROBE in JAX: reading rows and bags by operations of `jax.numpy` alone, on whatever XLA runs on.

Starts and signs have the bits of `robe_numba`, so an array trained there is read here and the other
way round. All functions are differentiable and work under `jax.jit`, `jax.vmap` and `jax.grad`. The
spec is static: close over it, or name it in `static_argnames`. See docs/jax.md.
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
