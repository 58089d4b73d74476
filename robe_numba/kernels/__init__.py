"""Compiled code: scalar rules for any target, and the kernels for CPUs and GPUs."""
