"""From click logs to a dataset: planning, workers, and what a stopped ingest left."""
