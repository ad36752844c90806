"""Side-by-side measurements, runnable by anyone: `python -m tests.benchmarks.stream`. Nothing here asserts a time."""
