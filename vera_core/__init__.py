"""VERA: Versioned Easy Repository Archive. The domain; the adapters are `vera_core.cli` and `vera_assets`."""

__version__ = "0.1.0"
"""As in pyproject.toml; to read it from the installed package's metadata would cost every command some milliseconds."""
