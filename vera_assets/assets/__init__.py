"""The assets, one module per concept: window -> shards -> inventory, the watermark, and the repository itself."""
