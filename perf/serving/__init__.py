"""What is served, and how it is asked: of `perf/bench_serving.py`."""
