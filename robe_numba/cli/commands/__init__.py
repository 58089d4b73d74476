"""The commands of `robe`, one module each, and the tables and pages that some of them show."""
