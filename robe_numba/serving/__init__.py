"""Scoring as a service: a run in memory, and an HTTP server; the server needs the `serve` extra."""

from robe_numba.serving.scorer import Scorer

__all__ = ["Scorer"]
