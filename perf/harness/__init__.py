"""What all benchmarks share: races, tables, plots, shapes and checks."""
