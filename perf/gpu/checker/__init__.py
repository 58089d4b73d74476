"""Runs the sections of `gpu_check.py` and reports what they find."""
