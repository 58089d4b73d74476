"""The files of a dataset: manifest and shards, and verifying them."""
