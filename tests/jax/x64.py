"""JAX's 64-bit mode for a part of a test."""

from contextlib import contextmanager

import jax


@contextmanager
def x64():
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)
