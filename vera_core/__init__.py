"""VERA: Versioned Easy Repository Archive. The domain; the adapters are `vera_core.cli` and `vera_assets`."""

__version__ = "0.1.0"
