"""The names of what can be done to dense values; `criteo_parser.transform_dense` explains them.

Apart from the kernels, so that whoever checks a name need not wait for Numba.
"""

DENSE_TRANSFORMS = ("log1p", "none", "log3", "log-squared")
