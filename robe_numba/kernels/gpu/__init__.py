"""The kernels for NVIDIA GPUs, by numba-cuda; imported when the first device array comes in."""
