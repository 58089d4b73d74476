"""Training in several processes: the measurement, and a model of more processes."""
