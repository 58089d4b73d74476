"""Click logs as they are found: Criteo text, CSV and Parquet, plain or compressed."""
