"""Dagster over VERA: partitions, assets, checks, sensors and schedules. Thin adapters: each calls one operation.

Start at `build.build_definitions`. Nothing here decides what is archived or verified, and vera_core never imports it.
"""
