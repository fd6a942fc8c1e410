"""VERA in Dagster."""
