"""Measurement of the estimator against theory; see `__main__`."""
