"""Tests of the functions on GPU arrays: in Numba's simulator by tests/test_gpu.py, or --gpu."""
