"""Vectors as values in kernels."""
