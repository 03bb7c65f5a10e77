"""Measurements, one script each: `python -m benchmarks.<name>` prints a table and writes a JSON beside itself."""
