"""Generated click logs with Criteo's statistics."""
