"""Measurements of VERA on this machine: `make bench`, or `python -m benchmarks --help` (docs/performance.md)."""
