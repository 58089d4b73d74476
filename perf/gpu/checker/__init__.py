"""What runs the sections of `gpu_check.py`, and what it reports."""
