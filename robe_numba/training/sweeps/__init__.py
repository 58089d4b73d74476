"""Train a grid of settings, and compare the runs."""
