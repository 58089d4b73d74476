"""Any bytes at all, thrown at the ingest."""
