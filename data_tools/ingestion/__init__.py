"""From click logs to a dataset: plan, workers, and resuming a stopped ingest."""
