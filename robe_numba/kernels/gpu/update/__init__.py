"""Backward passes and optimizer steps on the GPU."""
