"""Benchmarks: ratios inside one run, with their spread."""
