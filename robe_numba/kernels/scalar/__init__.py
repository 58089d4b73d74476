"""Scalar functions for any target: hashes, update rules, searching."""
