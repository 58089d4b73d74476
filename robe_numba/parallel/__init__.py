"""Training in several processes, which a launcher such as mpiexec starts."""
