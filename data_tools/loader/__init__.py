"""From a dataset to mini-batches: splits, shuffling, reading ahead, sharing among processes."""
