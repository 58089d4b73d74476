"""The public functions on arrays of a GPU: check, allocate, launch."""
