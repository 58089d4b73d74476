"""Vectors in registers as values in kernels."""
