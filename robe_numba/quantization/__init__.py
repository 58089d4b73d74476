"""Arrays for reading in fewer bytes: halves, and int8 with scales."""
