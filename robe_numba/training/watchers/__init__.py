"""Watchers of a run: their interface, TensorBoard curves and MLPerf logs."""
