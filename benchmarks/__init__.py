"""Measurements, one script each: `python -m benchmarks.<name>` prints a table and writes a JSON beside itself.

What is compared takes turns in one run, for the speed of a machine wanders.
"""
