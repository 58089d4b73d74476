"""A run on disk: its files, checked when they are read."""
