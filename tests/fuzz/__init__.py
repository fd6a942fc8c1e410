"""Fuzzing of whatever reads strange bytes: `make fuzz` runs it, CONTRIBUTING.md says how."""
