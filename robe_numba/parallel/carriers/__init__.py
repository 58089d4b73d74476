"""How gradients travel between processes: over MPI, or between GPUs."""
