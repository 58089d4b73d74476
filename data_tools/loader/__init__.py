"""From a dataset to mini-batches: splits, shuffling, reading ahead, and sharing among processes."""
