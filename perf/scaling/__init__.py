"""Training in several processes: measurement and model."""
