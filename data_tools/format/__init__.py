"""The files of a dataset: the manifest, shards, and whether they are as they were written."""
