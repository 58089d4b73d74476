"""What all benchmarks share: timing, tables, plots, shapes and checks."""
