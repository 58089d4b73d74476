"""Checks of what users pass in. What passes is safe for kernels, which check nothing."""
